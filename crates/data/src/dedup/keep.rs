//! Which row of a cluster is kept.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Record;

/// Which of several equal rows is kept. Ties go to the longest row, then to the smallest id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Keep {
    /// The one with the most text.
    #[default]
    Longest,
    /// The one that came first.
    First,
    /// The one with the highest number in this column; rows without one come last.
    BestScore(String),
    /// The one with the latest time in this column (RFC 3339, ISO dates, or seconds since 1970); rows without
    /// one come last.
    Newest(String),
}

impl Keep {
    /// How good each row is by this rule, to be compared with [`Rank::better`].
    pub(super) fn rank(&self, record: &Record, row: usize) -> Rank {
        let first = match self {
            Keep::Longest => 0.0,
            Keep::First => -(row as f64),
            Keep::BestScore(key) => record.meta().get(key).and_then(number).unwrap_or(f64::NEG_INFINITY),
            Keep::Newest(key) => record.meta().get(key).and_then(seconds).unwrap_or(f64::NEG_INFINITY),
        };
        let length = record.texts().iter().map(|(_, text)| text.len()).sum();
        Rank { first, length, id: record.id().to_owned(), row }
    }

    /// In words, for the report: why `kept` was preferred to `other`.
    pub(super) fn why(&self, kept: &Rank, other: &Rank) -> String {
        let (kept_length, other_length) = (kept.length, other.length);
        let by_rule = kept.first != other.first;
        match self {
            Keep::First => "it came first".to_owned(),
            Keep::BestScore(key) if by_rule => format!("best {key} ({} against {})", kept.first, other.first),
            Keep::Newest(key) if by_rule => format!("newest {key}"),
            _ if kept_length != other_length => {
                format!("the longest ({kept_length} against {other_length} bytes)")
            }
            _ => "no better and no worse, smallest id".to_owned(),
        }
    }
}

/// A row's standing under a [`Keep`] rule.
#[derive(Debug, Clone)]
pub(super) struct Rank {
    first: f64,
    length: usize,
    id: String,
    pub(super) row: usize,
}

impl Rank {
    /// `Less` where `self` is to be kept rather than `other`.
    pub(super) fn better(&self, other: &Rank) -> Ordering {
        (other.first.total_cmp(&self.first))
            .then(other.length.cmp(&self.length))
            .then_with(|| self.id.cmp(&other.id))
            .then(self.row.cmp(&other.row))
    }
}

/// A number, or a text that is one.
pub(crate) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|x: &f64| !x.is_nan())
}

/// Seconds since 1970 of a number or a text that tells a time; one without a zone is taken as UTC.
pub(crate) fn seconds(value: &Value) -> Option<f64> {
    let of_datetime = |time: jiff::civil::DateTime| {
        let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(zoned.timestamp().as_millisecond() as f64 / 1e3)
    };
    if let Some(text) = value.as_str() {
        let text = text.trim();
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Some(time.as_millisecond() as f64 / 1e3);
        }
        if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
            return of_datetime(time);
        }
        if let Ok(date) = text.parse::<jiff::civil::Date>() {
            return of_datetime(date.to_datetime(jiff::civil::Time::midnight()));
        }
    }
    number(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_read_in_every_usual_form() {
        let check = |value: Value, expect: Option<f64>| assert_eq!(seconds(&value), expect, "{value}");
        check(json!("1970-01-02T00:00:00Z"), Some(86400.0));
        check(json!("1970-01-02T02:00:00+02:00"), Some(86400.0));
        check(json!("1970-01-02 00:00:00"), Some(86400.0));
        check(json!("1970-01-02"), Some(86400.0));
        check(json!(86400), Some(86400.0));
        check(json!("86400"), Some(86400.0));
        check(json!("yesterday"), None);
        check(json!(null), None);
    }
}
