//! Llama 2 and 3.x (arXiv 2302.13971, 2407.21783), and what took over its shape: SmolLM2, TinyLlama, Yi, ….

use serde_json::Value;

use super::{count, count_or, flag_or, layer_count, number_or, required};
use crate::names::LLAMA;
use crate::{Activation, DecoderConfig, MlpKind, ModelError, NormKind, QkNorm, RopeConfig, RopeScaling};

/// Other families start from this and change what differs.
pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let hidden_size = count(json, "hidden_size")?;
    let num_attention_heads = count(json, "num_attention_heads")?;
    let num_hidden_layers = layer_count(json, "num_hidden_layers")?;
    let head_dim = count_or(json, "head_dim", hidden_size / num_attention_heads)?;
    let attention_bias = flag_or(json, "attention_bias", false);
    let max_position_embeddings = count_or(json, "max_position_embeddings", 2048)?;
    Ok(DecoderConfig {
        model_type: json.get("model_type").and_then(Value::as_str).unwrap_or("llama").to_owned(),
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
        max_position_embeddings,
        norm: NormKind::Rms {
            eps: number_or(json, "rms_norm_eps", 1e-6),
            weight_plus_one: false,
            full_precision: false,
        },
        qk_norm: QkNorm::None,
        rope: Some(rope(json, rope_parameters(json), head_dim, max_position_embeddings)?),
        rope_local: None,
        sliding_window: vec![None; num_hidden_layers],
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_softcap: None,
        logits_softcap: None,
        mlp: MlpKind::Gated,
        activation: Activation::from_name(json.get("hidden_act").and_then(Value::as_str).unwrap_or("silu"))?,
        embedding_scale: 1.0,
        tie_word_embeddings: flag_or(json, "tie_word_embeddings", false),
        moe: None,
        names: &LLAMA,
    })
}

/// `rope_parameters` as transformers 5 writes them, or `rope_scaling` as 4 did.
pub(super) fn rope_parameters(json: &Value) -> &Value {
    let there = |key: &str| json.get(key).filter(|v| !v.is_null());
    there("rope_parameters").or_else(|| there("rope_scaling")).unwrap_or(&Value::Null)
}

/// Reads one set of rope parameters; `rope_theta` and `partial_rotary_factor` may also stand in config.json
/// itself.
pub(super) fn rope(
    json: &Value,
    parameters: &Value,
    head_dim: usize,
    context: usize,
) -> Result<RopeConfig, ModelError> {
    let either = |key: &str| parameters.get(key).or_else(|| json.get(key)).filter(|v| !v.is_null());
    let theta = either("rope_theta").and_then(Value::as_f64).unwrap_or(10_000.0);
    let part = either("partial_rotary_factor").and_then(Value::as_f64).unwrap_or(1.0);
    let dim = (head_dim as f64 * part.clamp(0.0, 1.0)) as usize;
    if dim == 0 || !dim.is_multiple_of(2) || !(theta.is_finite() && theta > 0.0) {
        return Err(ModelError::Config(format!("rope of {dim} features with theta {theta}")));
    }
    let number = |key: &str| -> Result<f64, ModelError> {
        required(parameters, key)?
            .as_f64()
            .filter(|x| x.is_finite())
            .ok_or_else(|| ModelError::Config(format!("rope {key} is not a number")))
    };
    let factors = |key: &str| -> Result<Vec<f64>, ModelError> {
        let list = required(parameters, key)?.as_array().map(Vec::as_slice).unwrap_or_default();
        let list: Vec<f64> = list.iter().filter_map(Value::as_f64).collect();
        if list.len() == dim / 2 {
            return Ok(list);
        }
        Err(ModelError::Config(format!("rope {key} has {} numbers for {} frequencies", list.len(), dim / 2)))
    };
    let kind = parameters.get("rope_type").or_else(|| parameters.get("type")).and_then(Value::as_str);
    let scaling = match kind {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: number("factor")? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max: number("original_max_position_embeddings")?,
        },
        Some("longrope" | "su") => {
            let original = either("original_max_position_embeddings").and_then(Value::as_f64);
            let original = original.unwrap_or(context as f64).max(1.0);
            let factor = number("factor").unwrap_or(context as f64 / original);
            let recommended = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
            RopeScaling::Factors {
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                original_max: original as i64,
                attention_scale: number("attention_factor").unwrap_or(recommended),
            }
        }
        Some(other) => {
            return Err(ModelError::Config(format!(
                "unknown rope type {other:?}; known: default, linear, llama3, longrope"
            )));
        }
    };
    Ok(RopeConfig { theta, dim, scaling })
}
