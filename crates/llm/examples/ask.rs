//! Asks a model behind an OpenAI-compatible address and prints the reply as it comes.
//!
//! `cargo run -p ferrotune-llm --example ask -- http://127.0.0.1:11434 qwen3:4b "Why is the sky blue?"`
//!
//! Without arguments it starts a small server of its own and talks to that.

#![expect(clippy::print_stdout, reason = "an example's output is its point")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use ferrotune_llm::{Client, ClientConfig};
use ferrotune_types::{GenerateParams, Message, Role};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = match arguments.next() {
        Some(url) => url,
        None => parrot()?,
    };
    let model = arguments.next().unwrap_or_else(|| "parrot".to_owned());
    let question = arguments.next().unwrap_or_else(|| "Who is a pretty bird?".to_owned());
    let client = Client::new(ClientConfig::at(&url, model))?;
    let mut show = |piece: &str| {
        print!("{piece}");
        let _ = std::io::stdout().flush();
    };
    client.chat_stream(&[Message::new(Role::User, question)], &GenerateParams::default(), &mut show)?;
    println!("\n{:?}", client.spent());
    Ok(())
}

/// A server for one request, which streams three words.
fn parrot() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line)? > 2 {
            if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        reader.read_exact(&mut vec![0; length])?;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
        for word in ["Pretty ", "bird! ", "Pretty bird!"] {
            let event = serde_json::json!({"choices": [{"delta": {"content": word}}]});
            stream.write_all(format!("data: {event}\n\n").as_bytes())?;
        }
        stream.write_all(b"data: [DONE]\n\n")
    });
    Ok(url)
}
