//! Gemma 3's text model (arXiv 2503.19786): Gemma 2 with norms on queries and keys in place of the caps, five
//! sliding-window blocks to one full one, and a rotary base of its own for the former.

use serde_json::Value;

use super::rope::rope;
use super::{count_or, gemma2, layer_windows, number_or, optional_count, optional_number};
use crate::{DecoderConfig, ModelError, QkNorm, RopeConfig, RopeScaling};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut plain = json.clone();
    let nested = json.get("rope_parameters").filter(|p| p.get("full_attention").is_some());
    if nested.is_some() {
        plain["rope_parameters"] = Value::Null;
    }
    let mut config = gemma2::common(&plain)?;
    config.qk_norm = QkNorm::PerHead;
    // transformers reads `attn_logit_softcapping` too, and does nothing with it.
    config.logits_softcap = optional_number(json, "final_logit_softcapping")?;
    let (d, context) = (config.head_dim, config.max_position_embeddings);
    match nested {
        Some(parameters) => {
            let read = |key: &str| rope(json, parameters.get(key).unwrap_or(&Value::Null), d, context);
            (config.rope, config.rope_local) =
                (Some(read("full_attention")?), Some(read("sliding_attention")?));
        }
        None => {
            if json.get("rope_theta").is_none_or(Value::is_null)
                && let Some(rope) = &mut config.rope
            {
                rope.theta = 1e6;
            }
            let theta = number_or(json, "rope_local_base_freq", 10_000.0)?;
            config.rope_local = Some(RopeConfig { theta, dim: d, scaling: RopeScaling::None });
        }
    }
    let window = Some(optional_count(json, "sliding_window")?.unwrap_or(4096));
    let pattern = count_or(json, "sliding_window_pattern", count_or(json, "_sliding_window_pattern", 6)?)?;
    config.sliding_window = layer_windows(json, config.num_hidden_layers, window, |layer_idx| {
        !(layer_idx + 1).is_multiple_of(pattern)
    })?;
    Ok(config)
}
