//! GPT-2: learned positions, layer norms with bias, weights stored (in, out).

use serde_json::Value;

use super::{activation_or, count, count_or, flag_or, layer_count, number_or};
use crate::names::LLAMA;
use crate::{DecoderConfig, MlpKind, ModelError, Names, NormKind, QkNorm};

const NAMES: Names = Names {
    embedding: "transformer.wte",
    position_embedding: "transformer.wpe",
    layers: "transformer.h",
    norm: "transformer.ln_f",
    norms: ["ln_1", "", "ln_2", ""],
    qkv: &["attn.c_attn"],
    o_proj: "attn.c_proj",
    gate_up: &["mlp.c_fc"],
    down_proj: "mlp.c_proj",
    transposed: true,
    ..LLAMA
};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let (hidden_size, heads) = (count(json, "n_embd")?, count(json, "n_head")?);
    let num_hidden_layers = layer_count(json, "n_layer")?;
    if !hidden_size.is_multiple_of(heads) {
        return Err(ModelError::Config(format!("n_embd {hidden_size} is no multiple of n_head {heads}")));
    }
    let head_dim = hidden_size / heads;
    let scale = if flag_or(json, "scale_attn_weights", true)? { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
    Ok(DecoderConfig {
        model_type: "gpt2".to_owned(),
        vocab_size: count(json, "vocab_size")?,
        hidden_size,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim,
        intermediate_size: count_or(json, "n_inner", 4 * hidden_size)?,
        attention_bias: true,
        attention_out_bias: true,
        mlp_bias: true,
        max_position_embeddings: count_or(json, "n_positions", 1024)?,
        norm: NormKind::Layer { eps: number_or(json, "layer_norm_epsilon", 1e-5)? },
        qk_norm: QkNorm::None,
        rope: None,
        rope_local: None,
        sliding_window: vec![None; num_hidden_layers],
        attention_scale: scale,
        attention_scale_by_layer: flag_or(json, "scale_attn_by_inverse_layer_idx", false)?,
        attention_softcap: None,
        logits_softcap: None,
        mlp: MlpKind::Plain,
        activation: activation_or(json, "activation_function", "gelu_new")?,
        embedding_scale: 1.0,
        tie_word_embeddings: flag_or(json, "tie_word_embeddings", true)?,
        moe: None,
        names: &NAMES,
    })
}
