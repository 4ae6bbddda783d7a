use serde_json::Value;
use tch::{Device, Kind};

use super::{Gguf, GgufTensors, GgufTokenizerData, Safetensors, Source, read_json};
use crate::{Decoder, ModelError, Tensors, WeightMap, families};

/// A decoder with what its checkpoint says besides the weights.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub decoder: Decoder,
    /// config.json, or what a GGUF file's metadata say in its words.
    pub config_json: Value,
    /// generation_config.json, where there is one.
    pub generation_config: Option<Value>,
    /// Ids that end a turn, of generation_config.json or else of config.json.
    pub eos_ids: Vec<u32>,
    /// What a GGUF file says about its tokenizer.
    pub gguf_tokenizer: Option<GgufTokenizerData>,
}

/// Reads a decoder: config, every tensor cast to `kind` on `device`.
///
/// # Errors
/// [`ModelError::Io`] and [`ModelError::Format`] for files; [`ModelError::Config`] for an unknown model type or a
/// missing field; [`ModelError::Tensors`] where tensors are missing, misshapen or left over.
pub fn load_decoder(source: &Source, kind: Kind, device: Device) -> Result<Loaded, ModelError> {
    match source {
        Source::Directory(folder) => {
            let config_json = load_config(source)?;
            let tensors = Safetensors::open(folder)?;
            let decoder = build(&config_json, &tensors, kind, device)?;
            let generation_config = match folder.join("generation_config.json") {
                path if path.is_file() => Some(read_json(&path)?),
                _ => None,
            };
            let eos_ids = eos_ids(generation_config.as_ref()).or_else(|| eos_ids(Some(&config_json)));
            let eos_ids = eos_ids.unwrap_or_default();
            Ok(Loaded { decoder, config_json, generation_config, eos_ids, gguf_tokenizer: None })
        }
        Source::Gguf(path) => {
            let tensors = GgufTensors::new(Gguf::open(path)?)?;
            let config_json = tensors.config().clone();
            let decoder = build(&config_json, &tensors, kind, device)?;
            let tokenizer = tensors.tokenizer();
            let eos_ids = tokenizer.eos.into_iter().chain(tokenizer.eot).collect();
            Ok(Loaded {
                decoder,
                config_json,
                generation_config: None,
                eos_ids,
                gguf_tokenizer: Some(tokenizer),
            })
        }
    }
}

/// The config alone: of config.json, or of a GGUF file's metadata.
///
/// # Errors
/// As [`load_decoder`].
pub fn load_config(source: &Source) -> Result<Value, ModelError> {
    match source {
        Source::Directory(folder) => read_json(&folder.join("config.json")),
        Source::Gguf(path) => Ok(GgufTensors::new(Gguf::open(path)?)?.config().clone()),
    }
}

fn build(config: &Value, tensors: &dyn Tensors, kind: Kind, device: Device) -> Result<Decoder, ModelError> {
    let config = families::decoder_config(config)?;
    let tied = config.tie_word_embeddings;
    let mut weights = WeightMap::new(tensors, kind, device);
    let decoder = Decoder::load(config, &mut weights, kind, device)?;
    weights.finish(|name| is_no_weight(name) || (tied && name == "lm_head.weight"))?;
    Ok(decoder)
}

/// Buffers that old checkpoints carry along: rotary frequencies, causal masks.
fn is_no_weight(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with("attn.masked_bias") || name.ends_with("attn.bias")
}

/// `eos_token_id`: one id or a list.
fn eos_ids(config: Option<&Value>) -> Option<Vec<u32>> {
    let value = config?.get("eos_token_id")?;
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Value::Array(list) => Some(list.iter().filter_map(id).collect()),
        other => id(other).map(|id| vec![id]),
    }
}
