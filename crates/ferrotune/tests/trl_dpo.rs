//! The first steps of TRL's DPOTrainer, from a file of chats with an implicit prompt to the logged metrics:
//! `golden/trl_dpo.py` made the values.
#![cfg(feature = "torch")]

mod trl;

use std::path::Path;

use ferrotune::model_store::{self, Place};
use ferrotune::recipes::{DpoConfig, dpo, pair_examples};
use ferrotune_data::read::{self, ReadOptions};
use ferrotune_peft::{LoadOptions, load};
use ferrotune_tokenizer::Limits;
use serde_json::Value;

#[test]
fn the_first_steps_are_those_of_trl() {
    tch::set_num_threads(1);
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let golden: Value =
        serde_json::from_str(&std::fs::read_to_string(here.join("trl_dpo.json")).unwrap()).unwrap();
    let base = here.join("../../../../fixtures/tiny/llama").display().to_string();
    let mut model = model_store::load(&base, Place::parse("cpu", "fp32").unwrap(), "").unwrap();

    // The data: the prompt is what both chats begin with, and every token is TRL's.
    let (records, dropped, _) =
        read::open(&here.join("trl_dpo/pairs.jsonl"), &ReadOptions::default()).unwrap();
    assert!(dropped.is_empty());
    let pairs: Vec<_> = records.into_iter().filter_map(|r| r.item.into_pair()).collect();
    let made = pair_examples(&pairs, model.template().unwrap(), &model.tokenizer, &Limits::default())
        .unwrap()
        .examples;
    for (ours, trl) in made.iter().zip(golden["pairs"].as_array().unwrap()) {
        for (name, ours) in
            [("prompt", ours.prompt()), ("chosen", ours.chosen()), ("rejected", ours.rejected())]
        {
            let trl: Vec<u32> = serde_json::from_value(trl[name].clone()).unwrap();
            assert_eq!(ours, trl, "{name}");
        }
    }

    // The training: the reference is the adapter as it began.
    let adapter = load(&mut model.decoder, &here.join("trl_dpo"), &LoadOptions::default()).unwrap();
    for (_, tensor) in adapter.parameters() {
        let _ = tensor.set_requires_grad(true);
    }
    let number = |name: &str| golden[name].as_f64().unwrap();
    let log = golden["log"].as_array().unwrap();
    assert_eq!(log.len(), 8);
    let config = DpoConfig {
        steps: log.len(),
        batch: number("batch") as usize,
        accumulation: number("accumulation") as usize,
        beta: number("beta"),
        lr: number("learning_rate"),
        max_grad_norm: number("max_grad_norm"),
        schedule: "constant".to_owned(),
        shuffle: false,
        head_metrics: true,
        ..DpoConfig::default()
    };
    let dir = tempfile::tempdir().unwrap();
    dpo(&model.decoder, &adapter, &made, &[], &config, dir.path(), "h").unwrap();
    let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    for (ours, trl) in text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).zip(log) {
        for (name, trl) in trl.as_object().unwrap() {
            trl::check("dpo", &ours, name, trl);
        }
    }
}
