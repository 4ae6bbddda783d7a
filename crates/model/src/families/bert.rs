//! BERT (arXiv 1810.04805).

use serde_json::Value;

use super::{activation_or, count, count_or, head_kind, label_count, layer_count, number_or};
use crate::{EncoderConfig, EncoderNames, HeadActivation, ModelError, NormKind};

pub(super) const NAMES: EncoderNames = EncoderNames {
    prefix: "bert",
    embedding: "embeddings.word_embeddings",
    position_embedding: "embeddings.position_embeddings",
    type_embedding: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    o_proj: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
    final_norm: "",
    lm: [
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    ],
    tokens: ["", "", "classifier"],
    sequence: ["pooler.dense", "", "classifier"],
    sequence_activation: HeadActivation::Tanh,
};

/// Other families start from this and change what differs.
pub(super) fn config(json: &Value) -> Result<EncoderConfig, ModelError> {
    let num_hidden_layers = layer_count(json, "num_hidden_layers")?;
    Ok(EncoderConfig {
        model_type: json.get("model_type").and_then(Value::as_str).unwrap_or("bert").to_owned(),
        vocab_size: count(json, "vocab_size")?,
        hidden_size: count(json, "hidden_size")?,
        num_hidden_layers,
        num_attention_heads: count(json, "num_attention_heads")?,
        intermediate_size: count(json, "intermediate_size")?,
        max_position_embeddings: count_or(json, "max_position_embeddings", 512)?,
        position_offset: 0,
        type_vocab_size: count_or(json, "type_vocab_size", 2)?,
        bias: true,
        norm: NormKind::Layer { eps: number_or(json, "layer_norm_eps", 1e-12)? },
        pre_norm: false,
        activation: activation_or(json, "hidden_act", "gelu")?,
        gated: false,
        rope: None,
        rope_local: None,
        window: vec![None; num_hidden_layers],
        relative_buckets: None,
        head: head_kind(json)?,
        num_labels: label_count(json)?,
        names: &NAMES,
    })
}
