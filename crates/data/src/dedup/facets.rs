//! What of a row is compared.

use std::borrow::Cow;

use ferrotune_types::{Message, Role};

use super::texts::{Facet, Texts};
use crate::{Item, Record};

/// Which parts of a row are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Question and answer, each for itself (a pair's prompt, better and worse answer; a document's text).
    /// Standing instructions do not count. Deduplication looks at rows so: the same question with another answer
    /// is not a duplicate, nor is the same answer to another question.
    Row,
    /// What was asked, or a document's text. Splitting looks at rows so: two answers to one question must not
    /// come to lie on both sides.
    Prompt,
}

/// Rows as [`Texts`].
pub struct Rows<'a> {
    /// The rows.
    pub records: &'a [Record],
    /// Rows whose numbers follow on those of `records`.
    pub reference: &'a [Record],
    /// What of them is compared.
    pub view: View,
}

impl Rows<'_> {
    /// A row by its number.
    pub fn get(&self, row: usize) -> &Record {
        self.records.get(row).unwrap_or_else(|| &self.reference[row - self.records.len()])
    }
}

impl Texts for Rows<'_> {
    fn count(&self) -> usize {
        self.records.len() + self.reference.len()
    }

    fn facets(&self, row: usize) -> Vec<Facet<'_>> {
        facets(self.get(row), self.view)
    }
}

/// The parts of `record` that `view` compares. A chat and a document never have the same tags.
pub fn facets(record: &Record, view: View) -> Vec<Facet<'_>> {
    let facet = |tag, text| Facet { tag, text };
    match (&record.item, view) {
        (Item::Document(d), _) => vec![facet(1, Cow::Borrowed(&*d.text))],
        (Item::Chat(c), View::Row) => {
            vec![facet(2, said(&c.messages, is_asked)), facet(3, said(&c.messages, is_answered))]
        }
        (Item::Chat(c), View::Prompt) => vec![facet(2, said(&c.messages, is_asked))],
        // A pair's prompt has a chat's tag: by prompt, the two are compared.
        (Item::Pair(p), View::Prompt) => vec![facet(2, said(&p.prompt, is_asked))],
        (Item::Pair(p), View::Row) => vec![
            facet(4, said(&p.prompt, |role| is_asked(role) || is_answered(role))),
            facet(5, said(&p.chosen, |_| true)),
            facet(6, said(&p.rejected, |_| true)),
        ],
    }
}

fn is_asked(role: Role) -> bool {
    matches!(role, Role::User | Role::Tool)
}

fn is_answered(role: Role) -> bool {
    role == Role::Assistant
}

/// The turns of some roles, tool calls included, with an empty line between.
fn said(messages: &[Message], wanted: fn(Role) -> bool) -> Cow<'_, str> {
    let mut turns = messages.iter().filter(|m| wanted(m.role));
    match (turns.next(), turns.next()) {
        (None, _) => Cow::Borrowed(""),
        (Some(only), None) if only.tool_calls.is_empty() => Cow::Borrowed(&only.content),
        (first, second) => {
            let mut text = String::new();
            for message in first.into_iter().chain(second).chain(turns) {
                text.push_str(&message.content);
                for call in &message.tool_calls {
                    text.push('\n');
                    text.push_str(&call.to_string());
                }
                text.push_str("\n\n");
            }
            Cow::Owned(text)
        }
    }
}
