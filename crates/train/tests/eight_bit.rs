//! AdamW with moments in 8 bits: against the formulas with bitsandbytes' tables (`golden/eight_bit.py`), beside fp32,
//! and through a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use ferrotune_train::{
    AdamW, AdamWConfig, CHECKPOINT_VERSION, EarlyStop, Param, RunState, Sampler, load_checkpoint,
    save_checkpoint,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// The golden script's numbers: a linear congruence, in −0.5..0.5.
fn unit(n: u64, seed: u64) -> Vec<f64> {
    let draw = |i: u64| (i.wrapping_mul(2_654_435_761) % (1 << 32) / 256) as f64 / f64::from(1 << 24) - 0.5;
    (0..n).map(|i| draw(i + seed * n)).collect()
}

fn gradient(n: u64, step: u64) -> Tensor {
    let draws = unit(n, step);
    let values = draws.iter().enumerate().map(|(i, x)| (x.powi(3) * (1 + i / 256 % 7) as f64) as f32);
    Tensor::from_slice(&values.collect::<Vec<f32>>())
}

fn weight(n: u64) -> Tensor {
    let values: Vec<f32> = unit(n, 0).iter().map(|&x| x as f32).collect();
    Tensor::from_slice(&values).set_requires_grad(true)
}

fn optimizer(weight: &Tensor, eight_bit: bool) -> AdamW {
    let config = AdamWConfig { weight_decay: 0.1, eight_bit, ..AdamWConfig::default() };
    AdamW::new(vec![Param::new("w", weight.shallow_clone())], config).unwrap()
}

fn step(optimizer: &mut AdamW, weight: &Tensor, gradient: &Tensor) {
    (weight * gradient).sum(Kind::Float).backward();
    optimizer.gather();
    optimizer.step(1e-2);
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn moments_are_rounded_to_bitsandbytes_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/eight_bit.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let n = golden["n"].as_u64().unwrap();
    let weight = weight(n);
    let mut optimizer = optimizer(&weight, true);
    for i in 1..=golden["steps"].as_u64().unwrap() {
        step(&mut optimizer, &weight, &gradient(n, i));
    }
    let state: BTreeMap<String, Tensor> = optimizer.state().into_iter().collect();
    let weights = Vec::<f64>::try_from(state["weight.w"].to_kind(Kind::Double)).unwrap();
    let theirs = floats(&golden["weight"]);
    let apart: Vec<f64> = weights.iter().step_by(7).zip(&theirs).map(|(a, b)| (a - b).abs()).collect();
    // A moment right between two values of the table may go either way by its last bit, and moves its weight a little.
    let off = apart.iter().filter(|&&x| x > 2e-5).count();
    assert!(off * 20 <= apart.len(), "{off} of {} weights differ", apart.len());
    assert!(
        apart.iter().all(|&x| x < 5e-3),
        "a weight is off by {}",
        apart.iter().fold(0.0, |a: f64, &b| a.max(b))
    );
    for part in ["exp_avg", "exp_avg_sq"] {
        let codes = Vec::<i64>::try_from(state[&format!("{part}.codes.w")].to_kind(Kind::Int64)).unwrap();
        let theirs = floats(&golden[format!("{part}.codes")]);
        let pairs: Vec<(f64, f64)> = codes.iter().step_by(7).map(|&c| c as f64).zip(theirs).collect();
        assert!(pairs.iter().all(|(a, b)| (a - b).abs() <= 1.0), "{part}: a code is off by more than one");
        let off = pairs.iter().filter(|(a, b)| a != b).count();
        // fp32 has 1 − β₂ to 5e-5 only, which a value right between two of the table shows.
        assert!(off * 20 <= pairs.len(), "{part}: {off} of {} codes differ", pairs.len());
        let absmax = Vec::<f64>::try_from(state[&format!("{part}.absmax.w")].to_kind(Kind::Double)).unwrap();
        for (ours, theirs) in absmax.iter().zip(floats(&golden[format!("{part}.absmax")])) {
            assert!((ours / theirs - 1.0).abs() < 1e-4, "{part}: a scale is {ours}, not {theirs}");
        }
    }
}

#[test]
fn it_follows_fp32_closely_and_takes_a_quarter_of_its_memory() {
    let n = 20_000;
    let run = |eight_bit: bool| {
        let weight = weight(n);
        let mut optimizer = optimizer(&weight, eight_bit);
        // Towards 0.3, with noise: a quadratic that AdamW walks down.
        for i in 1..=60 {
            let pull = tch::no_grad(|| (&weight - 0.3) + gradient(n, i));
            step(&mut optimizer, &weight, &pull);
        }
        (weight.detach(), optimizer.n_bytes())
    };
    let ((full, full_bytes), (small, small_bytes)) = (run(false), run(true));
    let moved = (&full - weight(n)).norm().double_value(&[]);
    let apart = (&full - &small).norm().double_value(&[]);
    assert!(apart < 0.05 * moved, "{apart} apart after a way of {moved}");
    assert!(small_bytes * 39 < full_bytes * 10, "{small_bytes} bytes against {full_bytes}");
}

#[test]
fn small_tensors_keep_fp32_moments() {
    let weight = weight(4095);
    let state = optimizer(&weight, true).state();
    let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["weight.w", "exp_avg.w", "exp_avg_sq.w"]);
}

#[test]
fn the_kernel_and_libtorchs_operations_do_the_same() {
    // A weight that is not contiguous goes by libtorch's operations.
    let n = 6000;
    let (plain, by_operations) = (weight(n), {
        let values = weight(n).detach().view([60, 100]).tr().contiguous().tr();
        values.set_requires_grad(true)
    });
    assert!(!by_operations.is_contiguous());
    let (mut a, mut b) = (optimizer(&plain, true), optimizer(&by_operations, true));
    for i in 1..=8 {
        step(&mut a, &plain, &gradient(n, i));
        step(&mut b, &by_operations, &gradient(n, i).view([60, 100]));
    }
    let apart = (plain.detach() - by_operations.detach().reshape([-1])).abs();
    let off = apart.gt(1e-5).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    // As above: a tie may fall either way.
    assert!(off < 0.01 && apart.max().double_value(&[]) < 5e-3, "{off} of the weights differ");
}

#[test]
fn a_checkpoint_brings_them_back_bit_by_bit() {
    let n = 5000;
    let weight = weight(n);
    let mut whole = optimizer(&weight, true);
    for i in 1..=3 {
        step(&mut whole, &weight, &gradient(n, i));
    }
    let dir = tempfile::tempdir().unwrap();
    let state = RunState {
        version: CHECKPOINT_VERSION,
        run_hash: "h".to_owned(),
        step: 3,
        sampler: Sampler::new(1, 0, false),
        early_stop: EarlyStop::new(0),
        losses: Vec::new(),
        figures: BTreeMap::new(),
    };
    let path = save_checkpoint(dir.path(), &state, &whole.state(), 1).unwrap();
    let loaded = load_checkpoint(&path, "h").unwrap();
    let resumed_weight = Tensor::zeros([n as i64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let mut resumed = optimizer(&resumed_weight, true);
    resumed.restore(3, |name| loaded.tensors.get(name).map(Tensor::shallow_clone)).unwrap();
    for i in 4..=6 {
        step(&mut whole, &weight, &gradient(n, i));
        step(&mut resumed, &resumed_weight, &gradient(n, i));
    }
    for ((name, a), (_, b)) in whole.state().iter().zip(resumed.state()) {
        assert!(a.equal(&b), "{name} differs");
    }
    let mut other = optimizer(&resumed_weight, false);
    let error = other.restore(3, |name| loaded.tensors.get(name).map(Tensor::shallow_clone)).unwrap_err();
    assert!(error.to_string().contains("exp_avg.w is not in the checkpoint"), "{error}");
}
