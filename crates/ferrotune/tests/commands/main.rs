//! The `ferrotune` command as scripts and people meet it: the JSON forms, and bad input.

#[cfg(feature = "torch")]
mod embed;
#[cfg(feature = "torch")]
mod generate;
mod judge;
#[cfg(feature = "torch")]
mod pairs;
#[cfg(feature = "torch")]
mod safety;
#[cfg(feature = "torch")]
mod t5;
#[cfg(feature = "torch")]
mod template;
#[cfg(feature = "torch")]
mod tune;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tiny() -> String {
    root().join("fixtures/tiny/llama").display().to_string()
}

fn ferrotune(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferrotune")).args(args).output().unwrap()
}

/// Runs a command that must succeed; its stdout as JSON lines.
fn json_of(args: &[&str]) -> Vec<Value> {
    let out = ferrotune(&[args, &["--json"]].concat());
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let stdout = String::from_utf8(out.stdout).unwrap();
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a command that must fail with `code` and say `expect`, without a panic.
fn fails(args: &[&str], code: i32, expect: &str) {
    let out = ferrotune(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(expect), "{args:?} should say {expect:?}:\n{stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
}

fn chat(id: usize) -> Value {
    json!({"id": format!("c{id}"), "messages": [
        {"role": "user", "content": format!("Where is order {id}?")},
        {"role": "assistant", "content": "It left us on Monday and arrives in 3 to 5 days."}
    ]})
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn with(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// A JSONL file of these rows.
    fn rows(&self, name: &str, rows: impl IntoIterator<Item: ToString>) -> String {
        self.with(name, rows.into_iter().map(|row| row.to_string() + "\n").collect::<String>())
    }

    /// A folder with a tiny encoder that predicts hidden words, `w0` to `w42`.
    #[cfg(feature = "torch")]
    fn encoder(&self) -> String {
        let encoder = self.path("encoder");
        std::fs::create_dir(&encoder).unwrap();
        for from in [
            "golden/tiny_models/bert_mlm/config.json",
            "golden/tiny_models/bert_mlm/model.safetensors",
            "tiny/words/tokenizer.json",
        ] {
            let from = root().join("fixtures").join(from);
            std::fs::copy(&from, Path::new(&encoder).join(from.file_name().unwrap())).unwrap();
        }
        encoder
    }

    fn chats(&self) -> String {
        self.rows("chats.jsonl", (0..6).map(chat))
    }

    fn pairs(&self) -> String {
        let pair = |id: usize| {
            json!({"id": format!("p{id}"), "prompt": [{"role": "user", "content": format!("May I return item {id}?")}],
                "chosen": [{"role": "assistant", "content": "Yes, within 30 days."}],
                "rejected": [{"role": "assistant", "content": "No."}]})
        };
        self.rows("pairs.jsonl", (0..6).map(pair))
    }
}

#[test]
fn help_shows_an_example_and_a_wrong_option_is_a_usage_error() {
    for command in
        ["pipeline", "curate", "inspect", "pii", "dedup", "render", "tokenize", "generate", "perplexity"]
            .into_iter()
            .chain(["sft", "dpo", "merge", "embed", "judge"])
    {
        let out = ferrotune(&[command, "--help"]);
        assert!(out.status.success());
        let help = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(help.contains("Example:\n  ferrotune"), "{command}: {help}");
    }
    fails(&["curate", "--no-such-option"], 2, "no-such-option");
    fails(&["nonsense"], 2, "nonsense");
}

#[test]
fn pii_counts_characters_not_bytes() {
    let files = Files::new();
    let rows = files.with("rows.jsonl", "{\"id\":\"a\",\"text\":\"Grüße an anna.schmidt@example.org!\"}\n");
    let found = json_of(&["pii", &rows, "--field", "text"]);
    assert_eq!(found[0]["id"], "a");
    let email = found[0]["spans"].as_array().unwrap().iter().find(|s| s["kind"] == "EMAIL").unwrap();
    assert_eq!((email["start"].as_u64(), email["end"].as_u64()), (Some(9), Some(33)));
    assert!(email["score"].as_f64().unwrap() > 0.5);
}

#[test]
fn dedup_names_its_clusters() {
    let files = Files::new();
    let text =
        "Our store on Main Street opens at nine in the morning and closes at six in the evening on weekdays.";
    let rows = files.with(
        "rows.jsonl",
        [("a", text), ("b", "Gift cards never expire."), ("c", text)]
            .map(|(id, text)| json!({"id": id, "text": text}).to_string() + "\n")
            .concat(),
    );
    let found = json_of(&["dedup", &rows, "--threshold", "0.7"]);
    assert_eq!(found[0], json!({"clusters": [["a", "c"]], "kept": 2, "dropped": 1}));
}

#[test]
fn curate_keeps_ids_and_every_dropped_row() {
    let files = Files::new();
    let tickets = files.with(
        "tickets.jsonl",
        b"{\"id\":\"t1\",\"question\":\"When do you open on Sundays?\",\"answer\":\"We open at ten on Sundays and close at five.\"}\n\
          not json\n\
          {\"id\":\"t2\",\"question\":\"\xff\xfe\",\"answer\":\"x\"}\n",
    );
    let out = files.path("out");
    let report = json_of(&["curate", &tickets, "--recipe", "tickets", "--out", &out]).remove(0);
    assert_eq!((report["read"].as_u64(), report["kept"].as_u64()), (Some(3), Some(1)));
    assert_eq!(report["dropped"]["malformed_json"], 1);
    assert_eq!(report["dropped"]["not_utf8"], 1);
    let kept = std::fs::read_to_string(Path::new(&out).join("kept.jsonl")).unwrap();
    assert!(kept.contains("\"t1\""), "{kept}");
    let dropped = std::fs::read_to_string(Path::new(&out).join("dropped.jsonl")).unwrap();
    assert_eq!(dropped.lines().count(), 2, "{dropped}");
}

#[test]
fn inspect_is_told_of_the_template_the_held_out_rows_and_who_read() {
    let files = Files::new();
    let (chats, card) = (files.chats(), files.path("card.md"));
    let verdict = |args: &[&str], key: &str| {
        let seen = &json_of(&[&["inspect", &chats], args].concat())[0];
        let check = seen["checklist"].as_array().unwrap().iter().find(|c| c["key"] == key);
        check.unwrap_or_else(|| panic!("no {key} in {seen}"))["verdict"].clone()
    };
    assert_eq!(verdict(&[], "template"), "unknown");
    assert_eq!(verdict(&["--template", "chatml"], "template"), "pass");
    let raising = files.with("raise.jinja", "{{ raise_exception('no') }}");
    assert_eq!(verdict(&["--template", &raising], "template"), "fail");
    assert_eq!(verdict(&["--validation", &chats], "held_out_apart"), "fail");
    assert_eq!(verdict(&["--banned", "zzzyx"], "on_brand"), "pass");
    let config = files.with("inspect.toml", "min_read = 1\n");
    assert_eq!(
        verdict(&["--config", &config, "--signed-by", "Ada Lovelace", "--card", &card], "read_by_a_person"),
        "pass"
    );
    assert!(std::fs::read_to_string(&card).unwrap().contains("Ada Lovelace"));
    fails(
        &["inspect", &chats, "--config", &files.with("bad.toml", "min_raed = 1\n")],
        1,
        "unknown key `min_raed`: did you mean `min_read`?",
    );
}

#[test]
fn render_and_tokenize_agree_on_what_is_trained() {
    let files = Files::new();
    let chats = files.chats();
    let rendered = json_of(&["render", &tiny(), "--chat-file", &chats]);
    let (text, spans) = (rendered[0]["text"].as_str().unwrap(), &rendered[0]["assistant_spans"]);
    let at = |i: usize| spans[0][i].as_u64().unwrap() as usize;
    let said: String = text.chars().skip(at(0)).take(at(1) - at(0)).collect();
    assert!(said.starts_with("It left us on Monday"), "{said}");
    let tokens = json_of(&["tokenize", &tiny(), "--chat-file", &chats]);
    let (ids, mask) = (tokens[0]["ids"].as_array().unwrap(), tokens[0]["loss_mask"].as_array().unwrap());
    assert_eq!(ids.len(), mask.len());
    assert!(mask.iter().any(|m| m == 1) && mask[0] == 0);
    let plain = json_of(&["render", "chatml", "--chat-file", &chats]);
    assert!(plain[0]["text"].as_str().unwrap().contains("<|im_start|>assistant\nIt left"));
}

#[test]
fn several_tokenizers_show_how_they_cut_a_text() {
    let shown = json_of(&[
        "tokenize",
        &tiny(),
        &tiny(),
        "--show",
        "Where is it?",
        "--context",
        "20",
        "--reserve",
        "4",
    ]);
    assert_eq!(shown.len(), 2);
    let pieces = shown[0]["pieces"].as_array().unwrap();
    let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    assert_eq!(text, "Where is it?");
    let n = shown[0]["tokens"].as_i64().unwrap();
    assert_eq!((pieces.len() as i64, shown[0]["budget"]["left"].as_i64()), (n, Some(16 - n)));
    fails(&["tokenize", &tiny(), &tiny(), "--chat-file", "x.jsonl"], 1, "takes one model");
}

#[test]
fn a_model_is_tuned_aligned_merged_and_asked() {
    let files = Files::new();
    let (chats, pairs, model) = (files.chats(), files.pairs(), tiny());
    let (sft, dpo, merged) = (files.path("sft"), files.path("dpo"), files.path("merged"));
    let common = ["--model", &model, "--steps", "3", "--batch", "2", "--max-length", "512"];
    let own = ["sft", "--data", &chats, "--out", &sft, "--lr", "1e-2", "--dtype", "fp32", "--lora-r", "4"];
    let tuned = json_of(&[&own[..], &common].concat());
    assert_eq!(tuned[0]["losses"].as_array().unwrap().len(), 3);
    assert!(tuned[0]["trainable_params"].as_u64().unwrap() > 0);
    assert!(tuned[0]["real_tokens_per_s"].as_f64().unwrap() > 0.0);
    let adapter = Path::new(&sft).join("adapter").display().to_string();
    let aligned = json_of(
        &[&["dpo", "--data", &pairs, "--out", &dpo, "--adapter", &adapter, "--dtype", "fp32"], &common[..]]
            .concat(),
    );
    let first = aligned[0]["losses"][0].as_f64().unwrap();
    assert!((first - std::f64::consts::LN_2).abs() < 1e-4, "step-0 loss {first}");
    let adapter = Path::new(&dpo).join("adapter").display().to_string();
    let check = json_of(&["merge", &model, &adapter, "--out", &merged]);
    assert!(check[0]["max_abs_logit_diff"].as_f64().unwrap() < 1e-3);
    let ask = |model: &str| {
        json_of(&[
            "generate",
            model,
            "--chat",
            "Where is order 3?",
            "--max-new-tokens",
            "4",
            "--dtype",
            "fp32",
        ])
    };
    assert_eq!(ask(&merged)[0]["prompt_tokens"], ask(&model)[0]["prompt_tokens"]);
    let text = files.with("text.txt", "Orders over $75 ship free. ".repeat(20));
    let base = json_of(&["perplexity", &model, &text, "--window", "64", "--dtype", "fp32"]);
    assert!(base[0]["perplexity"].as_f64().unwrap() > 1.0);
}

#[test]
fn generate_samples_searches_and_scores() {
    let model = tiny();
    let run = |more: &[&str]| {
        let common =
            ["generate", &model, "--prompt", "Thank you for", "--dtype", "fp32", "--max-new-tokens", "6"];
        json_of(&[&common[..], more].concat())
    };
    let greedy = run(&["--logprobs", "2"]).remove(0);
    let tokens = greedy["logprobs"].as_array().unwrap();
    assert_eq!((tokens.len(), tokens[0]["top"].as_array().unwrap().len()), (6, 2));
    // What greedy decoding says is what scoring calls greedy, and as likely.
    let text = greedy["text"].as_str().unwrap();
    let score = ["generate", &model, "--prompt", "Thank you for", "--dtype", "fp32", "--score", text];
    let scored = json_of(&score).remove(0);
    let said: f64 = tokens.iter().map(|t| t["logprob"].as_f64().unwrap()).sum();
    assert_eq!((&scored["n_tokens"], &scored["is_greedy"]), (&json!(6), &json!(true)));
    assert!((scored["logprob"].as_f64().unwrap() - said).abs() < 1e-3, "{scored} {said}");
    let beams = run(&["--beams", "3"]);
    let scores: Vec<f64> = beams.iter().map(|b| b["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 3 && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    // A stop string is not part of the text, a stop id not of the ids.
    let first: String = text.chars().take(2).collect();
    assert_eq!(run(&["--stop", &first])[0]["text"], "");
    let second = greedy["ids"][1].to_string();
    let stopped = run(&["--stop-id", &second]).remove(0);
    let end = greedy["ids"].as_array().unwrap().iter().position(|id| *id == greedy["ids"][1]);
    assert_eq!(
        (stopped["ids"].as_array().unwrap().len(), &stopped["finish"]),
        (end.unwrap(), &json!("stop"))
    );
    let sampled = |seed: &str, more: &[&str]| {
        let common = [
            "--temperature",
            "1.5",
            "--top-k",
            "40",
            "--top-p",
            "0.95",
            "--min-p",
            "0.01",
            "--typical-p",
            "0.9",
        ];
        let penalties =
            ["--presence-penalty", "0.5", "--frequency-penalty", "-0.2", "--repetition-penalty", "1.1"];
        run(&[&common[..], &penalties[..], &["--seed", seed], more].concat()).remove(0)["ids"].clone()
    };
    assert_eq!(sampled("3", &[]), sampled("3", &[]));
    assert_ne!(sampled("3", &[]), sampled("4", &[]));
    fails(&["generate", &model, "--prompt", "a", "--min-p", "2"], 1, "min_p is 2; it must be from 0 to 1");
    fails(
        &["generate", &model, "--prompt", "a", "--beams", "2", "--repetition-penalty", "1.3"],
        2,
        "cannot be used with '--repetition-penalty",
    );
}

#[test]
fn a_chat_in_the_terminal_answers_as_it_goes() {
    let model = tiny();
    let common = ["generate", &model, "--dtype", "fp32", "--max-new-tokens", "5"];
    let expect = json_of(&[&common[..], &["--chat", "Where is my order?"]].concat()).remove(0);
    let mut chat = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .args(common)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    chat.stdin.take().unwrap().write_all(b"Where is my order?\nAnd my money?\n\n").unwrap();
    let out = chat.wait_with_output().unwrap();
    let (said, asked) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{asked}");
    // The first answer whole, and a second one after it.
    let rest = said.strip_prefix(expect["text"].as_str().unwrap()).and_then(|rest| rest.strip_prefix('\n'));
    assert!(rest.is_some_and(|rest| rest.ends_with('\n')), "{said:?} {expect}");
    assert_eq!(asked.matches("> ").count(), 3, "{asked}");
}

/// Nobody goes on with another run's reference: other held-out data, settings or model.
#[test]
fn what_is_gone_on_with_must_be_the_same_run() {
    let files = Files::new();
    let (pairs, out) = (files.pairs(), files.path("out"));
    let held = files.with("held.jsonl", std::fs::read(&pairs).unwrap());
    let copy = files.path("model");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(tiny()).unwrap().flatten() {
        std::fs::copy(file.path(), Path::new(&copy).join(file.file_name())).unwrap();
    }
    let run = |model: &str, more: &[&str]| {
        let common = [
            "dpo",
            "--model",
            model,
            "--data",
            &pairs,
            "--validation",
            &held,
            "--steps",
            "2",
            "--batch",
            "2",
        ];
        ferrotune(&[&common[..], &["--lora-r", "4", "--out", &out], more].concat())
    };
    let refuses = |model: &str, more: &[&str]| {
        let done = run(model, &[&["--resume"], more].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains("belongs to another"), "{more:?}: {said}");
    };
    assert!(run(&tiny(), &[]).status.success());
    // The same, and the same model in another place.
    assert!(run(&tiny(), &["--resume"]).status.success());
    assert!(run(&copy, &["--resume"]).status.success());
    refuses(&tiny(), &["--beta", "0.2"]);
    let config = Path::new(&copy).join("config.json");
    let other = std::fs::read_to_string(&config).unwrap().replacen('{', "{ ", 1);
    std::fs::write(&config, other).unwrap();
    refuses(&copy, &[]);
    // The same of a reference that is another model.
    let with_reference = ["--reference", copy.as_str()];
    assert!(run(&tiny(), &with_reference).status.success());
    assert!(run(&tiny(), &[&["--resume"], &with_reference[..]].concat()).status.success());
    let changed = std::fs::read_to_string(&config).unwrap().replacen('{', "{ ", 1);
    std::fs::write(&config, changed).unwrap();
    refuses(&tiny(), &with_reference);
    assert!(run(&tiny(), &[]).status.success());
    std::fs::write(&held, std::fs::read_to_string(&held).unwrap().replace("Yes", "Sure")).unwrap();
    refuses(&tiny(), &[]);
}

#[test]
fn the_same_seed_gives_the_same_adapter_bytes() {
    let files = Files::new();
    let (chats, model) = (files.chats(), tiny());
    let run = |name: &str, seed: &str| {
        let out = files.path(name);
        json_of(&[
            "sft", "--model", &model, "--data", &chats, "--steps", "2", "--batch", "2", "--lora-r", "4",
            "--lr", "1e-2", "--seed", seed, "--out", &out,
        ]);
        std::fs::read(Path::new(&out).join("adapter/adapter_model.safetensors")).unwrap()
    };
    let first = run("a", "5");
    assert!(first == run("b", "5"));
    assert!(first != run("c", "6"));
}

#[test]
fn bad_input_is_a_clear_error() {
    let files = Files::new();
    let (chats, model, out) = (files.chats(), tiny(), files.path("out"));
    let sft = |model: &str, data: &str, more: &[&str], expect: &str| {
        let args = ["sft", "--model", model, "--data", data, "--out", &out, "--steps", "1"];
        fails(&[&args, more].concat(), 1, expect);
    };
    sft("no/such/model/at-all", &chats, &[], "cannot find the model");
    let gguf = files.with("broken.gguf", b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff");
    sft(&gguf, &chats, &[], "broken.gguf");
    sft(&model, &files.path("absent.jsonl"), &[], "absent.jsonl");
    sft(&model, &files.with("empty.jsonl", ""), &[], "empty.jsonl");
    sft(&model, &files.with("bad.jsonl", "{\n[1,\n"), &[], "bad.jsonl");
    sft(
        &model,
        &chats,
        &["--config", &files.with("c.toml", "lrr = 1.0\n")],
        "unknown key `lrr`: did you mean `lr`?",
    );
    sft(&model, &chats, &["--targets", "no_proj"], "no_proj");
    sft(&model, &chats, &["--init", "pissa", "--lora-r", "100000"], "100000");
    sft(&model, &chats, &["--schedule", "triangle"], "unknown schedule");
    sft(&model, &chats, &["--dtype", "fp99"], "unknown dtype fp99");
    sft(&model, &chats, &["--max-length", "4"], "no example to train on");
    let diverges =
        ["sft", "--model", &model, "--data", &chats, "--out", &out, "--steps", "5", "--lr", "1e30"];
    fails(&[&diverges[..], &["--schedule", "constant"]].concat(), 1, "the loss is");
    let text = files.with("text.txt", "word ".repeat(50));
    fails(&["perplexity", &model, &text, "--window", "100000"], 1, "the model reads at most 2048 tokens");
    fails(&["merge", &model, &files.path("no-adapter"), "--out", &files.path("merged")], 1, "no-adapter");
    let raising = files.with("raise.jinja", "{{ raise_exception('only two roles here') }}");
    fails(&["render", &raising, "--chat-file", &chats], 1, "only two roles here");
    let unwritable = Path::new(&chats).join("under-a-file").display().to_string();
    fails(&["merge", &model, &model, "--out", &unwritable], 1, "adapter");
    fails(&["rag", "ask", &files.path("none.sqlite"), "why?"], 1, "ferrotune rag index");
}

/// A copy of the tiny model with one of its files changed.
fn spoilt(files: &Files, name: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
    let copy = files.0.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        let bytes = if entry.file_name() == name { change(bytes) } else { bytes };
        std::fs::write(copy.join(entry.file_name()), bytes).unwrap();
    }
    copy.display().to_string()
}

#[test]
fn a_truncated_checkpoint_is_refused() {
    let files = Files::new();
    let model = spoilt(&files, "model.safetensors", |bytes| bytes[..bytes.len() / 2].to_vec());
    fails(&["generate", &model, "--chat", "Hello"], 1, "model.safetensors");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let files = Files::new();
    let model = spoilt(&files, "tokenizer.json", |bytes| {
        let mut tokenizer: Value = serde_json::from_slice(&bytes).unwrap();
        let more = (0..40).map(|i| {
            json!({"id": 384 + i, "content": format!("<|more{i}|>"), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        });
        tokenizer["added_tokens"].as_array_mut().unwrap().extend(more);
        tokenizer.to_string().into_bytes()
    });
    fails(&["generate", &model, "--chat", "Hello"], 1, "they do not belong together");
}

#[test]
fn a_line_of_100_mb_is_set_aside() {
    let files = Files::new();
    let mut rows = b"{\"id\": \"long\", \"question\": \"".to_vec();
    rows.resize(rows.len() + 100_000_000, b'x');
    rows.extend_from_slice(
        b"\", \"answer\": \"a\"}\n{\"id\": \"t\", \"question\": \"When do you open on Sundays?\", \
          \"answer\": \"We open at ten on Sundays and close at five.\"}\n",
    );
    let (file, out) = (files.with("tickets.jsonl", rows), files.path("out"));
    let report = json_of(&["curate", &file, "--recipe", "tickets", "--out", &out]).remove(0);
    assert_eq!((report["read"].as_u64(), report["kept"].as_u64()), (Some(2), Some(1)), "{report}");
    assert_eq!(report["dropped"]["line_too_long"], 1);
    let dropped = std::fs::read_to_string(Path::new(&out).join("dropped.jsonl")).unwrap();
    assert!(dropped.len() < 10_000, "the whole line was kept: {} bytes", dropped.len());
}

/// The tiny model reads 2,048 tokens.
#[test]
fn a_row_longer_than_the_context_is_counted_or_refused() {
    let files = Files::new();
    let long = "Where is my order? ".repeat(2000);
    let chat = |text: &str| {
        json!({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "It is here."}]})
            .to_string()
            + "\n"
    };
    let data = files.with("chats.jsonl", chat(&long) + &chat("Where is it?"));
    let (model, out) = (tiny(), files.path("out"));
    let args = ["sft", "--model", &model, "--data", &data, "--out", &out, "--steps", "1", "--batch", "1"];
    let told = ferrotune(&args);
    let stderr = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success() && stderr.contains("1 dropped: too_long"), "{stderr}");
    fails(&[&args[..], &["--max-length", "100000"]].concat(), 1, "at most 2048 tokens");
    fails(&["generate", &model, "--chat", &long], 1, "2048");
}
