//! Blanks: one kind, one at a time, none at the ends.

use std::borrow::Cow;

use super::{TextStep, prose_and_code};

/// Tidies white space; code between fences and the indentation of lines keep theirs.
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

/// The text with Unicode's blanks as plain spaces, runs of them inside a line as one, no blanks at the ends of
/// lines, at most one empty line in a row, and none at the ends of the text.
pub fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (is_code, part) in prose_and_code(text) {
        if is_code {
            out.push_str(part);
            continue;
        }
        for line in part.split_inclusive('\n') {
            tidy_line(line.strip_suffix('\n').unwrap_or(line), &mut out);
            if line.ends_with('\n') {
                let is_third = out.ends_with("\n\n");
                if !is_third {
                    out.push('\n');
                }
            }
        }
    }
    out.trim().to_owned()
}

fn tidy_line(line: &str, out: &mut String) {
    let line = line.trim_end();
    let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
    // Rows of a table are laid out by blanks.
    if line.trim_start().starts_with('|') {
        out.push_str(line);
        return;
    }
    let is_list_or_code = indent >= 2 || line.starts_with('\t');
    out.push_str(if is_list_or_code { &line[..indent] } else { "" });
    let mut after_blank = true;
    for c in line[indent..].chars() {
        if c.is_whitespace() {
            if !after_blank {
                out.push(' ');
            }
            after_blank = true;
        } else {
            out.push(c);
            after_blank = false;
        }
    }
    // A line of exotic blanks only leaves nothing.
    if line.trim().is_empty() {
        out.truncate(out.trim_end_matches([' ', '\t']).len());
    }
}
