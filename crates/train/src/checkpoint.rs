use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{EarlyStop, Sampler, TrainError};

/// Version of the files that [`save_checkpoint`] writes.
pub const CHECKPOINT_VERSION: u32 = 1;

/// Where a run stands, beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// [`CHECKPOINT_VERSION`].
    pub version: u32,
    /// Hash of model, data and settings: a checkpoint of another run is refused.
    pub run_hash: String,
    /// Optimiser steps taken.
    pub step: usize,
    /// Where in the data the run stands.
    pub sampler: Sampler,
    /// The best validation so far.
    pub early_stop: EarlyStop,
    /// Losses of the steps so far.
    #[serde(with = "exact_list")]
    pub losses: Vec<f64>,
    /// Figures that the recipe wants to go on with.
    #[serde(default, with = "exact_map")]
    pub figures: BTreeMap<String, f64>,
}

/// A checkpoint read back.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run stood.
    pub state: RunState,
    /// Its tensors by name, fp32.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Writes `DIR/step-NNNNNN/{state.json, tensors.safetensors}` under another name, syncs it, then renames it:
/// whoever kills the run finds the old checkpoint or the new one, never a half. Keeps the newest `keep`.
///
/// # Errors
/// [`TrainError::Io`]; the older checkpoints are untouched then.
pub fn save_checkpoint(
    dir: &Path,
    state: &RunState,
    tensors: &[(String, Tensor)],
    keep: usize,
) -> Result<PathBuf, TrainError> {
    let target = dir.join(format!("step-{:06}", state.step));
    let partial = dir.join(format!(".partial-{:06}", state.step));
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial).map_err(TrainError::io("create", &partial))?;
    let views = tensors.iter().map(|(name, tensor)| (name.clone(), Float32::new(tensor)));
    let bytes = safetensors::serialize(views, None)
        .map_err(|e| TrainError::Checkpoint { path: partial.clone(), reason: e.to_string() })?;
    write_synced(&partial.join("tensors.safetensors"), &bytes)?;
    let json = serde_json::to_vec_pretty(state)
        .map_err(|e| TrainError::Checkpoint { path: partial.clone(), reason: e.to_string() })?;
    write_synced(&partial.join("state.json"), &json)?;
    let _ = std::fs::remove_dir_all(&target);
    std::fs::rename(&partial, &target).map_err(TrainError::io("rename", &target))?;
    for old in checkpoints(dir).iter().rev().skip(keep.max(1)) {
        let _ = std::fs::remove_dir_all(old);
    }
    Ok(target)
}

/// The newest whole checkpoint in `dir`, if any.
pub fn latest_checkpoint(dir: &Path) -> Option<PathBuf> {
    checkpoints(dir).pop()
}

/// Reads a checkpoint of the run with `run_hash`.
///
/// # Errors
/// [`TrainError::Checkpoint`] where it is broken, of another version or of another run.
pub fn load_checkpoint(path: &Path, run_hash: &str) -> Result<Checkpoint, TrainError> {
    let bad = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
    let json = std::fs::read(path.join("state.json")).map_err(TrainError::io("read", path))?;
    let state: RunState = serde_json::from_slice(&json).map_err(|e| bad(format!("state.json: {e}")))?;
    if state.version != CHECKPOINT_VERSION {
        return Err(bad(format!("version {}, this program writes {CHECKPOINT_VERSION}", state.version)));
    }
    if state.run_hash != run_hash {
        return Err(bad(
            "it belongs to a run with another model, data or settings; use those, or another output folder"
                .into(),
        ));
    }
    let bytes = std::fs::read(path.join("tensors.safetensors")).map_err(TrainError::io("read", path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("tensors.safetensors: {e}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(bad(format!("{name} is {:?}, not F32", view.dtype())));
        }
        let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        tensors.insert(name, Tensor::f_from_data_size(view.data(), &size, Kind::Float)?);
    }
    Ok(Checkpoint { state, tensors })
}

fn checkpoints(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("step-"))
        .map(|entry| entry.path())
        .filter(|path| path.join("state.json").is_file() && path.join("tensors.safetensors").is_file())
        .collect();
    all.sort();
    all
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    use std::io::Write;
    let mut file = std::fs::File::create(path).map_err(TrainError::io("create", path))?;
    file.write_all(bytes).map_err(TrainError::io("write", path))?;
    file.sync_all().map_err(TrainError::io("sync", path))
}

/// A tensor's fp32 bytes for safetensors.
struct Float32 {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Float32 {
    fn new(tensor: &Tensor) -> Self {
        let tensor = tensor.detach().to_kind(Kind::Float).to_device(tch::Device::Cpu).contiguous();
        let mut bytes = vec![0; tensor.numel() * 4];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Float32 { shape: tensor.size().iter().map(|&n| n as usize).collect(), bytes }
    }
}

impl View for Float32 {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Numbers as text: Rust prints and parses an f64 without loss, serde_json's reader may be off by one bit, and
/// a resumed run must report what an uninterrupted one does.
mod exact_list {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f64], s: S) -> Result<S::Ok, S::Error> {
        values.iter().map(f64::to_string).collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|t| t.parse().map_err(D::Error::custom)).collect()
    }
}

/// As [`exact_list`], by name.
mod exact_map {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &BTreeMap<String, f64>, s: S) -> Result<S::Ok, S::Error> {
        values.iter().map(|(k, v)| (k, v.to_string())).collect::<BTreeMap<_, _>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(d)?;
        texts.into_iter().map(|(k, t)| Ok((k, t.parse().map_err(D::Error::custom)?))).collect()
    }
}
