//! Chat templates named on the command line, and models that have none.

use serde_json::{Value, json};

use super::*;

/// The tiny Llama without its chat template, as base models come.
fn base(files: &Files) -> String {
    let folder = files.path("base");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let to = Path::new(&folder).join(&name);
        match name.as_str() {
            "chat_template.jinja" => {}
            "tokenizer_config.json" => {
                let mut config: Value =
                    serde_json::from_str(&std::fs::read_to_string(entry.path()).unwrap()).unwrap();
                config.as_object_mut().unwrap().remove("chat_template");
                std::fs::write(to, config.to_string()).unwrap();
            }
            _ => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
    folder
}

#[test]
fn a_base_model_reads_texts_without_a_template() {
    let files = Files::new();
    let base = base(&files);
    let text = files.path("text.txt");
    std::fs::write(&text, "An order may be returned within thirty days.\n\nA receipt is needed.\n").unwrap();
    let seen = json_of(&["perplexity", &base, &text, "--window", "32", "--dtype", "fp32"]);
    assert!(seen[0]["perplexity"].as_f64().unwrap() > 1.0, "{seen:?}");
    let out = files.path("read");
    json_of(&["cpt", "--model", &base, "--data", &text, "--steps", "1", "--dtype", "fp32", "--out", &out]);
    let adapter = format!("{out}/adapter");
    json_of(&["generate", &base, "--adapter", &adapter, "--prompt", "An order", "--max-new-tokens", "2"]);
    json_of(&["merge", &base, &adapter, "--out", &files.path("merged")]);
    assert!(!Path::new(&files.path("merged/chat_template.jinja")).exists(), "it had none");
}

#[test]
fn a_base_model_chats_by_a_template_that_is_named() {
    let files = Files::new();
    let (base, chats) = (base(&files), files.rows("chats.jsonl", (0..4).map(chat)));
    let out = files.path("tuned");
    let config = files.with("c.toml", "checkpoint_every = 1\n");
    let sft = ["sft", "--model", &base, "--data", &chats, "--steps", "1", "--dtype", "fp32", "--out", &out];
    let sft = [&sft[..], &["--config", &config]].concat();
    fails(&sft, 1, "the model has no chat template: --template");
    fails(&["generate", &base, "--chat", "Hello"], 1, "--template");
    let named = |args: &[&str], template: &str| json_of(&[args, &["--template", template]].concat());
    named(&sft, "chatml");
    let file = files.path("own.jinja");
    std::fs::write(&file, "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}")
        .unwrap();
    // Going on needs the same template.
    fails(
        &[&sft[..], &["--resume", "--template", &file]].concat(),
        1,
        "belongs to a run with another model, data or settings",
    );
    let shown = named(&["render", &base, "--chat-file", &chats], &file);
    let text = shown[0]["text"].as_str().unwrap();
    assert!(text.starts_with("[user] Where is order 0?<|im_end|>"), "the model's own token: {text}");
    fails(&["render", &file, "--chat-file", &chats], 1, "writes the model's eos_token");
    let ids = |template: &str| named(&["tokenize", &base, "--chat-file", &chats], template)[0]["ids"].clone();
    assert_ne!(ids(&file), ids("chatml"));
    fails(&["tokenize", &base, "--chat-file", &chats, "--template", "chatml9"], 1, "chatml");

    // The merged model has the template that was named.
    let (adapter, merged) = (format!("{out}/adapter"), files.path("merged"));
    named(&["merge", &base, &adapter, "--out", &merged], "chatml");
    assert_eq!(json_of(&["tokenize", &merged, "--chat-file", &chats])[0]["ids"], ids("chatml"));
}

#[test]
fn rows_of_another_kind_and_refused_rows_are_told() {
    let files = Files::new();
    let strict = files.path("strict.jinja");
    std::fs::write(
        &strict,
        "{% for m in messages %}{% if 'order 1' in m.content %}{{ raise_exception('no order 1') }}{% endif %}\
         {% if m.role == 'user' %}{{ m.content }}{% else %}{% generation %}{{ m.content }}{% endgeneration %}\
         {% endif %}{% endfor %}",
    )
    .unwrap();
    let pair = json!({"id": "p", "prompt": "q", "chosen": "a", "rejected": "b"});
    let rows = files.rows("mixed.jsonl", &[chat(0), chat(1), pair, chat(2), chat(2)]);
    let out = ferrotune(&["render", &strict, "--chat-file", &rows, "--json"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 3);
    assert!(said.contains("mixed.jsonl:3: a preference pair, no conversation"), "{said}");
    assert!(said.contains("row c1: ") && said.contains("no order 1"), "{said}");
    assert!(said.contains("1 rows have an id that stood before"), "{said}");
    fails(&["curate", &rows, "--recipe", "missing/my.toml", "--out", &files.path("o")], 1, "missing/my.toml");
}
