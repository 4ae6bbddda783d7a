//! What a row holds, told by its columns, and how it becomes a chat, a pair or a document.

mod chat;
mod choice;
mod document;
mod preference;
mod tickets;
mod turns;

use std::fmt;

use ferrotune_types::{Conversation, Document, Message, PreferencePair};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::kind;
use crate::{Drop, Item};
pub(super) use preference::is_labelled;

type Row = Map<String, Value>;

/// What a row holds. The order is that of detection: an earlier shape wins where a row fits several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A better and a worse answer: `prompt`/`chosen`/`rejected` as text or messages, the prompt implicit in what both
    /// answers begin with, LLaMA-Factory's ranking form, HH-RLHF transcripts, `response_j`/`response_k`, OpenAI's
    /// `preferred_output`; two answers and a judgement or two scores; a list of ranked or scored answers, of which
    /// the best and the worst are taken.
    Preference,
    /// One answer and whether it was wanted: `label` or `kto_tag`, kept as `meta.label`.
    Kto,
    /// Turns as `{"from": "human" | "gpt" | …, "value": …}`.
    ShareGpt,
    /// Turns as OpenAI writes them, tool calls included; also turns that name their `speaker`, turns as pairs of
    /// question and answer, and lists of texts that take turns.
    Messages,
    /// `instruction`, `input`, `output` (or Dolly's `instruction`, `context`, `response`).
    Alpaca,
    /// `prompt` and `completion`, or `input` and `output` and the like.
    PromptCompletion,
    /// A help desk's export, or any question and answer; other columns are kept under their usual names.
    Tickets,
    /// A plain text.
    Document,
    /// A question without an answer, as evaluation sets hold it. Taken only where every row is one: elsewhere such a
    /// row lacks its answer.
    Questions,
}

/// Names of columns that differ from the usual ones. What is left out is found by its usual names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// The row's id (`id`, `ticket_id`, …).
    pub id: Option<String>,
    /// What the customer wrote (`question`, `customer_message`, `description`, …).
    pub question: Option<String>,
    /// What was answered (`answer`, `agent_reply`, `resolution`, …).
    pub answer: Option<String>,
    /// A rating (`satisfaction`, `csat`, `rating`, …), kept as `meta.satisfaction`.
    pub satisfaction: Option<String>,
    /// A topic (`category`, `topic`, `queue`, …), kept as `meta.category`.
    pub category: Option<String>,
    /// A time (`created_at`, `date`, …), kept as `meta.created_at`.
    pub created_at: Option<String>,
    /// Hours until the ticket was solved (`resolution_hours`, …), kept as `meta.resolution_hours`.
    pub resolution_hours: Option<String>,
    /// A document's text (`text`, `content`, …).
    pub text: Option<String>,
}

impl Shape {
    /// Every shape, in the order of detection.
    pub const ALL: [Shape; 9] = [
        Shape::Preference,
        Shape::Kto,
        Shape::ShareGpt,
        Shape::Messages,
        Shape::Alpaca,
        Shape::PromptCompletion,
        Shape::Tickets,
        Shape::Document,
        Shape::Questions,
    ];

    /// The columns that the shape is known by.
    pub fn needs(self) -> &'static str {
        match self {
            Shape::Preference => {
                "chosen + rejected, or two answers and a judgement (+ prompt, question, messages, conversations \
                 or instruction)"
            }
            Shape::Kto => "label or kto_tag, with prompt + completion, instruction + output or messages",
            Shape::ShareGpt => "conversations: a list of {from, value}",
            Shape::Messages => "messages: a list of {role, content}",
            Shape::Alpaca => "instruction + output (+ input, system, history)",
            Shape::PromptCompletion => "prompt + completion (or response), input + output",
            Shape::Tickets => {
                "question + answer or reference (or columns that you name), + satisfaction, category, created_at"
            }
            Shape::Document => "text (or content, document, body)",
            Shape::Questions => "question, and no other column that could be its answer",
        }
    }

    /// The first shape that a row fits.
    pub(super) fn of(row: &Row, columns: &Columns) -> Option<Shape> {
        Shape::ALL.into_iter().find(|shape| shape.fits(row, columns))
    }

    /// Whether the row has the shape's columns, well-formed or not.
    pub(super) fn fits(self, row: &Row, columns: &Columns) -> bool {
        match self {
            Shape::Preference => preference::fits(row),
            Shape::Kto => preference::fits_kto(row),
            Shape::ShareGpt => turns::list(row, "from").is_some(),
            Shape::Messages => turns::list(row, "role").is_some() || turns::odd_list(row).is_some(),
            Shape::Alpaca => chat::fits_alpaca(row),
            Shape::PromptCompletion => chat::fits_prompt_completion(row),
            Shape::Tickets => tickets::fits(row, columns),
            Shape::Document => document::column_of(row, columns).is_some(),
            Shape::Questions => tickets::fits_question(row, columns),
        }
    }

    /// The columns that count as evidence of a shape.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Shape::Preference => {
                &["chosen", "rejected", "prompt", "question", "messages", "conversations", "instruction"]
            }
            Shape::Kto => &[
                "label",
                "kto_tag",
                "prompt",
                "completion",
                "instruction",
                "output",
                "messages",
                "conversations",
            ],
            Shape::ShareGpt => &["conversations"],
            Shape::Messages => &["messages"],
            Shape::Alpaca => &["instruction", "input", "output", "response", "system", "history"],
            Shape::PromptCompletion => &["prompt", "completion", "response", "input", "output"],
            Shape::Tickets | Shape::Document | Shape::Questions => &[],
        }
    }

    /// The row's own names of the columns that decided.
    pub(super) fn evidence(self, row: &Row, columns: &Columns) -> Vec<String> {
        match self {
            Shape::Tickets | Shape::Questions => tickets::mapping(row, columns),
            Shape::Document => {
                document::column_of(row, columns).into_iter().map(|c| format!("`{c}`")).collect()
            }
            _ => {
                let needed = row.keys().filter(|k| self.columns().contains(&k.as_str()));
                let names: Vec<String> = needed.map(|k| format!("`{k}`")).collect();
                // A rarer layout has columns of its own: name the first few.
                let all = || row.keys().take(4).map(|k| format!("`{k}`")).collect();
                if names.is_empty() { all() } else { names }
            }
        }
    }

    /// Maps a row.
    pub(super) fn map(self, id: String, row: Row, columns: &Columns) -> Result<Item, Drop> {
        match self {
            Shape::Preference => preference::map(id, row).map(Item::Pair),
            Shape::Kto => preference::map_kto(id, row).map(Item::Chat),
            Shape::ShareGpt | Shape::Messages => chat::map_turns(id, row).map(Item::Chat),
            Shape::Alpaca => chat::map_alpaca(id, row).map(Item::Chat),
            Shape::PromptCompletion => chat::map_prompt_completion(id, row).map(Item::Chat),
            Shape::Tickets => tickets::map(id, row, columns).map(Item::Chat),
            Shape::Document => document::map(id, row, columns).map(Item::Document),
            Shape::Questions => tickets::map_question(id, row, columns).map(Item::Chat),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Preference => "preference pairs",
            Shape::Kto => "KTO",
            Shape::ShareGpt => "ShareGPT",
            Shape::Messages => "OpenAI messages",
            Shape::Alpaca => "Alpaca",
            Shape::PromptCompletion => "prompt and completion",
            Shape::Tickets => "question and answer",
            Shape::Document => "documents",
            Shape::Questions => "questions without answers",
        })
    }
}

/// The row's own name of a column: `named` where it is given, else the first of the usual names, compared
/// without case and with blanks and dashes as underscores.
pub(super) fn column<'a>(row: &'a Row, named: Option<&str>, usual: &[&str]) -> Option<&'a str> {
    if let Some(named) = named {
        return row.keys().find(|k| *k == named).map(String::as_str);
    }
    let plain = |k: &str| k.trim().to_lowercase().replace([' ', '-'], "_");
    usual.iter().find_map(|name| {
        row.keys().find(|k| k == name).or_else(|| row.keys().find(|k| plain(k) == *name)).map(String::as_str)
    })
}

/// The first of `keys` that the row has and that is not null.
fn first_of<'a>(row: &Row, keys: &[&'a str]) -> Option<&'a str> {
    keys.iter().copied().find(|k| row.get(*k).is_some_and(|v| !v.is_null()))
}

/// Takes a text out of the row. Numbers and booleans are read as what they print.
fn take_text(row: &mut Row, key: &str) -> Result<String, Drop> {
    match row.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(Value::Null) => Err(Drop::new("missing_field", format!("`{key}` is null"))),
        None => Err(missing(row, key)),
        Some(other) => Err(Drop::new("bad_value", format!("`{key}` must be a text, it is {}", kind(&other)))),
    }
}

/// As [`take_text`], but absent, null and empty are `None`.
fn take_optional(row: &mut Row, key: &str) -> Result<Option<String>, Drop> {
    match row.get(key) {
        None => Ok(None),
        Some(Value::Null) => {
            row.shift_remove(key);
            Ok(None)
        }
        Some(_) => Ok(Some(take_text(row, key)?).filter(|t| !t.trim().is_empty())),
    }
}

fn missing(row: &Row, key: &str) -> Drop {
    let has: Vec<&str> = row.keys().map(String::as_str).collect();
    Drop::new("missing_field", format!("no `{key}`; the row has [{}]", has.join(", ")))
}

/// A list, also where it was written as a text of JSON (as CSV and some Parquet files must).
fn take_list(row: &mut Row, key: &str) -> Result<Vec<Value>, Drop> {
    match row.shift_remove(key) {
        Some(Value::Array(list)) => Ok(list),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|_| Drop::new("bad_value", format!("`{key}` must be a list, it is a text"))),
        Some(Value::Null) | None => Err(missing(row, key)),
        Some(other) => Err(Drop::new("bad_value", format!("`{key}` must be a list, it is {}", kind(&other)))),
    }
}

/// What is left of the row once its id and texts are taken: the other columns. An object under `meta` (as this
/// crate writes it) is laid open: where a column has a key's name and says something else, the key becomes `meta.KEY`.
fn meta(mut row: Row) -> Row {
    for key in ["id", "ID", "Id"] {
        row.shift_remove(key);
    }
    let inner = match row.shift_remove("meta") {
        Some(Value::Object(inner)) => inner,
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(Value::Object(inner)) => inner,
            _ => Row::from_iter([("meta".to_owned(), Value::String(text))]),
        },
        Some(Value::Null) | None => Row::new(),
        Some(other) => Row::from_iter([("meta".to_owned(), other)]),
    };
    row.retain(|_, value| !value.is_null());
    for (key, value) in inner {
        add(&mut row, key, value);
    }
    row
}

/// Puts a value under its key, or under `meta.KEY` where a column says something else.
fn add(row: &mut Row, key: String, value: Value) {
    if row.get(&key).is_some_and(|there| *there != value) {
        return add(row, format!("meta.{key}"), value);
    }
    row.insert(key, value);
}

fn conversation(id: String, messages: Vec<Message>, tools: Vec<Value>, row: Row) -> Conversation {
    Conversation { id, messages, tools, meta: meta(row) }
}

fn pair(
    id: String,
    prompt: Vec<Message>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
    row: Row,
) -> PreferencePair {
    PreferencePair { id, prompt, chosen, rejected, meta: meta(row) }
}

fn plain_document(id: String, text: String, row: Row) -> Document {
    Document { id, text, meta: meta(row) }
}
