//! Every family against transformers, on tiny random checkpoints (`fixtures/golden/tiny_models.py`).

use std::path::PathBuf;

use ferrotune_model::checkpoint::{
    Safetensors, SaveOptions, Source, load_decoder, save_decoder, write_safetensors,
};
use ferrotune_model::{Decoder, Tensors, families};
use ferrotune_types::{Batch, Example};
use tch::{Device, Kind, Tensor};

/// What fp32 may differ by.
const TOLERANCE: f64 = 2e-5;

fn folder(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny_models").join(family)
}

fn load(family: &str) -> Decoder {
    load_decoder(&Source::Directory(folder(family)), Kind::Float, Device::Cpu).unwrap().decoder
}

/// The sequences of the golden file and the logits that transformers gives for them.
fn golden(family: &str) -> Vec<(Example, Tensor)> {
    let file = Safetensors::open(&folder(family).join("golden.safetensors")).unwrap();
    (0..2)
        .map(|n| {
            let read = |what: &str| file.read(&format!("{what}.{n}")).unwrap().unwrap();
            let ids: Vec<i64> = read("ids").try_into().unwrap();
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            let mask = vec![false; ids.len()];
            (Example::new(format!("{family}-{n}"), ids, mask).unwrap(), read("logits"))
        })
        .collect()
}

fn logits(decoder: &Decoder, examples: &[&Example]) -> Tensor {
    let batch = Batch::from_examples(examples).unwrap();
    tch::no_grad(|| decoder.logits(&decoder.hidden(&batch).unwrap()))
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn check(family: &str) {
    let decoder = load(family);
    for (example, expect) in golden(family) {
        let got = logits(&decoder, &[&example]);
        let difference = max_difference(&got, &expect);
        assert!(difference < TOLERANCE, "{}: differs by {difference:.2e}", example.id());
    }
}

#[test]
fn every_decoder_family_has_a_checkpoint_here() {
    for family in families::decoder_types() {
        assert!(folder(family).is_dir(), "{family}: add it to fixtures/golden/tiny_models.py");
    }
}

#[test]
fn every_decoder_family_agrees_with_transformers() {
    for family in families::decoder_types() {
        check(family);
    }
}

/// fp16 has 11 bits, and no family's numbers leave its range.
#[test]
fn every_decoder_family_runs_in_fp16() {
    for family in families::decoder_types() {
        let source = Source::Directory(folder(family));
        let decoder = load_decoder(&source, Kind::Half, Device::Cpu).unwrap().decoder;
        for (example, expect) in golden(family) {
            let got = logits(&decoder, &[&example]);
            assert_eq!(got.kind(), Kind::Half);
            let difference = max_difference(&got.to_kind(Kind::Float), &expect);
            // transformers in fp16 differs from its fp32 by 4.7e-2 for Gemma 3.
            assert!(difference < 6e-2, "{}: differs by {difference:.2e}", example.id());
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    for family in families::decoder_types() {
        let decoder = load(family);
        let golden = golden(family);
        let together = logits(&decoder, &[&golden[1].0, &golden[0].0]);
        let apart = Tensor::cat(&[&golden[1].1, &golden[0].1], 0);
        let difference = max_difference(&together, &apart);
        assert!(difference < TOLERANCE, "{family}: differs by {difference:.2e}");
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    // Of `gemma3` the text part is saved, under other names (tests/names.rs).
    for family in families::decoder_types().into_iter().filter(|family| *family != "gemma3") {
        let loaded = load_decoder(&Source::Directory(folder(family)), Kind::Float, Device::Cpu).unwrap();
        let home = tempfile::tempdir().unwrap();
        let saved = home.path().join("saved");
        let options = SaveOptions { max_shard_bytes: 9000, kind: None };
        // Twice: first in one file, whose leftovers must not be read later.
        save_decoder(&loaded.decoder, &loaded.config_json, None, &saved, SaveOptions::default()).unwrap();
        save_decoder(&loaded.decoder, &loaded.config_json, None, &saved, options).unwrap();
        assert!(!saved.join("model.safetensors").exists());
        let (before, after) =
            (Safetensors::open(&folder(family)).unwrap(), Safetensors::open(&saved).unwrap());
        assert_eq!(before.names(), after.names(), "{family}");
        for name in before.names() {
            let (a, b) = (before.read(&name).unwrap().unwrap(), after.read(&name).unwrap().unwrap());
            assert!(a.equal(&b), "{family}: {name}");
        }
        let again = load_decoder(&Source::Directory(saved), Kind::Float, Device::Cpu).unwrap();
        assert_eq!(again.decoder.config, loaded.decoder.config);
    }
}

/// transformers 5.23 keeps a head of other values that lies beside a tied embedding (`tie_weights`), and ties an equal one.
#[test]
fn a_head_beside_a_tied_embedding_counts_where_it_differs() {
    let tensors = Safetensors::open(&folder("llama")).unwrap();
    let read = |name: &str| tensors.read(name).unwrap().unwrap();
    let check = |head: Tensor, tied: bool| {
        let home = tempfile::tempdir().unwrap();
        let mut config =
            ferrotune_model::checkpoint::load_config(&Source::Directory(folder("llama"))).unwrap();
        config["tie_word_embeddings"] = true.into();
        std::fs::write(home.path().join("config.json"), config.to_string()).unwrap();
        let mut all: Vec<(String, Tensor)> = tensors
            .names()
            .into_iter()
            .filter(|n| n != "lm_head.weight")
            .map(|n| (n.clone(), read(&n)))
            .collect();
        all.push(("lm_head.weight".to_owned(), head.copy()));
        write_safetensors(&home.path().join("model.safetensors"), &all, &[("format", "pt")]).unwrap();
        let load = |folder: PathBuf| {
            let loaded = load_decoder(&Source::Directory(folder), Kind::Float, Device::Cpu).unwrap();
            assert_eq!(loaded.decoder.lm_head.is_none(), tied);
            assert_eq!(loaded.decoder.config.tie_word_embeddings, tied);
            assert!(loaded.decoder.head_weight().equal(&head));
            loaded
        };
        let loaded = load(home.path().to_owned());
        let saved = home.path().join("saved");
        let options = SaveOptions { max_shard_bytes: 9000, kind: None };
        save_decoder(&loaded.decoder, &loaded.config_json, None, &saved, options).unwrap();
        assert_eq!(load(saved).config_json["tie_word_embeddings"], tied);
    };
    check(read("lm_head.weight"), false);
    check(read("model.embed_tokens.weight"), true);
}

#[test]
fn a_model_that_cannot_be_saved_leaves_nothing_behind() {
    let loaded = load_decoder(&Source::Directory(folder("llama")), Kind::Float, Device::Cpu).unwrap();
    let home = tempfile::tempdir().unwrap();
    let taken = home.path().join("model");
    std::fs::write(&taken, "a file").unwrap();
    let options = SaveOptions { max_shard_bytes: 9000, kind: None };
    assert!(save_decoder(&loaded.decoder, &loaded.config_json, None, &taken, options).is_err());
    assert_eq!(std::fs::read(&taken).unwrap(), b"a file");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn leaves_are_what_the_model_computes_with() {
    for family in families::decoder_types() {
        let decoder = load(family);
        let (names, leaves) = (decoder.named_tensors(), decoder.leaves());
        assert_eq!(names.len(), leaves.len());
        let before = logits(&decoder, &[&golden(family)[0].0]);
        for ((name, stored), (leaf_name, leaf)) in names.iter().zip(&leaves) {
            assert_eq!(name, leaf_name);
            assert!(leaf.is_contiguous(), "{family}: {name}");
            assert!(leaf.equal(stored) || leaf.transpose(0, -1).equal(stored), "{family}: {name}");
            let _ = tch::no_grad(|| leaf.shallow_clone().fill_(0.0));
        }
        assert!(max_difference(&logits(&decoder, &[&golden(family)[0].0]), &before) > 0.0, "{family}");
        assert!(decoder.named_tensors().iter().all(|(_, t)| t.count_nonzero(None).int64_value(&[]) == 0));
    }
}

#[test]
fn attention_maps_are_distributions_over_the_past() {
    for family in families::decoder_types() {
        let decoder = load(family);
        let (example, _) = &golden(family)[0];
        let maps = decoder.attention_maps(&Batch::from_examples(&[example]).unwrap()).unwrap();
        assert_eq!(maps.len(), decoder.blocks.len());
        for map in maps {
            let sums = map.sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
            assert!(max_difference(&sums, &sums.ones_like()) < 1e-5, "{family}");
            assert_eq!(map.triu(1).abs().max().double_value(&[]), 0.0, "{family} looks ahead");
        }
    }
}

#[test]
fn an_unknown_model_type_lists_the_known_ones() {
    let error = families::decoder_config(&serde_json::json!({"model_type": "mamba"})).unwrap_err();
    assert!(error.to_string().contains("gemma2, gemma3, gemma3_text, gpt2, llama"), "{error}");
}

#[test]
fn a_checkpoint_that_does_not_fit_names_the_tensor() {
    let source = Source::Directory(folder("llama"));
    let config = ferrotune_model::checkpoint::load_config(&source).unwrap();
    let tensors = Safetensors::open(&folder("llama")).unwrap();
    let check = |change: &dyn Fn(&mut serde_json::Value), expect: &str| {
        let mut config = config.clone();
        change(&mut config);
        let mut weights = ferrotune_model::WeightMap::new(&tensors, Kind::Float, Device::Cpu);
        let config = families::decoder_config(&config).unwrap();
        let error = match Decoder::load(config, &mut weights, Kind::Float, Device::Cpu) {
            Ok(_) => weights.finish(|_| false).unwrap_err(),
            Err(error) => error,
        };
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(&|c| c["num_hidden_layers"] = 3.into(), "model.layers.2.input_layernorm.weight [16] is missing");
    check(&|c| c["num_hidden_layers"] = 1.into(), "belong to no layer: model.layers.1.");
    check(
        &|c| c["intermediate_size"] = 32.into(),
        "gate_proj.weight is [24, 16], the config asks for [32, 16]",
    );
    check(&|c| c["num_key_value_heads"] = 3.into(), "4 heads cannot share 3");
}
