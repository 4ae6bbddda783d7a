//! The GGUF container (llama.cpp's `docs/gguf.md`, versions 2 and 3, little-endian).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tch::Tensor;

use super::gguf_quant::GgufType;
use super::{format_error, map};
use crate::ModelError;

/// A GGUF file, mapped: its metadata parsed, its tensors found but not yet read.
///
/// Invariants, checked on opening: every string, array and tensor lies inside the file, names and keys are unique, a
/// tensor's byte count follows from its shape and type, and no two tensors share bytes.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: Mmap,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, GgufTensor>,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// Any whole number.
    Int(i64),
    /// A 32- or 64-bit float.
    Float(f64),
    /// A flag.
    Bool(bool),
    /// UTF-8 text; bytes that are none become U+FFFD.
    String(String),
    /// An array, left in the file until asked for.
    Array(GgufArray),
}

/// Where an array of the metadata lies; read it with [`Gguf::strings`], [`Gguf::ints`] or [`Gguf::floats`].
#[derive(Debug, Clone, PartialEq)]
pub struct GgufArray {
    element: u32,
    len: usize,
    bytes: Range<usize>,
}

/// One tensor's entry.
#[derive(Debug)]
pub(super) struct GgufTensor {
    pub(super) kind: GgufType,
    /// As libtorch counts: outermost first.
    pub(super) size: Vec<i64>,
    bytes: Range<usize>,
}

impl Gguf {
    /// # Errors
    /// [`ModelError::Io`]; [`ModelError::Format`] for what is not a whole GGUF file of version 2 or 3.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = map(path)?;
        let (metadata, tensors) = parse(&file).map_err(|reason| format_error(path, reason))?;
        Ok(Gguf { path: path.to_owned(), file, metadata, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every key of the metadata with its value, sorted.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// A whole number of the metadata.
    pub fn int(&self, key: &str) -> Option<i64> {
        match self.metadata.get(key)? {
            GgufValue::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// A number of the metadata, whole or not.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            GgufValue::Float(x) => Some(*x),
            GgufValue::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// A flag of the metadata.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            GgufValue::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// A text of the metadata.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            GgufValue::String(s) => Some(s),
            _ => None,
        }
    }

    /// An array of texts; empty where the key is absent or holds something else.
    pub fn strings(&self, key: &str) -> Vec<String> {
        self.array(key, |cursor, element| match cursor.value(element)? {
            GgufValue::String(s) => Ok(s),
            _ => Err("not a text".to_owned()),
        })
    }

    /// An array of whole numbers; empty where the key is absent or holds something else.
    pub fn ints(&self, key: &str) -> Vec<i64> {
        self.array(key, |cursor, element| match cursor.value(element)? {
            GgufValue::Int(n) => Ok(n),
            _ => Err("not a whole number".to_owned()),
        })
    }

    /// An array of numbers; empty where the key is absent or holds something else.
    pub fn floats(&self, key: &str) -> Vec<f32> {
        self.array(key, |cursor, element| match cursor.value(element)? {
            GgufValue::Float(x) => Ok(x as f32),
            _ => Err("not a number".to_owned()),
        })
    }

    fn array<T>(&self, key: &str, read: impl Fn(&mut Cursor<'_>, u32) -> Result<T, String>) -> Vec<T> {
        let Some(GgufValue::Array(array)) = self.metadata.get(key) else { return Vec::new() };
        let mut cursor = Cursor { bytes: &self.file[array.bytes.clone()], at: 0 };
        (0..array.len).map(|_| read(&mut cursor, array.element)).collect::<Result<_, _>>().unwrap_or_default()
    }

    /// Every tensor's name in the file, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Numbers in all tensors together.
    pub fn n_weights(&self) -> u64 {
        let n = |size: &[i64]| size.iter().fold(1u64, |n, &m| n.saturating_mul(m as u64));
        self.tensors.values().fold(0, |all, t| n(&t.size).saturating_add(all))
    }

    /// A tensor under its name in the file, dequantised to fp32.
    ///
    /// # Errors
    /// [`ModelError::Torch`] where memory does not suffice.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        Ok(Some(Tensor::f_from_slice(&tensor.kind.dequantize(self.bytes(tensor)))?.f_reshape(&tensor.size)?))
    }

    pub(super) fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// Lets the system take back the pages of bytes that were read.
    pub(super) fn forget(&self, bytes: &[u8]) {
        super::forget(&self.file, bytes);
    }

    /// The tensor's stored bytes.
    pub(super) fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.file[tensor.bytes.clone()]
    }
}

type Parsed = (BTreeMap<String, GgufValue>, BTreeMap<String, GgufTensor>);

fn parse(file: &[u8]) -> Result<Parsed, String> {
    let mut cursor = Cursor { bytes: file, at: 0 };
    if cursor.take(4)? != b"GGUF" {
        return Err("is not a GGUF file".to_owned());
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("is GGUF version {version}; known: 2 and 3, little-endian"));
    }
    let (n_tensors, n_keys) = (cursor.u64()?, cursor.u64()?);
    let mut metadata = BTreeMap::new();
    for _ in 0..n_keys {
        let key = cursor.string()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind).map_err(|reason| format!("{key}: {reason}"))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("holds the key {key} twice"));
        }
    }
    let mut entries = Vec::new();
    for _ in 0..n_tensors {
        entries.push(cursor.tensor_entry()?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(GgufValue::Int(n)) if (1..=1 << 16).contains(n) => *n as usize,
        Some(other) => return Err(format!("general.alignment is {other:?}")),
    };
    let data = cursor.at.next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, kind, size, offset, n_bytes) in entries {
        let range = data.checked_add(offset).and_then(|start| Some(start..start.checked_add(n_bytes)?));
        match range {
            Some(bytes) if bytes.end <= file.len() => {
                if tensors.insert(name.clone(), GgufTensor { kind, size, bytes }).is_some() {
                    return Err(format!("holds {name} twice"));
                }
            }
            _ => return Err(format!("{name} ends beyond the file: is it cut short?")),
        }
    }
    // No byte serves twice, or a small file could ask for any amount of memory.
    let mut places: Vec<(&String, &Range<usize>)> =
        tensors.iter().map(|(name, t)| (name, &t.bytes)).collect();
    places.retain(|(_, bytes)| !bytes.is_empty());
    places.sort_unstable_by_key(|(_, bytes)| bytes.start);
    match places.windows(2).find(|pair| pair[0].1.end > pair[1].1.start) {
        Some(pair) => Err(format!("{} and {} lie in the same bytes", pair[0].0, pair[1].0)),
        None => Ok((metadata, tensors)),
    }
}

/// Reads the file front to back; every step is checked against its end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| "ends too early: is it cut short?".to_owned())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn len(&mut self) -> Result<usize, String> {
        usize::try_from(self.u64()?).map_err(|_| "holds a length beyond this machine".to_owned())
    }

    fn string(&mut self) -> Result<String, String> {
        let n = self.len()?;
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }

    /// The value of a type number, as `docs/gguf.md` counts them.
    fn value(&mut self, kind: u32) -> Result<GgufValue, String> {
        Ok(match kind {
            0 => GgufValue::Int(self.array::<1>()?[0].into()),
            1 => GgufValue::Int(i8::from_le_bytes(self.array()?).into()),
            2 => GgufValue::Int(u16::from_le_bytes(self.array()?).into()),
            3 => GgufValue::Int(i16::from_le_bytes(self.array()?).into()),
            4 => GgufValue::Int(self.u32()?.into()),
            5 => GgufValue::Int(i32::from_le_bytes(self.array()?).into()),
            6 => GgufValue::Float(f32::from_le_bytes(self.array()?).into()),
            7 => GgufValue::Bool(self.array::<1>()?[0] != 0),
            8 => GgufValue::String(self.string()?),
            9 => GgufValue::Array(self.metadata_array()?),
            10 => GgufValue::Int(self.u64()? as i64),
            11 => GgufValue::Int(self.u64()? as i64),
            12 => GgufValue::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("has the unknown type {kind}")),
        })
    }

    fn metadata_array(&mut self) -> Result<GgufArray, String> {
        let (element, len) = (self.u32()?, self.len()?);
        let start = self.at;
        match element {
            8 => {
                for _ in 0..len {
                    let n = self.len()?;
                    self.take(n)?;
                }
            }
            0..=7 | 10..=12 => {
                let width = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][element as usize];
                let n = len.checked_mul(width).ok_or("holds an array beyond this machine")?;
                self.take(n)?;
            }
            _ => return Err(format!("is an array of the unknown type {element}")),
        }
        Ok(GgufArray { element, len, bytes: start..self.at })
    }

    /// (name, type, size, offset into the data, bytes).
    fn tensor_entry(&mut self) -> Result<(String, GgufType, Vec<i64>, usize, usize), String> {
        let name = self.string()?;
        let n_dims = self.u32()?;
        if n_dims > 4 {
            return Err(format!("{name} has {n_dims} dimensions"));
        }
        let mut size = Vec::with_capacity(4);
        let mut n_elements = 1usize;
        for _ in 0..n_dims {
            let n = self.len()?;
            n_elements = n_elements.checked_mul(n).ok_or_else(|| format!("{name} is beyond this machine"))?;
            size.insert(0, i64::try_from(n).map_err(|_| format!("{name} is beyond this machine"))?);
        }
        let number = self.u32()?;
        let kind = GgufType::from_number(number)
            .ok_or_else(|| format!("{name} has type {number}; known: {}", GgufType::known()))?;
        let offset = self.len()?;
        let (block, block_bytes) = kind.block();
        let row = size.last().map_or(1, |&n| n as usize);
        if !row.is_multiple_of(block) {
            return Err(format!("{name} has rows of {row}, not a multiple of {kind:?}'s {block}"));
        }
        let n_bytes = (n_elements / block).checked_mul(block_bytes);
        Ok((name, kind, size, offset, n_bytes.ok_or("holds a tensor beyond this machine")?))
    }
}
