//! Blanks: one kind, one at a time, none at the ends.

use std::borrow::Cow;

use super::{TextStep, prose_and_code};

/// Tidies white space between words. Fenced code, lines that look like code or the row of a table, the indentation of
/// lines and Markdown's line breaks keep theirs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whitespace;

impl TextStep for Whitespace {
    fn name(&self) -> &'static str {
        "whitespace"
    }

    fn fix<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let fixed = tidy(text);
        if fixed == text { Cow::Borrowed(text) } else { Cow::Owned(fixed) }
    }
}

/// The text with Unicode's blanks as plain spaces, runs of them between words as one, none at the ends of lines but the
/// two of Markdown's line break, at most one empty line in a row, and none at the ends of the text.
pub fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (is_fenced, part) in prose_and_code(text) {
        if is_fenced {
            out.push_str(part);
            continue;
        }
        let mut lines = part.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            let next = lines.peek().map(|next| next.trim_end()).unwrap_or_default();
            tidy_line(line, next, &mut out);
            if line.ends_with('\n') && !out.ends_with("\n\n") {
                out.push('\n');
            }
        }
    }
    out.trim_start_matches('\n').trim_end().to_owned()
}

fn tidy_line(line: &str, next: &str, out: &mut String) {
    let text = line.trim_end();
    if text.is_empty() {
        return;
    }
    let is_first = out.bytes().all(|b| b == b'\n');
    let is_laid_out = is_row(text) || is_code(text);
    // What opens the text is indented for a reason only where it is code.
    let keeps_indent = if is_first {
        indent(text) >= 2 && (is_laid_out || indent(next) >= 2)
    } else {
        indent(text) >= 2 || is_laid_out
    };
    let text = if keeps_indent { text } else { text.trim_start() };
    if is_laid_out || keeps_indent && indent(text) >= 4 {
        out.extend(text.chars().map(|c| if c.is_whitespace() && c != '\t' { ' ' } else { c }));
    } else {
        let words = text.trim_start_matches([' ', '\t']);
        out.push_str(&text[..text.len() - words.len()]);
        for (i, word) in words.split_whitespace().enumerate() {
            out.push_str(if i == 0 { "" } else { " " });
            out.push_str(word);
        }
    }
    let tail = line.trim_end_matches(['\r', '\n']);
    if !next.is_empty() && tail.ends_with("  ") && tail.trim_end().len() == tail.len() - 2 {
        out.push_str("  ");
    }
}

/// How far a line is indented, a tab counted as four.
fn indent(line: &str) -> usize {
    let blanks = line.bytes().take_while(|b| matches!(b, b' ' | b'\t'));
    blanks.map(|b| if b == b'\t' { 4 } else { 1 }).sum()
}

/// A row of a table: cells between bars, or between tabs that no blank stands beside.
fn is_row(line: &str) -> bool {
    let line = line.trim();
    let is_blank = |c: Option<char>| c.is_some_and(|c| c.is_whitespace() && c != '\t');
    let parts_cells = |(at, _): (usize, &str)| {
        !is_blank(line[..at].chars().next_back()) && !is_blank(line[at + 1..].chars().next())
    };
    line.starts_with('|') || line.match_indices('\t').any(parts_cells)
}

/// Signs that stand in code and seldom in prose, and blanks that are quoted.
fn is_code(line: &str) -> bool {
    let has_blanks = |quoted: &str| quoted.contains("  ");
    line.split('"').skip(1).step_by(2).any(has_blanks)
        || line.contains(['=', '{', '}', ';', '`'])
        || ["(\"", "('", "()", "::", "->"].iter().any(|sign| line.contains(sign))
}
