//! A model in this process as evaluation sees it.
#![cfg(feature = "torch")]

use std::path::Path;

use ferrotune::local_embedder::LocalEmbedder;
use ferrotune::local_model::LocalModel;
use ferrotune::model_store::{self, Place};
use ferrotune_types::{Embed as _, GenerateParams, LanguageModel as _, Message, Role};
use serde_json::{Value, json};

fn tiny() -> LocalModel {
    tch::set_num_threads(1); // the model is too small to share
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
    let model =
        model_store::load(&path.display().to_string(), Place::parse("cpu", "fp32").unwrap(), "").unwrap();
    LocalModel::new("tiny", model)
}

fn request(context: &str, continuation: &str) -> (String, String) {
    (context.to_owned(), continuation.to_owned())
}

#[test]
fn every_token_of_a_continuation_is_scored() {
    let model = tiny();
    for (context, continuation, before, after) in [
        ("", "Where is my order?", "", "Where is my order?"),
        ("   ", "my order", "", "   my order"),
        ("Where is", " my order?", "Where is", " my order?"),
        // White space at the seam goes with what follows it.
        ("Where is ", "my order?", "Where is", " my order?"),
    ] {
        let scored = model.loglikelihood(&[request(context, continuation)]).unwrap().remove(0);
        let prompt = if before.is_empty() {
            model.plain_prompt("").unwrap()
        } else {
            let whole = model.plain_prompt(before).unwrap();
            // Without BOS, as lm-eval asks.
            let bos = model.plain_prompt("").unwrap();
            whole.strip_prefix(&bos[..]).map_or(whole.clone(), <[u32]>::to_vec)
        };
        let (expect, tokens) = model.score(&prompt, after).unwrap();
        assert_eq!((scored.n_tokens, tokens.len()), (expect.n_tokens, expect.n_tokens), "{context:?}");
        assert!((scored.sum - expect.sum).abs() < 1e-4, "{context:?}: {scored:?} {expect:?}");
    }
}

#[test]
fn answers_to_one_question_are_scored_together_as_apart() {
    let model = tiny();
    let mut requests = vec![request("", "Yes."), request("", "No.")];
    for question in ["May I return it?", "May I return it after a month?", "May I return it?"] {
        requests.extend(
            [" Yes.", " No, never.", " Ask", ""].iter().take(3).map(|answer| request(question, answer)),
        );
    }
    let together = model.loglikelihood(&requests).unwrap();
    assert_eq!(together.len(), requests.len());
    for (one, request) in together.iter().zip(&requests) {
        let alone = model.loglikelihood(std::slice::from_ref(request)).unwrap().remove(0);
        assert_eq!((one.n_tokens, one.is_greedy), (alone.n_tokens, alone.is_greedy));
        assert!((one.sum - alone.sum).abs() < 1e-4, "{request:?}: {one:?} {alone:?}");
    }
}

#[test]
fn what_is_drawn_depends_on_the_place_and_not_on_the_neighbours() {
    let model = tiny();
    let ask = |text: &str| vec![Message::new(Role::User, text)];
    let params = GenerateParams { max_new_tokens: 8, temperature: 1.5, seed: 3, ..GenerateParams::default() };
    // Sorted by length, the second comes first or last.
    let [short, long] = ["no", "a much longer question than the other one, which goes on and on and on"];
    let say = |first: &str| model.chat_batch(&[ask(first), ask("Where is my order?")], &params).unwrap();
    assert_eq!(say(short)[1].ids, say(long)[1].ids);
    assert_ne!(say(short)[0].ids, say(long)[0].ids);
}

/// A folder with a tiny encoder whose words are `w0` to `w42`, and these files beside it.
fn encoder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let folder = tempfile::tempdir().unwrap();
    for from in [
        "golden/tiny_models/bert_mlm/config.json",
        "golden/tiny_models/bert_mlm/model.safetensors",
        "tiny/words/tokenizer.json",
    ] {
        let from = fixtures.join(from);
        std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    }
    std::fs::create_dir(folder.path().join("pooled")).unwrap();
    for (name, json) in files {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    }
    folder
}

fn embedder(folder: &Path) -> anyhow::Result<LocalEmbedder> {
    LocalEmbedder::load(&folder.display().to_string(), Place::parse("cpu", "fp32").unwrap())
}

/// The model's own vector of a text, where these files lie beside it.
fn vector(files: &[(&str, Value)], text: &str) -> Vec<f32> {
    embedder(encoder(files).path()).unwrap().vectors(&[text]).unwrap().remove(0)
}

fn modules(names: &[&str]) -> Value {
    let module = |name: &&str| json!({"type": format!("sentence_transformers.models.{name}"), "path": if *name == "Pooling" { "pooled" } else { "" }});
    names.iter().map(module).collect()
}

/// Files that say: the mean, with this and nothing after it.
fn mean_with(name: &'static str, json: Value) -> Vec<(&'static str, Value)> {
    vec![
        ("modules.json", modules(&["Transformer", "Pooling"])),
        ("pooled/config.json", json!({"pooling_mode_mean_tokens": true})),
        (name, json),
    ]
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

fn check_close(a: &[f32], b: &[f32], what: &str) {
    let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(a.len() == b.len() && difference < 1e-5, "{what}: {difference:e}");
}

#[test]
fn vectors_have_the_length_that_the_model_gives_them_and_unit_length_for_retrieval() {
    let plain = vector(&[], "w1 w2 w3");
    assert!((length(&plain) - 1.0).abs() > 0.1, "{}", length(&plain));
    let pooling = json!({"pooling_mode_mean_tokens": true});
    let mut files =
        vec![("modules.json", modules(&["Transformer", "Pooling"])), ("pooled/config.json", pooling)];
    check_close(&vector(&files, "w1 w2 w3"), &plain, "no Normalize");
    files[0].1 = modules(&["Transformer", "Pooling", "Normalize"]);
    let unit: Vec<f32> = plain.iter().map(|x| x / length(&plain)).collect();
    check_close(&vector(&files, "w1 w2 w3"), &unit, "Normalize");
    let compared = embedder(encoder(&[]).path()).unwrap().embed(&["w1 w2 w3"]).unwrap();
    check_close(&compared[0], &unit, "retrieval");
}

#[test]
fn a_text_is_prepared_as_sentence_transformers_does_it() {
    let name = "config_sentence_transformers.json";
    let prompt = mean_with(name, json!({"prompts": {"q": "w7 w8 "}, "default_prompt_name": "q"}));
    check_close(&vector(&prompt, "w1 w2"), &vector(&[], "w7 w8 w1 w2"), "prompt");
    let name = "sentence_bert_config.json";
    let lower = mean_with(name, json!({"do_lower_case": true}));
    check_close(&vector(&lower, "W1 W2"), &vector(&[], "w1 w2"), "small letters");
    // [CLS], two words, [SEP].
    let short = mean_with(name, json!({"max_seq_length": 4}));
    check_close(&vector(&short, "w1 w2 w3 w4"), &vector(&[], "w1 w2"), "cut");
    let tokenizer = mean_with("tokenizer_config.json", json!({"model_max_length": 4}));
    check_close(&vector(&tokenizer, "w1 w2 w3 w4"), &vector(&[], "w1 w2"), "cut by the tokenizer's length");
    // As tokenizers do, one that leaves no room for the special tokens cuts nothing.
    let none = mean_with(name, json!({"max_seq_length": 1}));
    check_close(&vector(&none, "w1 w2"), &vector(&[], "w1 w2"), "no room");
}

#[test]
fn a_prompt_makes_another_embedder_and_one_that_is_not_pooled_is_refused() {
    let name = "config_sentence_transformers.json";
    let mut files = mean_with(name, json!({"prompts": {"q": "w7 "}, "default_prompt_name": "q"}));
    let folder = encoder(&files);
    let named = embedder(folder.path()).unwrap();
    assert!(named.name().ends_with("after \"w7 \""), "{}", named.name());
    files[1].1 = json!({"pooling_mode_mean_tokens": true, "include_prompt": false});
    let error = embedder(encoder(&files).path()).unwrap_err().to_string();
    assert!(error.contains("include_prompt"), "{error}");
}

#[test]
fn minilm_without_its_last_module_is_as_long_as_sentence_transformers_says() {
    let Some(minilm) = model_store::models_folder().map(|models| models.join("all-minilm-l6-v2")) else {
        return;
    };
    if !minilm.is_dir() {
        eprintln!("skipped: {} is absent; `cargo xtask setup` fetches it", minilm.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(minilm.join(name), folder.path().join(name)).unwrap();
    }
    let vectors = embedder(folder.path()).unwrap().vectors(&["Where is my order?"]).unwrap();
    // sentence-transformers 6.2 on the same folder.
    assert!((length(&vectors[0]) - 5.690_863_6).abs() < 1e-3, "{}", length(&vectors[0]));
}
