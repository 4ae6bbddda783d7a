use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::InvalidValue;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Standing instructions.
    System,
    /// Standing instructions under OpenAI's newer name; templates that lack it read it as `system`.
    Developer,
    /// The person.
    User,
    /// The model: what it says is what SFT trains on.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name that chat templates compare with.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; empty where a turn holds tool calls only.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub content: String,
    /// Tool calls in OpenAI's form, as they were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Every other key of the message (`name`, `tool_call_id`, `reasoning_content`, …): templates see them.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(d)?.unwrap_or_default())
}

impl Message {
    /// A plain turn.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message { role, content: content.into(), tool_calls: Vec::new(), extra: Map::new() }
    }
}

/// A chat, in turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// Unique within its dataset; kept through every stage.
    #[serde(default)]
    pub id: String,
    /// The turns, oldest first.
    pub messages: Vec<Message>,
    /// Tool definitions in OpenAI's form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// Every other column of the row (category, satisfaction, created_at, source, …).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
}

/// A prompt with a better and a worse continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// Unique within its dataset.
    #[serde(default)]
    pub id: String,
    /// The turns before the answer.
    pub prompt: Vec<Message>,
    /// The better answer, usually one assistant turn.
    pub chosen: Vec<Message>,
    /// The worse answer.
    pub rejected: Vec<Message>,
    /// Every other column of the row.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
}

/// A plain text, for continued pretraining or retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Unique within its dataset.
    #[serde(default)]
    pub id: String,
    /// The text.
    pub text: String,
    /// Every other column of the row.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
}

/// Spans must be ordered, disjoint, inside `text` and on character boundaries.
fn check_spans(text: &str, spans: &[Range<usize>]) -> Result<(), InvalidValue> {
    let mut end_of_last = 0;
    for span in spans {
        let bad = |reason| Err(InvalidValue::Span { start: span.start, end: span.end, reason });
        if span.start < end_of_last || span.end < span.start {
            return bad("is out of order");
        }
        if text.get(span.clone()).is_none() {
            return bad("leaves the text or cuts a character");
        }
        end_of_last = span.end;
    }
    Ok(())
}

/// The texts that a tokenizer reads as single control ids. Chat templates see them as `bos_token`, `eos_token`, ….
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<String>,
    /// Ends a sequence or a turn.
    pub eos: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
    /// Fills rows up; unused here, where nothing is padded.
    pub pad: Option<String>,
    /// Every text that must never come from a person's words as a control token, the above included.
    pub control: Vec<String>,
}

/// A conversation as one text, and where in it the assistant speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    assistant: Vec<Range<usize>>,
    literal: Vec<Range<usize>>,
}

impl Rendered {
    /// `assistant` holds byte ranges of `text`: what the assistant says, its end-of-turn token included.
    ///
    /// # Errors
    /// [`InvalidValue::Span`] where spans are unordered, overlap, leave the text or cut a character.
    pub fn new(text: impl Into<String>, assistant: Vec<Range<usize>>) -> Result<Self, InvalidValue> {
        let text = text.into();
        check_spans(&text, &assistant)?;
        Ok(Rendered { text, assistant, literal: Vec::new() })
    }

    /// Adds the byte ranges where a person's own words spell a control token (`<|im_end|>`): the tokenizer reads
    /// them as plain characters.
    ///
    /// # Errors
    /// [`InvalidValue::Span`] as [`Self::new`].
    pub fn with_literal(mut self, literal: Vec<Range<usize>>) -> Result<Self, InvalidValue> {
        check_spans(&self.text, &literal)?;
        self.literal = literal;
        Ok(self)
    }

    /// Byte ranges of [`Self::text`] in which nothing is a control token.
    pub fn literal(&self) -> &[Range<usize>] {
        &self.literal
    }

    /// The whole text, special tokens included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Byte ranges of [`Self::text`] that training may learn to say.
    pub fn assistant(&self) -> &[Range<usize>] {
        &self.assistant
    }

    /// The same spans counted in characters, as Python sees them.
    pub fn assistant_chars(&self) -> Vec<Range<usize>> {
        let (mut byte, mut chars) = (0, 0);
        let mut chars_at = |to: usize| {
            chars += self.text[byte..to].chars().count();
            byte = to;
            chars
        };
        self.assistant.iter().map(|s| chars_at(s.start)..chars_at(s.end)).collect()
    }
}
