//! What must hold for every adapter, whatever its numbers.

mod tiny;

use ferrotune_model::checkpoint::{Source, load_decoder};
use ferrotune_peft::{
    BiasMode, Init, LoadOptions, LoraConfig, Neftune, PeftError, Targets, inject, load, merge, merge_checked,
    save, unmerge,
};
use tch::{Device, Kind, Tensor};
use tiny::{base, base_of, batch, logits};

fn diff(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn weights(decoder: &ferrotune_model::Decoder) -> Vec<(String, Tensor)> {
    decoder.named_tensors().into_iter().map(|(name, t)| (name, t.copy())).collect()
}

fn variants() -> Vec<(&'static str, LoraConfig)> {
    let plain = LoraConfig::all_linear(4, 8.0);
    let with = |init| LoraConfig { init_lora_weights: init, ..plain.clone() };
    vec![
        ("lora", plain.clone()),
        ("gaussian", with(Init::Gaussian)),
        ("rslora", LoraConfig { use_rslora: true, ..plain.clone() }),
        ("dora", LoraConfig { use_dora: true, ..plain.clone() }),
        ("pissa", with(Init::Pissa)),
        ("olora", with(Init::Olora)),
        (
            "whole",
            LoraConfig {
                bias: BiasMode::All,
                modules_to_save: Some(vec!["embed_tokens".into(), "lm_head".into()]),
                ..plain
            },
        ),
    ]
}

#[test]
fn a_new_adapter_changes_nothing() {
    for (name, config) in variants() {
        for tied in [false, true] {
            let mut decoder = base(tied);
            let before = logits(&decoder);
            inject(&mut decoder, &config, 3).unwrap();
            let found = diff(&logits(&decoder), &before);
            // PiSSA, OLoRA and DoRA add up to the base by rounding; the others add an exact zero, but the base
            // alone multiplies q, k and v in one product, whose sums may round otherwise.
            let limit = if ["pissa", "olora", "dora"].contains(&name) { 2e-5 } else { 2e-6 };
            assert!(found <= limit, "{name}: {found}");
        }
    }
}

/// With the adapter off the model computes what its base does, and taken off it is its base bit by bit, even
/// after training.
#[test]
fn off_is_the_base_and_on_is_the_adapter_again() {
    for (name, config) in variants() {
        let mut decoder = base(true);
        let (before, weights) = (logits(&decoder), weights(&decoder));
        let adapter = inject(&mut decoder, &config, 3).unwrap();
        tch::no_grad(|| {
            adapter.parameters().iter_mut().for_each(|(_, p)| {
                let _ = p.g_add_scalar_(0.01);
            });
        });
        let adapted = logits(&decoder);
        assert!(diff(&adapted, &before) > 1e-3, "{name}");
        let off = adapter.without(|| logits(&decoder));
        assert!(diff(&off, &before) < 2e-6, "{name}: switched off");
        assert_eq!(logits(&decoder), adapted, "{name}: on again");
        adapter.detach(&mut decoder);
        assert_eq!(logits(&decoder), before, "{name}: detached");
        assert_eq!(self::weights(&decoder), weights, "{name}: detached");
        adapter.attach(&mut decoder).unwrap();
        assert_eq!(logits(&decoder), adapted, "{name}: attached again");
    }
}

/// What the lean forward pass (in place, scaled in the middle) differentiates to is what the plain formula does.
#[test]
fn gradients_are_those_of_the_formula() {
    for config in
        [LoraConfig::all_linear(4, 8.0), LoraConfig { use_dora: true, ..LoraConfig::all_linear(4, 8.0) }]
    {
        let config = LoraConfig { init_lora_weights: Init::Random, ..config };
        let mut decoder = base(false);
        let adapter = inject(&mut decoder, &config, 5).unwrap();
        let linear = decoder.linears()[0];
        let layer = &adapter.layers()[0];
        let x = Tensor::randn([5, 16], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let pull = Tensor::randn([5, 16], (Kind::Float, tch::Device::Cpu));
        let w = linear.weight.dense(Kind::Float);
        let sum = &w + layer.b.matmul(&layer.a) * layer.scale;
        let weight = match &layer.magnitude {
            None => sum,
            Some(m) => {
                let norm =
                    sum.detach().square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float).sqrt();
                sum * (m / norm).unsqueeze(1)
            }
        };
        let plain = x.linear(&weight, linear.bias.as_ref());
        let lean = linear.forward(&x);
        assert!(diff(&plain, &lean) < 1e-5);
        let mut inputs = vec![&x, &layer.a, &layer.b];
        inputs.extend(&layer.magnitude);
        let gradients =
            |y: &Tensor| Tensor::run_backward(&[(y * &pull).sum(Kind::Float)], &inputs, true, false);
        for (a, b) in gradients(&plain).iter().zip(&gradients(&lean)) {
            let scale = a.abs().max().double_value(&[]).max(1.0);
            assert!(diff(a, b) < 1e-5 * scale, "{} against {scale}", diff(a, b));
        }
    }
}

#[test]
fn only_the_adapter_is_trained() {
    let mut decoder = base(false);
    let _ = decoder.embedding.set_requires_grad(true);
    let adapter = inject(&mut decoder, &LoraConfig::all_linear(4, 8.0), 1).unwrap();
    assert!(decoder.named_tensors().iter().all(|(_, t)| !t.requires_grad()));
    assert!(adapter.parameters().iter().all(|(_, t)| t.requires_grad() && t.kind() == Kind::Float));
    let loss = decoder.logits(&decoder.hidden(&batch()).unwrap()).square().mean(Kind::Float);
    loss.backward();
    let moved = adapter
        .parameters()
        .iter()
        .filter(|(_, t)| t.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0)
        .count();
    assert_eq!(moved, 14, "every B has a gradient; A has none while B is zero");
}

#[test]
fn merged_equals_adapted_and_unmerge_restores_every_bit() {
    for (name, config) in variants() {
        let mut decoder = base(true);
        let before = logits(&decoder);
        let adapter = inject(&mut decoder, &config, 3).unwrap();
        tch::no_grad(|| {
            adapter.parameters().iter_mut().for_each(|(_, p)| {
                let _ = p.g_add_scalar_(0.01);
            });
        });
        let adapted = logits(&decoder);
        let (merged, report) = merge_checked(&mut decoder, adapter, &batch()).unwrap();
        assert!(report.max_abs_diff < 1e-4 && report.mean_kl < 1e-6, "{name}: {report:?}");
        assert_eq!((report.same_top1, report.n_tokens), (1.0, 7), "{name}");
        assert!(decoder.linears().iter().all(|l| !l.has_adapter()));
        let adapter = unmerge(&mut decoder, merged).unwrap();
        assert_eq!(logits(&decoder), adapted, "{name}: unmerged");
        adapter.detach(&mut decoder);
        assert_eq!(logits(&decoder), before, "{name}: base");
    }
}

/// In bf16 the update runs in bf16 on fp32 parameters, and a merge is off by the rounding of the sum.
#[test]
fn a_bf16_model_trains_fp32_parameters() {
    let mut decoder = base_of(false, Kind::BFloat16);
    let adapter = inject(&mut decoder, &tiny::random_adapter(), 1).unwrap();
    let loss =
        decoder.logits(&decoder.hidden(&batch()).unwrap()).to_kind(Kind::Float).square().mean(Kind::Float);
    loss.backward();
    for (key, p) in adapter.parameters() {
        assert_eq!((p.kind(), p.grad().kind()), (Kind::Float, Kind::Float), "{key}");
    }
    let merged = merge(&mut decoder, adapter).unwrap();
    assert!(decoder.linears().iter().all(|l| l.weight.dense(Kind::BFloat16).kind() == Kind::BFloat16));
    drop(merged);
}

#[test]
fn neftune_noise_is_bounded_by_the_segment_and_repeats_with_its_seed() {
    let example =
        |n: u32| ferrotune_types::Example::new("e", (0..n).collect(), vec![false; n as usize]).unwrap();
    let batch = ferrotune_types::Batch::from_examples(&[&example(4), &example(16)]).unwrap();
    let x = Tensor::zeros([20, 16], (Kind::Float, tch::Device::Cpu));
    let noise_of = |seed: u64| Neftune::new(5.0, seed).add(x.shallow_clone(), &batch);
    let noise = noise_of(1);
    for (start, n) in [(0, 4), (4, 16)] {
        let largest = noise.narrow(0, start, n).abs().max().double_value(&[]);
        let bound = 5.0 / (n as f64 * 16.0).sqrt();
        assert!(largest <= bound && largest > 0.9 * bound, "{largest} of {bound}");
    }
    assert!(noise.mean(Kind::Float).double_value(&[]).abs() < 0.1);
    assert_eq!(noise, noise_of(1));
    assert_ne!(noise, noise_of(2));
    assert_eq!(Neftune::new(0.0, 1).add(x.shallow_clone(), &batch), x);

    // The same noise however a step is split into batches, and other noise for each of its examples.
    let split = Neftune::new(5.0, 1);
    let parts = [example(4), example(16)].map(|example| {
        let rows = x.narrow(0, 0, example.n_tokens() as i64);
        split.add(rows, &ferrotune_types::Batch::from_examples(&[&example]).unwrap())
    });
    assert_eq!(Tensor::cat(&parts, 0), noise);
    let (first, second) = (noise.narrow(0, 0, 4) * 2.0, noise.narrow(0, 4, 4) * 4.0);
    assert!(!first.allclose(&second, 1e-3, 1e-6, false), "two examples draw the same");
}

/// PEFT's `bias="all"` trains every bias of the model; GPT-2's norms have some.
#[test]
fn all_biases_are_those_of_norms_too() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/tiny_models/gpt2");
    let source = Source::Directory(folder.into());
    let from_disk = || load_decoder(&source, Kind::Float, Device::Cpu).unwrap().decoder;
    let mut decoder = from_disk();
    let config = LoraConfig { bias: BiasMode::All, ..LoraConfig::all_linear(2, 4.0) };
    let adapter = inject(&mut decoder, &config, 3).unwrap();
    let keys: Vec<String> = adapter.parameters().into_iter().map(|(key, _)| key).collect();
    let n_layers = decoder.config.num_hidden_layers;
    let norms = (0..n_layers).flat_map(|i| [format!("h.{i}.ln_1"), format!("h.{i}.ln_2")]);
    for norm in norms.chain(["ln_f".to_owned()]) {
        let key = format!("base_model.model.transformer.{norm}.bias");
        assert_eq!(keys.iter().filter(|k| **k == key).count(), 1, "{key} in {keys:?}");
    }

    // What is trained is what the model computes with; on disk and off the model it is as PEFT has it.
    let batch = ferrotune_types::Batch::new(
        vec![3, 7, 1, 9],
        vec![false; 4],
        vec![ferrotune_types::Segment { range: 0..4, prefix: None }],
    )
    .unwrap();
    let hidden = |decoder: &ferrotune_model::Decoder| tch::no_grad(|| decoder.hidden(&batch).unwrap());
    let base = hidden(&from_disk());
    assert_eq!(hidden(&decoder), base);
    tch::no_grad(|| {
        for (_, mut bias) in adapter.parameters().into_iter().filter(|(key, _)| key.contains(".ln_")) {
            let _ = bias.g_add_scalar_(0.5);
        }
    });
    let trained = hidden(&decoder);
    assert!(!trained.allclose(&base, 1e-3, 1e-3, false));
    let dir = tempfile::tempdir().unwrap();
    save(&adapter, dir.path()).unwrap();
    adapter.detach(&mut decoder);
    assert_eq!(hidden(&decoder), base);
    let mut again = from_disk();
    let _again = load(&mut again, dir.path(), &LoadOptions::default()).unwrap();
    assert_eq!(hidden(&again), trained);
}

#[test]
fn dropout_acts_in_training_only_and_repeats_with_its_seed() {
    let mut decoder = base(false);
    let config = LoraConfig { lora_dropout: 0.5, ..tiny::random_adapter() };
    for config in [config.clone(), LoraConfig { use_dora: true, ..config }] {
        let adapter = inject(&mut decoder, &config, 1).unwrap();
        let seeded = |seed| {
            tch::manual_seed(seed);
            logits(&decoder)
        };
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
        adapter.set_training(false);
        assert_eq!(seeded(1), seeded(2));
        adapter.detach(&mut decoder);
    }
}

#[test]
fn bad_wishes_are_clear_errors_and_change_nothing() {
    let check = |config: LoraConfig, expect: &str| {
        let mut decoder = base(false);
        let error = inject(&mut decoder, &config, 1).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        assert!(decoder.linears().iter().all(|l| !l.has_adapter()));
    };
    let on = |targets| LoraConfig { target_modules: Some(targets), ..LoraConfig::default() };
    check(on(Targets::suffixes(&["c_attn"])), "gate_proj");
    check(on(Targets::suffixes(&["lm_head"])), "modules_to_save");
    for init in [Init::Pissa, Init::Olora] {
        let config = LoraConfig { init_lora_weights: init, ..LoraConfig::all_linear(9, 8.0) };
        check(config, "rank 9 is not between 1 and 8");
    }
    check(LoraConfig::all_linear(i64::MAX, 8.0), "lower the rank");
    let whole = LoraConfig { modules_to_save: Some(vec!["score".into()]), ..LoraConfig::default() };
    check(whole, "\"score\" matches no layer");

    let mut decoder = base(false);
    inject(&mut decoder, &LoraConfig::default(), 1).unwrap();
    let error = inject(&mut decoder, &LoraConfig::default(), 1).unwrap_err();
    assert!(matches!(error, PeftError::Occupied { .. }), "{error}");
}

#[test]
fn the_table_counts_what_is_trained() {
    let mut decoder = base(false);
    let config = LoraConfig {
        target_modules: Some(Targets::suffixes(&["q_proj", "v_proj"])),
        ..LoraConfig::all_linear(4, 8.0)
    };
    let adapter = inject(&mut decoder, &config, 1).unwrap();
    let table = adapter.parameter_table(&decoder);
    assert_eq!(table.trainable, 2 * (4 * (16 + 16) + 4 * (16 + 8)));
    assert_eq!(table.trainable_bytes, 4 * table.trainable);
    let total: usize = decoder.named_tensors().iter().map(|(_, t)| t.numel()).sum();
    assert_eq!(table.base_parameters, total - 5 * 16, "all but the norms");
    let text = table.to_string();
    assert!(text.contains("q_proj") && text.contains("% of"), "{text}");
}
