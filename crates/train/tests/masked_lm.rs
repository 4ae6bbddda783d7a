//! Masked language modelling against transformers (`golden/masked_lm.py`), and its laws.

use std::path::Path;

use ferrotune_model::Encoder;
use ferrotune_model::checkpoint::{Source, load_encoder, save_encoder};
use ferrotune_train::{Freeze, MaskedBatch, Masking, mask_tokens, mlm_accumulate, mlm_nll, unfreeze};
use ferrotune_types::{Batch, Example};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tch::{Device, Kind};

fn source() -> Source {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Source::Directory(here.join("../../fixtures/golden/tiny_models/bert_mlm"))
}

fn encoder() -> Encoder {
    load_encoder(&source(), Kind::Float, Device::Cpu).unwrap().encoder
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/masked_lm.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The golden rows as batches of so many texts.
fn masked(rows: &[Value], sizes: &[usize]) -> Vec<MaskedBatch> {
    let ints = |row: &Value, key: &str| -> Vec<i64> { serde_json::from_value(row[key].clone()).unwrap() };
    let mut rows = rows.iter();
    let mut make = |n: usize| {
        let (mut examples, mut places, mut targets, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for row in rows.by_ref().take(n) {
            let ids: Vec<u32> = ints(row, "masked").iter().map(|&id| id as u32).collect();
            for (t, &label) in ints(row, "labels").iter().enumerate().filter(|(_, label)| **label >= 0) {
                places.push((start + t) as i64);
                targets.push(label);
            }
            start += ids.len();
            examples.push(Example::new("x", ids.clone(), vec![false; ids.len()]).unwrap());
        }
        let batch = Batch::from_examples(&examples.iter().collect::<Vec<_>>()).unwrap();
        MaskedBatch { batch, places, targets }
    };
    sizes.iter().map(|&n| make(n)).collect()
}

#[test]
fn loss_and_gradients_are_those_of_transformers_however_the_batch_is_cut() {
    let golden = golden();
    let rows = golden["rows"].as_array().unwrap();
    for sizes in [vec![4], vec![1, 3], vec![1, 1, 1, 1]] {
        let encoder = encoder();
        let params = unfreeze(encoder.named_tensors(), &Freeze::Nothing).unwrap();
        let batches = masked(rows, &sizes);
        let loss = mlm_accumulate(&encoder, &batches).unwrap();
        let expect = golden["loss"].as_f64().unwrap();
        assert!((loss - expect).abs() < 1e-5, "{sizes:?}: loss {loss}, transformers has {expect}");
        let n: usize = batches.iter().map(|b| b.places.len()).sum();
        let held: f64 = batches.iter().map(|b| mlm_nll(&encoder, b).unwrap()).sum();
        assert!((held / n as f64 - expect).abs() < 1e-5, "without gradients: {held} over {n}");
        let mut compared = 0;
        for param in &params {
            let Some(norm) = golden["gradient_norms"][&param.name].as_f64() else { continue };
            // A key's bias moves no score, so its gradient is rounding; of the token types only a row is kept.
            if param.name.ends_with("key.bias") || param.name.contains("token_type") {
                continue;
            }
            let ours = param.tensor.grad().norm().double_value(&[]);
            assert!((ours / norm - 1.0).abs() < 1e-3, "{}: norm {ours}, transformers has {norm}", param.name);
            compared += 1;
        }
        assert!(compared > 30, "only {compared} gradients compared");
    }
}

#[test]
fn tokens_are_hidden_as_often_as_the_collator_hides_them() {
    let text = |i: u32| -> Vec<u32> {
        [2].into_iter().chain((0..198).map(|t| 5 + (i * 7 + t) % 43)).chain([3]).collect()
    };
    let examples: Vec<Example> =
        (0..1000).map(|i| Example::new("x", text(i), vec![false; 200]).unwrap()).collect();
    let batch = Batch::from_examples(&examples.iter().collect::<Vec<_>>()).unwrap();
    let hide = |seed| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        mask_tokens(&batch, |id| id < 5, 4, 48, &Masking::default(), &mut rng).unwrap()
    };
    let found = hide(1);
    assert_eq!(found, hide(1));
    assert_ne!(found, hide(2));
    let ids = found.batch.ids();
    let count = |f: &dyn Fn(i64, i64) -> bool| {
        found
            .places
            .iter()
            .zip(&found.targets)
            .filter(|(place, target)| f(ids[**place as usize], **target))
            .count()
    };
    let collator = &golden()["collator"];
    let check = |what: &str, ours: usize, of: usize, key: &str, key_of: &str| {
        let theirs = collator[key].as_f64().unwrap() / collator[key_of].as_f64().unwrap();
        let ours = ours as f64 / of as f64;
        // Both are draws: five standard deviations of the difference of two of 200,000 or 30,000.
        assert!((ours - theirs).abs() < 0.012, "{what}: {ours}, the collator has {theirs}");
    };
    let n = found.places.len();
    check("hidden", n, batch.n_tokens(), "hidden", "tokens");
    check("replaced by the mask", count(&|now, _| now == 4), n, "replaced", "hidden");
    check("kept", count(&|now, before| now == before), n, "kept", "hidden");
    assert_eq!(found.targets.iter().filter(|&&id| id < 5).count(), 0, "a special token was hidden");
    assert_eq!(collator["special_hidden"], 0);
    // What is not hidden is as it was.
    let places: std::collections::BTreeSet<i64> = found.places.iter().copied().collect();
    assert!((0..ids.len()).all(|t| places.contains(&(t as i64)) || ids[t] == batch.ids()[t]));
}

#[test]
fn a_short_text_still_teaches_and_an_empty_one_is_an_error() {
    let short = Example::new("x", vec![2, 9, 3], vec![false; 3]).unwrap();
    let batch = Batch::from_examples(&[&short]).unwrap();
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let found = mask_tokens(&batch, |id| id < 5, 4, 48, &Masking::default(), &mut rng).unwrap();
        assert_eq!((found.places, found.targets), (vec![1], vec![9]));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let error = mask_tokens(&batch, |_| true, 4, 48, &Masking::default(), &mut rng).unwrap_err().to_string();
    assert!(error.contains("no word to hide"), "{error}");
    let wild = Masking { replaced: 0.8, random: 0.3, ..Masking::default() };
    assert!(mask_tokens(&batch, |_| false, 4, 48, &wild, &mut rng).is_err());
}

#[test]
fn a_trained_encoder_is_saved_whole_and_loads_as_itself() {
    let mut loaded = load_encoder(&source(), Kind::Float, Device::Cpu).unwrap();
    loaded.encoder.ensure_masked_lm(1).unwrap();
    let params = unfreeze(loaded.encoder.named_tensors(), &Freeze::Blocks(1)).unwrap();
    assert!(params.iter().all(|p| !p.name.contains("layer.0.") && !p.name.contains("embeddings")));
    tch::no_grad(|| params.iter().for_each(|p| drop(p.tensor.shallow_clone().g_add_scalar_(0.01))));
    let folder = tempfile::tempdir().unwrap();
    save_encoder(&loaded.encoder, &source(), &loaded.config_json, folder.path()).unwrap();
    let again =
        load_encoder(&Source::Directory(folder.path().to_owned()), Kind::Float, Device::Cpu).unwrap().encoder;
    for ((name, a), (other, b)) in loaded.encoder.named_tensors().iter().zip(again.named_tensors()) {
        assert_eq!(*name, other);
        assert!(a.equal(&b), "{name} differs");
    }
    // A classifier's body is no masked language model.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let classifier = Source::Directory(here.join("../../fixtures/golden/tiny_models/bert_classify"));
    let mut loaded = load_encoder(&classifier, Kind::Float, Device::Cpu).unwrap();
    assert!(loaded.encoder.ensure_masked_lm(1).unwrap_err().to_string().contains("classifier"));
}
