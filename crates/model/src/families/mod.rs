//! One file a family: how its `config.json` reads as a [`DecoderConfig`].

mod llama;

use serde_json::Value;

use crate::{DecoderConfig, ModelError};

/// `model_type` → how to read its config.json.
type Reader = fn(&Value) -> Result<DecoderConfig, ModelError>;

const DECODERS: &[(&str, Reader)] = &[("llama", llama::config)];

/// Reads a decoder's `config.json`.
///
/// # Errors
/// [`ModelError::Config`] for an unknown `model_type` (the known ones are listed) or a missing field.
pub fn decoder_config(config: &Value) -> Result<DecoderConfig, ModelError> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    match DECODERS.iter().find(|(name, _)| *name == model_type) {
        Some((_, read)) => read(config),
        None => {
            let known = DECODERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            Err(ModelError::Config(format!("unknown model_type {model_type:?}; known: {known}")))
        }
    }
}

/// A config.json field that must be there.
fn required<'a>(config: &'a Value, key: &str) -> Result<&'a Value, ModelError> {
    match config.get(key) {
        Some(value) if !value.is_null() => Ok(value),
        _ => Err(ModelError::Config(format!("config.json has no {key}"))),
    }
}

/// A count: a whole number of at least 1 and at most 2^31.
fn count(config: &Value, key: &str) -> Result<usize, ModelError> {
    let value = required(config, key)?;
    match value.as_u64() {
        Some(n) if (1..1 << 31).contains(&n) => Ok(n as usize),
        _ => Err(ModelError::Config(format!("{key} is {value}, not a count"))),
    }
}

fn count_or(config: &Value, key: &str, default: usize) -> Result<usize, ModelError> {
    if config.get(key).is_none_or(Value::is_null) { Ok(default) } else { count(config, key) }
}

fn number_or(config: &Value, key: &str, default: f64) -> f64 {
    config.get(key).and_then(Value::as_f64).unwrap_or(default)
}

fn flag_or(config: &Value, key: &str, default: bool) -> bool {
    config.get(key).and_then(Value::as_bool).unwrap_or(default)
}
