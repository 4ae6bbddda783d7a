//! Mistral (arXiv 2310.06825): Llama with a sliding window.

use serde_json::{Value, json};

use super::{layer_windows, llama, optional_count, with_defaults};
use crate::{DecoderConfig, ModelError};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let json = with_defaults(json, json!({"sliding_window": 4096, "max_position_embeddings": 131_072}));
    let mut config = llama::config(&json)?;
    let window = optional_count(&json, "sliding_window")?;
    // One that names layers is what transformers calls Ministral.
    config.sliding_window = layer_windows(&json, config.num_hidden_layers, window, |_| true)?;
    Ok(config)
}
