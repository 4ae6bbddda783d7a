//! Llama 2 and 3.x (arXiv 2302.13971, 2407.21783), and what took over its shape: SmolLM2, TinyLlama, Yi, ….

use serde_json::Value;

use super::rope::{parameters, rope};
use super::{activation_or, count, count_or, flag_or, layer_count, number_or};
use crate::names::LLAMA;
use crate::{DecoderConfig, MlpKind, ModelError, NormKind, QkNorm};

/// Other families start from this and change what differs.
pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let hidden_size = count(json, "hidden_size")?;
    let num_attention_heads = count(json, "num_attention_heads")?;
    let num_hidden_layers = layer_count(json, "num_hidden_layers")?;
    let head_dim = count_or(json, "head_dim", hidden_size / num_attention_heads)?;
    let attention_bias = flag_or(json, "attention_bias", false)?;
    let context = count_or(json, "max_position_embeddings", 2048)?;
    let rope = rope(json, parameters(json), head_dim, context)?;
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
        mlp_bias: flag_or(json, "mlp_bias", false)?,
        max_position_embeddings: rope.context(context),
        norm: NormKind::Rms {
            eps: number_or(json, "rms_norm_eps", 1e-6)?,
            weight_plus_one: false,
            full_precision: false,
        },
        qk_norm: QkNorm::None,
        rope: Some(rope),
        rope_local: None,
        sliding_window: vec![None; num_hidden_layers],
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_scale_by_layer: false,
        attention_softcap: None,
        logits_softcap: None,
        mlp: MlpKind::Gated,
        activation: activation_or(json, "hidden_act", "silu")?,
        embedding_scale: 1.0,
        tie_word_embeddings: flag_or(json, "tie_word_embeddings", false)?,
        moe: None,
        names: &LLAMA,
    })
}
