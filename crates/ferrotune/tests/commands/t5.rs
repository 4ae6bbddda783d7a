//! `ferrotune generate` with a T5: what transformers writes for the same text (`fixtures/golden/tiny_models.py`).

use ferrotune_model::Tensors as _;
use ferrotune_model::checkpoint::Safetensors;
use serde_json::json;

use super::{Files, fails, json_of, root};

/// A tiny T5 whose token 17 is the word `t17`.
fn t5(files: &Files) -> String {
    let folder = files.path("t5");
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = root().join("fixtures/golden/tiny_models/t5").join(file);
        std::fs::copy(from, format!("{folder}/{file}")).unwrap();
    }
    let vocab: serde_json::Map<_, _> = (0..48).map(|id| (format!("t{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t2"}
    });
    files.with("t5/tokenizer.json", tokenizer.to_string());
    folder
}

fn golden(name: &str) -> Vec<i64> {
    let file = root().join("fixtures/golden/tiny_models/t5/golden.safetensors");
    Safetensors::open(&file).unwrap().read(name).unwrap().unwrap().try_into().unwrap()
}

fn text(ids: &[i64]) -> String {
    ids.iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_t5_writes_what_transformers_writes() {
    let files = Files::new();
    let model = t5(&files);
    for n in 0..2 {
        let (read, written) = (text(&golden(&format!("ids.{n}"))), golden(&format!("greedy.{n}")));
        let args = ["generate", &model, "--prompt", &read, "--dtype", "fp32", "--max-new-tokens", "12"];
        let out = json_of(&[args.as_slice(), &["--stop-id", "1"]].concat()).remove(0);
        assert_eq!(out["ids"], json!(written), "{read}");
        assert_eq!(out["text"], text(&written), "{read}");
    }
    // Where the tokenizer has an end, what is read ends with it.
    files.with("t5/tokenizer_config.json", json!({"eos_token": "t1"}).to_string());
    let out = json_of(&["generate", &model, "--prompt", "t5 t6", "--logprobs", "2", "--max-new-tokens", "3"])
        .remove(0);
    assert_eq!(out["prompt_tokens"], 3);
    assert!(
        out["logprobs"].as_array().unwrap().iter().all(|t| t["top"].as_array().unwrap().len() == 2),
        "{out}"
    );
}

#[test]
fn what_a_t5_cannot_do_is_said() {
    let files = Files::new();
    let model = t5(&files);
    fails(&["generate", &model, "--chat", "t5"], 1, "give one with --prompt");
    fails(&["generate", &model, "--prompt", "t5", "--beams", "2"], 1, "--beams does not go with a T5");
    fails(&["generate", &model, "--prompt", "t5", "--min-p", "2"], 1, "min_p is 2");
}
