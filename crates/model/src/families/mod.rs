//! One file a family: how its `config.json` reads as a [`DecoderConfig`] or an [`EncoderConfig`].
//!
//! A family begins as Llama and changes what differs. To add one: a file here, a line in `DECODERS`, a tiny
//! checkpoint with the logits of transformers in `fixtures/golden/tiny_models.py`.

mod bert;
mod distilbert;
mod gemma2;
pub(crate) mod gemma3;
mod gpt2;
mod llama;
mod mistral;
mod mixtral;
mod modernbert;
mod mpnet;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod roberta;
mod rope;
pub(crate) mod t5;

use serde_json::Value;

pub(crate) use rope::ORIGINAL_MAX;

use crate::encoder_head::classifier_pooling;
use crate::{Activation, DecoderConfig, EncoderConfig, HeadKind, ModelError};

/// `model_type` → how to read its config.json.
type Reader = fn(&Value) -> Result<DecoderConfig, ModelError>;

const DECODERS: &[(&str, Reader)] = &[
    ("gemma2", gemma2::config),
    ("gemma3", gemma3::beside_vision),
    ("gemma3_text", gemma3::config),
    ("gpt2", gpt2::config),
    ("llama", llama::config),
    ("mistral", mistral::config),
    ("mixtral", mixtral::config),
    ("olmo2", olmo2::config),
    ("phi3", phi3::config),
    ("qwen2", qwen2::config),
    ("qwen3", qwen3::config),
    ("qwen3_moe", qwen3_moe::config),
];

/// Reads a decoder's `config.json`.
///
/// # Errors
/// [`ModelError::Config`] for an unknown `model_type` (the known ones are listed) or a missing field.
pub fn decoder_config(config: &Value) -> Result<DecoderConfig, ModelError> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    match DECODERS.iter().find(|(name, _)| *name == model_type) {
        Some((_, read)) => read(config),
        None if encoder_types().contains(&model_type) => Err(ModelError::Config(format!(
            "{model_type} is an encoder: it embeds texts, it does not write any"
        ))),
        None => {
            let known = decoder_types().join(", ");
            Err(ModelError::Config(format!("unknown model_type {model_type:?}; known: {known}")))
        }
    }
}

/// The config.json under which a decoder is saved: its own, or of a model that sees too that of the text part.
pub(crate) fn text_alone(config: &Value) -> Result<Value, ModelError> {
    let sees = config.get("model_type").and_then(Value::as_str) == Some("gemma3");
    if sees { gemma3::text_alone(config) } else { Ok(config.clone()) }
}

/// Every `model_type` that [`decoder_config`] knows.
pub fn decoder_types() -> Vec<&'static str> {
    DECODERS.iter().map(|(name, _)| *name).collect()
}

type EncoderReader = fn(&Value) -> Result<EncoderConfig, ModelError>;

const ENCODERS: &[(&str, EncoderReader)] = &[
    ("bert", bert::config),
    ("distilbert", distilbert::config),
    ("modernbert", modernbert::config),
    ("mpnet", mpnet::config),
    ("roberta", roberta::config),
    ("xlm-roberta", roberta::config),
];

/// Reads an encoder's `config.json`.
///
/// # Errors
/// [`ModelError::Config`] for an unknown `model_type` (the known ones are listed) or a missing field.
pub fn encoder_config(config: &Value) -> Result<EncoderConfig, ModelError> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    let Some((_, read)) = ENCODERS.iter().find(|(name, _)| *name == model_type) else {
        if decoder_types().contains(&model_type) {
            return Err(ModelError::Config(format!("{model_type} writes texts, it is no encoder")));
        }
        let known = encoder_types().join(", ");
        return Err(ModelError::Config(format!(
            "unknown model_type {model_type:?}; known encoders: {known}"
        )));
    };
    let config = read(config)?;
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return Err(ModelError::Config(format!(
            "hidden_size {} is no multiple of {} heads",
            config.hidden_size, config.num_attention_heads
        )));
    }
    Ok(config)
}

/// Every `model_type` that [`encoder_config`] knows.
pub fn encoder_types() -> Vec<&'static str> {
    ENCODERS.iter().map(|(name, _)| *name).collect()
}

/// Which head the checkpoint's class has.
fn head_kind(config: &Value) -> Result<Option<HeadKind>, ModelError> {
    let class = config.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("");
    Ok(if class.ends_with("ForMaskedLM") {
        Some(HeadKind::MaskedLm)
    } else if class.ends_with("ForTokenClassification") {
        Some(HeadKind::Tokens)
    } else if class.ends_with("ForSequenceClassification") {
        let pooling = config.get("classifier_pooling").and_then(Value::as_str);
        Some(HeadKind::Sequence(classifier_pooling(pooling)?))
    } else {
        None
    })
}

/// Classes of a classifier: `id2label` lists them.
fn label_count(config: &Value) -> Result<usize, ModelError> {
    match optional(config, "id2label", "an object", Value::as_object)? {
        Some(labels) => Ok(labels.len()),
        None => count_or(config, "num_labels", 2),
    }
}

/// config.json with what it leaves out, as transformers fills it in; null is said, and stays.
fn with_defaults(config: &Value, defaults: Value) -> Value {
    let mut all = config.clone();
    if let (Some(all), Value::Object(defaults)) = (all.as_object_mut(), defaults) {
        for (key, value) in defaults {
            all.entry(key).or_insert(value);
        }
    }
    all
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

/// How many blocks. Lists as long are made before any tensor is read, so the count is bounded.
fn layer_count(config: &Value, key: &str) -> Result<usize, ModelError> {
    match count(config, key)? {
        n if n <= 4096 => Ok(n),
        n => Err(ModelError::Config(format!("{key} is {n}, more than 4096"))),
    }
}

fn optional_count(config: &Value, key: &str) -> Result<Option<usize>, ModelError> {
    if config.get(key).is_none_or(Value::is_null) { Ok(None) } else { count(config, key).map(Some) }
}

fn count_or(config: &Value, key: &str, default: usize) -> Result<usize, ModelError> {
    Ok(optional_count(config, key)?.unwrap_or(default))
}

/// A field that may be absent or null; one of another type is an error, since a default in its place would compute
/// something else without a word.
fn optional<'a, T>(
    config: &'a Value,
    key: &str,
    what: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, ModelError> {
    match config.get(key).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ModelError::Config(format!("{key} is {value}, not {what}"))),
        },
    }
}

fn optional_number(config: &Value, key: &str) -> Result<Option<f64>, ModelError> {
    optional(config, key, "a number", |value| value.as_f64().filter(|x| x.is_finite()))
}

fn number_or(config: &Value, key: &str, default: f64) -> Result<f64, ModelError> {
    Ok(optional_number(config, key)?.unwrap_or(default))
}

fn flag_or(config: &Value, key: &str, default: bool) -> Result<bool, ModelError> {
    Ok(optional(config, key, "true or false", Value::as_bool)?.unwrap_or(default))
}

fn activation_or(config: &Value, key: &str, default: &str) -> Result<Activation, ModelError> {
    Activation::from_name(optional(config, key, "a name", Value::as_str)?.unwrap_or(default))
}

/// The window of each block: `layer_types` says which blocks have one, or else `is_sliding`.
fn layer_windows(
    config: &Value,
    n_layers: usize,
    window: Option<usize>,
    is_sliding: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let Some(types) = optional(config, "layer_types", "a list", Value::as_array)? else {
        return Ok((0..n_layers).map(|layer_idx| window.filter(|_| is_sliding(layer_idx))).collect());
    };
    if types.len() != n_layers {
        return Err(ModelError::Config(format!("layer_types lists {} of {n_layers} layers", types.len())));
    }
    types
        .iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => Ok(window),
            _ => Err(ModelError::Config(format!("unknown layer type {kind}"))),
        })
        .collect()
}
