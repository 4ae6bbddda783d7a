//! Shows how a text is cut: `cargo run -p ferrotune-tokenizer --example tokenize -- [--dir MODEL_FOLDER] [TEXT]`.
//!
//! Without a folder, a byte-level and a unigram tokenizer are trained on a few lines and compared.

use std::error::Error;

use ferrotune_tokenizer::{ModelKind, Tokenizer, TrainConfig, compare};

const LINES: [&str; 3] = [
    "where is my order? it was shipped this morning.",
    "the cat sat on the mat, and the order was on the mat.",
    "café, naïve, déjà vu: words with accents take more tokens.",
];

#[expect(clippy::print_stdout, reason = "a program")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let folder = match args.iter().position(|arg| arg == "--dir") {
        Some(at) if at + 1 < args.len() => args.drain(at..at + 2).nth(1),
        _ => None,
    };
    let text = if args.is_empty() { "where is the café?".to_owned() } else { args.join(" ") };
    if let Some(folder) = folder {
        let tokenizer = Tokenizer::from_dir(&folder)?;
        print!("{}", compare(&[(&folder, &tokenizer)], &text)?);
        println!("{} of 2048 tokens left", tokenizer.explain(&text)?.budget(2048, 256).left());
        return Ok(());
    }
    let train = |kind, vocab_size| {
        Tokenizer::train(LINES, &TrainConfig { kind, vocab_size, min_frequency: 1, ..TrainConfig::default() })
    };
    let (bytes, unigram) = (train(ModelKind::Bpe, 340)?, train(ModelKind::Unigram, 60)?);
    print!("{}", compare(&[("byte-level BPE", &bytes), ("unigram", &unigram)], &text)?);
    Ok(())
}
