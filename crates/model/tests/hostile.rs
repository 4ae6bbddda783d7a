//! Files that somebody broke on purpose: GGUF, safetensors and config.json with flipped bytes and cut ends. Reading
//! one gives a value or an error, never a panic, and never takes memory out of proportion to the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ferrotune_model::checkpoint::{Gguf, GgufTensors, Safetensors, Source, load_decoder};
use ferrotune_model::{Decoder, Encoder, T5, Tensors, WeightMap, families};
use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind};

/// Remembers the most memory that each thread held at once, of Rust's own: libtorch's is not seen.
struct Watching;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn note(taken: usize, given: usize) {
    // A thread that is ending has no cell any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + taken as isize - given as isize);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may stand side by side.
        note(size, 0);
        note(0, layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[global_allocator]
static WATCHING: Watching = Watching;

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

/// Reads a broken copy of a file; the memory that this takes must be in proportion to it.
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
    HELD.set(0);
    MOST.set(0);
    read(&path);
    // Two bits a weight become 32; small files have tables of layers besides.
    let limit = 32 * bytes.len() + (256 << 10);
    assert!(MOST.get() <= limit as isize, "{} bytes for a file of {}", MOST.get(), bytes.len());
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

/// A llama's GGUF file without weights that make sense: tensors by name, size and place.
fn gguf(tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let mut file = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
    let numbers = [
        ("embedding_length", 32u32),
        ("attention.head_count", 2),
        ("block_count", 1),
        ("context_length", 64),
        ("feed_forward_length", 32),
        ("vocab_size", 32),
    ];
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((numbers.len() as u64 + 1).to_le_bytes());
    file.extend([text("general.architecture"), 8u32.to_le_bytes().to_vec(), text("llama")].concat());
    for (key, n) in numbers {
        file.extend(
            [text(&format!("llama.{key}")), 4u32.to_le_bytes().to_vec(), n.to_le_bytes().to_vec()].concat(),
        );
    }
    for (name, size, kind, offset) in tensors {
        file.extend([text(name), (size.len() as u32).to_le_bytes().to_vec()].concat());
        size.iter().for_each(|n| file.extend(n.to_le_bytes()));
        file.extend([kind.to_le_bytes().as_slice(), &offset.to_le_bytes()].concat());
    }
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

/// What flipped bytes do not come upon.
#[test]
fn a_gguf_made_by_an_enemy_is_an_error() {
    const F32: u32 = 0;
    const Q2_K: u32 = 10;
    let said = |tensors: &[(&str, &[u64], u32, u64)], data: usize| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        std::fs::write(&path, gguf(tensors, data)).unwrap();
        check(&path, &[], None, read_gguf);
        load_decoder(&Source::Gguf(path), Kind::Float, Device::Cpu).unwrap_err().to_string()
    };
    let check = |tensors: &[(&str, &[u64], u32, u64)], data: usize, expect: &str| {
        let said = said(tensors, data);
        assert!(said.contains(expect), "{said}");
    };
    // A single number where rows of heads should be.
    let embedding = ("token_embd.weight", [32, 32].as_slice(), F32, 32);
    let norms: [(&str, &[u64], u32, u64); 2] =
        [("blk.0.attn_norm.weight", &[32], F32, 8192), ("blk.0.ffn_norm.weight", &[32], F32, 8320)];
    let query = ("blk.0.attn_q.weight", [].as_slice(), F32, 0);
    check(&[embedding, norms[0], norms[1], query], 1 << 14, "0 rows for 2 heads");
    // The same bytes for many tensors.
    check(&[embedding, ("output.weight", &[32, 32], F32, 64)], 1 << 14, "lie in the same bytes");
    // A tensor where a few rotary divisors should be.
    check(&[("rope_freqs.weight", &[1 << 16], Q2_K, 0)], 1 << 15, "is missing");
    check(&[embedding, ("token_embd.weight", &[32, 32], F32, 8192)], 1 << 14, "twice");
}

/// Numbers that no pass can be computed with.
#[test]
fn a_config_made_by_an_enemy_is_an_error() {
    let none = BTreeMap::new();
    let said = |family: &str, edits: &[(&str, Value)]| {
        let path = golden("tiny_models").join(family).join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for (key, value) in edits {
            json[*key] = value.clone();
        }
        let mut weights = WeightMap::new(&none, Kind::Float, Device::Cpu);
        let config = match json["model_type"].as_str().unwrap() {
            "t5" => T5::load(&json, &mut weights, Device::Cpu).map(drop),
            "mpnet" => families::encoder_config(&json).map(drop),
            _ => families::decoder_config(&json).map(drop),
        };
        config.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let check = |family: &str, edits: &[(&str, Value)], expect: &str| {
        let said = said(family, edits);
        assert!(said.contains(expect) && said.is_empty() == expect.is_empty(), "{edits:?}: {said}");
    };
    let original = "original_max_position_embeddings";
    check("phi3", &[(original, json!(i64::MAX))], "original_max_position_embeddings is 9223372036854776000");
    check("phi3", &[(original, json!(1e300))], "no length");
    check("phi3", &[(original, json!(1u64 << 31))], "no length");
    check("phi3", &[(original, json!((1u64 << 31) - 1))], "");
    for kind in ["llama3", "yarn", "longrope"] {
        let rope = json!({
            "rope_type": kind, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, original: i64::MAX,
            "short_factor": [1.0, 1.0], "long_factor": [1.0, 1.0],
        });
        check("llama", &[("rope_parameters", rope)], "no length");
    }
    let (buckets, distance) = ("relative_attention_num_buckets", "relative_attention_max_distance");
    check("mpnet_mlm", &[(buckets, json!(16))], "relative_attention_num_buckets is 16");
    check("mpnet_mlm", &[(buckets, json!(31))], "relative_attention_num_buckets is 31");
    check("mpnet_mlm", &[(buckets, json!(32))], "");
    for (n, farthest) in [(1, 128), (2, 128), (3, 128), (4, 2), (4, 1), (32, 16), (32, 8), (33, 16)] {
        check("t5", &[(buckets, json!(n)), (distance, json!(farthest))], "there must be 4 buckets at least");
    }
    for (n, farthest) in [(4, 3), (5, 3), (32, 17)] {
        check("t5", &[(buckets, json!(n)), (distance, json!(farthest))], "is missing");
    }
}
