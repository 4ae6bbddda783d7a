//! A server that does what a script says, one act a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What to do with a connection.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Answer with a status, one more header line (or nothing) and a body.
    Answer(u16, &'static str, String),
    /// Promise more bytes than are sent.
    CutShort(String),
    /// Close before a word is said.
    HangUp,
    /// Say nothing for longer than the client waits.
    Sleep,
    /// Answer after this wait, echoing the last message, whatever the script says next.
    Echo(Duration),
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: String,
    pub(crate) body: Value,
}

pub(crate) struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Acts in order; the last one is repeated.
    pub(crate) fn new(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let act = script[i.min(script.len() - 1)].clone();
                let log = Arc::clone(&log);
                std::thread::spawn(move || serve(&stream.unwrap(), &act, &log));
            }
        });
        Server { port, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/", self.port)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// A chat reply that says `text`, at a price of 10 and 5 tokens.
pub(crate) fn says(text: &str) -> Act {
    Act::Answer(200, "", reply(text))
}

fn reply(text: &str) -> String {
    json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    })
    .to_string()
}

fn serve(stream: &TcpStream, act: &Act, log: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(Seen { path, headers, body: body.clone() });
    let send = |status: u16, header: &str, body: &str, length: usize| {
        let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n");
        let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        // A client that has given up closes its end; that is its right.
        let _ = (&mut &*stream).write_all(format!("{head}{header}\r\n{body}").as_bytes());
    };
    match act {
        Act::Answer(status, header, body) => send(*status, header, body, body.len()),
        Act::CutShort(body) => send(200, "", body, body.len() + 100),
        Act::HangUp => {}
        Act::Sleep => std::thread::sleep(Duration::from_millis(1500)),
        Act::Echo(wait) => {
            std::thread::sleep(*wait);
            let text = body["messages"].as_array().and_then(|m| m.last()?["content"].as_str()).unwrap_or("");
            let body = reply(text);
            send(200, "", &body, body.len());
        }
    }
}
