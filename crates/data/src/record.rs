use std::collections::HashSet;

use ferrotune_types::{Conversation, Document, Message, PreferencePair, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// A row on its way through curation: what it holds and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What the row holds.
    pub item: Item,
    /// The file and line it was read from.
    pub origin: Origin,
}

/// The three kinds of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Item {
    /// A preference pair (tried first: it has the most required keys).
    Pair(PreferencePair),
    /// A chat.
    Chat(Conversation),
    /// A plain text.
    Document(Document),
}

impl Item {
    /// The preference pair, if it is one.
    pub fn into_pair(self) -> Option<PreferencePair> {
        match self {
            Item::Pair(pair) => Some(pair),
            _ => None,
        }
    }

    /// The chat, if it is one.
    pub fn into_chat(self) -> Option<Conversation> {
        match self {
            Item::Chat(chat) => Some(chat),
            _ => None,
        }
    }
}

/// Where a row was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// File name or query.
    pub file: String,
    /// Line (text formats) or row number, counted from 1.
    pub line: usize,
}

/// Why a step refuses a row: `reason` is a stable key that reports count by, `detail` tells this row's figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// A stable snake_case key, such as `too_short` or `near_duplicate`.
    pub reason: &'static str,
    /// The figures or the text that decided.
    pub detail: String,
}

impl Drop {
    /// A verdict with its figures.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Drop { reason, detail: detail.into() }
    }
}

/// A row that was set aside, whole, with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The row's id.
    pub id: String,
    /// The step that refused it.
    pub step: String,
    /// Key of the reason.
    pub reason: String,
    /// This row's figures.
    pub detail: String,
    /// Where it was read.
    pub origin: Origin,
    /// The row as it stood when it was refused; the raw line where it never parsed.
    pub row: Value,
}

/// A change that a step made to a text, for a person to audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The row's id.
    pub id: String,
    /// The step that made it.
    pub step: String,
    /// Which text of the row: `messages[1].content`, `text`, ….
    pub field: String,
    /// First changed character of the text before the edit.
    pub start: usize,
    /// One past the last changed character of the text before the edit.
    pub end: usize,
    /// What stood there.
    pub before: String,
    /// What stands there now.
    pub after: String,
}

impl Edit {
    /// Of a row's id: `after` stands in the place of `before`.
    pub(crate) fn of_id(step: &str, before: String, after: &str) -> Self {
        let (id, step, field) = (after.to_owned(), step.to_owned(), "id".to_owned());
        Edit { id, step, field, start: 0, end: before.chars().count(), before, after: after.to_owned() }
    }
}

/// Ids that are taken, held as 64-bit hashes: a collision only renames a row that need not be.
#[derive(Default)]
pub(crate) struct TakenIds(HashSet<u64>);

impl TakenIds {
    /// Takes the id; whether it was free.
    pub(crate) fn take(&mut self, id: &str) -> bool {
        self.0.insert(xxh3_64(id.as_bytes()))
    }

    /// Takes `id`, or where that is taken `id~2`, `id~3`, ….
    pub(crate) fn fresh(&mut self, id: &str) -> String {
        let mut found = id.to_owned();
        let mut n = 2;
        while !self.take(&found) {
            found = format!("{id}~{n}");
            n += 1;
        }
        found
    }
}

/// A text of a row, and who says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken<'a> {
    /// Which text of the row: `messages[1].content`, `text`, ….
    pub field: String,
    /// Who says it; `None` is a document's own voice.
    pub role: Option<Role>,
    /// The text.
    pub text: &'a str,
}

fn is_call_only(message: &Message) -> bool {
    message.content.is_empty() && !message.tool_calls.is_empty()
}

/// A step that judges and mends one row at a time: run in parallel, in any order, with the same result.
pub trait RecordStep: Send + Sync {
    /// Its name in reports and recipes.
    fn name(&self) -> &'static str;

    /// Mends `record` in place, telling every change, or refuses it.
    ///
    /// # Errors
    /// The reason to set the row aside.
    fn apply(&self, record: &mut Record, edits: &mut Vec<Edit>) -> Result<(), Drop>;
}

impl Record {
    /// The row's id.
    pub fn id(&self) -> &str {
        match &self.item {
            Item::Chat(c) => &c.id,
            Item::Pair(p) => &p.id,
            Item::Document(d) => &d.id,
        }
    }

    /// The row's other columns.
    pub fn meta(&self) -> &Map<String, Value> {
        match &self.item {
            Item::Chat(c) => &c.meta,
            Item::Pair(p) => &p.meta,
            Item::Document(d) => &d.meta,
        }
    }

    /// Every text of the row with the name of its field, in reading order.
    pub fn texts(&self) -> Vec<(String, &str)> {
        fn turns<'a>(name: &str, messages: &'a [Message], out: &mut Vec<(String, &'a str)>) {
            for (i, message) in messages.iter().enumerate() {
                out.push((format!("{name}[{i}].content"), &message.content));
            }
        }
        let mut out = Vec::new();
        match &self.item {
            Item::Chat(c) => turns("messages", &c.messages, &mut out),
            Item::Pair(p) => {
                turns("prompt", &p.prompt, &mut out);
                turns("chosen", &p.chosen, &mut out);
                turns("rejected", &p.rejected, &mut out);
            }
            Item::Document(d) => out.push(("text".to_owned(), &d.text)),
        }
        out
    }

    /// As [`Self::texts`], to be changed in place.
    pub fn texts_mut(&mut self) -> Vec<(String, &mut String)> {
        fn turns<'a>(name: &str, messages: &'a mut [Message], out: &mut Vec<(String, &'a mut String)>) {
            for (i, message) in messages.iter_mut().enumerate() {
                out.push((format!("{name}[{i}].content"), &mut message.content));
            }
        }
        let mut out = Vec::new();
        match &mut self.item {
            Item::Chat(c) => turns("messages", &mut c.messages, &mut out),
            Item::Pair(p) => {
                turns("prompt", &mut p.prompt, &mut out);
                turns("chosen", &mut p.chosen, &mut out);
                turns("rejected", &mut p.rejected, &mut out);
            }
            Item::Document(d) => out.push(("text".to_owned(), &mut d.text)),
        }
        out
    }

    /// Every text with its field and who says it; `None` is a document's own voice.
    pub fn spoken(&self) -> Vec<Spoken<'_>> {
        self.texts()
            .into_iter()
            .zip(self.roles())
            .map(|((field, text), role)| Spoken { field, role, text })
            .collect()
    }

    /// As [`Self::spoken`], to be changed in place.
    pub fn spoken_mut(&mut self) -> Vec<(String, Option<Role>, &mut String)> {
        let roles = self.roles();
        self.texts_mut().into_iter().zip(roles).map(|((field, text), role)| (field, role, text)).collect()
    }

    /// The speakers of [`Self::texts`], in its order.
    fn roles(&self) -> Vec<Option<Role>> {
        let of = |messages: &[Message]| messages.iter().map(|m| Some(m.role)).collect::<Vec<_>>();
        match &self.item {
            Item::Chat(c) => of(&c.messages),
            Item::Pair(p) => [of(&p.prompt), of(&p.chosen), of(&p.rejected)].concat(),
            Item::Document(_) => vec![None],
        }
    }

    /// The texts that training learns to say: the assistant's turns of a chat, the chosen and rejected turns of a
    /// pair, a document's text. A turn that only calls a tool has none.
    pub fn answers(&self) -> Vec<Spoken<'_>> {
        let mut answers = self.spoken();
        let calls_only: Vec<bool> = match &self.item {
            Item::Chat(c) => c.messages.iter().map(is_call_only).collect(),
            Item::Pair(p) => p
                .prompt
                .iter()
                .map(|_| true)
                .chain(p.chosen.iter().chain(&p.rejected).map(is_call_only))
                .collect(),
            Item::Document(_) => vec![false],
        };
        let mut calls_only = calls_only.into_iter();
        answers.retain(|s| calls_only.next() == Some(false) && s.role.is_none_or(|r| r == Role::Assistant));
        answers
    }

    /// The row set aside.
    pub fn dropped(self, step: &str, drop: Drop) -> Dropped {
        Dropped {
            id: self.id().to_owned(),
            step: step.to_owned(),
            reason: drop.reason.to_owned(),
            detail: drop.detail,
            row: serde_json::to_value(&self.item).unwrap_or(Value::Null),
            origin: self.origin,
        }
    }
}
