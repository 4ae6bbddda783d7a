//! The laws that a training step must keep, on a tiny random Llama.

mod tiny;

use std::collections::BTreeMap;

use ferrotune_model::Decoder;
use ferrotune_model::checkpoint::{Source, load_decoder};
use ferrotune_train::{
    AdamW, AdamWConfig, EarlyStop, Forward, Freeze, HeadOptions, Param, RunState, Sampler, clip_grad_norm,
    evaluate_nll, latest_checkpoint, load_checkpoint, save_checkpoint, score, sft_accumulate, unfreeze,
};
use ferrotune_types::{Batch, Example, PairExample, Segment};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::tiny::VOCAB;

/// The tiny model in fp32.
fn tiny(trained: &[&str]) -> Decoder {
    tiny::tiny(trained, Kind::Float)
}

fn examples(n: usize) -> Vec<Example> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    (0..n)
        .map(|i| {
            let length = rng.random_range(3..20usize);
            let ids: Vec<u32> = (0..length).map(|_| rng.random_range(0..VOCAB as u32)).collect();
            let mask: Vec<bool> = (0..length).map(|t| t > 1 && (t == 2 || rng.random_bool(0.6))).collect();
            Example::new(format!("e{i}"), ids, mask).unwrap()
        })
        .collect()
}

fn batches(examples: &[Example], sizes: &[usize]) -> Vec<Batch> {
    let mut rest = examples;
    sizes
        .iter()
        .map(|&n| {
            let (now, later) = rest.split_at(n);
            rest = later;
            Batch::from_examples(&now.iter().collect::<Vec<_>>()).unwrap()
        })
        .collect()
}

/// Trained gradients by name, then cleared.
fn take_gradients(decoder: &Decoder) -> Vec<(String, Tensor)> {
    decoder
        .named_tensors()
        .into_iter()
        .filter(|(_, t)| t.requires_grad())
        .map(|(name, mut t)| {
            let gradient = t.grad().copy();
            t.zero_grad();
            (name, gradient)
        })
        .collect()
}

fn assert_close(a: &[(String, Tensor)], b: &[(String, Tensor)], what: &str) {
    assert!(!a.is_empty());
    for ((name, x), (_, y)) in a.iter().zip(b) {
        let scale = x.abs().max().double_value(&[]).max(1e-8);
        let worst = (x - y).abs().max().double_value(&[]) / scale;
        assert!(worst < 2e-5, "{what}: gradient of {name} is off by {worst:e} of its largest");
        assert!(scale > 1e-7, "{what}: gradient of {name} is zero");
    }
}

#[test]
fn accumulated_packed_and_one_by_one_give_the_same_loss_and_gradient() {
    let decoder = tiny(&["proj"]);
    let examples = examples(16);
    let run = |sizes: &[usize], reversed: bool| {
        let mut order = examples.clone();
        if reversed {
            order.reverse();
        }
        let stats = sft_accumulate(&decoder, &batches(&order, sizes), false, HeadOptions::default()).unwrap();
        (stats.loss, take_gradients(&decoder))
    };
    let (loss, whole) = run(&[16], false);
    for (what, sizes, reversed) in [
        ("one by one", vec![1; 16], false),
        ("uneven", vec![3, 1, 7, 5], false),
        ("reversed", vec![16], true),
    ] {
        let (other_loss, other) = run(&sizes, reversed);
        assert!((loss - other_loss).abs() < 1e-5, "{what}: loss {other_loss} against {loss}");
        assert_close(&whole, &other, what);
    }
}

#[test]
fn the_chunked_head_equals_whole_cross_entropy_in_value_and_gradient() {
    // The embedding is the head too, so its gradient has two sources.
    let decoder = tiny(&["proj", "embed_tokens", "norm"]);
    let batch = batches(&examples(6), &[6]).remove(0);
    let plain = {
        let hidden = decoder.hidden(&batch).unwrap();
        let (rows, targets): (Vec<i64>, Vec<i64>) =
            batch.targets().map(|(p, t, _)| (p as i64, batch.ids()[t])).unzip();
        let logits = decoder.logits(&hidden.index_select(0, &Tensor::from_slice(&rows)));
        let loss = logits.cross_entropy_for_logits(&Tensor::from_slice(&targets));
        loss.backward();
        (loss.double_value(&[]), take_gradients(&decoder))
    };
    for chunk in [1, 5, 1000] {
        let options = HeadOptions { chunk, ..HeadOptions::default() };
        let stats = sft_accumulate(&decoder, std::slice::from_ref(&batch), false, options).unwrap();
        assert!((stats.loss - plain.0).abs() < 1e-5, "chunk {chunk}: {} against {}", stats.loss, plain.0);
        assert_close(&plain.1, &take_gradients(&decoder), &format!("chunk {chunk}"));
    }
}

#[test]
fn checkpointed_activations_give_the_same_gradient() {
    for trained in [vec!["proj"], vec!["proj", "embed_tokens"], vec!["layers.2"]] {
        let decoder = tiny(&trained);
        let all = batches(&examples(6), &[2, 4]);
        let plain = sft_accumulate(&decoder, &all, false, HeadOptions::default()).unwrap();
        let gradients = take_gradients(&decoder);
        let checkpointed = sft_accumulate(&decoder, &all, true, HeadOptions::default()).unwrap();
        assert_eq!(plain.loss, checkpointed.loss);
        assert_close(&gradients, &take_gradients(&decoder), "checkpointed");
    }
}

/// A reference or a validation, which record no gradients, and a block before its recomputation say bit for bit what a
/// training step says, of families too that autograd records, in bf16 too.
#[test]
fn a_pass_says_the_same_with_and_without_gradients() {
    let ids: Vec<i64> = (0..48).map(|t| 3 + t * 7 % 40).collect();
    let segments = vec![Segment { range: 0..30, prefix: None }, Segment { range: 30..48, prefix: None }];
    let mask = (0..48).map(|t| t != 0 && t != 30).collect();
    let batch = Batch::new(ids, mask, segments).unwrap();
    for name in ["llama", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2", "olmo2", "mixtral"] {
        let folder = format!("{}/../../fixtures/golden/tiny_models/{name}", env!("CARGO_MANIFEST_DIR"));
        let source = Source::Directory(folder.into());
        for kind in [Kind::Float, Kind::BFloat16] {
            let decoder = load_decoder(&source, kind, Device::Cpu).unwrap().decoder;
            unfreeze(decoder.leaves(), &Freeze::Nothing).unwrap();
            let said = |checkpointing| {
                Forward::run(&decoder, &batch, checkpointing).unwrap().graded().detach().copy()
            };
            let with = said(false);
            assert!(tch::no_grad(|| said(false)).equal(&with), "{name}, {kind:?}: no gradients");
            assert!(said(true).equal(&with), "{name}, {kind:?}: checkpointing");
        }
    }
    // Sums of so few products are the same in any order; those of wider models are not.
    let wide = tiny::sized(&["proj"], Kind::BFloat16, (256, 1024));
    let said =
        |checkpointing| Forward::recorded(&wide, &batch, checkpointing).unwrap().graded().detach().copy();
    let with = said(false);
    assert!(tch::no_grad(|| said(false)).equal(&with), "no gradients");
    assert!(said(true).equal(&with), "checkpointing");
}

#[test]
fn a_loss_on_states_of_tokens_takes_a_batch_without_targets() {
    let decoder = tiny(&["proj"]);
    let batch = batches(&examples(3), &[3]).remove(0);
    let segments = batch.segments().to_vec();
    let mute = Batch::new(batch.ids().to_vec(), vec![false; batch.n_tokens()], segments).unwrap();
    let tokens: Vec<usize> = batch.targets().map(|(predictor, ..)| predictor).collect();
    let by_targets = Forward::run(&decoder, &batch, false).unwrap();
    let gradient = by_targets.graded().detach() * 0.5 + 1.0;
    let said = by_targets.graded().detach().copy();
    by_targets.backward_from(&gradient).unwrap();
    let expect = take_gradients(&decoder);
    for checkpointing in [false, true] {
        let at = Forward::run_at(&decoder, &mute, checkpointing, &tokens).unwrap();
        assert_eq!(at.graded().detach(), said);
        at.backward_from(&gradient).unwrap();
        assert_close(&expect, &take_gradients(&decoder), "by tokens");
    }
    let error = |tokens: &[usize]| Forward::run_at(&decoder, &mute, false, tokens).err().unwrap().to_string();
    assert!(error(&[]).contains("no token to train on"));
    let n = mute.n_tokens();
    assert!(error(&[0, n]).contains(&format!("token {n} of a batch of {n}")), "{}", error(&[0, n]));
}

#[test]
fn sharing_the_prompt_changes_nothing() {
    let decoder = tiny(&["proj"]);
    let (p, c, r) = (vec![5, 9, 33, 2], vec![7, 1, 4], vec![60, 61, 3, 8, 20]);
    let pair = PairExample::new("p", p.clone(), c.clone(), r.clone()).unwrap();
    let shared = Batch::from_pairs(&[&pair, &pair]).unwrap();
    let alone = |answer: &[u32]| {
        let ids: Vec<i64> = p.iter().chain(answer).map(|&t| i64::from(t)).collect();
        let mask: Vec<bool> = (0..ids.len()).map(|t| t >= p.len()).collect();
        let range = 0..ids.len();
        Batch::new(ids, mask, vec![Segment { range, prefix: None }]).unwrap()
    };
    let logps = |batch: &Batch| {
        let forward = Forward::run(&decoder, batch, false).unwrap();
        let ids: Vec<i64> = batch.targets().map(|(_, t, _)| batch.ids()[t]).collect();
        score(&decoder, forward.graded(), &Tensor::from_slice(&ids), HeadOptions::default()).logps
    };
    let separate = Tensor::cat(&[logps(&alone(&c)), logps(&alone(&r))], 0).repeat([2]);
    let worst = (logps(&shared) - separate).abs().max().double_value(&[]);
    assert!(worst < 1e-5, "log-probabilities differ by {worst}");
}

#[test]
fn metrics_are_those_of_the_whole_softmax() {
    let decoder = tiny(&["proj"]);
    let batch = batches(&examples(4), &[4]).remove(0);
    let options = HeadOptions { chunk: 3, gradient: true, metrics: true };
    let stats = sft_accumulate(&decoder, std::slice::from_ref(&batch), false, options).unwrap();
    let hidden = decoder.hidden(&batch).unwrap();
    let (rows, targets): (Vec<i64>, Vec<i64>) =
        batch.targets().map(|(p, t, _)| (p as i64, batch.ids()[t])).unzip();
    let logps =
        decoder.logits(&hidden.index_select(0, &Tensor::from_slice(&rows))).log_softmax(-1, Kind::Float);
    let entropy = -(logps.exp() * &logps).sum(Kind::Float).double_value(&[]) / rows.len() as f64;
    let hits =
        logps.argmax(-1, false).eq_tensor(&Tensor::from_slice(&targets)).sum(Kind::Float).double_value(&[]);
    assert!((stats.entropy - entropy).abs() < 1e-4, "{} against {entropy}", stats.entropy);
    assert!((stats.mean_token_accuracy - hits / rows.len() as f64).abs() < 1e-9);
    assert_eq!(evaluate_nll(&decoder, &batch).unwrap().1, rows.len());
}

#[test]
fn frozen_means_bit_identical_and_trained_means_changed() {
    let decoder = tiny(&["q_proj"]);
    let before: Vec<(String, Tensor)> =
        decoder.named_tensors().into_iter().map(|(n, t)| (n, t.copy())).collect();
    let mut optimizer = AdamW::new(trained_params(&decoder), AdamWConfig::default()).unwrap();
    for _ in 0..3 {
        sft_accumulate(&decoder, &batches(&examples(4), &[4]), false, HeadOptions::default()).unwrap();
        optimizer.step(1e-2);
    }
    for ((name, old), (_, new)) in before.iter().zip(decoder.named_tensors()) {
        assert_eq!(old.equal(&new), !name.contains("q_proj"), "{name}");
    }
}

/// GPT-2's checkpoint holds its linear weights transposed; what learns is what the model computes with.
#[test]
fn gpt2_is_trained_whole() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/tiny_models/gpt2");
    let source = Source::Directory(folder.into());
    let decoder = load_decoder(&source, Kind::Float, Device::Cpu).unwrap().decoder;
    let ids: Vec<u32> = (3..15).collect();
    let example = Example::new("a", ids, [false, true].repeat(6)).unwrap();
    let before: Vec<Tensor> = decoder.named_tensors().iter().map(|(_, t)| t.copy()).collect();
    let params = unfreeze(decoder.leaves(), &Freeze::Nothing).unwrap();
    let mut optimizer = AdamW::new(params, AdamWConfig::default()).unwrap();
    let batch = Batch::from_examples(&[&example]).unwrap();
    let losses: Vec<f64> = (0..20)
        .map(|_| {
            let batch = std::slice::from_ref(&batch);
            let stats = sft_accumulate(&decoder, batch, false, HeadOptions::default()).unwrap();
            optimizer.step(1e-2);
            stats.loss
        })
        .collect();
    assert!(losses[19] < 0.2 * losses[0], "{losses:?}");
    for ((name, after), before) in decoder.named_tensors().iter().zip(&before) {
        assert!(!after.equal(before), "{name} did not learn");
    }
}

fn trained_params(decoder: &Decoder) -> Vec<Param> {
    decoder
        .named_tensors()
        .into_iter()
        .filter(|(_, t)| t.requires_grad())
        .map(|(n, t)| Param::new(n, t))
        .collect()
}

#[test]
fn clipping_bounds_the_joint_norm() {
    let mut gradients = [Tensor::from_slice(&[3.0f32, 0.0]), Tensor::from_slice(&[0.0f32, 4.0])];
    assert!((clip_grad_norm(&mut gradients, 1.0) - 5.0).abs() < 1e-6);
    assert!((clip_grad_norm(&mut gradients, 1.0) - 1.0).abs() < 1e-5);
}

#[test]
fn a_resumed_run_is_bit_identical_to_an_uninterrupted_one() {
    let run = |decoder: &Decoder, optimizer: &mut AdamW, sampler: &mut Sampler, steps: usize| -> Vec<f64> {
        let all = examples(9);
        (0..steps)
            .map(|_| {
                let picked: Vec<Example> = sampler.take(4).into_iter().map(|i| all[i].clone()).collect();
                let stats =
                    sft_accumulate(decoder, &batches(&picked, &[2, 2]), false, HeadOptions::default())
                        .unwrap();
                optimizer.gather();
                clip_grad_norm(&mut optimizer.gradients(), 0.5);
                optimizer.step(3e-3);
                stats.loss
            })
            .collect()
    };
    let start = || {
        let decoder = tiny(&["proj"]);
        let optimizer = AdamW::new(trained_params(&decoder), AdamWConfig::default()).unwrap();
        (decoder, optimizer, Sampler::new(9, 3, true))
    };
    let (decoder, mut optimizer, mut sampler) = start();
    let whole = run(&decoder, &mut optimizer, &mut sampler, 7);

    let dir = tempfile::tempdir().unwrap();
    let (first, mut first_optimizer, mut first_sampler) = start();
    let losses = run(&first, &mut first_optimizer, &mut first_sampler, 3);
    let state = RunState {
        version: ferrotune_train::CHECKPOINT_VERSION,
        run_hash: "h".to_owned(),
        step: 3,
        sampler: first_sampler,
        early_stop: EarlyStop::new(0),
        losses: losses.clone(),
        figures: BTreeMap::new(),
    };
    save_checkpoint(dir.path(), &state, &first_optimizer.state(), 2).unwrap();
    // A run killed while writing leaves a half checkpoint under another name; it is not taken for one.
    std::fs::create_dir(dir.path().join(".partial-000009")).unwrap();

    let path = latest_checkpoint(dir.path()).unwrap();
    assert!(load_checkpoint(&path, "other").unwrap_err().to_string().contains("another model"));
    let loaded = load_checkpoint(&path, "h").unwrap();
    let (second, mut second_optimizer, _) = start();
    second_optimizer.restore(3, |name| loaded.tensors.get(name).map(Tensor::shallow_clone)).unwrap();
    let mut second_sampler = loaded.state.sampler;
    let rest = run(&second, &mut second_optimizer, &mut second_sampler, 4);

    assert_eq!(whole, [losses, rest].concat());
    for ((name, a), (_, b)) in decoder.named_tensors().iter().zip(second.named_tensors()) {
        assert!(a.equal(&b), "{name} differs after the resume");
    }
}

fn state(step: usize) -> RunState {
    RunState {
        version: ferrotune_train::CHECKPOINT_VERSION,
        run_hash: "h".to_owned(),
        step,
        sampler: Sampler::new(9, 3, true),
        early_stop: EarlyStop::new(0),
        losses: vec![1.5, 0.1 + 0.2],
        figures: BTreeMap::new(),
    }
}

#[test]
fn old_checkpoints_go_and_the_newest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [("w".to_owned(), Tensor::ones([3], (Kind::Float, Device::Cpu)))];
    for step in [5, 10, 15, 20] {
        save_checkpoint(dir.path(), &state(step), &tensors, 2).unwrap();
    }
    let mut names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-000015", "step-000020"]);
    assert!(latest_checkpoint(dir.path()).unwrap().ends_with("step-000020"));
}

#[test]
fn a_checkpoint_of_the_first_version_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [("w".to_owned(), Tensor::from_slice(&[1.0f32, -2.5]))];
    let old = RunState { version: 1, ..state(4) };
    let path = save_checkpoint(dir.path(), &old, &tensors, 2).unwrap();
    let found = load_checkpoint(&path, "h").unwrap();
    assert_eq!(found.state.losses, [1.5, 0.1 + 0.2]);
    assert_eq!(found.tensors["w"], tensors[0].1);
    let newer = RunState { version: 99, ..state(6) };
    let path = save_checkpoint(dir.path(), &newer, &tensors, 2).unwrap();
    assert!(load_checkpoint(&path, "h").unwrap_err().to_string().contains("version 99"));
}

/// A limit on file sizes is what a full disk looks like to a program; it holds for a whole process, so the saving is
/// done in another one.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_while_saving_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = [("w".to_owned(), Tensor::ones([3], (Kind::Float, Device::Cpu)))];
    save_checkpoint(dir.path(), &state(1), &small, 2).unwrap();
    let name = "what_saves_under_a_limit";
    let script = format!("trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact {name} --nocapture");
    let status = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("FULL_DISK", dir.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    std::fs::remove_file(dir.path().join("said")).unwrap();
    assert!(said.contains("cannot write") && said.contains("tensors.safetensors"), "{said}");
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["step-000001"], "the old checkpoint stays, nothing half-written does");
    let kept = load_checkpoint(&latest_checkpoint(dir.path()).unwrap(), "h").unwrap();
    assert_eq!(kept.tensors["w"], small[0].1);
}

/// The other process of the test above; by itself it does nothing.
#[test]
fn what_saves_under_a_limit() {
    let Some(dir) = std::env::var_os("FULL_DISK") else { return };
    let large = [("w".to_owned(), Tensor::ones([100_000], (Kind::Float, Device::Cpu)))];
    let error = save_checkpoint(std::path::Path::new(&dir), &state(2), &large, 2).unwrap_err();
    std::fs::write(std::path::Path::new(&dir).join("said"), error.to_string()).unwrap();
}

#[test]
fn bf16_parameters_keep_fp32_masters() {
    let leaf = Tensor::ones([8], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true);
    let mut optimizer =
        AdamW::new(vec![Param::new("w", leaf.shallow_clone())], AdamWConfig::default()).unwrap();
    for _ in 0..40 {
        (&leaf * 1.0f64).sum(Kind::Float).backward();
        optimizer.gather();
        optimizer.step(1e-4);
    }
    // 40 steps of 1e-4 down from 1: each alone is below bf16's spacing of 2^-8 and would be lost.
    let (_, master) = &optimizer.state()[0];
    assert!((master.double_value(&[0]) - 0.996).abs() < 1e-5, "{}", master.double_value(&[0]));
    assert!((leaf.double_value(&[0]) - 0.996).abs() < 4e-3);
}

#[test]
fn a_batch_with_nothing_to_train_on_is_an_error() {
    let decoder = tiny(&["proj"]);
    let example = Example::new("empty", vec![1, 2, 3], vec![false; 3]).unwrap();
    let batch = Batch::from_examples(&[&example]).unwrap();
    let error = sft_accumulate(&decoder, &[batch], false, HeadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no token to train on"), "{error}");
    let too_large = Example::new("x", vec![1, VOCAB as u32], vec![false, true]).unwrap();
    let batch = Batch::from_examples(&[&too_large]).unwrap();
    let error = sft_accumulate(&decoder, &[batch], false, HeadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("outside the model's vocabulary"), "{error}");
}
