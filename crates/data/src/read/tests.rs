#![expect(clippy::print_stdout, reason = "tests tell what they measured, or why they are skipped")]

mod untold;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ferrotune_types::{Message, PreferencePair, Role};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Item, write};

fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read(name: &str, bytes: &[u8]) -> (Vec<Record>, Vec<Dropped>, Detection) {
    let (_folder, path) = file(name, bytes);
    open(&path, &ReadOptions::default()).unwrap()
}

/// Reads one JSON row and compares its shape and its item.
fn check(row: &Value, shape: Shape, expect: &Value) {
    let (records, dropped, detection) = read("rows.jsonl", row.to_string().as_bytes());
    assert_eq!(dropped, [], "{row}");
    assert_eq!(detection.shape, shape, "{row}");
    assert_eq!(serde_json::to_value(&records[0].item).unwrap(), *expect);
}

#[test]
fn every_shape_is_known() {
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]);
    let chat = json!({"id": "rows-1", "messages": turns});
    check(&json!({"messages": turns}), Shape::Messages, &chat);
    check(
        &json!({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}),
        Shape::ShareGpt,
        &chat,
    );
    check(&json!({"prompt": "Hi", "completion": "Hello"}), Shape::PromptCompletion, &chat);
    check(&json!({"instruction": "Hi", "input": "", "output": "Hello"}), Shape::Alpaca, &chat);
    check(
        &json!({"instruction": "Add", "input": "1 2", "output": "3", "system": "Be exact", "history": [["a", "b"]]}),
        Shape::Alpaca,
        &json!({"id": "rows-1", "messages": [
            {"role": "system", "content": "Be exact"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "Add\n\n1 2"},
            {"role": "assistant", "content": "3"}]}),
    );
    check(
        &json!({"id": 7, "Question": "Hi", "agent reply": "Hello", "CSAT": 4, "queue": "x", "lang": "en"}),
        Shape::Tickets,
        &json!({"id": "7", "messages": turns, "meta": {"lang": "en", "satisfaction": 4, "category": "x"}}),
    );
    check(
        &json!({"text": "A page.", "meta": {"url": "u"}}),
        Shape::Document,
        &json!({"id": "rows-1", "text": "A page.", "meta": {"url": "u"}}),
    );
    check(
        &json!({"prompt": "Hi", "completion": "Hello", "label": true}),
        Shape::Kto,
        &json!({"id": "rows-1", "messages": turns, "meta": {"label": true}}),
    );
}

#[test]
fn every_preference_form_is_known() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let expect = json!({"id": "rows-1", "prompt": [turn("user", "Hi")],
        "chosen": [turn("assistant", "Hello!")], "rejected": [turn("assistant", "What?")]});
    let check = |row: &Value| check(row, Shape::Preference, &expect);
    check(&json!({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}));
    check(&json!({"question": "Hi", "response_j": "Hello!", "response_k": "What?"}));
    check(&json!({"instruction": "Hi", "input": "", "chosen": "Hello!", "rejected": "What?"}));
    check(&json!({"instruction": "Hi", "output": ["Hello!", "What?"]}));
    check(&json!({"prompt": [turn("user", "Hi")], "chosen": [turn("assistant", "Hello!")],
        "rejected": [turn("assistant", "What?")]}));
    check(&json!({"chosen": [turn("user", "Hi"), turn("assistant", "Hello!")],
        "rejected": [turn("user", "Hi"), turn("assistant", "What?")]}));
    check(&json!({"prompt": "Hi", "chosen": [turn("user", "Hi"), turn("assistant", "Hello!")],
        "rejected": [turn("user", "Hi"), turn("assistant", "What?")]}));
    check(&json!({"conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello!"}, "rejected": {"from": "gpt", "value": "What?"}}));
    check(
        &json!({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"}),
    );
    check(
        &json!({"input": {"messages": [turn("user", "Hi")]}, "preferred_output": [turn("assistant", "Hello!")],
        "non_preferred_output": [turn("assistant", "What?")]}),
    );
}

/// The cuts are those of `trl.extract_prompt`, TRL 1.16.
#[test]
fn texts_without_a_prompt_share_it() {
    let check_beside = |more: Value, chosen: &str, rejected: &str, expect: [&str; 3]| {
        let mut row = json!({"chosen": chosen, "rejected": rejected});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let turn = |role: &str, text: &str| json!([{"role": role, "content": text}]);
        let [prompt, better, worse] = expect;
        check(
            &row,
            Shape::Preference,
            &json!({"id": "rows-1", "prompt": turn("user", prompt), "chosen": turn("assistant", better),
                "rejected": turn("assistant", worse)}),
        );
    };
    let check = |chosen: &str, rejected: &str, expect| check_beside(json!({}), chosen, rejected, expect);
    check("The sky is blue.", "The sky is green.", ["The sky is", " blue.", " green."]);
    check("Q: 2+2?\nA: 4", "Q: 2+2?\nA: 5", ["Q: 2+2?\nA:", " 4", " 5"]);
    check("Größe: é", "Größe: è", ["Größe:", " é", " è"]);
    check("ab  c", "ab  d", ["ab ", " c", " d"]);
    check("a b", "ab", ["a", " b", "b"]);
    // One text is the beginning of the other, or both are the same.
    check("The sky is blue.", "The sky is", ["The sky i", "s blue.", "s"]);
    check("The sky is", "The sky is blue.", ["The sky i", "s", "s blue."]);
    check("Same", "Same", ["Sam", "e", "e"]);
    // A column that holds nothing is no prompt; one that holds something is the prompt.
    check_beside(json!({"prompt": null}), "Hi! Yes", "Hi! No", ["Hi!", " Yes", " No"]);
    check_beside(json!({"prompt": "Well?"}), "Hi! Yes", "Hi! No", ["Well?", "Hi! Yes", "Hi! No"]);

    let dropped = |row: Value, expect: (&str, &str)| {
        let (records, dropped, _) = read("rows.jsonl", row.to_string().as_bytes());
        assert!(records.is_empty(), "{records:?}");
        assert_eq!(dropped[0].reason, expect.0, "{dropped:?}");
        assert!(dropped[0].detail.contains(expect.1), "{dropped:?}");
    };
    for (chosen, rejected) in [("abc", "xyz"), ("a", "a"), (" x", " y"), ("", "x"), ("", ""), ("  ", "  a")] {
        dropped(json!({"chosen": chosen, "rejected": rejected}), ("bad_value", "share no beginning"));
    }
    let other = json!({"user_prompt": "Which colour?", "chosen": "The blue one", "rejected": "The red one"});
    dropped(other, ("missing_field", "no `prompt`; the row has [user_prompt]"));
    let turn = |text: &str| json!([{"role": "assistant", "content": text}]);
    dropped(json!({"chosen": turn("a b"), "rejected": turn("a c")}), ("missing_field", "no `prompt`"));
    dropped(
        json!({"chosen": turn("a b").to_string(), "rejected": turn("a c").to_string()}),
        ("missing_field", "no `prompt`"),
    );
    let transcript = "\n\nHuman: Hi\n\nAssistant: Hello!";
    dropped(json!({"chosen": transcript, "rejected": "\n\nHuman"}), ("missing_field", "no `prompt`"));
}

#[test]
fn of_judged_answers_the_better_is_chosen() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let expect = json!({"prompt": [turn("user", "Hi")],
        "chosen": [turn("assistant", "Hello!")], "rejected": [turn("assistant", "What?")]});
    let check = |row: Value| {
        let (records, dropped, detection) = read("rows.jsonl", row.to_string().as_bytes());
        assert_eq!((dropped, detection.shape), (vec![], Shape::Preference), "{row}");
        let mut item = serde_json::to_value(&records[0].item).unwrap();
        item.as_object_mut().unwrap().retain(|key, _| key != "id" && key != "meta");
        assert_eq!(item, expect, "{row}");
    };
    let (good, bad) = ("Hello!", "What?");
    check(
        json!({"prompt": "Hi", "response_0": bad, "response_1": good, "better_response_id": 1, "safer_response_id": 0}),
    );
    check(json!({"prompt": "Hi", "response_a": good, "response_b": bad, "winner": "model_a"}));
    check(
        json!({"prompt": "Hi", "response_a": bad, "response_b": good, "winner_model_a": 0, "winner_model_b": 1}),
    );
    check(json!({"instruction": "Hi", "input": "", "output_1": bad, "output_2": good, "preference": 2}));
    check(json!({"history": "Hi", "human_ref_A": good, "human_ref_B": bad, "labels": 1}));
    check(json!({"question": "Hi", "answer_0": bad, "answer_1": good, "score_0": -0.5, "score_1": 0.5}));
    check(json!({"prompt": "Hi", "answers": [{"answer": bad, "rank": 3}, {"answer": "Hm.", "rank": 2},
        {"answer": good, "rank": 1}]}));
    check(json!({"prompt": "Hi", "responses": ["Hm.", good, bad], "scores": [0.2, 0.9, 0.1]}));
    check(json!({"input": "Hi", "chosen": good, "rejected": bad}));
    check(json!({"chosen": "Human: Hi\n\nAssistant: Hello!", "rejected": "Human: Hi\n\nAssistant: What?"}));
    let whole = |said: &str| json!([turn("user", "Hi"), turn("assistant", said)]);
    check(json!({"conversation_a": whole(bad), "conversation_b": whole(good), "winner": "model_b"}));
    let tie = json!({"prompt": "Hi", "response_a": "x", "response_b": "y", "winner": "tie"});
    let (records, dropped, _) = read("rows.jsonl", tie.to_string().as_bytes());
    assert_eq!((records.len(), dropped[0].reason.as_str()), (0, "no_preference"));
}

#[test]
fn chats_written_in_other_ways_are_chats() {
    let expect = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]);
    let check = |row: Value| {
        let (records, dropped, _) = read("rows.jsonl", row.to_string().as_bytes());
        assert_eq!(dropped, [], "{row}");
        assert_eq!(serde_json::to_value(&records[0].item).unwrap()["messages"], expect, "{row}");
    };
    check(
        json!({"conversation": [{"speaker": "Customer", "text": "Hi"}, {"speaker": "Agent", "text": "Hello"}]}),
    );
    check(json!({"conversation": [{"human": "Hi", "assistant": "Hello"}]}));
    check(json!({"conversation": [{"input": "Hi", "output": "Hello"}], "source": "capybara"}));
    check(json!({"id": "0", "data": ["Hi", "Hello"]}));
    check(json!({"items": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}));
    check(json!({"messages": [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Hello"}]}));
    check(
        json!({"turns": [{"speaker": "USER", "utterance": "Hi"}, {"speaker": "SYSTEM", "utterance": "Hello"}]}),
    );
    check(
        json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]}),
    );
    check(json!({"input": "Hi", "output": "Hello"}));
    check(json!({"inputs": "Hi", "targets": "Hello"}));
    check(json!({"problem": "Hi", "solution": "Hello"}));
    check(json!({"human": "Hi", "assistant": "Hello"}));
    check(json!({"Ticket Subject": "Greeting", "Ticket Description": "Hi", "Resolution": "Hello"}));
    check(json!({"subject": "Greeting", "body": "Hi", "answer": "Hello", "queue": "Billing"}));
    check(json!({"instruction": "Hi", "category": "x", "intent": "y", "response": "Hello"}));
    check(json!({"Frage": "Hi", "Antwort": "Hello"}));
    check(json!({"pregunta": "Hi", "respuesta": "Hello"}));
    // Lists that are no turns leave a text a text.
    let (records, ..) = read("rows.jsonl", br#"{"text": "A page.", "data": ["a", "b"]}"#);
    assert!(matches!(records[0].item, Item::Document(_)));
}

#[test]
fn old_encodings_are_known_or_given() {
    let text = "frage;antwort\nGr\u{f6}\u{df}e?;Die Gr\u{f6}\u{df}e steht innen.\n";
    let (latin, ..) = encoding_rs::WINDOWS_1252.encode(text);
    let mut options = ReadOptions::default();
    options.columns.question = Some("frage".into());
    options.columns.answer = Some("antwort".into());
    let check = |bytes: &[u8], options: &ReadOptions, encoding: &str| {
        let (_folder, path) = file("t.csv", bytes);
        let (records, dropped, detection) = open(&path, options).unwrap();
        assert_eq!(dropped, []);
        assert_eq!(records[0].texts()[0].1, "Gr\u{f6}\u{df}e?");
        assert_eq!(detection.to_string().contains("read as"), !encoding.is_empty(), "{detection}");
        assert!(detection.to_string().contains(encoding), "{detection}");
    };
    check(text.as_bytes(), &options, "");
    check(&latin, &options, "windows-1252");
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    check(&utf16, &options, "UTF-16LE");
    let (dos, ..) = encoding_rs::Encoding::for_label(b"ibm866").unwrap().encode("frage;antwort\nДа?;Нет.\n");
    options.encoding = Some("ibm866".into());
    let (_folder, path) = file("t.csv", &dos);
    assert_eq!(open(&path, &options).unwrap().0[0].texts()[0].1, "Да?");
    options.encoding = Some("no-such".into());
    assert!(open(&path, &options).unwrap_err().to_string().contains("no-such"));
    // A single bad row in a file of UTF-8 goes aside alone.
    let (records, dropped, _) = read("t.csv", b"question,answer\ncaf\xc3\xa9?,yes it is\ncaf\xe9?,no\n");
    assert_eq!((records.len(), dropped[0].reason.as_str()), (1, "not_utf8"));
}

#[test]
fn files_as_pandas_excel_and_viewers_write_them_are_read() {
    let check = |name: &str, bytes: &str| {
        let (records, dropped, _) = read(name, bytes.as_bytes());
        assert_eq!(dropped, [], "{bytes}");
        let texts: Vec<&str> = records.iter().flat_map(Record::texts).map(|(_, text)| text).collect();
        assert_eq!(texts, ["Hi", "Hello", "A", "B"], "{bytes}");
    };
    check("t.json", r#"{"question": ["Hi", "A"], "answer": ["Hello", "B"]}"#);
    check("t.json", r#"{"question": {"0": "Hi", "1": "A"}, "answer": {"0": "Hello", "1": "B"}}"#);
    check(
        "t.json",
        r#"{"rows": [{"row": {"question": "Hi", "answer": "Hello"}}, {"row": {"question": "A", "answer": "B"}}]}"#,
    );
    check("t.csv", "sep=;\nQuestion;Answer\nHi;Hello\nA;B\n");
    let lines = "{\"question\": \"Hi\", \"answer\": \"Hello\", \"x\": NaN}\n{\"question\": \"A\", \"answer\": \"B\", \"x\": -Infinity}\n";
    check("t.jsonl", lines);
    check("t.txt", &lines.replace("NaN", "1").replace("-Infinity", "2"));
    let (records, ..) = read("t.jsonl", br#"{"text": "NaN \" Infinity", "x": NaN}"#);
    assert_eq!(records[0].texts()[0].1, "NaN \" Infinity");
}

#[test]
fn a_file_that_ends_too_early_is_an_error_not_a_short_dataset() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for i in 0..50_000 {
        writeln!(gz, "{{\"text\": \"row {i} {}\"}}", i * 7919 % 104_729).unwrap();
    }
    let whole = gz.finish().unwrap();
    let check = |bytes: &[u8]| {
        let (_folder, path) = file("t.jsonl.gz", bytes);
        open(&path, &ReadOptions::default()).map(|(records, ..)| records.len()).map_err(|e| e.to_string())
    };
    assert_eq!(check(&whole), Ok(50_000));
    let error = check(&whole[..whole.len() / 2]).unwrap_err();
    assert!(error.contains("t.jsonl.gz"), "{error}");
}

#[test]
fn tool_calls_survive() {
    let call = json!({"type": "function", "function": {"name": "find", "arguments": {"q": "x"}}});
    let expect = json!({"id": "rows-1", "messages": [
        {"role": "user", "content": "Find x"}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "[1]"}, {"role": "assistant", "content": "One."}],
        "tools": [{"type": "function", "function": {"name": "find"}}]});
    check(
        &json!({"conversations": [{"from": "human", "value": "Find x"},
            {"from": "function_call", "value": "{\"name\": \"find\", \"arguments\": {\"q\": \"x\"}}"},
            {"from": "observation", "value": "[1]"}, {"from": "gpt", "value": "One."}],
            "tools": "[{\"name\": \"find\"}]"}),
        Shape::ShareGpt,
        &expect,
    );
    check(
        &json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Find x"}]},
            {"role": "assistant", "content": null, "tool_calls": [call]}, {"role": "tool", "content": "[1]"},
            {"role": "assistant", "content": "One."}], "tools": [{"name": "find"}]}),
        Shape::Messages,
        &expect,
    );
}

#[test]
fn bad_rows_go_aside_with_line_and_reason() {
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(3000));
    let mut bytes = Vec::new();
    for line in [
        &b"{\"text\": \"one\"}"[..],
        b"{\"text\": \"two\"",
        b"",
        b"[1, 2]",
        b"{\"text\": \"\xff\"}",
        long.as_bytes(),
        b"{\"text\": null}",
        b"{\"other\": 1}",
        b"{\"text\": {\"a\": 1}}",
        b"{\"text\": 5}",
        b"{\"text\": \"last\"}",
    ] {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    let (_folder, path) = file("bad.jsonl", &bytes);
    let options = ReadOptions { max_row_bytes: 2000, ..ReadOptions::default() };
    let (records, dropped, _) = open(&path, &options).unwrap();
    assert_eq!(records.iter().map(Record::id).collect::<Vec<_>>(), ["bad-1", "bad-11"]);
    let told: Vec<_> = dropped.iter().map(|d| (d.origin.line, d.reason.as_str())).collect();
    let expect = [
        (2, "malformed_json"),
        (4, "not_an_object"),
        (5, "not_utf8"),
        (6, "line_too_long"),
        (7, "missing_field"),
        (8, "missing_field"),
        (9, "bad_value"),
        (10, "bad_value"),
    ];
    assert_eq!(told, expect);
    assert!(dropped.iter().all(|d| d.row.to_string().len() < 2100));
}

#[test]
fn a_line_of_many_megabytes_is_skipped_and_not_held() {
    let mut bytes = b"{\"text\": \"one\"}\n{\"text\": \"".to_vec();
    bytes.resize(bytes.len() + (20 << 20), b'x');
    bytes.extend_from_slice(b"\"}\n{\"text\": \"three\"}\n");
    let (records, dropped, _) = read("long.jsonl", &bytes);
    assert_eq!(records.len(), 2);
    assert_eq!((dropped[0].reason.as_str(), dropped[0].origin.line), ("line_too_long", 2));
    assert!(dropped[0].detail.starts_with("20971"), "{}", dropped[0].detail);
    assert!(dropped[0].row.to_string().len() < 2100);
}

#[test]
fn a_bad_array_element_does_not_spoil_the_others() {
    let (records, dropped, detection) =
        read("a.json", b"[\n {\"text\": \"a ] } \\\" \"},\n {\"text\": nope},\n {\"text\": \"c\"}\n]");
    assert_eq!(detection.format, Format::Json);
    assert_eq!(records.len(), 2);
    assert_eq!((dropped[0].origin.line, dropped[0].reason.as_str()), (2, "malformed_json"));
    assert!(dropped[0].detail.starts_with("line 3: "), "{}", dropped[0].detail);
    assert_eq!(records[1].id(), "a-3", "rows of an array are numbered");
    let (records, dropped, _) = read("a.json", b"[{\"text\": \"a\"}, {\"text\": \"b\"");
    assert_eq!((records.len(), dropped.len()), (1, 1));
}

#[test]
fn json_objects_around_rows_are_opened() {
    let check = |text: &str, n: usize| assert_eq!(read("a.json", text.as_bytes()).0.len(), n, "{text}");
    check(r#"{"data": [{"text": "a"}, {"text": "b"}], "version": 1}"#, 2);
    check(r#"{"0": {"text": "a"}, "1": {"text": "b"}}"#, 2);
    check("{\n\"messages\": [\n{\"role\": \"user\", \"content\": \"a\"}]}", 1);
    check("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", 2);
}

#[test]
fn csv_quotes_lines_and_ragged_rows() {
    let text = "id;question;answer;note\n1;\"Where; \"\"it\"\" is?\nTell me\";Here.;\n2;too;few\n3;What 5\" pipe?;This.;x\n4;\"open;a;b\n5;q;a;\n";
    let (records, dropped, detection) = read("t.csv", text.as_bytes());
    assert_eq!(detection.shape, Shape::Tickets);
    let asked: Vec<_> = records.iter().map(|r| (r.id(), r.texts()[0].1, r.origin.line)).collect();
    assert_eq!(asked, [("1", "Where; \"it\" is?\nTell me", 2), ("3", "What 5\" pipe?", 5), ("5", "q", 7)]);
    let told: Vec<_> = dropped.iter().map(|d| (d.origin.line, d.reason.as_str())).collect();
    assert_eq!(told, [(4, "malformed_csv"), (6, "malformed_csv")]);
}

#[test]
fn a_csv_cell_of_very_many_lines_is_read_whole() {
    let line = "a line of a long letter, which says nothing at all, but says it at length and in many words";
    let letter = vec![line; 9_500].join("\n");
    let (records, dropped, _) = read("t.csv", format!("text,n\n\"{letter}\",1\nb,2\n").as_bytes());
    assert_eq!(dropped, []);
    let texts: Vec<&str> = records.iter().map(|r| r.texts()[0].1).collect();
    assert!(texts == [&*letter, "b"]);
    // A quote that is never closed is given up after 10,000 lines, and the lines behind it are rows.
    let (records, dropped, _) =
        read("t.csv", format!("text,n\n\"a,1\n{}", "b,2\n".repeat(20_000)).as_bytes());
    assert_eq!((records.len(), dropped.len(), dropped[0].origin.line), (20_000, 1, 2));
}

#[test]
fn csv_cells_keep_what_they_say() {
    let text = "text,a,b,c,d,e\n\"\",1,1.50,True,007,\"5\"\nTrue,,2.5,true,1e3,x\n,,,,,y\n";
    let (records, dropped, _) = read("t.csv", text.as_bytes());
    assert_eq!(records.iter().map(|r| r.texts()[0].1).collect::<Vec<_>>(), ["", "True"]);
    assert_eq!(json!(records[0].meta()), json!({"a": 1, "b": "1.50", "c": "True", "d": "007", "e": "5"}));
    assert_eq!(json!(records[1].meta()), json!({"b": 2.5, "c": true, "d": "1e3", "e": "x"}));
    assert_eq!(dropped[0].reason, "missing_field", "no cell is null, and null is no text");
    let (records, _, detection) = read("k.csv", b"prompt,completion,label\nHi,Hello,True\nHi,What?,False\n");
    assert_eq!(detection.shape, Shape::Kto);
    assert_eq!(records.iter().map(|r| r.meta()["label"].clone()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn rows_of_other_shapes_keep_theirs() {
    let text = "{\"question\": \"a\", \"answer\": \"b\"}\n{\"question\": \"c\", \"answer\": \"d\"}\n\
                {\"messages\": [{\"role\": \"user\", \"content\": \"e\"}], \"category\": \"x\"}\n{\"question\": \"f\"}\n";
    let (records, dropped, detection) = read("t.jsonl", text.as_bytes());
    assert_eq!((records.len(), dropped.len()), (3, 1));
    assert_eq!(detection.shape, Shape::Tickets);
    let printed = detection.to_string();
    assert!(printed.contains("2 of the first 4 rows are question and answer"), "{printed}");
    assert!(printed.contains("1 of the first 4 rows are OpenAI messages"), "{printed}");
}

#[test]
fn compression_marks_and_utf16_are_undone() {
    let plain = b"{\"text\": \"caf\xc3\xa9\"}\n";
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(plain).unwrap();
    let utf16: Vec<u8> = "\u{feff}text\ncaf\u{e9}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [&b"\xef\xbb\xbf"[..], plain].concat();
    for (name, bytes) in [
        ("a.jsonl", plain.to_vec()),
        ("a.jsonl.gz", gz.finish().unwrap()),
        ("a.jsonl.zst", zstd::encode_all(&plain[..], 1).unwrap()),
        ("a.jsonl", marked),
        ("a.csv", utf16),
    ] {
        let (records, _, detection) = read(name, &bytes);
        assert_eq!(records[0].texts()[0].1, "café", "{detection}");
    }
}

#[test]
fn repeated_ids_are_made_unique_and_told() {
    let (_folder, path) =
        file("t.jsonl", b"{\"id\": \"a\", \"text\": \"1\"}\n{\"id\": \"a\", \"text\": \"2\"}\n");
    let mut rows = stream(&path, &ReadOptions::default()).unwrap();
    let ids: Vec<String> = rows
        .by_ref()
        .map(|r| match r.unwrap() {
            Row::Record(r) => r.id().to_owned(),
            Row::Dropped(d) => d.id,
        })
        .collect();
    assert_eq!(ids, ["a", "a~2"]);
    assert_eq!(rows.take_renamed()[0].before, "a");
}

#[test]
fn unusable_files_are_errors_that_help() {
    let check = |name: &str, bytes: &[u8], expect: &str| {
        let (_folder, path) = file(name, bytes);
        let error = open(&path, &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check("a.jsonl", b"{\"foo\": 1}\n", "[foo]");
    check("a.jsonl", b"{\"foo\": 1}\n", "instruction + output");
    check("a.jsonl", b"", "holds no rows");
    check("a.jsonl", b"nope\nnope\n", "none of its 2 rows can be read; line 1: malformed_json");
    check("a.parquet", b"PAR1nonsense", "as Parquet");
    check("a.parquet", b"nonsense", "does not begin with PAR1");
    check("a.bin", b"\x00\x01", "format is not known");
    check("a.jsonl.gz", b"\x1f\x8b\x08\x00broken", "cannot read");
    let error = open(Path::new("/nowhere/a.jsonl"), &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("cannot read /nowhere/a.jsonl"), "{error}");
}

#[test]
fn the_shared_files_are_read_whole() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !data.exists() {
        println!("skipped: the shared test data is not beside the checkout");
        return;
    }
    let check = |name: &str, shape: Shape, n: usize| {
        let (records, dropped, detection) = open(&data.join(name), &ReadOptions::default()).unwrap();
        assert_eq!((detection.shape, records.len(), dropped.len()), (shape, n, 0), "{name}: {detection}");
        records
    };
    check("llama_factory/alpaca_en_demo.json", Shape::Alpaca, 999);
    check("llama_factory/dpo_en_demo.json", Shape::Preference, 300);
    check("llama_factory/kto_en_demo.json", Shape::Kto, 300);
    let tools = check("llama_factory/glaive_toolcall_en_demo.json", Shape::ShareGpt, 300);
    assert!(
        tools
            .iter()
            .any(|r| matches!(&r.item, Item::Chat(c) if !c.messages.is_empty() && !c.tools.is_empty()))
    );
    check("llama_factory/c4_demo.jsonl", Shape::Document, 300);
    check("torchtune/stack_exchange_paired_tiny.json", Shape::Preference, 25);
    check("gsm8k/test.jsonl", Shape::Tickets, 1319);
    check("banking77/train.csv", Shape::Document, 10003);
    for record in check("hh_rlhf/harmless_base_first1200.jsonl", Shape::Preference, 1200) {
        let Item::Pair(pair) = &record.item else { panic!("{record:?}") };
        assert_eq!(pair.prompt.last().map(|m| m.role), Some(Role::User));
        assert_eq!(pair.chosen[0].role, Role::Assistant);
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn sqlite_rows_are_tickets() {
    let (_folder, path) = file("desk.db", b"");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE t (id INTEGER, question TEXT, answer TEXT, csat REAL);
         INSERT INTO t VALUES (1, 'Where?', 'Here.', 4.5), (2, NULL, 'x', NULL);",
    )
    .unwrap();
    let mut rows = sqlite(&path, "SELECT * FROM t ORDER BY id", &ReadOptions::default()).unwrap();
    let Some(Ok(Row::Record(record))) = rows.next() else { panic!() };
    assert_eq!((record.id(), &record.meta()["satisfaction"]), ("1", &json!(4.5)));
    let Some(Ok(Row::Dropped(dropped))) = rows.next() else { panic!() };
    assert_eq!(dropped.reason, "missing_field");
    let error = sqlite(&path, "SELECT nope FROM t", &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("no such column"), "{error}");
}

/// Texts with everything that a format could trip over.
fn any_text() -> impl Strategy<Value = String> {
    prop::string::string_regex("[a-z \"',;\t\n\\\\{}\\[\\]é漢\u{1F600}|:]{0,30}").unwrap()
}

fn any_record(i: usize) -> impl Strategy<Value = Record> {
    let text = any_text();
    (0..3usize, prop::collection::vec(any_text(), 2..5), text).prop_map(move |(kind, texts, extra)| {
        let mut turns: Vec<Value> = texts
            .iter()
            .enumerate()
            .map(|(j, t)| json!({"role": if j % 2 == 0 { "user" } else { "assistant" }, "content": t}))
            .collect();
        turns[1]["name"] = json!(extra);
        turns[1]["tool_calls"] = json!([{"type": "function", "function": {"name": extra}}]);
        let meta = json!({"k": extra, "n": i, "deep": {"a": [1, null]}});
        let item = match kind {
            0 => json!({"id": format!("r{i}"), "messages": turns, "tools": [{"type": "function"}], "meta": meta}),
            1 => json!({"id": format!("r{i}"), "prompt": [turns[0]], "chosen": [turns[1]], "rejected": [turns[1]],
                "meta": meta}),
            _ => json!({"id": format!("r{i}"), "text": texts[0], "meta": meta}),
        };
        Record { item: serde_json::from_value(item).unwrap(), origin: Origin::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_written_reads_back(
        records in any_record(0).prop_flat_map(|first| {
            let kind = std::mem::discriminant(&first.item);
            prop::collection::vec(any_record(1).prop_filter("one kind", move |r| {
                std::mem::discriminant(&r.item) == kind
            }), 0..2).prop_map(move |mut rest| { rest.insert(0, first.clone()); rest })
        })
    ) {
        let mut records = records;
        records.dedup_by(|a, b| a.id() == b.id());
        let folder = TempDir::new().unwrap();
        for name in ["r.jsonl", "r.jsonl.gz", "r.jsonl.zst", "r.json", "r.parquet", "r.csv"] {
            let path = folder.path().join(name);
            write::records(&path, &records).unwrap();
            let (read, dropped, _) = open(&path, &ReadOptions::default()).unwrap();
            prop_assert_eq!(dropped, vec![]);
            let items = |records: &[Record]| records.iter().map(|r| r.item.clone()).collect::<Vec<_>>();
            prop_assert_eq!(items(&read), items(&records), "{}", name);
        }
    }

    /// Against TRL's loop, character by character; prompt and answer together are the text again.
    #[test]
    fn texts_are_cut_where_trl_cuts_them(begin in "[ab é\u{301}漢\n]{0,6}", tails in ("[ab é\u{301}]{0,5}", "[ab é\u{301}]{0,5}")) {
        let (chosen, rejected) = (format!("{begin}{}", tails.0), format!("{begin}{}", tails.1));
        let (c, r): (Vec<char>, Vec<char>) = (chosen.chars().collect(), rejected.chars().collect());
        let mut at = c.len().min(r.len()).saturating_sub(1);
        for i in 0..c.len().min(r.len()) {
            if c[i] != r[i] {
                at = if i > 0 && c[i - 1] == ' ' { i - 1 } else { i };
                break;
            }
        }
        let prompt: String = c[..at].iter().collect();
        let row = json!({"chosen": chosen, "rejected": rejected});
        let (records, dropped, _) = read("rows.jsonl", row.to_string().as_bytes());
        if prompt.trim().is_empty() {
            prop_assert_eq!((records.len(), dropped[0].reason.as_str()), (0, "bad_value"));
            return Ok(());
        }
        let Item::Pair(pair) = &records[0].item else { panic!("{records:?}") };
        prop_assert_eq!(&pair.prompt[0].content, &prompt);
        for (answer, whole) in [(&pair.chosen[0].content, &chosen), (&pair.rejected[0].content, &rejected)] {
            prop_assert!(!answer.is_empty());
            prop_assert_eq!(&format!("{prompt}{answer}"), whole);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), ending in 0..4usize) {
        let (_folder, path) = file(["a.jsonl", "a.json", "a.csv", "a.parquet"][ending], &bytes);
        let _ = open(&path, &ReadOptions::default());
    }

    #[test]
    fn no_json_makes_it_panic(text in "[\\[\\]{}\":, a\n\\\\]{0,60}", ending in 0..3usize) {
        let (_folder, path) = file(["a.jsonl", "a.json", "a.csv"][ending], text.as_bytes());
        let _ = open(&path, &ReadOptions::default());
    }
}

/// A server of its own in a temporary folder, reached through a socket there; ends with the value.
#[cfg(feature = "postgres")]
struct Server {
    folder: TempDir,
    child: std::process::Child,
}

#[cfg(feature = "postgres")]
impl Server {
    /// `Err` tells why there is none.
    fn start() -> Result<Self, String> {
        use std::process::{Command, Stdio};
        use std::time::{Duration, Instant};
        let debian =
            fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = debian.chain(std::env::split_paths(&path));
        let bin = folders.find(|f| f.join("initdb").exists() && f.join("postgres").exists());
        let bin = bin.ok_or("no initdb and postgres on PATH or under /usr/lib/postgresql")?;
        let folder = TempDir::new().map_err(|e| e.to_string())?;
        let data = folder.path().join("data");
        // The server refuses to run as root; `setpriv` hands the folder to `nobody` then.
        let is_root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
        let command = |name: &str| {
            if is_root {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bin.join(name));
                command
            } else {
                Command::new(bin.join(name))
            }
        };
        if is_root {
            std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).map_err(|e| e.to_string())?;
        }
        let made = command("initdb")
            .args(["-A", "trust", "-U", "desk", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data)
            .output();
        let made = made.map_err(|e| format!("initdb: {e}"))?;
        if !made.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)));
        }
        let child = command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-F", "-c", "listen_addresses=", "-c"])
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        let server = Server { folder, child };
        let deadline = Instant::now() + Duration::from_secs(30);
        while ::postgres::Client::connect(&server.url(), ::postgres::NoTls).is_err() {
            if Instant::now() > deadline {
                return Err("the server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn url(&self) -> String {
        format!("host={} user=desk dbname=postgres", self.folder.path().display())
    }
}

#[cfg(feature = "postgres")]
impl std::ops::Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_rows_are_tickets() {
    let server = match Server::start() {
        Ok(server) => server,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let mut client = ::postgres::Client::connect(&server.url(), ::postgres::NoTls).unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int, question text, answer text, csat numeric, at timestamptz, tags text[]);
             INSERT INTO t SELECT i, 'Where is ' || i || '?', 'Here é.', 4.5, now(), ARRAY['a'] FROM generate_series(1, 2500) i;
             INSERT INTO t VALUES (9999, NULL, 'x', NULL, NULL, NULL);",
        )
        .unwrap();
    let rows =
        super::postgres(&server.url(), "SELECT * FROM t ORDER BY id;", &ReadOptions::default()).unwrap();
    assert_eq!(rows.detection.shape, Shape::Tickets);
    let rows: Vec<Row> = rows.collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), 2501);
    let Row::Record(first) = &rows[0] else { panic!() };
    assert_eq!(
        (first.id(), &first.meta()["satisfaction"], &first.meta()["tags"]),
        ("1", &json!(4.5), &json!(["a"]))
    );
    let Row::Dropped(last) = &rows[2500] else { panic!() };
    assert_eq!((last.id.as_str(), last.reason.as_str()), ("9999", "missing_field"));
    let error =
        |query: &str| super::postgres(&server.url(), query, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error("SELECT nope FROM t").contains("nope"));
    assert!(error("SELECT 1 AS x WHERE false").contains("no rows"));
    assert!(error("DELETE FROM t RETURNING *").contains("postgres"), "a query cannot write");
    let away =
        super::postgres("host=/no/such user=x", "SELECT 1", &ReadOptions::default()).unwrap_err().to_string();
    assert!(away.contains("postgres"), "{away}");
}
