//! Qwen 3 (arXiv 2505.09388): no biases, norms on queries and keys.

use serde_json::{Value, json};

use super::{count_or, llama, qwen2, with_defaults};
use crate::{DecoderConfig, ModelError, QkNorm};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut json = with_defaults(json, json!({"max_position_embeddings": 32_768}));
    if json.get("head_dim").is_none_or(Value::is_null) {
        json["head_dim"] = Value::from(count_or(&json, "head_dim", 128)?);
    }
    let mut config = llama::config(&json)?;
    config.qk_norm = QkNorm::PerHead;
    config.sliding_window = qwen2::windows(&json, config.num_hidden_layers)?;
    Ok(config)
}
