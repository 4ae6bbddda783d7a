//! Mending texts: each fix a file, each change told as an [`Edit`].
//!
//! A fix is a function from a text to a text ([`TextStep`]); what it changed is found by comparing both and
//! reported word by word, so that a person can audit it. Fixes are careful before they are thorough: a text that
//! does not show the fault is returned untouched, and applying a fix twice is the same as once.
//!
//! Only [`boilerplate`] looks at more than one row.

pub mod boilerplate;
mod diff;
mod email;
mod html;
mod markdown;
mod mojibake;
mod unicode;
mod whitespace;

use std::borrow::Cow;

use ferrotune_types::Role;

use crate::{Drop, Edit, Record, RecordStep};
pub use diff::edits;
pub use email::Email;
pub use html::{Html, html_to_text};
pub use markdown::{Markdown, MarkdownMode};
pub use mojibake::{Mojibake, fix as fix_mojibake, is_mojibake};
pub use unicode::{Unicode, UnicodeConfig};
pub use whitespace::{Whitespace, tidy as tidy_whitespace};

/// A fix that looks at one text at a time. Every `TextStep` is a [`RecordStep`] over a row's texts.
pub trait TextStep: Send + Sync {
    /// Its name in reports and recipes.
    fn name(&self) -> &'static str;

    /// The mended text; borrowed where nothing was wrong.
    fn fix<'a>(&self, text: &'a str) -> Cow<'a, str>;

    /// Whether to look at what `role` says (`None` is a document). The result of a tool is data, not prose.
    fn looks_at(&self, role: Option<Role>) -> bool {
        role != Some(Role::Tool)
    }
}

impl<T: TextStep> RecordStep for T {
    fn name(&self) -> &'static str {
        TextStep::name(self)
    }

    fn apply(&self, record: &mut Record, edits: &mut Vec<Edit>) -> Result<(), Drop> {
        let id = record.id().to_owned();
        for (field, role, text) in record.spoken_mut() {
            if !self.looks_at(role) {
                continue;
            }
            if let Cow::Owned(fixed) = self.fix(text)
                && fixed != *text
            {
                diff::push(&id, TextStep::name(self), &field, text, &fixed, edits);
                *text = fixed;
            }
        }
        Ok(())
    }
}

/// The parts of a text outside and inside fenced code (three backticks or tildes), in order; `true` is code.
/// Fixes of prose leave code alone.
fn prose_and_code(text: &str) -> Vec<(bool, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut at, mut fence) = (0, 0, None);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|m| trimmed.starts_with(m));
        match (fence, mark) {
            (None, Some(mark)) => {
                parts.push((false, &text[start..at]));
                (start, fence) = (at, Some(mark));
            }
            (Some(open), Some(mark)) if open == mark => {
                parts.push((true, &text[start..at + line.len()]));
                (start, fence) = (at + line.len(), None);
            }
            _ => {}
        }
        at += line.len();
    }
    parts.push((fence.is_some(), &text[start..]));
    parts.retain(|(_, part)| !part.is_empty());
    parts
}

/// Applies `fix` to the prose of a text and leaves fenced code as it is.
fn fix_prose(text: &str, fix: impl Fn(&str) -> String) -> Cow<'_, str> {
    let mut fixed = String::with_capacity(text.len());
    for (is_code, part) in prose_and_code(text) {
        if is_code {
            // A fence stands on a line of its own, whatever the fix did to the line before.
            if !fixed.is_empty() && !fixed.ends_with('\n') {
                fixed.push('\n');
            }
            fixed.push_str(part);
        } else {
            fixed.push_str(&fix(part));
        }
    }
    if fixed == text { Cow::Borrowed(text) } else { Cow::Owned(fixed) }
}

#[cfg(test)]
mod tests;
