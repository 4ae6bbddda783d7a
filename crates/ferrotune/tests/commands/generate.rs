//! `ferrotune generate`: what its options mean together, texts of any kind, and chats that grow.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::{Files, fails, json_of, spoilt, tiny};

#[test]
fn what_an_option_would_not_change_is_refused() {
    let model = tiny();
    for (option, value) in [("--score", "yes"), ("--beams", "2"), ("--logprobs", "2")] {
        fails(
            &["generate", &model, option, value],
            1,
            &format!("{option} needs --chat TEXT or --prompt TEXT"),
        );
    }
    fails(&["generate", &model, "--json"], 1, "--json needs --chat TEXT or --prompt TEXT");
    for (option, value) in [
        ("--stop", "x"),
        ("--stop-id", "3"),
        ("--temperature", "1"),
        ("--top-p", "0.5"),
        ("--max-new-tokens", "5"),
        ("--min-new-tokens", "5"),
        ("--logprobs", "2"),
        ("--length-penalty", "2"),
        ("--seed", "1"),
    ] {
        let args = ["generate", &model, "--prompt", "a", "--score", "b", option, value];
        fails(&args, 2, &format!("cannot be used with '{option}"));
    }
}

#[test]
fn a_text_may_begin_with_a_dash() {
    let model = tiny();
    let say = |args: &[&str]| {
        let common = ["generate", &model, "--dtype", "fp32"];
        json_of(&[&common[..], args].concat()).remove(0)
    };
    let short = ["--max-new-tokens", "2"];
    for texts in [["--chat", "- item one"], ["--prompt", "-x"]] {
        say(&[&texts[..], &["--stop", "---"], &short].concat());
    }
    say(&[&["--chat", "Hi", "--system", "- be brief"], &short[..]].concat());
    assert!(say(&["--prompt", "a", "--score", "-b"])["n_tokens"].as_u64().unwrap() > 0);
    assert_eq!(json_of(&["tokenize", &model, "--show", "--x"])[0]["characters"], 3);
    fails(&["rag", "ask", "none.sqlite", "-why?", "--k", "2"], 1, "ferrotune rag index");
    fails(&["rag", "ask", "none.sqlite", "--no-such-option"], 1, "ferrotune rag index");
    fails(&["generate", &model, "--prompt", "a", "--temperature", "-1"], 1, "temperature is -1");
    fails(&["generate", &model, "--prompt", "a", "--top-p", "-1"], 1, "top_p is -1");
}

#[test]
fn numbers_that_cannot_be_meant_are_refused_before_anything_is_loaded() {
    let model = tiny();
    let huge = usize::MAX.to_string();
    let refuses = |option: &str, value: &str, expect: &str| {
        fails(&["generate", "no-such-model", "--prompt", "a", option, value], 2, expect);
    };
    refuses("--max-new-tokens", &huge, "is not in 0..=100000000");
    refuses("--min-new-tokens", &huge, "is not in 0..=100000000");
    refuses("--beams", &huge, "is not in 1..=1024");
    refuses("--beams", "0", "is not in 1..=1024");
    let penalty = ["generate", "no-such-model", "--prompt", "a", "--beams", "2", "--length-penalty"];
    for value in ["NaN", "inf"] {
        fails(&[&penalty[..], &[value]].concat(), 2, "it must be finite");
    }
    for option in ["--reserve", "--context"] {
        fails(&["tokenize", &model, "--show", "a", option, &huge], 2, "is not in 0..=100000000");
    }
    let ids = ["generate", &model, "--prompt", "a", "--stop-id"];
    fails(&[&ids[..], &["384"]].concat(), 1, "--stop-id is 384, but the model has 384 tokens");
    json_of(&[&ids[..], &["383", "--max-new-tokens", "1"]].concat());
}

#[test]
fn a_folder_around_a_gguf_file_is_told_to_name_the_file() {
    let files = Files::new();
    files.with("model.Q4.gguf", "");
    fails(&["generate", &files.path(""), "--prompt", "a"], 1, "name the file, ");
    fails(&["generate", &files.path(""), "--prompt", "a"], 1, "model.Q4.gguf");
}

/// The tiny model with a context of so many tokens.
fn short_sighted(files: &Files, context: usize) -> String {
    spoilt(files, "config.json", |bytes| {
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        config["max_position_embeddings"] = json!(context);
        config.to_string().into_bytes()
    })
}

#[test]
fn a_text_to_score_must_fit_into_the_context() {
    let files = Files::new();
    let model = short_sighted(&files, 64);
    let long = "word ".repeat(80);
    let args = ["generate", &model, "--prompt", "a", "--score", &long];
    fails(&args, 1, "the prompt and the text to score have");
    fails(&args, 1, "more than the model's context of 64");
}

/// A chat in the terminal of these lines. An answer has 24 tokens where it has room for them.
fn talk(model: &str, lines: &[&str]) -> Output {
    let mut chat = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .args(["generate", model, "--dtype", "fp32", "--max-new-tokens", "24", "--min-new-tokens", "24"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let all: String = lines.iter().map(|line| format!("{line}\n")).collect();
    chat.stdin.take().unwrap().write_all(all.as_bytes()).unwrap();
    chat.wait_with_output().unwrap()
}

#[test]
fn a_long_chat_forgets_its_oldest_turns_to_leave_room_for_an_answer() {
    let files = Files::new();
    let model = short_sighted(&files, CONTEXT);
    let alone = talk(&model, &["Where is it?"]);
    let out = talk(&model, &["Where is it?", "Where is it?", "Where is it?"]);
    let (said, told) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{told}");
    // With the first answer, the second message would leave its own 13 tokens: a quarter of the context is asked for.
    assert_eq!(told.matches("its oldest turns are forgotten").count(), 2, "{told}");
    let alone = text(&alone.stdout);
    assert_eq!(said, alone[..alone.len() - 1].repeat(3) + "\n", "{told}");
}

#[test]
fn a_message_that_leaves_no_room_is_told_and_the_chat_goes_on() {
    let files = Files::new();
    let model = short_sighted(&files, CONTEXT);
    let alone = talk(&model, &["Where is it?"]);
    let out = talk(&model, &[&"word ".repeat(CONTEXT), "Where is it?"]);
    let (said, told) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{told}");
    assert!(told.contains(&format!("leave no room in the context of {CONTEXT}: shorten it")), "{told}");
    assert!(!told.contains("forgotten"), "{told}");
    assert_eq!(said, text(&alone.stdout), "{told}");
}

const CONTEXT: usize = 80;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
