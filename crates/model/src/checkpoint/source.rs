use std::path::{Path, PathBuf};

use super::{Gguf, Safetensors, format_error};
use crate::ModelError;

/// Where a checkpoint lies on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory with config.json and safetensors.
    Directory(PathBuf),
    /// A GGUF file, which carries its config and tokenizer.
    Gguf(PathBuf),
}

/// How to reach the model hub. The default asks the public one for the newest revision, as the environment
/// says (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubOptions {
    /// Branch, tag or commit; `main` where absent.
    pub revision: Option<String>,
    /// For private or gated models.
    pub token: Option<String>,
    /// The hub cache folder.
    pub cache: Option<PathBuf>,
    /// Use the cache only.
    pub offline: bool,
    /// Another hub's address.
    pub endpoint: Option<String>,
}

/// What of a repository is a checkpoint: no pickles, no other frameworks' weights.
const WANTED: [&str; 6] =
    ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "1_Pooling/*.json"];

/// How often a broken transfer is tried again.
const ATTEMPTS: usize = 3;

impl Source {
    /// Finds a checkpoint: a directory, a `.gguf` file, or a hub id (`owner/name`, or `owner/name/file.gguf`),
    /// which is fetched into the hub cache unless it is there. A path that exists wins over a hub id.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a file of another kind; [`ModelError::Hub`] where the hub does not have the
    /// model, cannot be reached, or `offline` is set and the cache lacks it.
    pub fn resolve(id_or_path: &str, hub: &HubOptions) -> Result<Source, ModelError> {
        let path = Path::new(id_or_path);
        let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if path.is_dir() {
            return Ok(Source::Directory(path.to_owned()));
        }
        if path.is_file() {
            return if is_gguf {
                Ok(Source::Gguf(path.to_owned()))
            } else {
                Err(format_error(path, "is neither a directory nor a .gguf file"))
            };
        }
        let parts: Vec<&str> = id_or_path.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        match parts.as_slice() {
            [owner, name] if parts.iter().all(plain) && !is_gguf => {
                fetch(owner, name, None, hub).map(Source::Directory)
            }
            [owner, name, file] if parts.iter().all(plain) && is_gguf => {
                fetch(owner, name, Some(file), hub).map(Source::Gguf)
            }
            _ => Err(format_error(
                path,
                "does not exist, and is no hub id (`owner/name` or `owner/name/file.gguf`) either",
            )),
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        match self {
            Source::Directory(path) | Source::Gguf(path) => path,
        }
    }
}

/// Fetches a checkpoint (or one file of it) into the hub cache and gives its path there.
fn fetch(owner: &str, name: &str, file: Option<&str>, options: &HubOptions) -> Result<PathBuf, ModelError> {
    let mut builder = hf_hub::HFClientBuilder::new();
    if let Some(token) = &options.token {
        builder = builder.token(token);
    }
    if let Some(cache) = &options.cache {
        builder = builder.cache_dir(cache);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.endpoint(endpoint);
    }
    let hub_error = |e: hf_hub::HFError| {
        let advice = if options.offline { " (offline: only the cache was asked)" } else { "" };
        ModelError::Hub(format!("{owner}/{name}: {e}{advice}"))
    };
    let repository = builder.build_sync().map_err(hub_error)?.model(owner, name);
    let (mut attempt, mut force) = (1, false);
    loop {
        let result = match file {
            Some(file) => repository
                .download_file()
                .filename(file)
                .maybe_revision(options.revision.clone())
                .local_files_only(options.offline)
                .force_download(force)
                .send(),
            None => repository
                .snapshot_download()
                .maybe_revision(options.revision.clone())
                .allow_patterns(WANTED.map(str::to_owned).to_vec())
                .local_files_only(options.offline)
                .force_download(force)
                .send(),
        };
        match result {
            Ok(path) => match check(&path) {
                // A transfer that an error page or a short body replaced: the cache holds rubbish, so ask anew.
                Err(ModelError::Format { .. }) if attempt < ATTEMPTS && !options.offline => force = true,
                Err(ModelError::Format { path, reason }) => {
                    return Err(ModelError::Hub(format!("{owner}/{name}: {} {reason}", path.display())));
                }
                _ => return Ok(path),
            },
            // A body that broke off; what had arrived whole stays in the cache.
            Err(hf_hub::HFError::Request { source, .. })
                if attempt < ATTEMPTS && (source.is_body() || source.is_decode()) => {}
            Err(e) => return Err(hub_error(e)),
        }
        attempt += 1;
    }
}

/// Whether the weights are whole: their headers are read, and the lengths in them compared with the files.
fn check(path: &Path) -> Result<(), ModelError> {
    if path.is_dir() { Safetensors::open(path).map(drop) } else { Gguf::open(path).map(drop) }
}
