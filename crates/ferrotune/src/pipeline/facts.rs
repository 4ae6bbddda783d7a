//! What a run is: its settings, its data and its model by content, and the programs that ran it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::stage::{Keys, made_from};
use super::{PipelineConfig, STAGES};
use crate::documents::folder_hash;
use crate::files::{content_hash, hash_parts};
use crate::model_store::{self, Place};

/// Names what each stage makes by all that it is made of: the seed, its settings, the contents of its files, the dtype and
/// device of training, and the keys of the stages before it. Where files lie is not among it.
pub(super) fn stage_keys(config: &PipelineConfig, place: Place) -> Result<Keys> {
    let settings = settings(config)?;
    let data = &config.data;
    let file = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(Vec::new()), content_hash);
    // What is named and not there is refused by the check of the settings, in better words.
    let named = |path: &Path| if path.exists() { content_hash(path) } else { Ok(Vec::new()) };
    // The data first: a file that is missing is told before a hub is asked for the model.
    let (sft_data, questions) = (content_hash(&data.sft)?, file(&data.questions)?);
    let model = content_hash(model_store::resolve(&config.model.id)?.path())?;
    let template = named(Path::new(&config.tokenize.template))?;
    let mut keys = Keys::new();
    for stage in STAGES {
        let (sections, files): (&[&str], Vec<Vec<u8>>) = match stage {
            "curate" => (
                &["curate"],
                vec![
                    sft_data.clone(),
                    file(&data.preference)?,
                    file(&data.planted)?,
                    named(Path::new(&config.curate.recipe))?,
                ],
            ),
            "split" => {
                let same_file = data.preference.as_ref() == Some(&data.sft);
                (&["split"], vec![vec![u8::from(data.questions.is_some()), u8::from(same_file)]])
            }
            "tokenize" => (&["tokenize"], vec![model.clone(), template.clone()]),
            "sft" => {
                let on = format!("{} {}", place.dtype_name(), place.device_name());
                (&["tokenize", "lora", "sft"], vec![model.clone(), template.clone(), on.into_bytes()])
            }
            "dpo" if data.preference.is_some() => {
                let reference = match config.dpo.reference.as_str() {
                    "start" | "base" => Vec::new(),
                    id => {
                        model_store::resolve(id).map_or(Ok(Vec::new()), |found| content_hash(found.path()))?
                    }
                };
                let adapter = config.dpo.reference_adapter.as_deref().map_or(Ok(Vec::new()), named)?;
                (&["dpo"], vec![reference, adapter])
            }
            "judge" => (&["judge"], vec![questions.clone()]),
            "rag" => match &data.documents {
                Some(folder) => {
                    let encoder = encoder_hash(&config.model.encoder).context("model.encoder")?;
                    (&["rag"], vec![folder_hash(folder)?, questions.clone(), encoder])
                }
                None => (&[], Vec::new()),
            },
            "report" => (&["title", "model"], Vec::new()),
            _ => (&[], Vec::new()),
        };
        let mut parts = vec![stage.as_bytes().to_vec(), config.seed.to_le_bytes().to_vec()];
        parts.extend(sections.iter().map(|name| settings[*name].to_string().into_bytes()));
        parts.extend(files);
        parts.extend(made_from(stage).iter().map(|before| keys[before].clone().into_bytes()));
        keys.insert(stage, hash_parts(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    }
    Ok(keys)
}

fn encoder_hash(name: &str) -> Result<Vec<u8>> {
    if name == "none" { Ok(Vec::new()) } else { content_hash(model_store::resolve(name)?.path()) }
}

/// The settings without the paths.
pub(super) fn settings(config: &PipelineConfig) -> Result<Value> {
    let mut value = serde_json::to_value(config)?;
    if let Some(settings) = value.as_object_mut() {
        settings.remove("data");
    }
    // A model's folder and a recipe may lie anywhere; their content is hashed.
    let paths = [
        ("model", "id"),
        ("model", "encoder"),
        ("curate", "recipe"),
        ("tokenize", "template"),
        ("dpo", "reference"),
        ("dpo", "reference_adapter"),
    ];
    for (part, name) in paths {
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
