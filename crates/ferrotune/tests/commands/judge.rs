//! A server that judges: what it is shown, and that it is not asked twice.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Files, ferrotune, json_of};

/// The address of a server that calls the longer answer better, and what it is asked.
fn server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut reader = BufReader::new(&stream);
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let said = body["messages"][1]["content"].as_str().unwrap().to_owned();
            let length = |name: &str| {
                let after = said.split(&format!("[Start of {name}'s answer]")).nth(1).unwrap();
                after.split(&format!("[End of {name}'s answer]")).next().unwrap().len()
            };
            let verdict = if length("A") > length("B") { "A" } else { "B" };
            let text = json!({"reason": "longer", "verdict": verdict}).to_string();
            log.lock().unwrap().push(said.clone());
            let reply = json!({
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5},
            });
            let reply = reply.to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", reply.len());
            (&stream).write_all(format!("{head}{reply}").as_bytes()).unwrap();
        }
    });
    (url, asked)
}

#[test]
fn a_judging_server_reads_the_conversation_and_is_not_asked_twice() {
    let (url, asked) = server();
    let files = Files::new();
    let before = [("user", "I bought a kettle."), ("assistant", "Nice, what about it?")];
    let before = before.map(|(role, content)| json!({"role": role, "content": content}));
    let case = json!({"id": 1, "question": "May I return it?", "before": before,
        "base": "No.", "tuned": "Yes, within 30 days of the purchase."});
    let file = files.rows("cases.jsonl", &[case]);
    let cache = files.path("replies");
    let judge = |cache: &[&str]| {
        let args = ["judge", &file, "--judge-url", &url, "--judge-model", "m"];
        json_of(&[&args[..], cache].concat()).remove(0)
    };
    let report = judge(&["--judge-cache", &cache]);
    assert_eq!((&report["tuned"], &report["n"]), (&json!(1), &json!(1)), "{report}");
    let shown = asked.lock().unwrap().clone();
    assert_eq!(shown.len(), 2, "both orders");
    let talk = "[Conversation before the question]\nuser: I bought a kettle.\nassistant: Nice, what about it?\n\n\
                [Question]\nMay I return it?\n\n";
    assert!(shown.iter().all(|prompt| prompt.starts_with(talk)), "{shown:?}");
    assert_eq!(judge(&["--judge-cache", &cache]), report);
    assert_eq!(asked.lock().unwrap().len(), 2, "the replies were kept");
    judge(&[]);
    assert_eq!(asked.lock().unwrap().len(), 4);
    let lonely = ferrotune(&["judge", &file, "--judge-cache", &cache]);
    assert!(String::from_utf8_lossy(&lonely.stderr).contains("--judge-url"));
}
