//! Files that somebody broke on purpose: GGUF, safetensors and config.json with flipped bytes and cut ends. Reading
//! one gives a value or an error, never a panic, and never takes memory out of proportion to the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ferrotune_model::checkpoint::{Gguf, GgufTensors, Safetensors};
use ferrotune_model::{Decoder, Encoder, Tensors, WeightMap, families};
use proptest::prelude::*;
use serde_json::Value;
use tch::{Device, Kind};

/// Remembers the largest piece of memory that each thread asked for.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    // A thread that is ending has no cell any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[global_allocator]
static WATCHING: Watching = Watching;

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

/// Reads a broken copy of a file; the largest piece of memory must be in proportion to it.
fn check(whole: &Path, flips: &[(usize, u8)], cut: Option<usize>, read: impl Fn(&Path)) {
    let mut bytes = std::fs::read(whole).unwrap();
    for &(at, value) in flips {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    bytes.truncate(cut.unwrap_or(bytes.len()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken").with_extension(whole.extension().unwrap());
    std::fs::write(&path, &bytes).unwrap();
    LARGEST.set(0);
    read(&path);
    // Two bits a weight become 32; small files have tables of layers besides.
    let limit = 32 * bytes.len() + (256 << 10);
    assert!(LARGEST.get() <= limit, "{} bytes in one piece for a file of {}", LARGEST.get(), bytes.len());
}

fn read_gguf(path: &Path) {
    let Ok(gguf) = Gguf::open(path) else { return };
    for key in gguf.metadata().keys() {
        let _ = (gguf.strings(key), gguf.ints(key), gguf.floats(key));
    }
    if let Ok(tensors) = GgufTensors::new(gguf) {
        let _ = (tensors.tokenizer(), families::decoder_config(tensors.config()));
        for name in tensors.names() {
            let _ = tensors.read(&name);
        }
    }
}

fn read_safetensors(path: &Path) {
    let Ok(tensors) = Safetensors::open(path) else { return };
    for name in tensors.names() {
        let _ = tensors.read(&name);
    }
}

/// Reads a config and asks for its tensors in an empty checkpoint: none may be made up.
fn read_config(path: &Path) {
    let Ok(json) = serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()) else { return };
    let none = BTreeMap::new();
    let weights = || WeightMap::new(&none, Kind::Float, Device::Cpu);
    if let Ok(config) = families::decoder_config(&json) {
        assert!(Decoder::load(config, &mut weights(), Kind::Float, Device::Cpu).is_err());
    }
    if let Ok(config) = families::encoder_config(&json) {
        assert!(Encoder::load(config, &mut weights(), Kind::Float, Device::Cpu).is_err());
    }
}

fn flips() -> impl Strategy<Value = Vec<(usize, u8)>> {
    proptest::collection::vec((0usize..6000, 0u8..=255), 1..8)
}

fn cut() -> impl Strategy<Value = Option<usize>> {
    proptest::option::of(0usize..6000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_broken_gguf_is_an_error_and_no_more(
        flips in flips(), cut in cut(), name in proptest::sample::select(vec!["quants", "mixtral", "llama"]),
    ) {
        check(&golden("gguf").join(format!("{name}.gguf")), &flips, cut, read_gguf);
    }

    #[test]
    fn a_broken_safetensors_is_an_error_and_no_more(
        flips in flips(), cut in cut(), name in proptest::sample::select(vec!["llama", "gpt2", "bert_mlm"]),
    ) {
        check(&golden("tiny_models").join(name).join("model.safetensors"), &flips, cut, read_safetensors);
    }

    #[test]
    fn a_broken_config_is_an_error_and_no_more(
        // Digits make numbers larger or smaller, and leave the JSON whole.
        flips in proptest::collection::vec((0usize..1200, proptest::sample::select(b"0123456789-.e\"".to_vec())), 1..8),
        name in proptest::sample::select([families::decoder_types(), vec!["bert_mlm", "modernbert_mlm"]].concat()),
    ) {
        check(&golden("tiny_models").join(name).join("config.json"), &flips, None, read_config);
    }
}

#[test]
fn lengths_beyond_the_file_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let header = |n: u64, json: &str| [&n.to_le_bytes(), json.as_bytes()].concat();
    let files: [(&str, Vec<u8>); 4] = [
        ("a.safetensors", header(u64::MAX, "{}")),
        ("b.safetensors", header(60, r#"{"w":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,8]}}"#)),
        (
            "a.gguf",
            [b"GGUF".as_slice(), &3u32.to_le_bytes(), &u64::MAX.to_le_bytes(), &u64::MAX.to_le_bytes()]
                .concat(),
        ),
        (
            "b.gguf",
            [
                b"GGUF".as_slice(),
                &3u32.to_le_bytes(),
                &0u64.to_le_bytes(),
                &1u64.to_le_bytes(),
                &u64::MAX.to_le_bytes(),
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let read: fn(&Path) = if name.ends_with("gguf") { read_gguf } else { read_safetensors };
        check(&path, &[], None, read);
    }
}
