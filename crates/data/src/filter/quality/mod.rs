//! The published quality rules, with datatrove's thresholds and verdicts.
//!
//! Each of these judges a document's text (or the answers of a chat, one by one) and gives the same verdict as
//! datatrove 0.10.1 with its defaults; where a threshold is crossed by a hair, another cut of words can decide
//! otherwise, and the tests say how often.

mod c4;
mod fineweb;
mod gopher;
mod gopher_repetition;
#[rustfmt::skip]
mod tables;
mod words;

pub use c4::C4Quality;
pub use fineweb::FineWebQuality;
pub use gopher::GopherQuality;
pub use gopher_repetition::GopherRepetition;
pub use words::{sentences, words};

/// Lines as Python's `str.splitlines` cuts them.
fn python_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let is_end = matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !is_end {
            continue;
        }
        lines.push(&text[start..at]);
        start = at + c.len_utf8();
        if c == '\r'
            && let Some(&(after, '\n')) = chars.peek()
        {
            chars.next();
            start = after + 1;
        }
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

fn n_chars(text: &str) -> usize {
    text.chars().count()
}

/// `a / b` and its threshold, for the detail of a verdict.
fn ratio(share: f64, threshold: f64) -> String {
    format!("{share:.4}, the limit is {threshold}")
}

#[cfg(test)]
mod tests;
