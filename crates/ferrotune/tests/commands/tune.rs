//! `sft --full`, `sft --find-lr`, `classify`, `mlm` and adapters of every kind, by the command.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Files, chat, fails, json_of, tiny};

#[test]
fn the_model_itself_is_tuned_and_runs() {
    let files = Files::new();
    let (chats, out, model) = (files.rows("chats.jsonl", (0..8).map(chat)), files.path("out"), tiny());
    let whole =
        ["--full", "--freeze-layers", "1", "--optimizer", "adamw8bit", "--steps", "3", "--lr", "1e-3"];
    let tune = ["sft", "--model", &model, "--data", &chats, "--out", &out];
    let outcome = json_of(&[tune.as_slice(), &whole].concat()).remove(0);
    let counts = ["trainable_params", "total_params"].map(|key| outcome[key].as_u64().unwrap());
    assert!(counts[0] > 0 && counts[0] < counts[1], "{counts:?}");
    assert!(outcome["estimate"]["peak_mib"].as_f64().unwrap() > 0.0);
    assert!(!PathBuf::from(&out).join("adapter").exists());
    let tuned = format!("{out}/model");
    let said = json_of(&["generate", &tuned, "--chat", "Hi", "--max-new-tokens", "3"]);
    assert!(said[0]["completion_tokens"].is_null() && said[0]["ids"].is_array());
    fails(&[tune.as_slice(), &["--full", "--quantize", "nf4"]].concat(), 2, "cannot be used with");
    fails(&[tune.as_slice(), &["--full", "--freeze-layers", "mlp.gat_proj"]].concat(), 1, "the model has: ");
    fails(&[tune.as_slice(), &["--freeze-layers", "99"]].concat(), 1, "leaves no block");
}

#[test]
fn a_sweep_trains_nothing() {
    let files = Files::new();
    let (chats, out, model) = (files.rows("chats.jsonl", (0..8).map(chat)), files.path("out"), tiny());
    let args = ["sft", "--model", &model, "--data", &chats, "--out", &out, "--find-lr", "--steps", "20"];
    let found = json_of(&args).remove(0);
    assert!(found["points"].as_array().unwrap().len() >= 5, "{found}");
    assert!(Path::new(&out).join("lr_find.svg").is_file() && !Path::new(&out).join("adapter").exists());
}

#[test]
fn every_kind_of_adapter_is_made_by_an_option() {
    let files = Files::new();
    let (chats, model) = (files.rows("chats.jsonl", (0..8).map(chat)), tiny());
    for (name, options, key, expect) in [
        ("dora", vec!["--dora"], "use_dora", json!(true)),
        ("rslora", vec!["--rslora"], "use_rslora", json!(true)),
        ("pissa", vec!["--init", "pissa"], "r", json!(8)),
        ("layers", vec!["--freeze-layers", "1"], "layers_to_transform", json!([1])),
        ("whole", vec!["--modules-to-save", "lm_head"], "modules_to_save", json!(["lm_head"])),
    ] {
        let out = files.path(name);
        let args =
            ["sft", "--model", &model, "--data", &chats, "--out", &out, "--steps", "2", "--lora-r", "4"];
        json_of(&[args.as_slice(), &options].concat());
        let config = std::fs::read_to_string(Path::new(&out).join("adapter/adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config[key], expect, "{name}: {config}");
        let adapter = format!("{out}/adapter");
        json_of(&["generate", &model, "--adapter", &adapter, "--chat", "Hi", "--max-new-tokens", "2"]);
    }
}

#[test]
fn texts_and_their_tokens_get_classes() {
    let files = Files::new();
    let model = tiny();
    let texts = |range: std::ops::Range<usize>| {
        range.map(|i| match i % 2 {
            0 => json!({"text": format!("Where is my order {i}?"), "label": "delivery"}),
            _ => json!({"text": format!("Send item {i} back, please!"), "label": "return"}),
        })
    };
    let (train, held) = (files.rows("train.jsonl", texts(0..16)), files.rows("held.jsonl", texts(30..36)));
    let (out, said) = (files.path("out"), files.path("said"));
    let tune = ["classify", "--model", &model, "--data", &train, "--validation", &held, "--out", &out];
    let outcome = json_of(&[tune.as_slice(), &["--steps", "40", "--lr", "3e-3"]].concat()).remove(0);
    let accuracy = outcome["validations"].as_array().unwrap().last().unwrap()[1]["eval_accuracy"].as_f64();
    assert!(accuracy.unwrap() > 0.9, "{outcome}");
    let found = json_of(&["classify", "--model", &model, "--data", &held, "--apply", &out, "--out", &said]);
    let right = found.iter().enumerate().filter(|(i, row)| row["label"] == ["delivery", "return"][i % 2]);
    assert!(right.count() >= 5, "{found:?}");

    // Numbers are a class; spans count characters, of which ü is one.
    let spans = |i: usize| {
        let text = format!("Für order {i} we wait.");
        let start = text.chars().position(|c| c.is_ascii_digit()).unwrap();
        let end = start + i.to_string().len();
        json!({"text": text, "spans": [{"start": start, "end": end, "label": "NUMBER"}]})
    };
    let rows = files.rows("spans.jsonl", (100..124).map(spans));
    let (out, said) = (files.path("tokens"), files.path("tokens-said"));
    json_of(&[
        "classify", "--model", &model, "--data", &rows, "--out", &out, "--steps", "60", "--lr", "5e-3",
    ]);
    let found = json_of(&["classify", "--model", &model, "--data", &rows, "--apply", &out, "--out", &said]);
    let of_digit =
        |token: &Value| token["token"].as_str().is_some_and(|t| t.trim().chars().any(|c| c.is_ascii_digit()));
    let tokens: Vec<&Value> = found.iter().flat_map(|row| row["tokens"].as_array().unwrap()).collect();
    let right = tokens.iter().filter(|t| (t["label"] == "NUMBER") == of_digit(t)).count();
    assert!(right * 10 >= tokens.len() * 9, "{right} of {} tokens", tokens.len());

    let bad =
        files.rows("bad.jsonl", [json!({"text": "a", "label": "x"}), json!({"text": "b", "label": "x"})]);
    fails(&["classify", "--model", &model, "--data", &bad, "--out", &out], 1, "needs at least 2");
}

#[test]
fn hidden_words_are_learnt_and_the_model_saved() {
    let files = Files::new();
    let encoder = files.path("encoder");
    std::fs::create_dir(&encoder).unwrap();
    for from in [
        "golden/tiny_models/bert_mlm/config.json",
        "golden/tiny_models/bert_mlm/model.safetensors",
        "tiny/words/tokenizer.json",
    ] {
        let from = super::root().join("fixtures").join(from);
        std::fs::copy(&from, Path::new(&encoder).join(from.file_name().unwrap())).unwrap();
    }
    // Every second word follows from the one before it.
    let text = |i: usize| {
        let pairs = (0..16).map(|t| (i * 5 + t * 3) % 20).map(|w| format!("w{w} w{}", w + 20));
        json!({"text": pairs.collect::<Vec<_>>().join(" ")})
    };
    let (texts, out) = (files.rows("texts.jsonl", (0..40).map(text)), files.path("out"));
    let tune = ["mlm", "--model", &encoder, "--data", &texts, "--out", &out, "--dtype", "fp32"];
    let more = ["--steps", "60", "--batch", "8", "--lr", "1e-2", "--max-length", "34"];
    let outcome = json_of(&[tune.as_slice(), &more].concat()).remove(0);
    let validations = outcome["validations"].as_array().unwrap();
    let loss = |i: usize| validations[i][1]["eval_loss"].as_f64().unwrap();
    assert!(loss(validations.len() - 1) < 0.9 * loss(0), "{outcome}");
    // What was saved is a model like the one it came from.
    let (saved, again) = (format!("{out}/model"), files.path("again"));
    let tune = ["mlm", "--model", &saved, "--data", &texts, "--out", &again, "--dtype", "fp32"];
    let outcome = json_of(&[tune.as_slice(), &["--steps", "1"]].concat()).remove(0);
    let begins = outcome["validations"][0][1]["eval_loss"].as_f64().unwrap();
    assert!(begins < 0.9 * loss(0), "begins at {begins}");
    fails(
        &["mlm", "--model", &encoder, "--data", &files.with("e.txt", ""), "--out", &out],
        1,
        "no text to train on",
    );
}
