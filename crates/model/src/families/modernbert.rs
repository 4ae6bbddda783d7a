//! ModernBERT (arXiv 2412.13663): rotary positions, norms before, gated layers, a window on two of three layers.

use serde_json::{Value, json};

use super::{bert, count_or, flag_or, layer_windows, number_or, optional, with_defaults};
use crate::{Activation, EncoderConfig, EncoderNames, HeadActivation, ModelError, NormKind};

const NAMES: EncoderNames = EncoderNames {
    prefix: "model",
    embedding: "embeddings.tok_embeddings",
    position_embedding: "",
    type_embedding: "",
    embedding_norm: "embeddings.norm",
    layers: "layers",
    qkv: &["attn.Wqkv"],
    o_proj: "attn.Wo",
    attention_norm: "attn_norm",
    up: "mlp.Wi",
    down: "mlp.Wo",
    mlp_norm: "mlp_norm",
    final_norm: "final_norm",
    lm: ["head.dense", "head.norm", "decoder", "decoder.bias"],
    tokens: ["head.dense", "head.norm", "classifier"],
    sequence: ["head.dense", "head.norm", "classifier"],
    sequence_activation: HeadActivation::Plain(Activation::Gelu),
};

pub(super) fn config(json: &Value) -> Result<EncoderConfig, ModelError> {
    let mut renamed = with_defaults(json, json!({"max_position_embeddings": 8192}));
    renamed["type_vocab_size"] = json!(1);
    renamed["hidden_act"] = json.get("hidden_activation").cloned().unwrap_or_else(|| json!("gelu"));
    let mut config = bert::config(&renamed)?;
    let (context, heads) = (config.max_position_embeddings, config.num_attention_heads);
    let head_dim = config.hidden_size / heads;
    let rope = |kind: &str, key: &str, default: f64| {
        let all = json.get("rope_parameters").unwrap_or(&Value::Null);
        let mut parameters = optional(all, kind, "an object", Value::as_object)?.cloned().unwrap_or_default();
        if parameters.get("rope_theta").is_none_or(Value::is_null) {
            parameters.insert("rope_theta".to_owned(), json!(number_or(json, key, default)?));
        }
        super::rope::rope(json, &Value::Object(parameters), head_dim, context)
    };
    config.rope = Some(rope("full_attention", "global_rope_theta", 160_000.0)?);
    config.rope_local = Some(rope("sliding_attention", "local_rope_theta", 10_000.0)?);
    let every = count_or(json, "global_attn_every_n_layers", 3)?;
    let window = Some(count_or(json, "local_attention", 128)? / 2);
    config.window =
        layer_windows(json, config.num_hidden_layers, window, |layer_idx| !layer_idx.is_multiple_of(every))?;
    config.type_vocab_size = 0;
    config.norm = NormKind::Layer { eps: number_or(json, "norm_eps", 1e-5)? };
    config.bias = flag_or(json, "attention_bias", false)?;
    config.pre_norm = true;
    config.gated = true;
    config.names = &NAMES;
    Ok(config)
}
