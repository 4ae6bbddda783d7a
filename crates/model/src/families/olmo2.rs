//! OLMo 2 (arXiv 2501.00656): norms after attention and feed-forward, and over all queries and keys.

use serde_json::Value;

use super::{llama, number_or};
use crate::names::LLAMA;
use crate::{DecoderConfig, ModelError, Names, NormKind, QkNorm};

const NAMES: Names =
    Names { norms: ["", "post_attention_layernorm", "", "post_feedforward_layernorm"], ..LLAMA };

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut config = llama::config(json)?;
    config.norm = NormKind::Rms {
        eps: number_or(json, "rms_norm_eps", 1e-5)?,
        weight_plus_one: false,
        full_precision: true,
    };
    config.qk_norm = QkNorm::Whole;
    config.names = &NAMES;
    Ok(config)
}
