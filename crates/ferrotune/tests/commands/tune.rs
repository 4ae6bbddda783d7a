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

/// Texts of two classes by turns.
fn labelled(range: std::ops::Range<usize>) -> impl Iterator<Item = Value> {
    range.map(|i| match i % 2 {
        0 => json!({"text": format!("Where is my order {i}?"), "label": "delivery"}),
        _ => json!({"text": format!("Send item {i} back, please!"), "label": "return"}),
    })
}

#[test]
fn a_classifier_is_what_its_last_run_trained() {
    let files = Files::new();
    let (model, out, said) = (tiny(), files.path("out"), files.path("said"));
    let rows = files.rows("train.jsonl", labelled(0..8));
    let tune = ["classify", "--model", &model, "--data", &rows, "--out", &out, "--steps", "2"];
    let apply = ["classify", "--model", &model, "--data", &rows, "--apply", &out, "--out", &said];
    let there = || ["adapter", "model"].map(|name| Path::new(&out).join(name).is_dir());
    json_of(&tune);
    assert_eq!(there(), [true, false]);
    json_of(&[tune.as_slice(), &["--full"]].concat());
    assert_eq!(there(), [false, true], "the adapter is of no use to the new head");
    assert_eq!(json_of(&apply).len(), 8);
    // A model on which the adapter was trained stays.
    let tuned = format!("{out}/model");
    json_of(&["classify", "--model", &tuned, "--data", &rows, "--out", &out, "--steps", "2"]);
    assert_eq!(there(), [true, true]);
    json_of(&["classify", "--model", &tuned, "--data", &rows, "--apply", &out, "--out", &said]);
    // A file from before said nothing of it.
    let classes = Path::new(&out).join("classes.json");
    let mut old: Value = serde_json::from_str(&std::fs::read_to_string(&classes).unwrap()).unwrap();
    assert_eq!((&old["version"], &old["trained"]), (&json!(2), &json!("adapter")));
    old = json!({"version": 1, "tokens": old["tokens"], "names": old["names"]});
    std::fs::write(&classes, old.to_string()).unwrap();
    fails(&apply, 1, "does not say which");
    std::fs::remove_dir_all(Path::new(&out).join("adapter")).unwrap();
    assert_eq!(json_of(&apply).len(), 8);
}

#[test]
fn a_row_that_says_no_class_is_named_by_file_and_line() {
    let files = Files::new();
    let (model, out) = (tiny(), files.path("out"));
    let good = || vec![json!({"text": "a b", "label": "x"}), json!({"text": "b c", "label": "y"})];
    let spans = |start: usize, end: usize| json!({"text": "hello you", "spans": [{"start": start, "end": end, "label": "N"}]});
    let check = |rows: Vec<Value>, expect: &str| {
        let file = files.rows("bad.jsonl", rows);
        fails(
            &["classify", "--model", &model, "--data", &file, "--out", &out],
            1,
            &format!("bad.jsonl:{expect}"),
        );
    };
    let with = |row: Value| [good(), vec![row]].concat();
    check(with(json!({"text": "c"})), "3: no label");
    check(with(json!({"text": "", "label": "x"})), "3: the text has no token");
    check(vec![spans(0, 5), spans(5, 2)], "2: the span 5..2 is empty or reversed");
    check(vec![spans(0, 5), spans(3, 3)], "2: the span 3..3 is empty or reversed");
    check(vec![spans(0, 5), spans(0, 99)], "2: the span 0..99 lies outside its text of 9 characters");
    check([vec![spans(0, 5)], good()].concat(), "2: no spans, though other rows have some");
    let mut both = spans(0, 5);
    both["label"] = json!("x");
    check(vec![both], "1: a label beside spans");
    assert!(!Path::new(&out).exists());
    let (train, held) =
        (files.rows("good.jsonl", good()), files.rows("held.jsonl", [json!({"text": "a", "label": "z"})]));
    let tune = ["classify", "--model", &model, "--data", &train, "--validation", &held, "--out", &out];
    fails(&tune, 1, "held.jsonl:1: no class \"z\"; known: x, y");
}

#[test]
fn long_and_empty_texts_are_counted_and_lose_nobody_else_its_class() {
    let files = Files::new();
    let (model, out, said) = (tiny(), files.path("out"), files.path("said"));
    let long = || json!({"text": "Where is my order? ".repeat(40), "label": "delivery"});
    let rows = files.rows("train.jsonl", labelled(0..7).chain([long()]));
    let tune =
        ["classify", "--model", &model, "--data", &rows, "--out", &out, "--steps", "2", "--max-length", "60"];
    for (more, expect) in [
        (&[][..], "1 of 8 texts are longer than 60 tokens: their ends are cut off"),
        (&["--truncation", "keep_end"], "their beginnings are cut off"),
        (&["--truncation", "drop"], "they are left out"),
    ] {
        let stderr = said_by(&[tune.as_slice(), more].concat());
        assert!(stderr.contains(expect), "{stderr}");
    }
    let new = files.rows("new.jsonl", [json!({"text": "hello"}), json!({"text": ""}), long()]);
    let apply = ["classify", "--model", &model, "--data", &new, "--apply", &out, "--out", &said];
    let more = ["--max-length", "60", "--truncation", "drop"];
    let found = json_of(&[apply.as_slice(), &more].concat());
    assert!(found[0]["label"].is_string(), "{found:?}");
    assert_eq!((&found[1]["label"], &found[2]["label"], found.len()), (&Value::Null, &Value::Null, 3));
    let stderr = said_by(&[apply.as_slice(), &more].concat());
    assert!(
        stderr.contains("new.jsonl:2: nothing to classify") && stderr.contains("new.jsonl:3"),
        "{stderr}"
    );
    assert!(json_of(&apply)[2]["label"].is_string(), "its beginning is enough");
}

#[test]
fn too_little_general_text_is_said() {
    let files = Files::new();
    let (model, out) = (tiny(), files.path("out"));
    let document = |i: usize| json!({"text": format!("The parcel number {i} left the depot on Monday.")});
    let (own, short) = (files.rows("own.jsonl", (0..8).map(document)), files.with("short.txt", "One king."));
    let read = ["cpt", "--model", &model, "--data", &own, "--out", &out, "--steps", "1", "--replay", "0.5"];
    let stderr = said_by(&[read.as_slice(), &["--general", &short, "--held-out", "0"]].concat());
    assert!(stderr.contains("asks for 8 windows of general text, and there are 1"), "{stderr}");
}

/// What a command that succeeds says on stderr.
fn said_by(args: &[&str]) -> String {
    let output = super::ferrotune(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {stderr}");
    stderr
}

/// A folder with an encoder that predicts hidden words, and texts in which every second word follows from the one before
/// it.
fn encoder_and_texts(files: &Files) -> (String, String) {
    let encoder = files.encoder();
    let text = |i: usize| {
        let pairs = (0..16).map(|t| (i * 5 + t * 3) % 20).map(|w| format!("w{w} w{}", w + 20));
        json!({"text": pairs.collect::<Vec<_>>().join(" ")})
    };
    (encoder, files.rows("texts.jsonl", (0..40).map(text)))
}

#[test]
fn an_encoder_goes_on_only_with_what_it_began_with() {
    let files = Files::new();
    let ((encoder, texts), out) = (encoder_and_texts(&files), files.path("out"));
    let tune = ["mlm", "--model", &encoder, "--data", &texts, "--out", &out, "--dtype", "fp32"];
    let more = ["--steps", "51", "--batch", "2", "--max-length", "34"];
    let tune = [tune.as_slice(), &more].concat();
    json_of(&tune);
    let resume = [tune.as_slice(), &["--resume"]].concat();
    assert_eq!(json_of(&resume)[0]["step_seconds"].as_array().unwrap().len(), 1);
    fails(&[resume.as_slice(), &["--held-out", "0.6"]].concat(), 1, "another model, data or settings");
    // The same name, other weights.
    let weights = Path::new(&encoder).join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    fails(&resume, 1, "another model, data or settings");
}

#[test]
fn an_encoder_is_saved_whole_and_never_over_the_one_that_was_read() {
    let files = Files::new();
    let ((encoder, texts), out) = (encoder_and_texts(&files), files.path("out"));
    let pooling = json!({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}).to_string();
    std::fs::create_dir(Path::new(&encoder).join("1_Pooling")).unwrap();
    std::fs::write(Path::new(&encoder).join("1_Pooling/config.json"), pooling).unwrap();
    let tune = |model: &str, out: &str| -> Vec<String> {
        let args =
            ["mlm", "--model", model, "--data", &texts, "--out", out, "--steps", "1", "--dtype", "fp32"];
        args.map(str::to_owned).to_vec()
    };
    let run = |args: &[String]| json_of(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = |args: &[String], expect: &str| {
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1, expect);
    };
    let saved = Path::new(&out).join("model");
    for _ in 0..2 {
        run(&tune(&encoder, &out));
        for name in ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"] {
            assert!(saved.join(name).metadata().unwrap().len() > 0, "{name}");
        }
        let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".model")), "{left:?}");
    }
    refused(&tune(&saved.display().to_string(), &out), "is where the model that is read lies");
    assert!(saved.join("tokenizer.json").metadata().unwrap().len() > 0);
    refused(&tune(&encoder, &encoder), "take another --out");
    refused(&tune(&encoder, &format!("{encoder}/tuned")), "take another --out");
    assert!(!Path::new(&encoder).join("tuned").exists() && !Path::new(&encoder).join("model").exists());
    std::fs::write(saved.join("notes.md"), "mine").unwrap();
    refused(&tune(&encoder, &out), "notes.md is no part of a saved encoder");
}

#[test]
fn hidden_words_are_learnt_and_the_model_saved() {
    let files = Files::new();
    let ((encoder, texts), out) = (encoder_and_texts(&files), files.path("out"));
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
