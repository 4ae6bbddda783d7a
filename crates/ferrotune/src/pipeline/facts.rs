//! What a run is: its settings, its data and its model by content, and the programs that ran it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::PipelineConfig;
use crate::files::hash_parts;
use crate::model_store::{self, Place};

/// Names a run by everything that its results depend on; where files lie is not among it.
pub(super) fn config_hash(config: &PipelineConfig, place: Place) -> Result<String> {
    let mut parts: Vec<Vec<u8>> = vec![settings(config)?.to_string().into_bytes()];
    parts.push(format!("{} {}", place.dtype_name(), place.device_name()).into_bytes());
    let data = &config.data;
    parts.push(content(&data.sft)?);
    for file in [&data.preference, &data.documents, &data.questions, &data.planted] {
        parts.push(match file {
            Some(path) => content(path)?,
            None => Vec::new(),
        });
    }
    if Path::new(&config.curate.recipe).is_file() {
        parts.push(content(Path::new(&config.curate.recipe))?);
    }
    parts.push(content(model_store::resolve(&config.model.id)?.path())?);
    Ok(hash_parts(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// The settings without the paths.
pub(super) fn settings(config: &PipelineConfig) -> Result<Value> {
    let mut value = serde_json::to_value(config)?;
    if let Some(settings) = value.as_object_mut() {
        settings.remove("data");
    }
    // A model's folder and a recipe may lie anywhere; their content is hashed.
    for (part, name) in [("model", "id"), ("model", "encoder"), ("curate", "recipe")] {
        let file = value[part][name].as_str().and_then(|id| Path::new(id).file_name());
        value[part][name] = Value::from(file.map(|f| f.to_string_lossy().into_owned()));
    }
    Ok(value)
}

/// SHA-256 of a file, or of a folder's files by name; of a file over 4 GiB its length stands for it.
fn content(path: &Path) -> Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = fs::read_dir(path)?.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
        files.sort();
    }
    for file in &files {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut reader = fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let length = reader.metadata()?.len();
        if path.is_dir() {
            hasher.update(name.as_bytes());
        }
        hasher.update(length.to_le_bytes());
        if length < 4 << 30 {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n =
                    reader.read(&mut buffer).with_context(|| format!("cannot read {}", file.display()))?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
            }
        }
    }
    Ok(hasher.finalize().to_vec())
}

/// Programs and libraries.
pub(super) fn versions() -> BTreeMap<String, String> {
    let version = env!("CARGO_PKG_VERSION");
    let rust = option_env!("CARGO_PKG_RUST_VERSION").unwrap_or("unknown");
    [("ferrotune", version), ("libtorch", "2.13.0"), ("rust (at least)", rust)]
        .into_iter()
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}
