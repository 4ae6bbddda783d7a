//! Qwen 2 and 2.5 (arXiv 2407.10671): Llama with biases on queries, keys and values.

use serde_json::{Value, json};

use super::{count_or, flag_or, layer_windows, llama, optional_count, with_defaults};
use crate::{DecoderConfig, ModelError};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut config = llama::config(&with_defaults(json, json!({"max_position_embeddings": 32_768})))?;
    config.attention_bias = true;
    config.attention_out_bias = false;
    config.sliding_window = windows(json, config.num_hidden_layers)?;
    Ok(config)
}

/// Only where `use_sliding_window` is set, and then on the blocks from `max_window_layers` on.
pub(super) fn windows(json: &Value, n_layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let used = flag_or(json, "use_sliding_window", false)?;
    let window = optional_count(json, "sliding_window")?.filter(|_| used);
    let first = if json.get("max_window_layers").and_then(Value::as_u64) == Some(0) {
        0
    } else {
        count_or(json, "max_window_layers", 28)?
    };
    layer_windows(json, n_layers, window, |layer_idx| layer_idx >= first)
}
