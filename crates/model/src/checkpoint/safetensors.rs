//! Safetensors: one file, or several with an index.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::{forget, format_error, map, read_json};
use crate::{ModelError, Tensors};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a safetensors checkpoint, mapped into memory and read one at a time.
///
/// Invariant, checked on opening: every tensor's bytes lie inside its file and match its shape and dtype.
#[derive(Debug)]
pub struct Safetensors {
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Place>,
}

/// Where one tensor lies.
#[derive(Debug)]
struct Place {
    file: usize,
    bytes: std::ops::Range<usize>,
    size: Vec<i64>,
    kind: Kind,
}

impl Safetensors {
    /// Opens a `.safetensors` file, or a directory with `model.safetensors` or `model.safetensors.index.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Format`] for a broken file, a dtype that libtorch lacks, an index
    /// that names a file outside the directory, or a tensor of the index that its file does not hold.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mut open = Safetensors { files: Vec::new(), tensors: BTreeMap::new() };
        if !path.is_dir() {
            open.add(path)?;
            return Ok(open);
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        if single.is_file() || !index.is_file() {
            open.add(&single)?;
            return Ok(open);
        }
        let json = read_json(&index)?;
        let Some(weight_map) = json.get("weight_map").and_then(Value::as_object) else {
            return Err(format_error(&index, "has no weight_map"));
        };
        let mut files: Vec<&str> = Vec::new();
        for (tensor, file) in weight_map {
            match file.as_str() {
                Some(name) if is_plain_name(name) => files.push(name),
                _ => {
                    return Err(format_error(
                        &index,
                        format!("{tensor} lies in {file}, not a file beside it"),
                    ));
                }
            }
        }
        files.sort_unstable();
        files.dedup();
        for file in files {
            open.add(&path.join(file))?;
        }
        match weight_map.keys().find(|name| !open.tensors.contains_key(*name)) {
            Some(name) => Err(format_error(&index, format!("names {name}, which its file does not hold"))),
            None => Ok(open),
        }
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let mapped = map(path)?;
        let parsed = SafeTensors::deserialize(&mapped)
            .map_err(|e| format_error(path, format!("is not a whole safetensors file: {e}")))?;
        let start = mapped.as_ptr() as usize;
        for (name, view) in parsed.iter() {
            let Some(kind) = kind_of(view.dtype()) else {
                let reason = format!(
                    "{name} has dtype {:?}, which is not read here: take the model's F32, F16 or BF16 weights",
                    view.dtype()
                );
                return Err(format_error(path, reason));
            };
            let offset = view.data().as_ptr() as usize - start;
            let size = view.shape().iter().map(|&n| n as i64).collect();
            let bytes = offset..offset + view.data().len();
            let place = Place { file: self.files.len(), bytes, size, kind };
            if let Some(other) = self.tensors.insert(name.to_owned(), place) {
                let other = self.files[other.file].0.display();
                return Err(format_error(path, format!("holds {name}, which {other} holds too")));
            }
        }
        self.files.push((path.to_owned(), mapped));
        Ok(())
    }

    /// Numbers in all tensors together whose name `counts`.
    pub fn n_weights(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let n = |size: &[i64]| size.iter().fold(1u64, |n, &m| n.saturating_mul(m as u64));
        let counted = self.tensors.iter().filter(|(name, _)| counts(name));
        counted.fold(0, |all, (_, t)| n(&t.size).saturating_add(all))
    }

    /// The size of tensor `name`, without reading it.
    pub fn size_of(&self, name: &str) -> Option<&[i64]> {
        self.tensors.get(name).map(|place| place.size.as_slice())
    }
}

impl Tensors for Safetensors {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn read(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(place) = self.tensors.get(name) else { return Ok(None) };
        let file = &self.files[place.file].1;
        let bytes = &file[place.bytes.clone()];
        let tensor = Tensor::f_from_data_size(bytes, &place.size, place.kind)?;
        forget(file, bytes);
        Ok(Some(tensor))
    }
}

/// Whether an index entry names a file in the same folder, and nothing else.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None))
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Double => Dtype::F64,
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Int16 => Dtype::I16,
        Kind::Int8 => Dtype::I8,
        Kind::Uint8 => Dtype::U8,
        Kind::Bool => Dtype::BOOL,
        _ => return None,
    })
}

/// Writes tensors to one safetensors file, in the order given, with `metadata` in its header. The file appears
/// under its name only when it is whole: it is written beside it first and renamed.
///
/// # Errors
/// [`ModelError::Io`], or [`ModelError::Format`] for a dtype that safetensors lacks.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(&str, &str)],
) -> Result<(), ModelError> {
    let mut cpu = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let Some(dtype) = dtype_of(tensor.kind()) else {
            return Err(format_error(
                path,
                format!("{name} has kind {:?}, which no file holds", tensor.kind()),
            ));
        };
        cpu.push((name.as_str(), dtype, tensor.detach().f_to_device(tch::Device::Cpu)?.f_contiguous()?));
    }
    let views = cpu
        .iter()
        .map(|(name, dtype, tensor)| {
            let shape = tensor.size().iter().map(|&n| n as usize).collect();
            let n_bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
            // SAFETY: the tensor is contiguous, on the CPU, of n_bytes bytes, and `cpu` keeps it alive.
            let bytes = unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), n_bytes) };
            let bytes = if n_bytes == 0 { &[] } else { bytes };
            match TensorView::new(*dtype, shape, bytes) {
                Ok(view) => Ok((*name, view)),
                Err(error) => Err(format_error(path, format!("{name}: {error}"))),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let metadata = metadata.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    let failed = |source| ModelError::Io { op: "write", path: path.to_owned(), source };
    let partial = path.with_extension("safetensors.partial");
    let write = || {
        // The safetensors crate makes files that only their owner may read; take the usual rights instead.
        let rights = File::create(&partial)?.metadata()?.permissions();
        safetensors::serialize_to_file(views, Some(metadata), &partial).map_err(std::io::Error::other)?;
        std::fs::set_permissions(&partial, rights)?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&partial); // the error that stopped us matters more
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        let tensors = [
            ("a".to_owned(), Tensor::from_slice(&[1.5f32, -2.0]).view([1, 2])),
            ("b".to_owned(), Tensor::from_slice(&[1.0f32, 3.0]).to_kind(Kind::BFloat16)),
        ];
        write_safetensors(&path, &tensors, &[("format", "pt")]).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let open = Safetensors::open(&written(folder.path(), "x.safetensors")).unwrap();
        assert_eq!(open.names(), ["a", "b"]);
        assert_eq!(open.size_of("a"), Some([1, 2].as_slice()));
        let b = open.read("b").unwrap().unwrap();
        assert_eq!((b.kind(), b.double_value(&[1])), (Kind::BFloat16, 3.0));
        assert!(open.read("c").unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn an_index_leads_to_its_shards_and_nowhere_else() {
        let check = |weight_map: &str, expect: Result<usize, &str>| {
            let folder = tempfile::tempdir().unwrap();
            written(folder.path(), "model-1.safetensors");
            let index = format!("{{\"weight_map\": {weight_map}}}");
            std::fs::write(folder.path().join(INDEX), index).unwrap();
            match (Safetensors::open(folder.path()), expect) {
                (Ok(open), Ok(n)) => assert_eq!(open.names().len(), n),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (got, expect) => panic!("{got:?} is not {expect:?}"),
            }
        };
        check(r#"{"a": "model-1.safetensors"}"#, Ok(2));
        check(r#"{"z": "model-1.safetensors"}"#, Err("names z"));
        check(r#"{"a": "../model-1.safetensors"}"#, Err("not a file beside it"));
        check(r#"{"a": "/model-1.safetensors"}"#, Err("not a file beside it"));
        check(r#"{"a": 3}"#, Err("not a file beside it"));
        check("[]", Err("has no weight_map"));
        check(r#"{"a": "model-2.safetensors"}"#, Err("model-2"));
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::create_dir(&path).unwrap();
        assert!(write_safetensors(&path, &[], &[]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn a_cut_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "x.safetensors");
        let whole = std::fs::read(&path).unwrap();
        for n in [0, 4, 8, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..n]).unwrap();
            assert!(Safetensors::open(&path).is_err(), "{n} bytes");
        }
    }
}
