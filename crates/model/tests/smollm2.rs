//! A real model: SmolLM2-135M-Instruct from its GGUF file, against transformers on the same dequantised weights
//! (`fixtures/golden/smollm2.py`).

use std::path::PathBuf;

use ferrotune_model::checkpoint::{Source, load_decoder};
use ferrotune_model::generate::{Flow, Sampling, generate, perplexity};
use ferrotune_model::{keep_freed_memory, quantize_int8};
use serde_json::Value;
use tch::{Device, Kind};

#[test]
fn perplexity_and_greedy_continuations_are_those_of_transformers() {
    let Some(home) = std::env::var_os("FERROTUNE_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ferrotune")))
    else {
        return;
    };
    let path = home.join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.is_file() {
        eprintln!("skipped: {} is absent; `cargo xtask setup` fetches it", path.display());
        return;
    }
    keep_freed_memory();
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/smollm2.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let ids = |v: &Value| -> Vec<u32> {
        v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let mut decoder = load_decoder(&Source::Gguf(path), Kind::Float, Device::Cpu).unwrap().decoder;

    let text = ids(&golden["ids"]);
    let got = perplexity(&decoder, &text, 1024).unwrap();
    let nll: f64 = golden["nll"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum();
    let expect = (nll / got.n_tokens as f64).exp();
    assert!((got.value() / expect - 1.0).abs() < 1e-3, "{} is not {expect}", got.value());

    let rows = golden["greedy"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["prompt"])).collect();
    let sampling = Sampling { max_new_tokens: 12, ..Sampling::default() };
    let out = generate(&decoder, &prompts, &sampling, &mut |_, _| Flow::Continue).unwrap();
    for (row, got) in rows.iter().zip(out) {
        assert_eq!(got.ids, ids(&row["ids"]), "{}", row["text"]);
    }

    // In 8 bits it loses next to nothing: long windows are multiplied by libtorch, short ones in whole numbers.
    let short = perplexity(&decoder, &text[..512], 64).unwrap();
    quantize_int8(&mut decoder);
    let loss = perplexity(&decoder, &text[..512], 64).unwrap().value() / short.value() - 1.0;
    eprintln!("int8, windows of 64: {:+.3} %", loss * 100.0);
    assert!(loss.abs() < 0.01, "int8 changes the perplexity of short windows by {:.2} %", loss * 100.0);
    let rounded = perplexity(&decoder, &text[..1024], 1024).unwrap();
    let nll = golden["nll"][0].as_f64().unwrap();
    let loss = rounded.value() / (nll / rounded.n_tokens as f64).exp() - 1.0;
    eprintln!("int8, a window of 1,024: {:+.3} %", loss * 100.0);
    assert!(loss.abs() < 0.01, "int8 changes the perplexity by {:.2} %", loss * 100.0);
}
