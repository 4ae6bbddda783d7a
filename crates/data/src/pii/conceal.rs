//! Audit files without the personal data that the curation took out.

use serde_json::Value;

use super::redact::{Numbers, replace, spans_in};
use super::visit::{rename, value};
use super::{Operator, PiiConfig};
use crate::{Dropped, Edit};

/// Hides in an audit what a `pii` step would find, as numbered placeholders, whatever the step's own operators.
///
/// A span is found by what stands around it. So the pieces of text that edits tell can show what the step would
/// find in the whole.
#[derive(Debug)]
pub(crate) struct Conceal {
    config: PiiConfig,
}

impl Conceal {
    pub(super) fn new(step: &PiiConfig) -> Self {
        let mut config = step.clone();
        config.operator = Operator::Placeholder;
        config.operators.clear();
        Conceal { config }
    }

    /// In the row and in the figures of the verdict. The row's id stays, or is the one that took its place.
    pub(crate) fn dropped(&self, dropped: &mut Dropped) {
        let mut numbers = Numbers::default();
        let id = dropped.row.get("id").cloned();
        value("", "", &mut dropped.row, &mut |_, _, text| {
            numbers.reserve(text, &self.config);
            None
        });
        value("", "", &mut dropped.row, &mut |_, column, text| self.text(column, text, &mut numbers));
        if let (Some(id), Some(held)) = (id, dropped.row.get_mut("id")) {
            let shown = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            let is_hidden = !spans_in("", &shown, &self.config).is_empty();
            *held = if is_hidden { Value::String(dropped.id.clone()) } else { id };
        }
        if let Some(hidden) = self.text("", &dropped.detail, &mut numbers) {
            dropped.detail = hidden;
        }
    }

    /// In what stood there before and after.
    pub(crate) fn edit(&self, edit: &mut Edit) {
        if edit.step == "pii" {
            return;
        }
        let mut numbers = Numbers::default();
        for text in [&mut edit.before, &mut edit.after] {
            if let Some(hidden) = self.text("", text, &mut numbers) {
                *text = hidden;
            }
        }
    }

    /// In the texts and names of what a report tells; its figures stay.
    pub(crate) fn told(&self, told: &mut Value) {
        let mut numbers = Numbers::default();
        each_text(told, &mut |text| self.text("", text, &mut numbers));
    }

    fn text(&self, column: &str, text: &str, numbers: &mut Numbers) -> Option<String> {
        // Turns hold their words in `content`, which tells nothing about them.
        let column = if matches!(column, "content" | "text" | "role") { "" } else { column };
        let spans = spans_in(column, text, &self.config);
        let mut number = |kind, label: &str, value: &str| numbers.placeholder(kind, label, value);
        (!spans.is_empty()).then(|| replace(text, &spans, &self.config, None, &mut number).text)
    }
}

fn each_text(told: &mut Value, change: &mut dyn FnMut(&str) -> Option<String>) {
    match told {
        Value::String(text) => {
            if let Some(fresh) = change(text) {
                *text = fresh;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(map) => {
            rename(map, change);
            map.values_mut().for_each(|held| each_text(held, change));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
