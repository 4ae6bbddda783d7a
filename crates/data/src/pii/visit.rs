//! Every text of a row.

use ferrotune_types::Message;
use serde_json::{Map, Value};

use crate::{Item, Record};

/// Calls `change(field, context, text)` for every text of a row, its tool calls and its other columns and their names,
/// in a fixed order; what it returns takes the text's place.
pub(super) fn visit(record: &mut Record, change: &mut dyn FnMut(&str, &str, &str) -> Option<String>) {
    for (field, text) in record.texts_mut() {
        if let Some(fresh) = change(&field, "", text) {
            *text = fresh;
        }
    }
    let mut turns = |name: &str, messages: &mut [Message]| {
        for (i, message) in messages.iter_mut().enumerate() {
            for (k, call) in message.tool_calls.iter_mut().enumerate() {
                value(&format!("{name}[{i}].tool_calls[{k}]"), "", call, change);
            }
            object(&format!("{name}[{i}]"), &mut message.extra, change);
        }
    };
    match &mut record.item {
        Item::Chat(c) => turns("messages", &mut c.messages),
        Item::Pair(p) => {
            turns("prompt", &mut p.prompt);
            turns("chosen", &mut p.chosen);
            turns("rejected", &mut p.rejected);
        }
        Item::Document(_) => {}
    }
    let meta = match &mut record.item {
        Item::Chat(c) => &mut c.meta,
        Item::Pair(p) => &mut p.meta,
        Item::Document(d) => &mut d.meta,
    };
    object("meta", meta, change);
}

fn object(
    path: &str,
    map: &mut Map<String, Value>,
    change: &mut dyn FnMut(&str, &str, &str) -> Option<String>,
) {
    rename(map, &mut |key| change(&format!("{path} key"), "", key));
    for (key, held) in map.iter_mut() {
        value(&format!("{path}.{key}"), key, held, change);
    }
}

/// Puts what `change` returns in the place of names of columns, in their order; equal ones are told apart.
pub(super) fn rename(map: &mut Map<String, Value>, change: &mut dyn FnMut(&str) -> Option<String>) {
    let fresh: Vec<Option<String>> = map.keys().map(|key| change(key)).collect();
    if fresh.iter().all(Option::is_none) {
        return;
    }
    let mut renamed = Map::new();
    for ((key, held), fresh) in std::mem::take(map).into_iter().zip(fresh) {
        let wanted = fresh.unwrap_or(key);
        let mut name = wanted.clone();
        let mut n = 2;
        while renamed.contains_key(&name) {
            name = format!("{wanted}~{n}");
            n += 1;
        }
        renamed.insert(name, held);
    }
    *map = renamed;
}

/// As [`visit`], for every text and number under `held`; `key` is the name of the column it stands in.
pub(super) fn value(
    path: &str,
    key: &str,
    held: &mut Value,
    change: &mut dyn FnMut(&str, &str, &str) -> Option<String>,
) {
    match held {
        Value::String(text) => {
            if let Some(fresh) = change(path, key, text) {
                *text = fresh;
            }
        }
        // A phone or card number may have been read as a number.
        Value::Number(number) => {
            if let Some(fresh) = change(path, key, &number.to_string()) {
                *held = Value::String(fresh);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                value(&format!("{path}[{i}]"), key, item, change);
            }
        }
        Value::Object(map) => object(path, map, change),
        Value::Null | Value::Bool(_) => {}
    }
}
