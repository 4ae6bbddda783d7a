//! Checkpoints: where a model's tensors and its config.json come from, and where they go.
//!
//! [`Source`] says where a checkpoint lies (a directory, a GGUF file, a model hub); [`load_decoder`] reads it;
//! [`save_decoder`] writes one that transformers reads. The two readers, [`Safetensors`] and [`Gguf`], trust
//! nothing: every length in a file is checked against the file before memory is taken for it, and a tensor
//! is read only when a layer asks for it. There is no pickle.

mod gguf;
mod gguf_hf;
mod gguf_quant;
mod load;
mod safetensors;
mod save;
mod save_encoder;
mod source;

pub use gguf::{Gguf, GgufArray, GgufValue};
pub use gguf_hf::{GgufTensors, GgufTokenizerData};
pub use gguf_quant::GgufType;
pub use load::{Loaded, LoadedEncoder, load_config, load_decoder, load_encoder, load_t5};
pub use safetensors::{Safetensors, write_safetensors};
pub use save::{SaveOptions, save_decoder, save_t5};
pub use save_encoder::save_encoder;
pub use source::{HubOptions, Source};

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::ModelError;

/// Maps a file into memory, so that only what is read costs memory.
fn map(path: &Path) -> Result<Mmap, ModelError> {
    let error = |op| move |source| ModelError::Io { op, path: path.to_owned(), source };
    file_size(path)?;
    let file = File::open(path).map_err(error("open"))?;
    // SAFETY: the mapping is only read, as bytes. A file that another process cuts short meanwhile would end
    // this process with SIGBUS; checkpoints are not written in place (ours are renamed into place).
    unsafe { Mmap::map(&file) }.map_err(error("map"))
}

/// Lets the system take back the pages of `bytes`, a part of `map` that was copied: else a model that is loaded counts
/// twice, in its tensors and in its file.
fn forget(map: &Mmap, bytes: &[u8]) {
    #[cfg(unix)]
    {
        let offset = (bytes.as_ptr() as usize).wrapping_sub(map.as_ptr() as usize);
        if offset <= map.len() && bytes.len() <= map.len() - offset {
            // SAFETY: a mapped file that is only read: whoever looks at these pages again gets the same bytes from it.
            // Where it fails, they stay.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes.len())
            };
        }
    }
    #[cfg(not(unix))]
    let _ = (map, bytes);
}

/// How many bytes a file holds. A pipe would be waited for without end, a device has no end.
fn file_size(path: &Path) -> Result<u64, ModelError> {
    let metadata = std::fs::metadata(path).map_err(|source| ModelError::Io {
        op: "open",
        path: path.to_owned(),
        source,
    })?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(format_error(path, "is no file")) }
}

/// Reads a small JSON file.
fn read_json(path: &Path) -> Result<serde_json::Value, ModelError> {
    // The index of a thousand shards has a few megabytes.
    const MOST: u64 = 256 << 20;
    let size = file_size(path)?;
    if size > MOST {
        return Err(format_error(path, format!("has {size} bytes, too many for what it should be")));
    }
    let bytes =
        std::fs::read(path).map_err(|source| ModelError::Io { op: "read", path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|error| format_error(path, format!("is not JSON: {error}")))
}

fn format_error(path: &Path, reason: impl Into<String>) -> ModelError {
    ModelError::Format { path: path.to_owned(), reason: reason.into() }
}
