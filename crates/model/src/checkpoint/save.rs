use std::path::Path;

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use super::safetensors::{INDEX, SINGLE};
use super::{format_error, write_safetensors};
use crate::families::{self, gemma3};
use crate::{Decoder, ModelError, T5};

/// How a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveOptions {
    /// A shard holds at most this many bytes, or a single tensor.
    pub max_shard_bytes: usize,
    /// The dtype of the written weights; the model's own where absent.
    pub kind: Option<Kind>,
}

impl Default for SaveOptions {
    fn default() -> Self {
        SaveOptions { max_shard_bytes: 5 << 30, kind: None }
    }
}

/// Writes a checkpoint that transformers loads: sharded safetensors, config.json, generation_config.json. The
/// tokenizer's files are copied by who has them.
///
/// `config_json` is the one that the model was loaded with ([`super::Loaded::config_json`]); sizes and dtype are
/// brought up to date. Of a Gemma 3 that sees too, the text part is written, as a model of its own. Everything is written into a folder beside `folder`, which then takes its place, so that a
/// half-written checkpoint is never found under the name; an existing folder is only added to, file by file. What was
/// begun is taken away where it cannot be finished.
///
/// # Errors
/// [`ModelError::Io`] where it cannot be written, [`ModelError::Config`] where `config_json` is no object.
pub fn save_decoder(
    decoder: &Decoder,
    config_json: &Value,
    generation_config: Option<&Value>,
    folder: &Path,
    options: SaveOptions,
) -> Result<(), ModelError> {
    let kind = options.kind.unwrap_or(decoder.kind);
    let config_json = families::text_alone(config_json)?;
    let config = saved_config(&config_json, kind, &decoder.embedding, decoder.lm_head.is_none())?;
    let alone = |(name, tensor): (String, Tensor)| (gemma3::name_alone(&name).unwrap_or(name), tensor);
    let tensors = decoder.named_tensors().into_iter().map(alone).collect();
    save(tensors, kind, &config, generation_config, folder, options)
}

/// As [`save_decoder`], for T5.
///
/// # Errors
/// As [`save_decoder`].
pub fn save_t5(
    t5: &T5,
    config_json: &Value,
    generation_config: Option<&Value>,
    folder: &Path,
    options: SaveOptions,
) -> Result<(), ModelError> {
    let kind = options.kind.unwrap_or(t5.embedding.kind());
    let config = saved_config(config_json, kind, &t5.embedding, t5.is_tied())?;
    save(t5.named_tensors(), kind, &config, generation_config, folder, options)
}

fn save(
    tensors: Vec<(String, Tensor)>,
    kind: Kind,
    config: &Value,
    generation_config: Option<&Value>,
    folder: &Path,
    options: SaveOptions,
) -> Result<(), ModelError> {
    let io = |op| move |source| ModelError::Io { op, path: folder.to_owned(), source };
    let generation = generation_config.cloned().unwrap_or_else(|| generation_defaults(config));
    let fill = |into: &Path| {
        std::fs::create_dir_all(into).map_err(io("create"))?;
        let written = write_shards(into, tensors, kind, options.max_shard_bytes)?;
        remove_other_weights(into, &written)?;
        write_json(&into.join("config.json"), config)?;
        write_json(&into.join("generation_config.json"), &generation)
    };
    if folder.is_dir() {
        return fill(folder);
    }
    let partial = folder.with_extension("partial");
    let is_ours = !partial.exists();
    let whole = fill(&partial).and_then(|()| std::fs::rename(&partial, folder).map_err(io("rename")));
    whole.inspect_err(|_| {
        if is_ours {
            let _ = std::fs::remove_dir_all(&partial); // half a checkpoint would only fill the disk
        }
    })
}

/// Tensors in the order of the model, cut into shards; the index is written last. Gives the names of the files.
fn write_shards(
    folder: &Path,
    tensors: Vec<(String, Tensor)>,
    kind: Kind,
    max_bytes: usize,
) -> Result<Vec<String>, ModelError> {
    let size = |t: &Tensor| t.numel() * kind.elt_size_in_bytes();
    let total: usize = tensors.iter().map(|(_, t)| size(t)).sum();
    let mut shards: Vec<Vec<(String, Tensor)>> = vec![Vec::new()];
    let mut filled = 0;
    for (name, tensor) in tensors {
        let n = size(&tensor);
        if filled > 0 && filled + n > max_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += n;
        if let Some(shard) = shards.last_mut() {
            shard.push((name, tensor));
        }
    }
    let cast = |shard: Vec<(String, Tensor)>| -> Vec<(String, Tensor)> {
        shard.into_iter().map(|(name, tensor)| (name, tensor.detach().to_kind(kind))).collect()
    };
    let format = [("format", "pt")];
    if shards.len() == 1 {
        let shard = cast(shards.remove(0));
        write_safetensors(&folder.join(SINGLE), &shard, &format)?;
        return Ok(vec![SINGLE.to_owned()]);
    }
    let n_shards = shards.len();
    let (mut weight_map, mut files) = (Map::new(), Vec::new());
    for (i, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{n_shards:05}.safetensors", i + 1);
        for (name, _) in &shard {
            weight_map.insert(name.clone(), json!(file));
        }
        write_safetensors(&folder.join(&file), &cast(shard), &format)?;
        files.push(file);
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_json(&folder.join(INDEX), &index)?;
    files.push(INDEX.to_owned());
    Ok(files)
}

/// Weights of an earlier checkpoint in the same folder would be read in place of the new ones.
fn remove_other_weights(folder: &Path, written: &[String]) -> Result<(), ModelError> {
    let failed = |source| ModelError::Io { op: "clean", path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_shard = name.starts_with("model-") && name.ends_with(".safetensors");
        if (is_shard || name == SINGLE || name == INDEX) && !written.contains(&name) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn saved_config(
    config_json: &Value,
    kind: Kind,
    embedding: &Tensor,
    is_tied: bool,
) -> Result<Value, ModelError> {
    let Some(config) = config_json.as_object() else {
        return Err(ModelError::Config("is not a JSON object".to_owned()));
    };
    let mut config = config.clone();
    for key in ["_name_or_path", "_model_name_or_path", "torch_dtype", "quantization_config"] {
        config.remove(key);
    }
    let dtype = match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        Kind::Float => "float32",
        other => return Err(ModelError::Config(format!("no checkpoint is saved in {other:?}"))),
    };
    config.insert("dtype".to_owned(), json!(dtype));
    let rows = embedding.size().first().copied().unwrap_or(0);
    config.insert("vocab_size".to_owned(), json!(rows));
    config.insert("tie_word_embeddings".to_owned(), json!(is_tied));
    Ok(Value::Object(config))
}

/// What transformers derives from a config that comes without a generation_config.json.
fn generation_defaults(config: &Value) -> Value {
    let mut out = Map::new();
    out.insert("_from_model_config".to_owned(), json!(true));
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(value) = config.get(key).filter(|v| !v.is_null()) {
            out.insert(key.to_owned(), value.clone());
        }
    }
    Value::Object(out)
}

/// Writes beside the file, then renames.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let failed = |source| ModelError::Io { op: "write", path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(value).map_err(|e| format_error(path, e.to_string()))?;
    let partial = path.with_extension("json.partial");
    let written = std::fs::write(&partial, text + "\n").and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&partial); // the error that stopped us matters more
        failed(source)
    })
}
