//! Lists of turns: OpenAI's `{role, content}` and ShareGPT's `{from, value}`, tool calls included.

use ferrotune_types::{Message, Role};
use serde_json::{Map, Value, json};

use super::{Row, take_list};
use crate::Drop;
use crate::read::kind;

/// Columns that may hold turns.
const LISTS: [&str; 10] = [
    "messages",
    "conversations",
    "conversation",
    "turns",
    "dialogue",
    "dialog",
    "utterances",
    "items",
    "data",
    "contents",
];

/// The column whose turns name their speaker under `speaker` (`role` or `from`).
pub(super) fn list(row: &Row, speaker: &str) -> Option<&'static str> {
    LISTS.into_iter().find(|key| match row.get(*key) {
        Some(Value::Array(turns)) => turns.first().is_some_and(|t| t.get(speaker).is_some()),
        Some(Value::String(text)) if text.trim_start().starts_with('[') => {
            serde_json::from_str::<Vec<Map<String, Value>>>(text)
                .is_ok_and(|turns| turns.first().is_some_and(|t| t.contains_key(speaker)))
        }
        _ => false,
    })
}

/// Whether a value is a list of turns.
pub(super) fn is_list(value: &Value) -> bool {
    let is_turn = |turn: &Value| turn.get("role").or_else(|| turn.get("from")).is_some_and(Value::is_string);
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_turn))
}

/// How a list of turns is written that has neither `role` nor `from`.
#[derive(Clone, Copy)]
pub(super) enum Odd {
    /// `{"speaker": "agent", "text": …}`: the column that names who speaks.
    Speaker(&'static str),
    /// `{"human": …, "assistant": …}`, one object an exchange: the two columns.
    Exchange(&'static str, &'static str),
    /// Texts, the person's first.
    Texts,
}

const SPEAKERS: [&str; 3] = ["speaker", "author", "sender"];
const EXCHANGES: [(&str, &str); 5] = [
    ("human", "assistant"),
    ("user", "assistant"),
    ("input", "output"),
    ("question", "answer"),
    ("prompt", "response"),
];

/// The column that holds such a list.
pub(super) fn odd_list(row: &Row) -> Option<(&'static str, Odd)> {
    // Beside a question or a text, such a list is something else: tags, search hits.
    let is_alone = !["text", "instruction", "prompt", "question"].iter().any(|key| row.contains_key(*key));
    LISTS.into_iter().filter(|key| is_alone && *key != "items").find_map(|key| {
        let list = row.get(key)?.as_array().filter(|l| !l.is_empty())?;
        let all_have = |name: &str| list.iter().all(|turn| turn.get(name).is_some_and(Value::is_string));
        if let Some(speaker) = SPEAKERS.into_iter().find(|s| all_have(s)) {
            let is_known = |turn: &Value| turn[speaker].as_str().and_then(role).is_some();
            return list.iter().all(is_known).then_some((key, Odd::Speaker(speaker)));
        }
        if let Some((asked, answered)) = EXCHANGES.into_iter().find(|(a, b)| all_have(a) && all_have(b)) {
            return Some((key, Odd::Exchange(asked, answered)));
        }
        (list.len() > 1 && list.iter().all(Value::is_string)).then_some((key, Odd::Texts))
    })
}

/// Rewrites such a list as `messages`.
pub(super) fn straighten(row: &mut Row) -> Result<(), Drop> {
    if list(row, "role").or_else(|| list(row, "from")).is_some() {
        return Ok(());
    }
    let Some((key, odd)) = odd_list(row) else { return Ok(()) };
    let mut messages: Vec<Value> = Vec::new();
    let turns = take_list(row, key)?;
    // Dialogue sets call the machine that answers "system".
    let is_system_the_answerer = match odd {
        Odd::Speaker(speaker) => {
            let roles = || turns.iter().filter_map(|turn| turn.get(speaker)?.as_str().and_then(role));
            roles().all(|r| r != Role::Assistant) && roles().skip(1).any(|r| r == Role::System)
        }
        _ => false,
    };
    for (i, turn) in turns.into_iter().enumerate() {
        match (odd, turn) {
            (Odd::Speaker(speaker), Value::Object(mut turn)) => {
                let mut who = turn.shift_remove(speaker).unwrap_or_default();
                if is_system_the_answerer && who.as_str().and_then(role) == Some(Role::System) {
                    who = json!("assistant");
                }
                let said = SAID.into_iter().find_map(|name| turn.shift_remove(name)).unwrap_or_default();
                turn.insert("role".to_owned(), who);
                turn.insert("content".to_owned(), said);
                messages.push(Value::Object(turn));
            }
            (Odd::Exchange(asked, answered), turn) => {
                messages.push(json!({"role": "user", "content": turn[asked]}));
                messages.push(json!({"role": "assistant", "content": turn[answered]}));
            }
            (_, turn) => {
                messages
                    .push(json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": turn}));
            }
        }
    }
    row.insert("messages".to_owned(), Value::Array(messages));
    Ok(())
}

/// Columns of a turn that hold what is said.
const SAID: [&str; 6] = ["content", "text", "value", "message", "utterance", "body"];

/// Takes the row's turns out, whichever column holds them.
pub(super) fn take(row: &mut Row) -> Result<Vec<Message>, Drop> {
    let key = list(row, "role").or_else(|| list(row, "from")).unwrap_or("messages");
    let turns = take_list(row, key)?;
    let mut messages = Vec::with_capacity(turns.len() + 1);
    for (i, turn) in turns.into_iter().enumerate() {
        messages.push(message(turn, &format!("{key}[{i}]"))?);
    }
    if messages.is_empty() {
        return Err(Drop::new("missing_field", format!("`{key}` holds no turns")));
    }
    Ok(messages)
}

/// One turn in either form.
pub(super) fn message(turn: Value, field: &str) -> Result<Message, Drop> {
    let bad = |what: String| Drop::new("bad_value", format!("`{field}` {what}"));
    let Value::Object(mut turn) = turn else {
        return Err(bad(format!("must be a turn, it is {}", kind(&turn))));
    };
    let speaker = turn.shift_remove("role").or_else(|| turn.shift_remove("from"));
    let Some(Value::String(speaker)) = speaker else { return Err(bad("names no speaker".into())) };
    let said = ["content", "value", "text", "parts"].into_iter().find(|name| turn.contains_key(*name));
    let content = said.and_then(|name| turn.shift_remove(name));
    let content = match content {
        Some(Value::String(text)) => text,
        Some(Value::Null) | None => String::new(),
        Some(Value::Array(parts)) => join_parts(&parts).map_err(bad)?,
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
        Some(other @ Value::Object(_)) => other.to_string(),
    };
    if matches!(speaker.as_str(), "function_call" | "tool_call" | "tool_calls") {
        let mut message = Message::new(Role::Assistant, "");
        message.tool_calls = calls_of_text(&content).ok_or_else(|| bad("holds no JSON call".into()))?;
        return Ok(message);
    }
    let role = role(&speaker).ok_or_else(|| bad(format!("has the unknown speaker `{speaker}`")))?;
    let mut message = Message::new(role, content);
    let mut take_calls = |key: &str| {
        let calls = calls(turn.shift_remove(key).unwrap_or_default());
        calls.ok_or_else(|| bad(format!("has an unreadable `{key}`: it must be objects, or their JSON")))
    };
    message.tool_calls = take_calls("tool_calls")?;
    // OpenAI's older form: one call, under its own key.
    for call in take_calls("function_call")? {
        message.tool_calls.push(json!({"type": "function", "function": call}));
    }
    // `extra` as this crate's Parquet files hold it.
    if let Some(Value::String(text)) = turn.get("extra")
        && let Ok(Value::Object(extra)) = serde_json::from_str(text)
    {
        turn.shift_remove("extra");
        turn.extend(extra);
    }
    turn.retain(|_, value| !value.is_null());
    message.extra = turn;
    Ok(message)
}

/// The role behind a speaker's name.
fn role(speaker: &str) -> Option<Role> {
    Some(match speaker.trim().to_lowercase().as_str() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" | "human" | "customer" | "client" | "prompter" | "question" | "visitor" | "requester" => {
            Role::User
        }
        "assistant" | "gpt" | "bot" | "model" | "agent" | "chatgpt" | "bing" | "bard" | "ai" | "answer"
        | "support" | "operator" | "chatbot" | "representative" | "advisor" => Role::Assistant,
        "tool" | "observation" | "function" | "function_response" | "tool_response" | "ipython" => Role::Tool,
        _ => return None,
    })
}

/// The text of a list of parts; a picture or a sound cannot be kept.
fn join_parts(parts: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    for part in parts {
        match part {
            Value::String(part) => text.push_str(part),
            Value::Object(part) if part.get("text").is_some_and(Value::is_string) => {
                text.push_str(part["text"].as_str().unwrap_or_default());
            }
            other => {
                let what = other.get("type").and_then(Value::as_str).unwrap_or("unknown");
                return Err(format!("has a part of the type `{what}`; only text can be kept"));
            }
        }
    }
    Ok(text)
}

/// Calls as a list, as one object, or as either in a text of JSON. An object of nulls is how a table says none.
fn calls(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(text) if text.trim().is_empty() => Some(Vec::new()),
        Value::String(text) => calls(serde_json::from_str(&text).ok().filter(|v: &Value| !v.is_string())?),
        Value::Object(call) if call.values().all(Value::is_null) => Some(Vec::new()),
        call @ Value::Object(_) => Some(vec![call]),
        Value::Array(calls) => calls.iter().all(Value::is_object).then_some(calls),
        _ => None,
    }
}

/// ShareGPT's `function_call` turns: a JSON call or a list of them.
fn calls_of_text(text: &str) -> Option<Vec<Value>> {
    let calls = match serde_json::from_str(text).ok()? {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    calls
        .iter()
        .all(Value::is_object)
        .then(|| calls.into_iter().map(|call| json!({"type": "function", "function": call})).collect())
}

/// Takes the row's tool definitions out, in OpenAI's form; a text of JSON is parsed. An empty `tools` leaves the word
/// to `functions`.
pub(super) fn take_tools(row: &mut Row) -> Result<Vec<Value>, Drop> {
    let is_empty = |tools: &Value| match tools {
        Value::Array(tools) => tools.is_empty(),
        Value::String(text) => matches!(text.trim(), "" | "[]" | "null"),
        other => other.is_null(),
    };
    for key in ["tools", "functions"] {
        if row.get(key).is_some_and(is_empty) {
            row.shift_remove(key);
        }
    }
    let key = if row.contains_key("tools") { "tools" } else { "functions" };
    let tools = match row.shift_remove(key) {
        Some(Value::Array(tools)) => tools,
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|_| Drop::new("bad_value", format!("`{key}` must be a list of tools, it is a text")))?,
        None => Vec::new(),
        Some(other) => {
            return Err(Drop::new("bad_value", format!("`{key}` must be a list, it is {}", kind(&other))));
        }
    };
    let wrap = |tool: Value| match tool.get("type") {
        None if tool.get("name").is_some() => json!({"type": "function", "function": tool}),
        _ => tool,
    };
    Ok(tools.into_iter().map(wrap).collect())
}

/// A text that is a whole transcript, as HH-RLHF writes them: `\n\nHuman: … \n\nAssistant: …`.
pub(super) fn transcript(text: &str) -> Option<Vec<Message>> {
    let marks = [("\n\nHuman:", Role::User), ("\n\nAssistant:", Role::Assistant)];
    let mut found: Vec<(usize, usize, Role)> = Vec::new();
    // Some files were stripped of the blank lines at the beginning.
    let bare = &marks[0].0[2..];
    if text.starts_with(bare) && text.contains(marks[1].0) {
        found.push((0, bare.len(), Role::User));
    } else if !text.starts_with(marks[0].0) {
        return None;
    }
    for (mark, role) in marks {
        found.extend(text.match_indices(mark).map(|(at, _)| (at, at + mark.len(), role)));
    }
    found.sort_unstable_by_key(|&(at, ..)| at);
    let ends = found.iter().skip(1).map(|&(at, ..)| at).chain([text.len()]);
    Some(
        found
            .iter()
            .zip(ends)
            .map(|(&(_, start, role), end)| Message::new(role, text[start..end].trim()))
            .collect(),
    )
}
