//! Finding and loading models: weights by `ferrotune-model`, words by `ferrotune-tokenizer` and the chat
//! template by `ferrotune-data`, put together here because those crates do not know each other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_data::chat::ChatTemplate;
use ferrotune_model::checkpoint::{
    Gguf, GgufTensors, GgufTokenizerData, HubOptions, SaveOptions, Source, load_decoder, save_decoder,
};
use ferrotune_model::{Decoder, parse_device, parse_dtype};
use ferrotune_tokenizer::{GgufTokenizer, Tokenizer};
use serde_json::Value;
use tch::{Device, Kind};

use crate::files::{lies_in, write_folder};
use crate::local_t5::LocalT5;
use crate::template::template_source;

/// Models that `cargo xtask setup` puts into the cache, by the name under which every command knows them.
pub const KNOWN: [&str; 2] = ["smollm2-135m-instruct", "all-minilm-l6-v2"];

/// A model ready to run.
#[derive(Debug)]
pub struct LoadedModel {
    /// As the user named it.
    pub id: String,
    /// Where it was read from: a folder or a GGUF file.
    pub path: PathBuf,
    /// The weights.
    pub decoder: Decoder,
    /// Words to ids.
    pub tokenizer: Tokenizer,
    /// Turns to text; base models have none. [`Self::template`] says so where it is needed.
    pub template: Option<ChatTemplate>,
    /// Ids that end the assistant's turn.
    pub eos_ids: Vec<u32>,
    /// config.json, for saving.
    pub config_json: Value,
    /// generation_config.json, for saving.
    pub generation_config: Option<Value>,
}

impl LoadedModel {
    /// What turns a chat into text.
    ///
    /// # Errors
    /// The model has none, and none was named.
    pub fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().context(NO_TEMPLATE)
    }
}

const NO_TEMPLATE: &str = "the model has no chat template: --template, or in a pipeline `template` under [tokenize], names \
    a built-in one (chatml, llama3, …) or a .jinja file";

/// Where and in which numbers a model runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// CPU, CUDA, MPS.
    pub device: Device,
    /// fp32, bf16, fp16.
    pub kind: Kind,
}

impl Place {
    /// From the names that the command line takes.
    ///
    /// # Errors
    /// An unknown name, or a device that is not there.
    pub fn parse(device: &str, dtype: &str) -> Result<Self> {
        let device = parse_device(device)?;
        Ok(Place { device, kind: parse_dtype(dtype, device)? })
    }

    /// `fp32`, `bf16` or `fp16`.
    pub fn dtype_name(self) -> &'static str {
        match self.kind {
            Kind::BFloat16 => "bf16",
            Kind::Half => "fp16",
            _ => "fp32",
        }
    }

    /// `cpu`, `cuda:0`, `mps`.
    pub fn device_name(self) -> String {
        match self.device {
            Device::Cuda(i) => format!("cuda:{i}"),
            Device::Mps => "mps".to_owned(),
            _ => "cpu".to_owned(),
        }
    }
}

/// The folder where `setup` keeps models: `FERROTUNE_CACHE`, else `XDG_CACHE_HOME/ferrotune`, else
/// `~/.cache/ferrotune`, and in it `models`.
pub fn models_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("FERROTUNE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("ferrotune")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/ferrotune")))?;
    Some(cache.join("models"))
}

/// A directory, a GGUF file, a known name, or a hub id.
///
/// # Errors
/// Nothing of that name; the hub's own.
pub fn resolve(id: &str) -> Result<Source> {
    if KNOWN.contains(&id) && !Path::new(id).exists() {
        let folder = models_folder().map(|m| m.join(id)).filter(|f| f.is_dir());
        let folder = folder.with_context(|| format!("{id} is not in the cache: run `cargo xtask setup`"))?;
        return Ok(gguf_in(&folder).map_or(Source::Directory(folder), Source::Gguf));
    }
    let source = Source::resolve(id, &HubOptions::default()).with_context(|| {
        format!(
            "cannot find the model {id:?} (a folder, a .gguf file, a hub id, or one of {})",
            KNOWN.join(", ")
        )
    })?;
    let holds = |name: &str| source.path().join(name).exists();
    if let Source::Directory(folder) = &source
        && let Some(file) = gguf_in(folder)
        && !holds("config.json")
        && !holds("tokenizer.json")
    {
        bail!("{id} is a folder with a GGUF file: name the file, {}", file.display());
    }
    Ok(source)
}

/// The first GGUF file of a folder by name.
fn gguf_in(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))).min()
}

/// Refuses a T5 where a model that only writes, or only reads, is wanted.
pub(crate) fn refuse_t5(id: &str, source: &Source) -> Result<()> {
    if LocalT5::is_at(source)? {
        bail!(
            "{id} is a T5, which writes a text for a text: `ferrotune generate {id} --prompt TEXT` runs it"
        );
    }
    Ok(())
}

/// The tokenizer and chat template of a model, without its weights; `template` as in [`load`].
///
/// # Errors
/// A broken file, or no chat template where `template` names none.
pub fn load_words(source: &Source, template: &str) -> Result<(Tokenizer, ChatTemplate)> {
    let (tokenizer, template) = words(source, template)?;
    Ok((tokenizer, template.context(NO_TEMPLATE)?))
}

/// As [`load_words`], of a model that may have no template. One that is named goes with the tokenizer when it is saved.
fn words(source: &Source, template: &str) -> Result<(Tokenizer, Option<ChatTemplate>)> {
    let mut tokenizer = load_tokenizer(source)?;
    if !template.is_empty() {
        tokenizer = tokenizer.with_chat_template(template_source(template)?);
    }
    // The special tokens are the model's own, whoever wrote the template.
    let template = tokenizer.chat_template().map(|source| ChatTemplate::new(source, tokenizer.special()));
    let template = template.transpose()?;
    Ok((tokenizer, template))
}

/// The tokenizer alone: of a folder, or of a GGUF file's metadata.
///
/// # Errors
/// A missing or broken file.
pub fn load_tokenizer(source: &Source) -> Result<Tokenizer> {
    Ok(match source {
        Source::Directory(folder) => Tokenizer::from_dir(folder)?,
        Source::Gguf(path) => {
            let data = GgufTensors::new(Gguf::open(path)?)?.tokenizer();
            Tokenizer::from_gguf_metadata(&tokenizer_metadata(data))?
        }
    })
}

/// Loads a model with its tokenizer and template; `template` may name a built-in one or a .jinja file, empty takes the
/// model's.
///
/// # Errors
/// Whatever is missing or broken, named.
pub fn load(id: &str, place: Place, template: &str) -> Result<LoadedModel> {
    load_from(id, &resolve(id)?, place, template)
}

/// As [`load`], from where [`resolve`] found it.
///
/// # Errors
/// As [`load`].
pub fn load_from(id: &str, source: &Source, place: Place, template: &str) -> Result<LoadedModel> {
    refuse_t5(id, source)?;
    let loaded = load_decoder(source, place.kind, place.device)
        .with_context(|| format!("cannot load the model {id:?}"))?;
    let (tokenizer, template) = words(source, template)?;
    let (vocabulary, largest) = (loaded.decoder.config.vocab_size, tokenizer.vocab_size());
    if largest > vocabulary {
        bail!(
            "{id}: the tokenizer has {largest} tokens, the model's embedding only {vocabulary}: they do not belong together"
        );
    }
    let mut eos_ids = loaded.eos_ids;
    eos_ids.extend(tokenizer.ids().eos);
    eos_ids.sort_unstable();
    eos_ids.dedup();
    Ok(LoadedModel {
        id: id.to_owned(),
        path: source.path().to_owned(),
        decoder: loaded.decoder,
        tokenizer,
        template,
        eos_ids,
        config_json: loaded.config_json,
        generation_config: loaded.generation_config,
    })
}

/// Writes a model so that transformers loads the folder: weights, config, tokenizer, template. A model that an earlier run
/// left there is replaced.
///
/// # Errors
/// A full disk, …; the folder appears whole or not at all. A folder that holds anything but a saved model, or the very
/// model that was read.
pub fn save(model: &LoadedModel, folder: &Path, kind: Kind) -> Result<()> {
    check_replaceable(folder, &model.path)?;
    write_folder(folder, |partial| {
        let options = SaveOptions { kind: Some(kind), ..SaveOptions::default() };
        let generation = model.generation_config.as_ref();
        save_decoder(&model.decoder, &model.config_json, generation, partial, options)?;
        Ok(model.tokenizer.save(partial)?)
    })
}

/// What a saved model consists of, beside its weights.
const SAVED: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// Whether a model may be saved in `folder`: it is new, empty, or holds a saved model and nothing else.
///
/// # Errors
/// Says why not. `read` is where the model came from, which is not written over.
pub fn check_replaceable(folder: &Path, read: &Path) -> Result<()> {
    if folder.file_name().is_none() {
        bail!("{} has no name of its own: name a new folder for the model", folder.display());
    }
    if !folder.exists() {
        return Ok(());
    }
    if lies_in(read, folder) {
        bail!("{} holds the model that was read: name another folder", folder.display());
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_weights(&name) && !SAVED.contains(&name.as_str()) {
            bail!(
                "{} holds {name}, which is no part of a saved model: name a new folder, or move it away",
                folder.display()
            );
        }
    }
    Ok(())
}

fn tokenizer_metadata(data: GgufTokenizerData) -> GgufTokenizer {
    GgufTokenizer {
        architecture: data.architecture,
        model: data.model,
        pre: Some(data.pre).filter(|pre| !pre.is_empty()),
        tokens: data.tokens,
        scores: data.scores,
        token_types: data.token_types.into_iter().map(|t| t as i32).collect(),
        merges: data.merges,
        bos: data.bos,
        eos: data.eos,
        eot: data.eot,
        unk: data.unk,
        pad: data.pad,
        add_bos: data.add_bos,
        add_eos: data.add_eos,
        add_space_prefix: data.add_space_prefix,
        remove_extra_whitespaces: data.remove_extra_whitespaces,
        precompiled_charsmap: data.precompiled_charsmap,
        chat_template: data.chat_template,
    }
}
