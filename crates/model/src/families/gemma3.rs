//! Gemma 3's text model (arXiv 2503.19786): Gemma 2 with norms on queries and keys in place of the caps, five
//! sliding-window blocks to one full one, and a rotary base of its own for the former.

use serde_json::{Value, json};

use super::rope::rope;
use super::{count_or, gemma2, layer_windows, number_or, optional_count, optional_number, with_defaults};
use crate::{DecoderConfig, ModelError, Names, QkNorm, RopeConfig, RopeScaling};

/// Where transformers has the text model in one that sees too. An adapter's tensors are named so, and fit there.
const TEXT: &str = "model.language_model.";

const BESIDE_VISION: Names = Names {
    embedding: "model.language_model.embed_tokens",
    layers: "model.language_model.layers",
    norm: "model.language_model.norm",
    ..gemma2::NAMES
};

/// `model_type` `gemma3`: of a model that sees too (4B and larger) the part that reads and writes.
pub(super) fn beside_vision(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut config = config(&text_alone(json)?)?;
    "gemma3".clone_into(&mut config.model_type);
    config.names = &BESIDE_VISION;
    Ok(config)
}

/// config.json of the text part alone. What published files leave out has the default of transformers.
pub(super) fn text_alone(whole: &Value) -> Result<Value, ModelError> {
    let text = whole.get("text_config").filter(|text| text.is_object());
    let text = text
        .ok_or_else(|| ModelError::Config("gemma3: config.json has no text_config, an object".to_owned()))?;
    let mut text = with_defaults(
        text,
        json!({
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131_072,
        }),
    );
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = whole.get(key).filter(|id| !id.is_null()) {
            text[key] = id.clone();
        }
    }
    text["model_type"] = "gemma3_text".into();
    text["architectures"] = vec!["Gemma3ForCausalLM"].into();
    Ok(text)
}

/// Today's name of a tensor of `gemma3`: files keep that of the first releases.
pub(crate) fn todays_name(stored: &str) -> Option<String> {
    let text = |rest| format!("{TEXT}{rest}");
    stored
        .strip_prefix("language_model.model.")
        .map(text)
        .or_else(|| stored.strip_prefix("language_model.lm_head.").map(|rest| format!("lm_head.{rest}")))
}

/// The name of a tensor in the text part alone.
pub(crate) fn name_alone(name: &str) -> Option<String> {
    name.strip_prefix(TEXT).map(|rest| format!("model.{rest}"))
}

/// Whether a tensor of `gemma3` is of the part that sees.
pub(crate) fn is_vision(stored: &str) -> bool {
    let name = stored.strip_prefix("model.").unwrap_or(stored);
    name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.")
}

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut plain = with_defaults(json, json!({"max_position_embeddings": 131_072}));
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
    let pattern = count_or(json, "sliding_window_pattern", 6)?;
    config.sliding_window = layer_windows(json, config.num_hidden_layers, window, |layer_idx| {
        !(layer_idx + 1).is_multiple_of(pattern)
    })?;
    Ok(config)
}
