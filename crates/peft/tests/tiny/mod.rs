//! The tiny random Llama of `golden/base`, with or without tied embeddings, and its batch.

#![expect(dead_code, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "test data that must be there")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use ferrotune_model::{Decoder, WeightMap, families};
use ferrotune_peft::{Adapter, Init, LoraConfig, inject};
use ferrotune_types::{Batch, Example};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

/// Logits of the golden batch, row after row.
pub(crate) fn expected(file: &str, case: &str) -> Vec<f64> {
    json(file)[case].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

pub(crate) fn base(tied: bool) -> Decoder {
    base_of(tied, Kind::Float)
}

pub(crate) fn base_of(tied: bool, kind: Kind) -> Decoder {
    let bytes = std::fs::read(golden("base/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors().into_iter().filter(|(name, _)| !(tied && name == "lm_head.weight")) {
        let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        tensors.insert(name, Tensor::from_data_size(view.data(), &size, Kind::Float));
    }
    let mut config = json("base/config.json");
    config["tie_word_embeddings"] = tied.into();
    let config = families::decoder_config(&config).unwrap();
    Decoder::load(config, &mut WeightMap::new(&tensors, kind, Device::Cpu), kind, Device::Cpu).unwrap()
}

pub(crate) fn batch() -> Batch {
    let ids: Vec<u32> = json("theirs_logits.json")["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap() as u32)
        .collect();
    let mut mask = vec![true; ids.len()];
    mask[0] = false;
    Batch::from_examples(&[&Example::new("golden", ids, mask).unwrap()]).unwrap()
}

pub(crate) fn logits(decoder: &Decoder) -> Tensor {
    tch::no_grad(|| decoder.logits(&decoder.hidden(&batch()).unwrap()).to_kind(Kind::Float))
}

pub(crate) fn max_diff(found: &Tensor, expected: &[f64]) -> f64 {
    let expected = Tensor::from_slice(expected).view_as(found);
    (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[])
}

/// The adapters that `examples/write_golden.rs` writes and `golden/make.py ours` reads: name, and config.
pub(crate) fn ours() -> Vec<(&'static str, LoraConfig)> {
    let config = |json: &str| serde_json::from_str::<LoraConfig>(json).unwrap();
    vec![
        (
            "lora",
            config(
                r#"{"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "init_lora_weights": false}"#,
            ),
        ),
        (
            "dora",
            config(
                r#"{"r": 2, "lora_alpha": 4, "use_dora": true, "init_lora_weights": false,
            "target_modules": ["q_proj", "down_proj"]}"#,
            ),
        ),
        (
            "whole",
            config(
                r#"{"r": 2, "bias": "all", "init_lora_weights": false, "target_modules": ["v_proj"],
            "modules_to_save": ["embed_tokens", "lm_head", "up_proj"]}"#,
            ),
        ),
        (
            "pissa",
            config(
                r#"{"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa", "target_modules": ["k_proj", "o_proj"],
            "rank_pattern": {"o_proj": 3}, "alpha_pattern": {"o_proj": 9}}"#,
            ),
        ),
        (
            "olora_rslora",
            config(
                r#"{"r": 4, "lora_alpha": 8, "init_lora_weights": "olora", "use_rslora": true,
            "target_modules": ["k_proj", "o_proj"]}"#,
            ),
        ),
        (
            "layers",
            config(
                r#"{"r": 3, "lora_alpha": 5, "bias": "lora_only", "init_lora_weights": false,
            "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"], "exclude_modules": ["up_proj"],
            "layers_to_transform": [0]}"#,
            ),
        ),
        (
            "dora_rslora",
            config(
                r#"{"r": 4, "lora_alpha": 8, "use_dora": true, "use_rslora": true, "init_lora_weights": false,
            "target_modules": ["q_proj", "gate_proj"], "modules_to_save": ["lm_head"]}"#,
            ),
        ),
        (
            "tied_embedding",
            config(r#"{"r": 2, "init_lora_weights": false, "modules_to_save": ["embed_tokens"]}"#),
        ),
        // Above the smaller side of k_proj's (8, 16), which PEFT allows; OLoRA's rank is doubled on saving.
        (
            "wide",
            config(
                r#"{"r": 24, "lora_alpha": 12, "init_lora_weights": false, "target_modules": ["q_proj", "k_proj"]}"#,
            ),
        ),
        (
            "olora_wide",
            config(
                r#"{"r": 8, "lora_alpha": 8, "init_lora_weights": "olora", "target_modules": ["k_proj"]}"#,
            ),
        ),
        ("tied_head", config(r#"{"r": 2, "init_lora_weights": false, "modules_to_save": ["lm_head"]}"#)),
    ]
}

/// A base with the adapter `name` of [`ours`] on it, "trained": every tensor is 1.5 times its beginning.
pub(crate) fn ours_on_base(name: &str) -> (Decoder, Adapter) {
    let (_, config) = ours().into_iter().find(|(n, _)| *n == name).unwrap();
    let mut decoder = base(name.starts_with("tied"));
    let adapter = inject(&mut decoder, &config, 7).unwrap();
    train(&adapter);
    (decoder, adapter)
}

pub(crate) fn train(adapter: &Adapter) {
    tch::no_grad(|| {
        adapter.parameters().iter_mut().for_each(|(_, p)| {
            let _ = p.g_mul_scalar_(1.5);
        });
    });
}

/// A small adapter on all linear layers that is not zero.
pub(crate) fn random_adapter() -> LoraConfig {
    LoraConfig { init_lora_weights: Init::Random, ..LoraConfig::all_linear(4, 8.0) }
}
