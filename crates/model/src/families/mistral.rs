//! Mistral (arXiv 2310.06825): Llama with a sliding window.

use serde_json::Value;

use super::{llama, optional_count};
use crate::{DecoderConfig, ModelError};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut config = llama::config(json)?;
    let window = optional_count(json, "sliding_window")?;
    config.sliding_window.fill(window);
    Ok(config)
}
