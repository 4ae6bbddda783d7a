use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Chunk;

/// A value that a filter compares with. Values of different kinds are never equal, and never ordered.
#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MetaValue {
    /// True or false.
    Bool(bool),
    /// Any number.
    Number(f64),
    /// A text; ordered by its bytes, which suits ISO dates.
    Text(String),
}

impl From<&str> for MetaValue {
    fn from(text: &str) -> Self {
        MetaValue::Text(text.to_owned())
    }
}

impl From<f64> for MetaValue {
    fn from(number: f64) -> Self {
        MetaValue::Number(number)
    }
}

impl From<bool> for MetaValue {
    fn from(flag: bool) -> Self {
        MetaValue::Bool(flag)
    }
}

/// Which chunks a search may return, by their metadata.
///
/// The key `doc_id` names the chunk's document. A column that holds a list matches where any item does; a
/// column that holds an object or null matches nothing.
///
/// ```
/// use ferrotune_rag::Filter;
/// let filter: Filter = serde_json::from_str(
///     r#"{"and": [{"eq": {"key": "category", "value": "returns"}},
///                 {"range": {"key": "year", "min": 2024, "max": null}}]}"#,
/// ).unwrap();
/// assert_eq!(filter, Filter::eq("category", "returns").and(Filter::at_least("year", 2024.0)));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Filter {
    /// The column has this value.
    Eq {
        /// Column.
        key: String,
        /// Value.
        value: MetaValue,
    },
    /// The column has one of these values.
    In {
        /// Column.
        key: String,
        /// Values.
        values: Vec<MetaValue>,
    },
    /// The column lies between two values of its kind, both included; an absent end is open.
    Range {
        /// Column.
        key: String,
        /// Least value.
        min: Option<MetaValue>,
        /// Greatest value.
        max: Option<MetaValue>,
    },
    /// All of them; of none: everything.
    And(Vec<Filter>),
    /// Any of them; of none: nothing.
    Or(Vec<Filter>),
    /// What this one leaves out.
    Not(Box<Filter>),
}

impl Filter {
    /// The column has this value.
    pub fn eq(key: &str, value: impl Into<MetaValue>) -> Self {
        Filter::Eq { key: key.to_owned(), value: value.into() }
    }

    /// The column is this value or greater.
    pub fn at_least(key: &str, min: impl Into<MetaValue>) -> Self {
        Filter::Range { key: key.to_owned(), min: Some(min.into()), max: None }
    }

    /// The column is this value or less.
    pub fn at_most(key: &str, max: impl Into<MetaValue>) -> Self {
        Filter::Range { key: key.to_owned(), min: None, max: Some(max.into()) }
    }

    /// The chunks of these documents.
    pub fn documents<S: AsRef<str>>(ids: &[S]) -> Self {
        let values = ids.iter().map(|id| id.as_ref().into()).collect();
        Filter::In { key: "doc_id".to_owned(), values }
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Filter) -> Self {
        Filter::And(vec![self, other])
    }

    /// Either.
    #[must_use]
    pub fn or(self, other: Filter) -> Self {
        Filter::Or(vec![self, other])
    }

    /// Whether a chunk passes. The definition that every store must agree with.
    pub fn matches(&self, chunk: &Chunk) -> bool {
        let any = |key: &str, test: &dyn Fn(&MetaValue) -> bool| {
            meta_rows(chunk).iter().any(|(k, value)| k == key && test(value))
        };
        match self {
            Filter::Eq { key, value } => any(key, &|v| v == value),
            Filter::In { key, values } => any(key, &|v| values.contains(v)),
            Filter::Range { key, min, max } => any(key, &|v| {
                let same_kind =
                    |bound: &MetaValue| std::mem::discriminant(bound) == std::mem::discriminant(v);
                min.as_ref().is_none_or(|min| same_kind(min) && v >= min)
                    && max.as_ref().is_none_or(|max| same_kind(max) && v <= max)
            }),
            Filter::And(parts) => parts.iter().all(|part| part.matches(chunk)),
            Filter::Or(parts) => parts.iter().any(|part| part.matches(chunk)),
            Filter::Not(part) => !part.matches(chunk),
        }
    }
}

/// A chunk's metadata as flat `(column, value)` rows, without repetitions: what a store keeps.
pub(crate) fn meta_rows(chunk: &Chunk) -> Vec<(String, MetaValue)> {
    let mut rows = vec![("doc_id".to_owned(), MetaValue::Text(chunk.doc_id.clone()))];
    let mut push = |key: &str, value: &Value| {
        let value = match value {
            Value::Bool(flag) => MetaValue::Bool(*flag),
            Value::Number(number) => match number.as_f64() {
                Some(number) => MetaValue::Number(number),
                None => return,
            },
            Value::String(text) => MetaValue::Text(text.clone()),
            Value::Null | Value::Array(_) | Value::Object(_) => return,
        };
        let row = (key.to_owned(), value);
        if !rows.contains(&row) {
            rows.push(row);
        }
    };
    for (key, value) in chunk.meta.iter().filter(|(key, _)| key.as_str() != "doc_id") {
        match value {
            Value::Array(items) => items.iter().for_each(|item| push(key, item)),
            single => push(key, single),
        }
    }
    rows
}
