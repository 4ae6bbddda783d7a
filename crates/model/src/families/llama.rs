//! Llama 2 and 3.x (arXiv 2302.13971, 2407.21783), and what took over its shape: SmolLM2, TinyLlama, Yi, ….

use serde_json::Value;

use super::{count, count_or, flag_or, number_or, required};
use crate::{
    Activation, BlockKind, DecoderConfig, MlpKind, ModelError, NormKind, QkNorm, RopeConfig, RopeScaling,
};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let hidden_size = count(json, "hidden_size")?;
    let num_attention_heads = count(json, "num_attention_heads")?;
    let num_hidden_layers = count(json, "num_hidden_layers")?;
    let head_dim = count_or(json, "head_dim", hidden_size / num_attention_heads)?;
    let attention_bias = flag_or(json, "attention_bias", false);
    Ok(DecoderConfig {
        model_type: "llama".to_owned(),
        vocab_size: count(json, "vocab_size")?,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: count_or(json, "num_key_value_heads", num_attention_heads)?,
        head_dim,
        intermediate_size: count(json, "intermediate_size")?,
        attention_bias,
        attention_out_bias: attention_bias,
        mlp_bias: flag_or(json, "mlp_bias", false),
        max_position_embeddings: count_or(json, "max_position_embeddings", 2048)?,
        norm: NormKind::Rms { eps: number_or(json, "rms_norm_eps", 1e-6), weight_plus_one: false },
        block: BlockKind::PreNorm,
        qk_norm: QkNorm::None,
        rope: Some(rope(json, head_dim)?),
        rope_local: None,
        sliding_window: vec![None; num_hidden_layers],
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_softcap: None,
        logits_softcap: None,
        mlp: MlpKind::Gated,
        activation: Activation::from_name(json.get("hidden_act").and_then(Value::as_str).unwrap_or("silu"))?,
        embedding_scale: 1.0,
        tie_word_embeddings: flag_or(json, "tie_word_embeddings", false),
    })
}

/// `rope_theta` and `rope_scaling`, or `rope_parameters` as transformers 5 writes them.
pub(super) fn rope(json: &Value, head_dim: usize) -> Result<RopeConfig, ModelError> {
    let parameters = json.get("rope_parameters").filter(|v| !v.is_null());
    let scaling = parameters.or_else(|| json.get("rope_scaling")).filter(|v| !v.is_null());
    let theta = parameters
        .and_then(|p| p.get("rope_theta"))
        .or_else(|| json.get("rope_theta"))
        .and_then(Value::as_f64)
        .unwrap_or(10_000.0);
    let kind = scaling.and_then(|s| s.get("rope_type").or_else(|| s.get("type"))).and_then(Value::as_str);
    let number = |key: &str| -> Result<f64, ModelError> {
        let s = scaling.unwrap_or(&Value::Null);
        required(s, key)?.as_f64().ok_or_else(|| ModelError::Config(format!("rope {key} is not a number")))
    };
    let scaling = match kind {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: number("factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max: number("original_max_position_embeddings")?,
        },
        Some(other) => {
            return Err(ModelError::Config(format!(
                "unknown rope type {other:?}; known: default, linear, llama3"
            )));
        }
    };
    Ok(RopeConfig { theta, dim: head_dim, scaling })
}
