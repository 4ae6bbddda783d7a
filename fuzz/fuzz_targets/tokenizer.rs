//! A `tokenizer.json` of any bytes, and a GGUF's tokenizer metadata made of the same bytes: a tokenizer or an error.
//! A tokenizer that loads then reads a text and writes it again.
#![no_main]

use std::sync::Once;

use ferrotune_tokenizer::{GgufTokenizer, Tokenizer};
use libfuzzer_sys::fuzz_target;

const TEXT: &str = "the cat <|im_end|> sat\n  1984 é 北京 😀";

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // Panics of the library `tokenizers` are caught and become errors; one that gets out still ends the run.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("tokenizer.json"), bytes).expect("room for it");
    if let Ok(tokenizer) = Tokenizer::from_dir(folder.path()) {
        use_it(&tokenizer);
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf_metadata(&metadata(bytes)) {
        use_it(&tokenizer);
    }
});

fn use_it(tokenizer: &Tokenizer) {
    if let Ok(ids) = tokenizer.encode(TEXT, true) {
        let _ = tokenizer.decode(&ids, false);
    }
}

/// Metadata whose every part the bytes decide: lines are tokens, lines with a space in them merges too.
fn metadata(bytes: &[u8]) -> GgufTokenizer {
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let text = String::from_utf8_lossy(bytes.get(6..).unwrap_or_default());
    let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let id = |i: usize| (at(i) < 128).then(|| u32::from(at(i)));
    GgufTokenizer {
        model: ["gpt2", "llama", "t5", "bert"][usize::from(at(0) % 4)].into(),
        pre: Some(["default", "llama-bpe", "qwen2", "deepseek-llm"][usize::from(at(1) % 4)].into()),
        scores: lines.iter().map(|line| line.len() as f32 - 4.0).collect(),
        token_types: lines.iter().map(|line| line.len() as i32 % 7).collect(),
        merges: lines.iter().filter(|line| line.contains(' ')).cloned().collect(),
        tokens: lines,
        bos: id(2),
        eos: id(3),
        unk: id(4),
        add_bos: Some(at(5) & 1 == 1),
        add_eos: Some(at(5) & 2 == 2),
        add_space_prefix: Some(at(5) & 4 == 4),
        ..GgufTokenizer::default()
    }
}
