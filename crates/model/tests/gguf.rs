//! GGUF files written by the `gguf` package (`fixtures/golden/gguf_files.py`), and a real one.

use std::path::PathBuf;

use ferrotune_model::checkpoint::{
    Gguf, GgufTensors, GgufTokenizerData, Safetensors, SaveOptions, Source, load_config, load_decoder,
    save_decoder,
};
use ferrotune_model::{RopeScaling, Tensors, families};
use ferrotune_types::{Batch, Example};
use tch::{Device, Kind};

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

/// Every tensor of `expect` is in `got` with the same numbers, and no other is.
fn check_same(got: &dyn Tensors, expect: &dyn Tensors, ignore: &[&str]) {
    for name in expect.names() {
        let a = got.read(&name).unwrap().unwrap_or_else(|| panic!("{name} is missing"));
        let b = expect.read(&name).unwrap().unwrap();
        assert_eq!(a.size(), b.size(), "{name}");
        // Gemma's norms lose their last bit where llama.cpp adds one.
        let difference = (a - b).abs().max().double_value(&[]);
        assert!(difference <= if name.contains("norm") { 2e-7 } else { 0.0 }, "{name}: {difference:e}");
    }
    let extra: Vec<_> = got
        .names()
        .into_iter()
        .filter(|n| !ignore.contains(&n.as_str()) && !expect.names().contains(n))
        .collect();
    assert!(extra.is_empty(), "{extra:?}");
}

/// A file's tensors under their own names.
struct Raw(Vec<(String, tch::Tensor)>);

impl Tensors for Raw {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn read(&self, name: &str) -> Result<Option<tch::Tensor>, ferrotune_model::ModelError> {
        Ok(self.0.iter().find(|(n, _)| n == name).map(|(_, t)| t.shallow_clone()))
    }
}

#[test]
fn every_block_format_and_metadata_type_reads_as_gguf_reads_it() {
    let file = Gguf::open(&golden("gguf/quants.gguf")).unwrap();
    let raw =
        file.tensor_names().map(|name| (name.to_owned(), file.tensor(name).unwrap().unwrap())).collect();
    check_same(&Raw(raw), &Safetensors::open(&golden("gguf/quants.safetensors")).unwrap(), &[]);
    for (key, expect) in [
        ("t.u8", 200),
        ("t.i8", -5),
        ("t.u16", 60000),
        ("t.i16", -300),
        ("t.u32", 4_000_000_000),
        ("t.i32", -70000),
        ("t.u64", 1 << 40),
        ("t.i64", -(1 << 40)),
    ] {
        assert_eq!(file.int(key), Some(expect), "{key}");
    }
    assert_eq!(
        (file.float("t.f32"), file.float("t.f64"), file.flag("t.bool")),
        (Some(0.5), Some(0.1), Some(true))
    );
    assert_eq!(file.string("t.string"), Some("grüße"));
    assert_eq!(file.strings("t.strings"), ["a", "", "ß"]);
    assert_eq!((file.ints("t.ints"), file.floats("t.floats")), (vec![3, -4], vec![0.25, -1.5]));
    assert!(file.strings("t.ints").is_empty() && file.ints("t.absent").is_empty());
}

#[test]
fn llama_cpps_changes_are_undone_for_every_family() {
    for family in
        ["llama", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt2"]
    {
        let checkpoint = golden("tiny_models").join(family);
        let gguf = Gguf::open(&golden("gguf").join(format!("{family}.gguf"))).unwrap();
        let tensors = GgufTensors::new(gguf).unwrap();
        check_same(&tensors, &Safetensors::open(&checkpoint).unwrap(), &[]);
        let read = |json| families::decoder_config(&json).unwrap();
        let (mut got, expect) =
            (read(tensors.config().clone()), read(load_config(&Source::Directory(checkpoint)).unwrap()));
        // No key of the format says these.
        if family == "gemma2" || family == "gemma3_text" {
            got.attention_scale = expect.attention_scale;
        }
        if family == "qwen2" || family == "gemma3_text" {
            got.sliding_window.clone_from(&expect.sliding_window);
        }
        if family == "llama" || family == "phi3" {
            // Stretched frequencies come as tables in fp32; they are compared through the logits.
            check_logits(family);
            got.rope.clone_from(&expect.rope);
        }
        // The format rounds epsilons to fp32.
        got.norm = expect.norm;
        assert_eq!(format!("{got:#?}"), format!("{expect:#?}"), "{family}");
    }
}

/// The logits of transformers for the checkpoint that the file was made from.
fn check_logits(family: &str) {
    let source = Source::Gguf(golden("gguf").join(format!("{family}.gguf")));
    let decoder = load_decoder(&source, Kind::Float, Device::Cpu).unwrap().decoder;
    let file = Safetensors::open(&golden("tiny_models").join(family).join("golden.safetensors")).unwrap();
    let ids: Vec<i64> = file.read("ids.0").unwrap().unwrap().try_into().unwrap();
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let example = Example::new(family, ids.clone(), vec![false; ids.len()]).unwrap();
    let batch = Batch::from_examples(&[&example]).unwrap();
    let got = tch::no_grad(|| decoder.logits(&decoder.hidden(&batch).unwrap()));
    let difference = (got - file.read("logits.0").unwrap().unwrap()).abs().max().double_value(&[]);
    assert!(difference < 2e-5, "{family}: {difference:e}");
}

/// A golden file with one more number in its metadata, and `old` renamed to `new` of the same length.
fn edited(
    family: &str,
    key: &str,
    value: [u8; 4],
    kind: u32,
    [old, new]: [&str; 2],
) -> tempfile::NamedTempFile {
    let mut bytes = std::fs::read(golden("gguf").join(format!("{family}.gguf"))).unwrap();
    assert_eq!(old.len(), new.len());
    if let Some(at) = bytes.windows(old.len().max(1)).position(|w| w == old.as_bytes()) {
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    }
    let name = |key: &str| [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
    let mut more = [name(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat();
    // Tensors lie at multiples of 32 bytes: a text fills up.
    let head = [name("filler"), 8u32.to_le_bytes().to_vec()].concat();
    let n = 32 - (more.len() + head.len() + 8) % 32;
    more.extend([head, name(&"x".repeat(n))].concat());
    let n_keys = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 2;
    bytes[16..24].copy_from_slice(&n_keys.to_le_bytes());
    bytes.splice(24..24, more);
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn what_a_file_leaves_out_is_as_in_llama_cpp() {
    const FLOAT: u32 = 6;
    const COUNT: u32 = 4;
    let config = |file: &tempfile::NamedTempFile| {
        let tensors = GgufTensors::new(Gguf::open(file.path()).unwrap())?;
        families::decoder_config(tensors.config())
    };
    // A factor without a type is linear, under its old name too.
    for key in ["qwen2.rope.scaling.factor", "qwen2.rope.scale_linear"] {
        let rope = config(&edited("qwen2", key, 4f32.to_le_bytes(), FLOAT, ["", ""])).unwrap().rope.unwrap();
        assert!(matches!(rope.scaling, RopeScaling::Linear { factor: 4.0 }), "{key}: {:?}", rope.scaling);
    }
    let cap = "attn_logit_softcapping";
    let file = edited("gemma2", "gemma2.nothing", [0; 4], COUNT, [cap, &cap.replace("cap", "cup")]);
    let read = config(&file).unwrap();
    assert_eq!((read.attention_softcap, read.logits_softcap), (Some(50.0), Some(3.0)));
    let turned = "qwen2.rope.dimension_count";
    let part =
        edited("qwen2", turned, 2u32.to_le_bytes(), COUNT, [turned, &turned.replace("count", "cuont")]);
    assert!(config(&part).unwrap_err().to_string().contains("turns 2 of a head's 4 features"));
}

#[test]
fn where_a_file_makes_phi3s_long_texts_begin_its_config_says_too() {
    const COUNT: u32 = 4;
    let key = "phi3.rope.scaling.original_context_length";
    let config = |length: u32| {
        let old = [key, &key.replace("length", "lenght")];
        let file = edited("phi3", key, length.to_le_bytes(), COUNT, old);
        let json = GgufTensors::new(Gguf::open(file.path()).unwrap()).unwrap().config().clone();
        assert_eq!(json["original_max_position_embeddings"], length);
        families::decoder_config(&json)
    };
    let scaling = config(16).unwrap().rope.unwrap().scaling;
    assert!(matches!(scaling, RopeScaling::Factors { original_max: 16, .. }), "{scaling:?}");
    let error = config(u32::MAX).unwrap_err().to_string();
    assert!(error.contains("original_max_position_embeddings is 4294967295"), "{error}");
}

#[test]
fn every_token_that_ends_an_answer_ends_it_in_what_is_saved_too() {
    let words = |tokens: &[(&str, i64)], eos, eot| GgufTokenizerData {
        tokens: tokens.iter().map(|(text, _)| (*text).to_owned()).collect(),
        token_types: tokens.iter().map(|(_, kind)| *kind).collect(),
        eos,
        eot,
        ..GgufTokenizerData::default()
    };
    let llama3 = [("<|begin_of_text|>", 3), ("<|end_of_text|>", 3), ("<|eot_id|>", 3), ("<EOT>", 1)];
    assert_eq!(words(&llama3, Some(1), None).end_ids(), [1, 2]);
    assert_eq!(words(&llama3, Some(2), Some(0)).end_ids(), [2, 0, 1]);
    let phi3 = [("</s>", 4), ("<|endoftext|>", 3), ("<|end|>", 4), ("<|user|>", 4)];
    assert_eq!(words(&phi3, Some(1), None).end_ids(), [1, 2]);
    assert_eq!(words(&[("a", 1)], None, None).end_ids(), [0u32; 0]);

    let file = edited("llama", "tokenizer.ggml.eot_token_id", 7u32.to_le_bytes(), 4, ["", ""]);
    let loaded = load_decoder(&Source::Gguf(file.path().to_owned()), Kind::Float, Device::Cpu).unwrap();
    assert!(loaded.eos_ids.contains(&7), "{:?}", loaded.eos_ids);
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("saved");
    let generation = loaded.generation_config.as_ref();
    save_decoder(&loaded.decoder, &loaded.config_json, generation, &folder, SaveOptions::default()).unwrap();
    let again = load_decoder(&Source::Directory(folder), Kind::Float, Device::Cpu).unwrap();
    assert_eq!(again.eos_ids, loaded.eos_ids);
}

/// The user's cache folder, filled by `cargo xtask setup`.
fn cached(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("FERROTUNE_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ferrotune")))?;
    let path = cache.join("models").join(path);
    if !path.exists() {
        eprintln!("skipped: {path:?} is absent; `cargo xtask setup` fetches it");
        return None;
    }
    Some(path)
}

#[test]
fn a_real_file_tells_its_config_and_tokenizer() {
    let Some(path) = cached("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let tensors = GgufTensors::new(Gguf::open(&path).unwrap()).unwrap();
    let config = families::decoder_config(tensors.config()).unwrap();
    assert_eq!((config.num_hidden_layers, config.hidden_size, config.vocab_size), (30, 576, 49152));
    assert!(config.tie_word_embeddings);
    let tokenizer = tensors.tokenizer();
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_str()), ("gpt2", "smollm"));
    assert_eq!((tokenizer.tokens.len(), tokenizer.merges.len()), (49152, 48900));
    assert_eq!(
        (tokenizer.bos, tokenizer.eos, tokenizer.unk, tokenizer.pad),
        (Some(1), Some(2), Some(0), Some(2))
    );
    assert_eq!((tokenizer.add_bos, tokenizer.token_types[1]), (Some(false), 3));
    assert!(tokenizer.chat_template.unwrap().contains("<|im_start|>"));
}
