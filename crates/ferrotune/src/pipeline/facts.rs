//! What a run is: its settings, its data and its model by content, and the programs that ran it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::PipelineConfig;
use crate::documents::folder_hash;
use crate::files::{content_hash, hash_parts};
use crate::model_store::{self, Place};

/// Names a run by everything that its results depend on; where files lie is not among it.
pub(super) fn config_hash(config: &PipelineConfig, place: Place) -> Result<String> {
    let mut parts: Vec<Vec<u8>> = vec![settings(config)?.to_string().into_bytes()];
    parts.push(format!("{} {}", place.dtype_name(), place.device_name()).into_bytes());
    let data = &config.data;
    parts.push(content_hash(&data.sft)?);
    for file in [&data.preference, &data.documents, &data.questions, &data.planted] {
        parts.push(match file {
            Some(path) if path.is_dir() => folder_hash(path)?,
            Some(path) => content_hash(path)?,
            None => Vec::new(),
        });
    }
    if Path::new(&config.curate.recipe).is_file() {
        parts.push(content_hash(Path::new(&config.curate.recipe))?);
    }
    parts.push(content_hash(model_store::resolve(&config.model.id)?.path())?);
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

/// Programs and libraries.
pub(super) fn versions() -> BTreeMap<String, String> {
    let version = env!("CARGO_PKG_VERSION");
    let rust = option_env!("CARGO_PKG_RUST_VERSION").unwrap_or("unknown");
    [("ferrotune", version), ("libtorch", "2.13.0"), ("rust (at least)", rust)]
        .into_iter()
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}
