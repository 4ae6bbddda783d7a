//! Gemma 2 (arXiv 2408.00118): norms before and after, scaled embeddings, capped scores and logits, a sliding
//! window on every other block.

use serde_json::{Value, json};

use super::{
    activation_or, flag_or, layer_windows, llama, number_or, optional_count, optional_number, with_defaults,
};
use crate::names::LLAMA;
use crate::{DecoderConfig, ModelError, Names, NormKind};

pub(super) const NAMES: Names = Names {
    norms: [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ],
    ..LLAMA
};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let json = &with_defaults(
        json,
        json!({
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "max_position_embeddings": 8192,
        }),
    );
    let mut config = common(json)?;
    config.attention_softcap = optional_number(json, "attn_logit_softcapping")?;
    config.logits_softcap = optional_number(json, "final_logit_softcapping")?;
    let window = Some(optional_count(json, "sliding_window")?.unwrap_or(4096));
    config.sliding_window =
        layer_windows(json, config.num_hidden_layers, window, |layer_idx| layer_idx.is_multiple_of(2))?;
    Ok(config)
}

/// What Gemma 2 and 3 share.
pub(super) fn common(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut json = json.clone();
    if json.get("head_dim").is_none_or(Value::is_null) {
        json["head_dim"] = Value::from(256);
    }
    if flag_or(&json, "use_bidirectional_attention", false)? {
        let reason = "use_bidirectional_attention: only models that look back are known here";
        return Err(ModelError::Config(reason.to_owned()));
    }
    let mut config = llama::config(&json)?;
    config.norm = NormKind::Rms {
        eps: number_or(&json, "rms_norm_eps", 1e-6)?,
        weight_plus_one: true,
        full_precision: true,
    };
    config.attention_scale = 1.0 / number_or(&json, "query_pre_attn_scalar", 256.0)?.sqrt();
    config.activation = activation_or(&json, "hidden_activation", "gelu_pytorch_tanh")?;
    config.embedding_scale = (config.hidden_size as f64).sqrt();
    config.tie_word_embeddings = flag_or(&json, "tie_word_embeddings", true)?;
    config.names = &NAMES;
    Ok(config)
}
