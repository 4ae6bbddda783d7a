//! Encoders and T5 against transformers (`fixtures/golden/tiny_models.py`), and all-MiniLM-L6-v2 against
//! sentence-transformers (`fixtures/golden/minilm.py`).

use std::path::PathBuf;

use ferrotune_model::checkpoint::{Safetensors, Source, load_encoder, load_t5};
use ferrotune_model::generate::{Flow, Sampling, generate_t5};
use ferrotune_model::{Encoder, HeadKind, Pooling, Tensors};
use ferrotune_types::{Batch, Example};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

struct Golden(Safetensors);

impl Golden {
    fn open(family: &str) -> Self {
        Golden(Safetensors::open(&golden("tiny_models").join(family).join("golden.safetensors")).unwrap())
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.0.read(name).unwrap().unwrap()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let ids: Vec<i64> = self.tensor(name).try_into().unwrap();
        ids.into_iter().map(|id| id as u32).collect()
    }
}

fn encoder(family: &str) -> Encoder {
    let source = Source::Directory(golden("tiny_models").join(family));
    load_encoder(&source, Kind::Float, Device::Cpu).unwrap().encoder
}

fn batch(texts: &[Vec<u32>]) -> Batch {
    let examples: Vec<_> =
        texts.iter().map(|ids| Example::new("x", ids.clone(), vec![false; ids.len()]).unwrap()).collect();
    Batch::from_examples(&examples.iter().collect::<Vec<_>>()).unwrap()
}

fn check_close(got: &Tensor, expect: &Tensor, what: &str) {
    assert_eq!(got.size(), expect.size(), "{what}");
    let difference = (got - expect).abs().max().double_value(&[]);
    assert!(difference < 2e-5, "{what}: differs by {difference:.2e}");
}

const ENCODERS: [&str; 11] = [
    "bert_mlm",
    "bert_classify",
    "roberta_tokens",
    "roberta_classify",
    "roberta_mlm",
    "distilbert_classify",
    "distilbert_mlm",
    "mpnet_mlm",
    "mpnet_classify",
    "modernbert_mlm",
    "modernbert_classify",
];

#[test]
fn every_encoder_family_and_head_agrees_with_transformers() {
    for family in ENCODERS {
        let (encoder, golden) = (encoder(family), Golden::open(family));
        // Both texts in one pass: neither may see the other.
        let batch = batch(&[golden.ids("ids.0"), golden.ids("ids.1")]);
        let hidden = Tensor::cat(&[golden.tensor("hidden.0"), golden.tensor("hidden.1")], 0);
        check_close(&encoder.hidden(&batch).unwrap(), &hidden, family);
        let logits = [golden.tensor("logits.0"), golden.tensor("logits.1")];
        let expect = match encoder.head.as_ref().unwrap().kind() {
            HeadKind::Sequence(_) => Tensor::stack(&logits, 0),
            HeadKind::Tokens | HeadKind::MaskedLm => Tensor::cat(&logits, 0),
        };
        check_close(&encoder.predict(&batch).unwrap(), &expect, family);
    }
}

#[test]
fn t5_agrees_with_transformers() {
    for family in ["t5", "t5_gated"] {
        let source = Source::Directory(golden("tiny_models").join(family));
        let t5 = load_t5(&source, Kind::Float, Device::Cpu).unwrap();
        let golden = Golden::open(family);
        for n in 0..2 {
            let encoded = t5.encode(&golden.ids(&format!("ids.{n}"))).unwrap();
            let ids = golden.ids(&format!("decoder_ids.{n}"));
            let expect = golden.tensor(&format!("logits.{n}"));
            check_close(&t5.decode(&mut t5.begin(&encoded), &ids).unwrap(), &expect, family);
            // Token by token, with keys and values kept.
            let mut state = t5.begin(&encoded);
            let rows: Vec<Tensor> = ids.iter().map(|&id| t5.decode(&mut state, &[id]).unwrap()).collect();
            check_close(&Tensor::cat(&rows, 0), &expect, &format!("{family} in steps"));
        }
        assert!(t5.encode(&[]).is_err() && t5.encode(&[48]).is_err());
        // Both texts at once, as transformers' `generate` goes on with each.
        let texts = [golden.ids("ids.0"), golden.ids("ids.1")];
        let sampling = Sampling { max_new_tokens: 12, stop_ids: vec![1], ..Sampling::default() };
        let written = generate_t5(&t5, &texts, &sampling, &mut |_, _| Flow::Continue).unwrap();
        for (n, written) in written.iter().enumerate() {
            assert_eq!(written.ids, golden.ids(&format!("greedy.{n}")), "{family} {n}");
        }
        let mut stopped = 0;
        let mut stop = |_: usize, ids: &[u32]| {
            stopped += 1;
            if ids.len() == 2 { Flow::Stop } else { Flow::Continue }
        };
        assert_eq!(generate_t5(&t5, &texts[..1], &sampling, &mut stop).unwrap()[0].ids.len(), 2);
        assert_eq!(stopped, 2);
    }
}

#[test]
fn what_a_text_is_batched_with_changes_nothing() {
    let encoder = encoder("bert_mlm");
    let texts: Vec<Vec<u32>> = (1..30).map(|n| (0..n).map(|i| 3 + (i * n) % 40).collect()).collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    for pooling in [Pooling::Cls, Pooling::Mean, Pooling::Max] {
        let together = encoder.embed(&texts, pooling, true).unwrap();
        for (text, got) in texts.iter().zip(&together) {
            let alone = &encoder.embed(&[text], pooling, true).unwrap()[0];
            let difference = got.iter().zip(alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-5, "{pooling:?}: {difference:e}");
            assert!((got.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let encoder = encoder("roberta_mlm");
    let check = |texts: &[&[u32]], expect: &str| {
        let error = encoder.embed(texts, Pooling::Mean, true).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&[&[3], &[]], "text 1 has no tokens");
    check(&[&[48]], "id 48 is outside");
    // 40 rows, of which the first two belong to no token.
    check(&[&[3; 39]], "longer than the model's context of 38");
    assert_eq!(encoder.embed(&[], Pooling::Mean, true).unwrap().len(), 0);
}

#[test]
fn how_a_checkpoint_pools_is_read_and_what_is_unknown_is_named() {
    // Modules, each with its path behind `@`; the pooling's config.json lies in 1_Pooling and in other.
    let check = |modules: &str, pooling: &str, expect: Result<(Pooling, bool), &str>| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("tiny_models/modernbert_mlm").join(file), folder.path().join(file)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        if !modules.is_empty() {
            let module = |module: &str| {
                let (class, path) = module.split_once('@').unwrap_or((module, ""));
                json!({"type": format!("st.{class}"), "path": path})
            };
            write("modules.json", &modules.split(' ').map(module).collect::<Value>().to_string());
        }
        if !pooling.is_empty() {
            for name in ["1_Pooling", "other"] {
                std::fs::create_dir(folder.path().join(name)).unwrap();
                write(&format!("{name}/config.json"), pooling);
            }
        }
        let source = Source::Directory(folder.path().to_owned());
        match (load_encoder(&source, Kind::Float, Device::Cpu), expect) {
            (Ok(loaded), Ok(expect)) => assert_eq!((loaded.pooling, loaded.normalise), expect),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{:?} is not {expect:?}", got.map(|l| (l.pooling, l.normalise))),
        }
    };
    let cls = r#"{"pooling_mode_cls_token": true}"#;
    // Without modules.json sentence-transformers takes the mean, whatever else lies there.
    check("", "", Ok((Pooling::Mean, false)));
    check("", cls, Ok((Pooling::Mean, false)));
    check("Transformer Pooling@1_Pooling", cls, Ok((Pooling::Cls, false)));
    check("Transformer Pooling@other", cls, Ok((Pooling::Cls, false)));
    check("Transformer Pooling@1_Pooling Normalize", r#"{"pooling_mode": "max"}"#, Ok((Pooling::Max, true)));
    check("Transformer Pooling@1_Pooling Dense", cls, Err("has the module \"st.Dense\""));
    check("Transformer Pooling@nowhere", cls, Err("nowhere/config.json"));
    check("Transformer Pooling@other/../../1_Pooling", cls, Err("leads out of the model's folder"));
    check("Transformer Pooling@/tmp", cls, Err("leads out of the model's folder"));
    check("Transformer@0_Transformer Pooling@other", cls, Err("keeps the encoder in \"0_Transformer\""));
    check("Transformer", cls, Err("names no pooling"));
    let both = r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#;
    check("Transformer Pooling@1_Pooling", both, Err("several poolings at once"));
    let last = r#"{"pooling_mode_lasttoken": true}"#;
    check("Transformer Pooling@1_Pooling", last, Err("other than mean, cls and max"));
}

#[test]
fn how_a_t5s_text_begins_and_ends_generation_config_says_first() {
    let check = |generation: &str, expect: Result<(u32, &[u32]), &str>| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("tiny_models/t5").join(file), folder.path().join(file)).unwrap();
        }
        if !generation.is_empty() {
            std::fs::write(folder.path().join("generation_config.json"), generation).unwrap();
        }
        let source = Source::Directory(folder.path().to_owned());
        match (load_t5(&source, Kind::Float, Device::Cpu), expect) {
            (Ok(t5), Ok(expect)) => {
                assert_eq!((t5.config.decoder_start_token_id, &t5.config.eos_token_ids[..]), expect);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{:?} is not {expect:?}", got.map(|t5| t5.config)),
        }
    };
    // config.json: a text begins with 0 and ends with 1.
    check("", Ok((0, &[1])));
    check(r#"{"eos_token_id": null}"#, Ok((0, &[1])));
    check(r#"{"eos_token_id": 9}"#, Ok((0, &[9])));
    check(r#"{"eos_token_id": [9, 7], "decoder_start_token_id": 5}"#, Ok((5, &[9, 7])));
    check(r#"{"eos_token_id": "end"}"#, Err("eos_token_id is \"end\""));
    check(r#"{"decoder_start_token_id": 0.5}"#, Err("decoder_start_token_id is 0.5"));
}

#[test]
fn minilm_agrees_with_sentence_transformers() {
    let cache = std::env::var_os("FERROTUNE_CACHE").map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ferrotune"))).unwrap();
    let folder = cache.join("models/all-minilm-l6-v2");
    if !folder.is_dir() {
        eprintln!("skipped: {} is absent; `cargo xtask setup` fetches it", folder.display());
        return;
    }
    let loaded = load_encoder(&Source::Directory(folder), Kind::Float, Device::Cpu).unwrap();
    assert_eq!((loaded.pooling, loaded.normalise), (Pooling::Mean, true));
    let rows: Value = serde_json::from_slice(&std::fs::read(golden("minilm.json")).unwrap()).unwrap();
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let rows = rows.as_array().unwrap();
    let ids: Vec<Vec<u32>> =
        rows.iter().map(|r| numbers(&r["ids"]).into_iter().map(|id| id as u32).collect()).collect();
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    for (row, got) in rows.iter().zip(loaded.encoder.embed(&ids, loaded.pooling, true).unwrap()) {
        let expect = numbers(&row["vector"]);
        let dot: f64 = got.iter().zip(&expect).map(|(a, b)| f64::from(*a) * b).sum();
        let length: f64 = expect.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(dot / length > 0.99999, "{}: cosine {}", row["text"], dot / length);
    }
}
