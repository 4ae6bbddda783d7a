use std::path::{Component, Path};

use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use super::{Gguf, GgufTensors, GgufTokenizerData, Safetensors, Source, format_error, read_json};
use crate::families::gemma3;
use crate::memory::{check_weights, free_memory};
use crate::{Decoder, Encoder, ModelError, Pooling, T5, Tensors, WeightMap, families};

/// A decoder with what its checkpoint says besides the weights.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub decoder: Decoder,
    /// config.json, or what a GGUF file's metadata say in its words.
    pub config_json: Value,
    /// generation_config.json, where there is one; of a GGUF file what it would say.
    pub generation_config: Option<Value>,
    /// Ids that end a turn, of generation_config.json or else of config.json; of a GGUF file
    /// [`GgufTokenizerData::end_ids`].
    pub eos_ids: Vec<u32>,
    /// What a GGUF file says about its tokenizer.
    pub gguf_tokenizer: Option<GgufTokenizerData>,
}

/// Reads a decoder: config, every tensor cast to `kind` on `device`.
///
/// # Errors
/// [`ModelError::Io`] and [`ModelError::Format`] for files; [`ModelError::Config`] for an unknown model type or a
/// missing field; [`ModelError::Tensors`] where tensors are missing, misshapen or left over;
/// [`ModelError::Memory`] where the weights would not fit.
pub fn load_decoder(source: &Source, kind: Kind, device: Device) -> Result<Loaded, ModelError> {
    match source {
        Source::Directory(folder) => {
            let config_json = load_config(source)?;
            let tensors = Safetensors::open(folder)?;
            check_weights(tensors.n_weights(|name| !gemma3::is_vision(name)), kind, free_memory(device))?;
            let decoder = build(&config_json, &tensors, kind, device)?;
            let generation_config = generation_config(folder)?;
            let eos_ids = eos_ids(generation_config.as_ref()).or_else(|| eos_ids(Some(&config_json)));
            let eos_ids = eos_ids.unwrap_or_default();
            Ok(Loaded { decoder, config_json, generation_config, eos_ids, gguf_tokenizer: None })
        }
        Source::Gguf(path) => {
            let tensors = GgufTensors::new(Gguf::open(path)?)?;
            let config_json = tensors.config().clone();
            check_weights(tensors.gguf().n_weights(), kind, free_memory(device))?;
            let decoder = build(&config_json, &tensors, kind, device)?;
            let tokenizer = tensors.tokenizer();
            let eos_ids = tokenizer.end_ids();
            let generation_config = Some(generation_of_gguf(&config_json, &eos_ids));
            Ok(Loaded { decoder, config_json, generation_config, eos_ids, gguf_tokenizer: Some(tokenizer) })
        }
    }
}

/// An encoder with what its checkpoint says besides the weights.
#[derive(Debug)]
pub struct LoadedEncoder {
    /// The model.
    pub encoder: Encoder,
    /// config.json.
    pub config_json: Value,
    /// How sentence-transformers makes one vector of a text, where the checkpoint says so: mean otherwise.
    pub pooling: Pooling,
    /// Whether the tokens of a prompt before the text are pooled too.
    pub pools_prompt: bool,
    /// Whether it then scales the vector to unit length.
    pub normalise: bool,
}

/// Reads an encoder: config, every tensor cast to `kind` on `device`, and how it pools.
///
/// # Errors
/// As [`load_decoder`].
pub fn load_encoder(source: &Source, kind: Kind, device: Device) -> Result<LoadedEncoder, ModelError> {
    let Source::Directory(folder) = source else {
        return Err(format_error(source.path(), "is a GGUF file; encoders are read from safetensors"));
    };
    let config_json = load_config(source)?;
    let config = families::encoder_config(&config_json)?;
    let tensors = Safetensors::open(folder)?;
    check_weights(tensors.n_weights(|_| true), kind, free_memory(device))?;
    let mut weights = WeightMap::new(&tensors, kind, device);
    let encoder = Encoder::load(config, &mut weights, kind, device)?;
    weights.finish(is_no_encoder_weight)?;
    let sentence = sentence_pooling(folder)?;
    Ok(LoadedEncoder {
        encoder,
        config_json,
        pooling: sentence.pooling,
        pools_prompt: sentence.pools_prompt,
        normalise: sentence.normalise,
    })
}

/// The decoder's view of the encoder has no bias for distances, but old files carry one along.
const NO_BIAS: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// What generation_config.json says before config.json does.
const OF_GENERATION: [&str; 2] = ["eos_token_id", "decoder_start_token_id"];

/// Reads a T5: config, every tensor cast to `kind` on `device`. Its config.json is [`load_config`]'s; how texts begin and
/// end generation_config.json says first.
///
/// # Errors
/// As [`load_decoder`].
pub fn load_t5(source: &Source, kind: Kind, device: Device) -> Result<T5, ModelError> {
    let Source::Directory(folder) = source else {
        return Err(format_error(source.path(), "is a GGUF file; T5 is read from safetensors"));
    };
    let tensors = Safetensors::open(folder)?;
    check_weights(tensors.n_weights(|_| true), kind, free_memory(device))?;
    let mut weights = WeightMap::new(&tensors, kind, device);
    let mut config = load_config(source)?;
    let generation = generation_config(folder)?.unwrap_or_default();
    for key in OF_GENERATION {
        let value = generation.get(key).filter(|value| !value.is_null());
        if let Some((fields, value)) = config.as_object_mut().zip(value) {
            fields.insert(key.to_owned(), value.clone());
        }
    }
    let model = T5::load(&config, &mut weights, device)?;
    // Old files hold the embedding once more for each side.
    weights.finish(|name| name.ends_with("embed_tokens.weight") || name == NO_BIAS)?;
    Ok(model)
}

/// generation_config.json, where there is one.
fn generation_config(folder: &Path) -> Result<Option<Value>, ModelError> {
    let path = folder.join("generation_config.json");
    path.is_file().then(|| read_json(&path)).transpose()
}

/// What generation_config.json would say of a GGUF file, so that what is saved of the model ends its answers where the model
/// does: config.json names one such token.
fn generation_of_gguf(config: &Value, eos_ids: &[u32]) -> Value {
    let mut said = Map::new();
    for key in ["bos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key) {
            said.insert(key.to_owned(), id.clone());
        }
    }
    if !eos_ids.is_empty() {
        said.insert("eos_token_id".to_owned(), json!(eos_ids));
    }
    Value::Object(said)
}

/// Buffers, and heads that are not used: of pretraining, or under a model that is read without its head.
fn is_no_encoder_weight(name: &str) -> bool {
    name.ends_with("position_ids")
        || name.contains("pooler.dense")
        || ["cls.", "lm_head.", "vocab_", "classifier.", "pre_classifier.", "head.", "decoder."]
            .iter()
            .any(|head| name.starts_with(head))
}

/// From hidden states to a vector, as [`LoadedEncoder`] says it.
struct SentencePooling {
    pooling: Pooling,
    pools_prompt: bool,
    normalise: bool,
}

/// What sentence-transformers' `modules.json` and the pooling that it names say. A module that is not known here would
/// change the vectors, so it is an error. Without that file sentence-transformers takes the mean as it is, whatever else
/// lies in the folder.
fn sentence_pooling(folder: &Path) -> Result<SentencePooling, ModelError> {
    let path = folder.join("modules.json");
    if !path.is_file() {
        return Ok(SentencePooling { pooling: Pooling::Mean, pools_prompt: true, normalise: false });
    }
    let refuse = |reason: String| Err(format_error(&path, reason));
    let json = read_json(&path)?;
    let Some(modules) = json.as_array() else {
        return refuse("is no list of modules".to_owned());
    };
    let (mut pooling, mut normalise) = (None, false);
    for module in modules {
        let class = module["type"].as_str().unwrap_or_default();
        let Some(place) = module["path"].as_str() else {
            return refuse(format!("has the module {class:?} without its path"));
        };
        if !Path::new(place).components().all(|part| matches!(part, Component::Normal(_))) {
            return refuse(format!("names {place:?}, which leads out of the model's folder"));
        }
        match class.rsplit('.').next().unwrap_or_default() {
            "Transformer" if place.is_empty() => {}
            "Transformer" => return refuse(format!("keeps the encoder in {place:?}, where it is not read")),
            "Pooling" => pooling = Some(read_pooling(&folder.join(place).join("config.json"))?),
            "Normalize" => normalise = true,
            _ => return refuse(format!("has the module {class:?}, which is not known")),
        }
    }
    match pooling {
        Some((pooling, pools_prompt)) => Ok(SentencePooling { pooling, pools_prompt, normalise }),
        None => refuse("names no pooling".to_owned()),
    }
}

/// A pooling's own config.json: which it is, and whether it takes a prompt in.
fn read_pooling(path: &Path) -> Result<(Pooling, bool), ModelError> {
    let json = read_json(path)?;
    let named = json.get("pooling_mode").and_then(Value::as_str);
    let is = |key: &str, name: &str| json[key].as_bool() == Some(true) || named == Some(name);
    let asked = json.as_object().into_iter().flatten();
    let n_asked =
        asked.filter(|(key, on)| key.starts_with("pooling_mode_") && **on == Value::Bool(true)).count();
    if n_asked > 1 {
        return Err(format_error(path, "asks for several poolings at once, side by side"));
    }
    let pooling = if is("pooling_mode_mean_tokens", "mean") {
        Pooling::Mean
    } else if is("pooling_mode_cls_token", "cls") {
        Pooling::Cls
    } else if is("pooling_mode_max_tokens", "max") {
        Pooling::Max
    } else {
        return Err(format_error(path, "asks for a pooling other than mean, cls and max"));
    };
    Ok((pooling, json["include_prompt"].as_bool().unwrap_or(true)))
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
    let mut weights = WeightMap::new(tensors, kind, device);
    let decoder = Decoder::load(config, &mut weights, kind, device)?;
    let sees = decoder.config.model_type == "gemma3";
    weights.finish(|name| is_no_weight(name) || sees && gemma3::is_vision(name))?;
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
