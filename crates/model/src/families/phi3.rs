//! Phi-3 (arXiv 2404.14219): Llama with fused projections, LongRoPE and a sliding window.

use serde_json::{Value, json};

use super::{mistral, with_defaults};
use crate::names::LLAMA;
use crate::{DecoderConfig, ModelError, Names};

const NAMES: Names = Names { qkv: &["self_attn.qkv_proj"], gate_up: &["mlp.gate_up_proj"], ..LLAMA };

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let defaults = json!({
        "sliding_window": null, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
    });
    let mut config = mistral::config(&with_defaults(json, defaults))?;
    config.names = &NAMES;
    Ok(config)
}
