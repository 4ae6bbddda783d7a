//! T5 (arXiv 1910.10683) and Flan-T5.

use serde_json::Value;

use super::{count, count_or, flag_or, layer_count, number_or};
use crate::{Activation, ModelError, T5Config};

pub(crate) fn config(json: &Value) -> Result<T5Config, ModelError> {
    let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or("");
    if model_type != "t5" {
        return Err(ModelError::Config(format!("unknown model_type {model_type:?}; known: t5")));
    }
    let feed_forward = json.get("feed_forward_proj").and_then(Value::as_str).unwrap_or("relu");
    let (is_gated_act, name) = match feed_forward.strip_prefix("gated-") {
        // The published models with a gated GELU were trained with its approximation.
        Some("gelu") => (true, "gelu_new"),
        Some(name) => (true, name),
        None => (false, feed_forward),
    };
    let num_layers = layer_count(json, "num_layers")?;
    let num_decoder_layers = if json.get("num_decoder_layers").is_none_or(Value::is_null) {
        num_layers
    } else {
        layer_count(json, "num_decoder_layers")?
    };
    let buckets = count_or(json, "relative_attention_num_buckets", 32)?;
    let max_distance = count_or(json, "relative_attention_max_distance", 128)?;
    // An encoder's half of the buckets must have one for near distances, and the decoder's far ones must begin nearer than
    // they end.
    if buckets < 4 || max_distance <= buckets / 2 {
        return Err(ModelError::Config(format!(
            "relative_attention_num_buckets is {buckets} and relative_attention_max_distance {max_distance}: there must be 4 \
             buckets at least, and a distance beyond half their number"
        )));
    }
    Ok(T5Config {
        vocab_size: count(json, "vocab_size")?,
        d_model: count(json, "d_model")?,
        d_kv: count(json, "d_kv")?,
        d_ff: count(json, "d_ff")?,
        num_layers,
        num_decoder_layers,
        num_heads: count(json, "num_heads")?,
        relative_attention_num_buckets: buckets,
        relative_attention_max_distance: max_distance,
        layer_norm_epsilon: number_or(json, "layer_norm_epsilon", 1e-6)?,
        activation: Activation::from_name(name)?,
        is_gated_act,
        // transformers 4 told it by the tying of the embeddings.
        scale_decoder_outputs: flag_or(
            json,
            "scale_decoder_outputs",
            flag_or(json, "tie_word_embeddings", true)?,
        )?,
        decoder_start_token_id: token_ids(json, "decoder_start_token_id")?.first().copied().unwrap_or(0),
        eos_token_ids: token_ids(json, "eos_token_id")?,
    })
}

/// One token id or a list of them; none where the field is absent or null.
fn token_ids(json: &Value, key: &str) -> Result<Vec<u32>, ModelError> {
    let value = json.get(key).unwrap_or(&Value::Null);
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(id).collect(),
        other => id(other).map(|id| vec![id]),
    };
    ids.ok_or_else(|| ModelError::Config(format!("{key} is {value}, neither a token id nor a list of them")))
}
