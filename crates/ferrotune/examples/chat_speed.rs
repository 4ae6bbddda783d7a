//! Conversations rendered, tokenised and masked in a second.
//!
//! ```text
//! cargo run --release --example chat_speed -- smollm2-135m-instruct chats.jsonl
//! ```

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use ferrotune::cli::data::conversations;
use ferrotune::{model_store, recipes};
use ferrotune_tokenizer::Limits;

#[expect(clippy::print_stdout, reason = "an example talks to the terminal")]
fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "fixtures/tiny/llama".to_owned());
    let file = args.next().context("name a file of conversations")?;
    let (tokenizer, template) = model_store::load_words(&model_store::resolve(&model)?, "")?;
    let chats = conversations(Path::new(&file))?;
    let limits = Limits { max_length: usize::MAX, ..Limits::default() };
    let mut best = f64::MAX;
    let mut tokens = 0;
    for _ in 0..3 {
        let start = Instant::now();
        let made = recipes::examples(&chats, &template, &tokenizer, &limits)?;
        best = best.min(start.elapsed().as_secs_f64());
        tokens = made.report.tokens;
    }
    let rate = chats.len() as f64 / best;
    println!("{{\"chats\": {}, \"tokens\": {tokens}, \"chats_per_s\": {rate:.1}}}", chats.len());
    Ok(())
}
