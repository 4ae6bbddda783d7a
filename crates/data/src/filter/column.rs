//! What other columns of a row say: ratings, times, labels, scores.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Drop, Edit, Record, RecordStep};

/// What becomes of a row that lacks the column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// It stays: nothing speaks against it.
    #[default]
    Keep,
    /// It goes, as `missing_column`.
    Drop,
}

/// A help desk's figures. A customer who did not vote says nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tickets {
    /// Lowest `meta.satisfaction` to learn from.
    pub min_satisfaction: Option<f64>,
    /// Most hours until the ticket was solved (`meta.resolution_hours`).
    pub max_resolution_hours: Option<f64>,
    /// Rows without these columns.
    pub missing: Missing,
}

impl RecordStep for Tickets {
    fn name(&self) -> &'static str {
        "tickets"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        if let Some(min) = self.min_satisfaction {
            match number(record.meta().get("satisfaction")) {
                Some(n) if n < min => {
                    return Err(Drop::new("low_satisfaction", format!("{n} of at least {min}")));
                }
                None if self.missing == Missing::Drop => return Err(missing("satisfaction")),
                _ => {}
            }
        }
        if let Some(max) = self.max_resolution_hours {
            match number(record.meta().get("resolution_hours")) {
                Some(n) if n > max => {
                    return Err(Drop::new("slow_resolution", format!("{n} hours of at most {max}")));
                }
                None if self.missing == Missing::Drop => return Err(missing("resolution_hours")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Any column: a number within bounds, or a value out of a list. `score.quality` reaches into objects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Column {
    /// The column of `meta`.
    pub column: String,
    /// Lowest number.
    pub min: Option<f64>,
    /// Highest number.
    pub max: Option<f64>,
    /// The values to keep; empty keeps all.
    pub one_of: Vec<Value>,
    /// The values to refuse.
    pub none_of: Vec<Value>,
    /// Rows without the column.
    pub missing: Missing,
}

impl RecordStep for Column {
    fn name(&self) -> &'static str {
        "column"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        let mut keys = self.column.split('.');
        let first = keys.next().and_then(|k| record.meta().get(k));
        let value =
            record.meta().get(&self.column).or_else(|| keys.try_fold(first?, |value, key| value.get(key)));
        let Some(value) = value.filter(|v| !v.is_null()) else {
            return if self.missing == Missing::Drop { Err(missing(&self.column)) } else { Ok(()) };
        };
        let refuse =
            |what: String| Err(Drop::new("column_value", format!("`{}` is {value}, {what}", self.column)));
        if self.min.is_some() || self.max.is_some() {
            let Some(n) = number(Some(value)) else { return refuse("not a number".into()) };
            if let Some(min) = self.min.filter(|&min| n < min) {
                return refuse(format!("below {min}"));
            }
            if let Some(max) = self.max.filter(|&max| n > max) {
                return refuse(format!("above {max}"));
            }
        }
        if !self.one_of.is_empty() && !self.one_of.iter().any(|v| same(v, value)) {
            return refuse("not in the list".into());
        }
        if self.none_of.iter().any(|v| same(v, value)) {
            return refuse("in the list of refused values".into());
        }
        Ok(())
    }
}

/// Equal, with numbers compared as numbers (`5` and `5.0`, a CSV's `"5"`).
fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((number(Some(a)), number(Some(b))), (Some(a), Some(b)) if a == b)
}

/// A number, also where it was written as a text.
fn number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|n: &f64| n.is_finite()),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
}

fn missing(column: &str) -> Drop {
    Drop::new("missing_column", format!("no `{column}`"))
}
