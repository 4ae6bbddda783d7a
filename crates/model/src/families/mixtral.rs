//! Mixtral (arXiv 2401.04088): Mistral with eight experts in place of every feed-forward part.

use serde_json::{Value, json};

use super::{count_or, mistral, with_defaults};
use crate::names::LLAMA;
use crate::{DecoderConfig, ModelError, Moe, Names};

const NAMES: Names = Names {
    router: "block_sparse_moe.gate",
    experts: "block_sparse_moe.experts",
    expert: ["w1", "w3", "w2"],
    ..LLAMA
};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let json = &with_defaults(json, json!({"sliding_window": null, "rms_norm_eps": 1e-5, "rope_theta": 1e6}));
    let mut config = mistral::config(json)?;
    config.moe = Some(Moe {
        n_experts: count_or(json, "num_local_experts", 8)?,
        top_k: count_or(json, "num_experts_per_tok", 2)?,
        normalise: true,
        intermediate_size: config.intermediate_size,
        dense_layers: Vec::new(),
    });
    config.names = &NAMES;
    Ok(config)
}
