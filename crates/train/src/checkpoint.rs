use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::{Kind, Tensor};

use crate::{EarlyStop, Sampler, TrainError};

/// Version of the files that [`save_checkpoint`] writes.
pub const CHECKPOINT_VERSION: u32 = 2;

/// Where a run stands, beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// [`CHECKPOINT_VERSION`] when it was written.
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
    /// Its tensors by name, fp32, or bytes where an optimiser keeps 8 bits.
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
    let json = serde_json::to_vec_pretty(state)
        .map_err(|e| TrainError::Checkpoint { path: partial.clone(), reason: e.to_string() })?;
    let written = write_tensors(&partial.join("tensors.safetensors"), tensors)
        .and_then(|()| write_synced(&partial.join("state.json"), &json));
    if let Err(error) = written {
        // Where the disk is full, what could not be finished must not keep it full.
        let _ = std::fs::remove_dir_all(&partial);
        return Err(error);
    }
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
    // Version 1 lacks nothing but tensors of bytes.
    if !(1..=CHECKPOINT_VERSION).contains(&state.version) {
        return Err(bad(format!("version {}, this program reads 1 to {CHECKPOINT_VERSION}", state.version)));
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
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::U8 => Kind::Uint8,
            other => return Err(bad(format!("{name} is {other:?}, neither F32 nor U8"))),
        };
        let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        tensors.insert(name, Tensor::f_from_data_size(view.data(), &size, kind)?);
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
    let mut file = std::fs::File::create(path).map_err(TrainError::io("create", path))?;
    file.write_all(bytes).map_err(TrainError::io("write", path))?;
    file.sync_all().map_err(TrainError::io("sync", path))
}

/// Writes a safetensors file tensor by tensor, so that no second copy of the run's state is held: bytes as they are,
/// anything else as fp32.
fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
    let is_bytes = |t: &Tensor| t.kind() == Kind::Uint8;
    let mut order: Vec<&(String, Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| is_bytes(t)); // fp32 first, where it is aligned
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, tensor) in &order {
        let (dtype, width) = if is_bytes(tensor) { ("U8", 1) } else { ("F32", 4) };
        let start = end;
        end += tensor.numel() * width;
        let entry = json!({"dtype": dtype, "shape": tensor.size(), "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = std::fs::File::create(path).map_err(TrainError::io("create", path))?;
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(TrainError::io("write", path));
    write(&(header.len() as u64).to_le_bytes())?;
    write(header.as_bytes())?;
    for (_, tensor) in order {
        let kind = if is_bytes(tensor) { Kind::Uint8 } else { Kind::Float };
        let plain = tensor.detach().to_kind(kind).to_device(tch::Device::Cpu).contiguous();
        let mut bytes = vec![0; plain.numel() * kind.elt_size_in_bytes()];
        plain.f_copy_data_u8(&mut bytes, plain.numel())?;
        write(&bytes)?;
    }
    file.sync_all().map_err(TrainError::io("sync", path))
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
