//! Whole models, learning-rate sweeps, resumption, early stopping and masked language modelling, on tiny models.
#![cfg(feature = "torch")]

use std::path::{Path, PathBuf};

use ferrotune::model_store::{self, LoadedModel, Place};
use ferrotune::recipes::{
    MlmConfig, RunConfig, SftConfig, SftData, Trained, find_lr, lora_config, mlm, sft, text_windows,
    whole_model,
};
use ferrotune_model::Decoder;
use ferrotune_model::checkpoint::{Source, load_encoder};
use ferrotune_peft::{Adapter, LoraConfig, inject, quantize_base};
use ferrotune_tokenizer::Tokenizer;
use ferrotune_train::{Freeze, unfreeze};
use ferrotune_types::Example;
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn tiny(dtype: &str) -> LoadedModel {
    tch::set_num_threads(1); // the model is too small to share
    let place = Place::parse("cpu", dtype).unwrap();
    model_store::load(&fixture("tiny/llama").display().to_string(), place, "").unwrap()
}

fn with_adapter(dropout: f64) -> (LoadedModel, Adapter) {
    let mut model = tiny("fp32");
    let adapter =
        inject(&mut model.decoder, &lora_config(4, 8.0, dropout, "all-linear", "tiny").unwrap(), 0).unwrap();
    (model, adapter)
}

/// Texts that count up from `from` by `by`.
fn examples(n: u32, from: u32, by: u32) -> Vec<Example> {
    let text = |i: u32| {
        let ids: Vec<u32> = (0..12).map(|t| 20 + (from + i + by * t) % 60).collect();
        Example::new(format!("e{i}"), ids, (0..12).map(|t| t > 2).collect()).unwrap()
    };
    (0..n).map(text).collect()
}

fn data(n: u32) -> SftData {
    SftData { train: examples(n, 0, 1).into_iter().map(|e| vec![e]).collect(), validation: examples(4, 3, 1) }
}

fn settings(steps: usize, lr: f64) -> SftConfig {
    SftConfig { steps, lr, batch: 4, ..SftConfig::default() }
}

fn tensors(decoder: &Decoder) -> Vec<(String, Tensor)> {
    decoder.named_tensors().into_iter().map(|(name, t)| (name, t.detach().copy())).collect()
}

#[test]
fn the_model_itself_is_trained_but_for_what_is_frozen() {
    for (dtype, optimizer) in [("fp32", "adamw"), ("fp32", "adamw8bit"), ("bf16", "adamw")] {
        let model = tiny(dtype);
        let before = tensors(&model.decoder);
        let params = whole_model(&model.decoder, &Freeze::Blocks(1)).unwrap();
        let config = SftConfig { optimizer: optimizer.to_owned(), ..settings(20, 3e-3) };
        let dir = tempfile::tempdir().unwrap();
        let outcome =
            sft(&model.decoder, Trained::Model(&params), &data(16), &config, dir.path(), "h").unwrap();
        let (first, last) = (outcome.validations[0].1, outcome.validations.last().unwrap().1);
        assert!(last < 0.97 * first, "{dtype} {optimizer}: held-out loss {first} to {last}");
        for ((name, old), (_, new)) in before.iter().zip(model.decoder.named_tensors()) {
            let frozen = name.contains("embed_tokens") || name.contains("layers.0.");
            assert_eq!(old.equal(&new), frozen, "{dtype} {optimizer}: {name}");
        }
        let folder = dir.path().join("model");
        model_store::save(&model, &folder, model.decoder.kind).unwrap();
        let place = Place::parse("cpu", dtype).unwrap();
        let again = model_store::load(&folder.display().to_string(), place, "").unwrap();
        for ((name, a), (_, b)) in model.decoder.named_tensors().iter().zip(again.decoder.named_tensors()) {
            assert!(a.equal(&b), "{dtype}: {name} is not what was saved");
        }
    }
    let mut packed = tiny("fp32");
    quantize_base(&mut packed.decoder, true).unwrap();
    let error = whole_model(&packed.decoder, &Freeze::Nothing).unwrap_err().to_string();
    assert!(error.contains("train an adapter"), "{error}");
}

#[test]
fn a_sweep_suggests_a_rate_and_leaves_nothing_behind() {
    let (model, adapter) = with_adapter(0.0);
    let before: Vec<Tensor> = adapter.parameters().iter().map(|(_, t)| t.detach().copy()).collect();
    let dir = tempfile::tempdir().unwrap();
    let config = settings(0, 1.0);
    let found = find_lr(&model.decoder, &adapter, &data(16), &config, (1e-5, 1.0, 40), dir.path()).unwrap();
    let lr = found.suggestion.unwrap();
    assert!((1e-4..0.9).contains(&lr), "{lr:e}");
    assert_eq!(found.points[0].lr, 1e-5);
    assert!(std::fs::read_to_string(dir.path().join("lr_find.svg")).unwrap().contains("suggested"));
    for ((name, now), before) in adapter.parameters().iter().zip(&before) {
        assert!(now.equal(before), "{name} moved");
        assert_eq!(now.grad().abs().max().double_value(&[]), 0.0, "{name} keeps a gradient");
    }
}

/// Dropout, NEFTune's noise, the data's order, the optimiser and the best state all go on as if nothing had been.
#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let config = SftConfig {
        checkpoint_every: 3,
        eval_every: 2,
        neftune_alpha: 5.0,
        optimizer: "adamw8bit".to_owned(),
        ..settings(7, 5e-3)
    };
    let run = |dir: &Path| {
        let (model, adapter) = with_adapter(0.3);
        let outcome = sft(&model.decoder, &adapter, &data(9), &config, dir, "h").unwrap();
        (outcome, adapter)
    };
    let (whole, resumed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (expect, adapter) = run(whole.path());
    // What a run that was killed after its third step left.
    let (from, to) =
        (whole.path().join("checkpoints/step-000003"), resumed.path().join("checkpoints/step-000003"));
    std::fs::create_dir_all(&to).unwrap();
    for name in ["state.json", "tensors.safetensors"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let (found, again) = run(resumed.path());
    assert_eq!((found.steps, &found.losses), (7, &expect.losses));
    assert_eq!((found.validations, found.best_step), (expect.validations, expect.best_step));
    assert_eq!(found.step_seconds.len(), 4, "three steps were not taken again");
    for ((name, a), (_, b)) in adapter.parameters().iter().zip(again.parameters()) {
        assert!(a.equal(&b), "{name} differs");
    }
}

/// What is dropped and what noise is added depend on the seed and the step alone.
#[test]
fn checkpointed_activations_and_smaller_batches_change_memory_only() {
    let run = |dropout: f64, config: &SftConfig| {
        let (model, adapter) = with_adapter(dropout);
        let dir = tempfile::tempdir().unwrap();
        sft(&model.decoder, &adapter, &data(9), config, dir.path(), "h").unwrap().losses
    };
    let plain = settings(4, 1e-2);
    let checkpointed = SftConfig { activation_checkpointing: true, ..plain.clone() };
    let (whole, again) = (run(0.5, &plain), run(0.5, &checkpointed));
    assert_ne!(whole, run(0.0, &plain), "dropout does something");
    assert!(whole.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-5), "{whole:?} {again:?}");

    let noisy = SftConfig { neftune_alpha: 50.0, ..plain };
    let split = SftConfig { micro_tokens: 1, ..noisy.clone() };
    let (whole, again) = (run(0.0, &noisy), run(0.0, &split));
    assert_ne!(whole, run(0.0, &settings(4, 1e-2)), "the noise does something");
    assert!(whole.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-5), "{whole:?} {again:?}");
}

/// PEFT's LoRA+: B and everything of one dimension learn faster. Adam's first step moves each by its rate.
#[test]
fn loraplus_hastens_b_and_magnitudes() {
    let mut model = tiny("fp32");
    let lora = LoraConfig { use_dora: true, ..lora_config(4, 8.0, 0.0, "all-linear", "tiny").unwrap() };
    let adapter = inject(&mut model.decoder, &lora, 0).unwrap();
    let before: Vec<Tensor> = adapter.parameters().iter().map(|(_, t)| t.detach().copy()).collect();
    let config = SftConfig { loraplus_ratio: 16.0, schedule: "constant".to_owned(), ..settings(1, 1e-3) };
    let dir = tempfile::tempdir().unwrap();
    sft(&model.decoder, &adapter, &SftData { validation: vec![], ..data(4) }, &config, dir.path(), "h")
        .unwrap();
    let mut seen = [0, 0];
    for ((name, after), before) in adapter.parameters().iter().zip(&before) {
        let moved = (after - before).abs().max().double_value(&[]);
        if name.ends_with("lora_B.weight") || name.ends_with("lora_magnitude_vector") {
            assert!((moved - 16e-3).abs() < 2e-4, "{name} moved by {moved}");
            seen[usize::from(name.ends_with("vector"))] += 1;
        } else {
            assert!(moved < 1.1e-3, "{name} moved by {moved}");
        }
    }
    assert!(seen[0] > 0 && seen[0] == seen[1]);
}

#[test]
fn an_overfitting_run_stops_says_so_and_keeps_its_best() {
    let (model, adapter) = with_adapter(0.0);
    // Held out is the opposite of what is learnt.
    let data = SftData { validation: examples(4, 0, 59), ..data(4) };
    let config = SftConfig { eval_every: 1, patience: 3, ..settings(60, 1e-2) };
    let dir = tempfile::tempdir().unwrap();
    let outcome = sft(&model.decoder, &adapter, &data, &config, dir.path(), "h").unwrap();
    assert!(outcome.steps < 60, "it did not stop");
    assert_eq!(outcome.best_step + 3, outcome.steps);
    let note = outcome.note.unwrap();
    assert!(note.contains("overfitting") && note.contains(&format!("step {}", outcome.best_step)), "{note}");
    let best = outcome.validations.iter().map(|v| v.1).fold(f64::MAX, f64::min);
    let held: Vec<&Example> = data.validation.iter().collect();
    let batch = ferrotune_types::Batch::from_examples(&held).unwrap();
    let (nll, n) = ferrotune_train::evaluate_nll(&model.decoder, &batch).unwrap();
    assert!((nll / n as f64 - best).abs() < 1e-6, "the adapter is not the best one");
    let svg = std::fs::read_to_string(dir.path().join("loss.svg")).unwrap();
    assert!(svg.contains("validation") && svg.contains("best:"), "no best step is marked");
}

#[test]
fn a_run_that_only_does_harm_leaves_what_was_and_says_so() {
    let (model, adapter) = with_adapter(0.0);
    let before: Vec<Tensor> = adapter.parameters().iter().map(|(_, t)| t.detach().copy()).collect();
    let data = SftData { validation: examples(4, 0, 59), ..data(4) };
    let config = SftConfig { eval_every: 1, ..settings(6, 10.0) };
    let dir = tempfile::tempdir().unwrap();
    let outcome = sft(&model.decoder, &adapter, &data, &config, dir.path(), "h").unwrap();
    assert_eq!(outcome.best_step, 0, "{:?}", outcome.validations);
    let note = outcome.note.unwrap();
    assert!(note.contains("lower learning rate"), "{note}");
    for ((name, now), before) in adapter.parameters().iter().zip(&before) {
        assert!(now.equal(before), "{name} moved");
    }
}

#[test]
fn what_a_run_takes_is_told_before() {
    let (model, adapter) = with_adapter(0.0);
    let dir = tempfile::tempdir().unwrap();
    let outcome = sft(&model.decoder, &adapter, &data(16), &settings(6, 1e-3), dir.path(), "h").unwrap();
    let estimate = outcome.estimate.unwrap();
    let ratio = estimate.peak_mib / outcome.peak_rss_mib;
    assert!((0.8..1.2).contains(&ratio), "{} MiB said, {} held", estimate.peak_mib, outcome.peak_rss_mib);
    assert!(estimate.seconds.unwrap() > 0.0 && estimate.step_seconds.unwrap() > 0.0 && outcome.seconds > 0.0);
}

#[test]
fn an_example_without_a_trained_token_is_named() {
    let (model, adapter) = with_adapter(0.0);
    let mute = Example::new("row-7", vec![1, 2, 3], vec![false; 3]).unwrap();
    let data = SftData { train: vec![vec![examples(1, 0, 1).remove(0), mute]], validation: Vec::new() };
    let dir = tempfile::tempdir().unwrap();
    let error =
        sft(&model.decoder, &adapter, &data, &settings(1, 1e-3), dir.path(), "h").unwrap_err().to_string();
    assert!(error.contains("row-7"), "{error}");
    let wrong = SftConfig { optimizer: "sgd".to_owned(), ..settings(1, 1e-3) };
    let error =
        sft(&model.decoder, &adapter, &self::data(4), &wrong, dir.path(), "h").unwrap_err().to_string();
    assert!(error.contains("known: adamw, adamw8bit"), "{error}");
}

#[test]
fn hidden_words_are_learnt() {
    tch::set_num_threads(1);
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from_dir(fixture("tiny/words")).unwrap();
    // Every second word follows from the one before it.
    let text = |i: u32| {
        let pairs = (0..40).map(|t| (i * 5 + t * 3) % 20).map(|w| format!("w{w} w{}", w + 20));
        pairs.collect::<Vec<_>>().join(" ")
    };
    let texts = |range: std::ops::Range<u32>| range.map(text).collect::<Vec<String>>();
    let windows = |texts: &[String]| text_windows(texts, &tokenizer, 34).unwrap();
    let (train, held) = (windows(&texts(0..20)), windows(&texts(50..56)));
    assert_eq!(train.len(), 60, "80 words are three windows of 32, 32 and 16");
    assert!(train.iter().all(|e| e.ids()[0] == 2 && *e.ids().last().unwrap() == 3));

    let source = Source::Directory(fixture("golden/tiny_models/bert_mlm"));
    let encoder = load_encoder(&source, Kind::Float, Device::Cpu).unwrap().encoder;
    let params = unfreeze(encoder.named_tensors(), &Freeze::Nothing).unwrap();
    let run = RunConfig { steps: 120, batch: 8, lr: 1e-2, eval_every: 40, ..RunConfig::default() };
    let config = MlmConfig { run, ..MlmConfig::default() };
    let outcome = mlm(&encoder, params, &tokenizer, [&train, &held], &config, dir.path(), "h").unwrap();
    let loss = |i: usize| outcome.validations[i].1["eval_loss"];
    let last = outcome.validations.len() - 1;
    assert!(loss(last) < 0.8 * loss(0), "{} to {}", loss(0), loss(last));
    assert!(text_windows(&texts(0..1), &tokenizer, 2).is_err());

    let plain = Tokenizer::from_dir(fixture("tiny/llama")).unwrap();
    let params = unfreeze(encoder.named_tensors(), &Freeze::Nothing).unwrap();
    let error =
        mlm(&encoder, params, &plain, [&train, &held], &config, dir.path(), "x").unwrap_err().to_string();
    assert!(error.contains("no mask token"), "{error}");
}
