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
        let out = json_of(&args).remove(0);
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
fn a_t5_ends_where_its_generation_config_says() {
    let files = Files::new();
    let model = t5(&files);
    let (read, written) = (text(&golden("ids.0")), golden("greedy.0"));
    let end = written[2];
    let n = written.iter().position(|id| *id == end).unwrap();
    files.with("t5/generation_config.json", json!({"eos_token_id": [end]}).to_string());
    let args = ["generate", &model, "--prompt", &read, "--dtype", "fp32", "--max-new-tokens", "12"];
    let out = json_of(&args).remove(0);
    assert_eq!((&out["ids"], &out["finish"]), (&json!(written[..n]), &json!("stop")));
    // It begins as config.json would have it, too.
    let begins = |name: &str| {
        let path = files.path(name);
        let read = std::fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
        let mut config: serde_json::Value = serde_json::from_str(&read).unwrap();
        config["decoder_start_token_id"] = json!(5);
        std::fs::write(&path, config.to_string()).unwrap();
        let said = json_of(&args).remove(0)["ids"].clone();
        std::fs::write(&path, read).unwrap();
        said
    };
    std::fs::remove_file(files.path("t5/generation_config.json")).unwrap();
    assert_eq!(begins("t5/generation_config.json"), begins("t5/config.json"));
    assert_ne!(begins("t5/config.json"), json!(written));
}

#[test]
fn what_a_t5_cannot_do_is_said() {
    let files = Files::new();
    let model = t5(&files);
    let (texts, rows) = (files.with("text.txt", "t5 t6"), files.rows("rows.jsonl", [json!({"text": "t5"})]));
    fails(&["perplexity", &model, &texts], 1, "is a T5, which writes a text for a text");
    fails(&["embed", &model, &rows, "--out", &files.path("v")], 1, "is a T5, which writes a text for a text");
    fails(
        &["generate", &model, "--prompt", "t5", "--stop-id", "48"],
        1,
        "--stop-id is 48, but the model has 48",
    );
    let mlm = ["mlm", "--model", &model, "--data", &texts, "--out", &files.path("out")];
    fails(&mlm, 1, "is a T5, which writes a text for a text");
    fails(&["generate", &model, "--chat", "t5"], 1, "give one with --prompt");
    fails(&["generate", &model, "--prompt", "t5", "--beams", "2"], 1, "--beams does not go with a T5");
    fails(&["generate", &model, "--prompt", "t5", "--min-p", "2"], 1, "min_p is 2");
}
