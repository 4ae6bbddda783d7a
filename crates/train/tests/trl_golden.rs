//! The first ten steps of TRL's SFTTrainer, step by step: `golden/trl_sft.py` made the values.

use std::path::Path;

use ferrotune_model::checkpoint::{Source, load_decoder};
use ferrotune_peft::{LoadOptions, load};
use ferrotune_train::{AdamW, AdamWConfig, HeadOptions, Param, clip_grad_norm, sft_accumulate};
use ferrotune_types::{Batch, Example};
use serde_json::Value;
use tch::{Device, Kind};

fn close(what: &str, step: usize, ours: f64, trl: &Value, tolerance: f64) {
    let trl = trl.as_f64().unwrap();
    assert!((ours - trl).abs() < tolerance, "step {step}: {what} is {ours}, TRL's is {trl}");
}

#[test]
fn the_first_ten_losses_are_those_of_trl() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(here.join("tests/golden/trl_sft.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let base = Source::Directory(here.join("../../fixtures/tiny/llama"));
    let mut decoder = load_decoder(&base, Kind::Float, Device::Cpu).unwrap().decoder;
    let adapter = load(&mut decoder, &here.join("tests/golden/trl_sft"), &LoadOptions::default()).unwrap();
    for (_, tensor) in adapter.parameters() {
        let _ = tensor.set_requires_grad(true);
    }
    let params = adapter.parameters().into_iter().map(|(name, tensor)| Param::new(name, tensor)).collect();
    let mut optimizer = AdamW::new(params, AdamWConfig::default()).unwrap();

    let examples: Vec<Example> = golden["examples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let ids = serde_json::from_value(row["ids"].clone()).unwrap();
            Example::new("row", ids, serde_json::from_value(row["loss_mask"].clone()).unwrap()).unwrap()
        })
        .collect();
    let head = HeadOptions { metrics: true, ..HeadOptions::default() };
    let log = golden["log"].as_array().unwrap();
    assert_eq!(log.len(), 10);
    let mut n_tokens = 0;
    for (step, (rows, trl)) in
        examples.chunks(golden["batch"].as_u64().unwrap() as usize).zip(log).enumerate()
    {
        let batch = Batch::from_examples(&rows.iter().collect::<Vec<_>>()).unwrap();
        let stats = sft_accumulate(&decoder, &[batch], false, head).unwrap();
        let norm = clip_grad_norm(&mut optimizer.gradients(), golden["max_grad_norm"].as_f64().unwrap());
        optimizer.step(golden["learning_rate"].as_f64().unwrap());
        n_tokens += stats.n_tokens;
        close("loss", step, stats.loss, &trl["loss"], 1e-4);
        close("grad_norm", step, norm, &trl["grad_norm"], 2e-3);
        close("num_tokens", step, n_tokens as f64, &trl["num_tokens"], 0.5);
        // TRL takes the mean of its micro-batches' shares, we the share of all tokens.
        close("mean_token_accuracy", step, stats.mean_token_accuracy, &trl["mean_token_accuracy"], 0.1);
        close("entropy", step, stats.entropy, &trl["entropy"], 2e-3);
    }
}
