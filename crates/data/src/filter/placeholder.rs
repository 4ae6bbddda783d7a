//! Answers that are not there, or stand in for one: `""`, `-`, `test`, `asdf`, `N/A`.

use serde::{Deserialize, Serialize};

use super::shown;
use crate::{Drop, Edit, Record, RecordStep};

/// Refuses rows with an answer that is empty or a placeholder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placeholder {
    /// More answers to refuse, compared without case and punctuation.
    pub also: Vec<String>,
}

/// Whole answers that stand for nothing.
const KNOWN: [&str; 50] = [
    "a",
    "aa",
    "aaa",
    "abc",
    "answer",
    "answered",
    "asap",
    "asd",
    "blah",
    "blank",
    "bla",
    "closed",
    "closing",
    "done",
    "duplicate",
    "empty",
    "fixed",
    "foo",
    "foo bar",
    "hello world",
    "k",
    "lorem ipsum",
    "n a",
    "na",
    "nan",
    "nil",
    "no answer",
    "no comment",
    "no data",
    "no reply",
    "no response",
    "none",
    "not applicable",
    "null",
    "placeholder",
    "resolved",
    "response here",
    "sample",
    "see above",
    "see below",
    "solved",
    "tba",
    "tbc",
    "tbd",
    "test",
    "test test",
    "testing",
    "to do",
    "todo",
    "undefined",
];

/// Rows of a keyboard: mashing them gives runs of neighbours.
const KEYS: [&str; 6] = ["qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890", "qwertzuiop", "azertyuiop"];

impl Placeholder {
    /// The reason's key where the answer is none.
    fn judge(&self, answer: &str) -> Option<&'static str> {
        let plain: String =
            answer.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
        let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
        let has_symbol = answer.chars().any(|c| !c.is_whitespace() && !c.is_ascii_punctuation());
        if plain.is_empty() && !has_symbol {
            return Some(if answer.trim().is_empty() { "empty_answer" } else { "placeholder" });
        }
        let also = |a: &String| a.to_lowercase() == plain;
        let is_known = KNOWN.contains(&&*plain) || is_mashed(&plain) || self.also.iter().any(also);
        is_known.then_some("placeholder")
    }
}

/// One or two words of neighbouring keys (`asdf`, `qwer jkl`), or one character over and over (`xxxx`).
fn is_mashed(plain: &str) -> bool {
    let words: Vec<&str> = plain.split(' ').collect();
    let is_row =
        |w: &str| w.len() >= 3 && !w.starts_with(char::is_numeric) && KEYS.iter().any(|k| k.contains(w));
    let is_one = |w: &str| {
        let first = w.chars().next();
        w.chars().count() >= 2 && !w.starts_with(char::is_numeric) && w.chars().all(|c| Some(c) == first)
    };
    // Halves of a word such as `asdfasdf` count too.
    let is_twice = |w: &str| {
        w.is_ascii() && w.len() >= 6 && w.len().is_multiple_of(2) && w[..w.len() / 2] == w[w.len() / 2..]
    };
    words.len() <= 3
        && words.iter().all(|w| is_row(w) || is_one(w) || is_twice(w) && is_row(&w[..w.len() / 2]))
}

impl RecordStep for Placeholder {
    fn name(&self) -> &'static str {
        "placeholder"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        for answer in record.answers() {
            if let Some(reason) = self.judge(answer.text) {
                return Err(Drop::new(reason, format!("{}: {}", answer.field, shown(answer.text))));
            }
        }
        Ok(())
    }
}
