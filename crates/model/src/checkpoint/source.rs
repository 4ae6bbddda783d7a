use std::path::{Path, PathBuf};

use super::{Gguf, Safetensors, format_error, read_json};
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
/// says (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HubOptions {
    /// Branch, tag or commit; `main` where absent. One that the id names (`owner/name@revision`) goes before it.
    pub revision: Option<String>,
    /// For private or gated models.
    pub token: Option<String>,
    /// The hub cache folder.
    pub cache: Option<PathBuf>,
    /// Use the cache only. `HF_HUB_OFFLINE=1` says so too.
    pub offline: bool,
    /// Another hub's address.
    pub endpoint: Option<String>,
}

/// What of a repository is a checkpoint: no pickles, no other frameworks' weights. A star goes over folders too, so that
/// the pooling's config.json comes along, whatever modules.json calls its folder.
const WANTED: [&str; 5] = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"];

/// How often a broken transfer is tried again.
const ATTEMPTS: usize = 3;

impl std::fmt::Debug for HubOptions {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let HubOptions { revision, token, cache, offline, endpoint } = self;
        f.debug_struct("HubOptions")
            .field("revision", revision)
            .field("token", &token.as_ref().map(|_| "…"))
            .field("cache", cache)
            .field("offline", offline)
            .field("endpoint", endpoint)
            .finish()
    }
}

impl Source {
    /// Finds a checkpoint: a directory, a `.gguf` file, or a hub id (`owner/name`, or `owner/name/file.gguf`, either with
    /// `@revision` behind it), which is fetched into the hub cache unless it is there. A path that exists wins over a hub
    /// id. Where the hub cannot be reached, what the cache holds of that revision serves.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a file of another kind; [`ModelError::Hub`] where the hub does not have the
    /// model, cannot be reached, or `offline` is set and the cache lacks it.
    pub fn resolve(id_or_path: &str, hub: &HubOptions) -> Result<Source, ModelError> {
        let path = Path::new(id_or_path);
        let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if path.is_dir() {
            return Ok(Source::Directory(path.to_owned()));
        }
        if path.is_file() {
            return if is_gguf(path) {
                Ok(Source::Gguf(path.to_owned()))
            } else {
                Err(format_error(path, "is neither a directory nor a .gguf file"))
            };
        }
        let (id, named) = match id_or_path.split_once('@') {
            Some((id, revision)) => (id, Some(revision.to_owned())),
            None => (id_or_path, None),
        };
        let mut hub = hub.clone();
        hub.revision = named.or(hub.revision);
        hub.offline |= std::env::var("HF_HUB_OFFLINE").is_ok_and(|set| is_on(&set));
        let parts: Vec<&str> = id.split('/').collect();
        // Nothing that could lead out of the cache's folder.
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let is_id = parts.iter().all(|part| plain(part))
            && hub.revision.iter().all(|revision| revision.split('/').all(plain));
        match parts.as_slice() {
            [owner, name] if is_id && !is_gguf(Path::new(id)) => {
                fetch(owner, name, None, &hub).map(Source::Directory)
            }
            [owner, name, file] if is_id && is_gguf(Path::new(id)) => {
                fetch(owner, name, Some(file), &hub).map(Source::Gguf)
            }
            _ => Err(format_error(
                path,
                "does not exist, and is no hub id (`owner/name` or `owner/name/file.gguf`, either with `@revision`)",
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

/// As huggingface_hub reads a variable of the environment.
fn is_on(set: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|on| set.eq_ignore_ascii_case(on))
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
    let (mut offline, mut unreached) = (options.offline, None);
    loop {
        let result = match file {
            Some(file) => repository
                .download_file()
                .filename(file)
                .maybe_revision(options.revision.clone())
                .local_files_only(offline)
                .force_download(force)
                .send(),
            None => repository
                .snapshot_download()
                .maybe_revision(options.revision.clone())
                .allow_patterns(WANTED.map(str::to_owned).to_vec())
                .local_files_only(offline)
                .force_download(force)
                .send(),
        };
        match result {
            Ok(path) => match check(&path) {
                // A transfer that an error page or a short body replaced: the cache holds rubbish, so ask anew.
                Err(ModelError::Format { .. }) if attempt < ATTEMPTS && !offline => force = true,
                Err(ModelError::Format { path, reason }) => {
                    return Err(ModelError::Hub(format!("{owner}/{name}: {} {reason}", path.display())));
                }
                _ => return Ok(path),
            },
            // A body that broke off; what had arrived whole stays in the cache.
            Err(hf_hub::HFError::Request { source, .. })
                if attempt < ATTEMPTS && (source.is_body() || source.is_decode()) => {}
            // No way to the hub: what was fetched before serves.
            Err(hf_hub::HFError::Request { source, url })
                if !offline && (source.is_connect() || source.is_timeout()) =>
            {
                (offline, unreached) = (true, Some(hf_hub::HFError::Request { source, url }));
            }
            Err(e) => return Err(hub_error(unreached.unwrap_or(e))),
        }
        attempt += 1;
    }
}

/// Whether what arrived is whole and no page that tells of an error. Weights: their headers are read, and the lengths in them
/// compared with the files. JSON files: they are parsed, and of large ones the ends looked at.
fn check(path: &Path) -> Result<(), ModelError> {
    if !path.is_dir() {
        return Gguf::open(path).map(drop);
    }
    let failed = |source| ModelError::Io { op: "read", path: path.to_owned(), source };
    let files = std::fs::read_dir(path).map_err(failed)?;
    let files = files.flatten().map(|entry| entry.path());
    for file in files.filter(|file| file.extension().is_some_and(|e| e == "json")) {
        check_json(&file)?;
    }
    Safetensors::open(path).map(drop)
}

fn check_json(path: &Path) -> Result<(), ModelError> {
    const SMALL: usize = 1 << 16;
    let failed = |source| ModelError::Io { op: "read", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    if text.len() <= SMALL {
        let json = read_json(path)?;
        let tells_an_error = json.as_object().is_some_and(|map| map.len() == 1 && map.contains_key("error"));
        return if tells_an_error { Err(format_error(path, "holds an error of the hub")) } else { Ok(()) };
    }
    let text = text.trim_ascii();
    match (text.first(), text.last()) {
        (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')) => Ok(()),
        _ => Err(format_error(path, "is not whole JSON")),
    }
}
