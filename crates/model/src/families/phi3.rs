//! Phi-3 (arXiv 2404.14219): Llama with fused projections, LongRoPE and a sliding window.

use serde_json::Value;

use super::mistral;
use crate::names::LLAMA;
use crate::{DecoderConfig, ModelError, Names};

const NAMES: Names = Names { qkv: &["self_attn.qkv_proj"], gate_up: &["mlp.gate_up_proj"], ..LLAMA };

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut config = mistral::config(json)?;
    config.names = &NAMES;
    Ok(config)
}
