//! Lengths of answers, and of whole rows.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::shown;
use crate::{Drop, Edit, Record, RecordStep};

/// Counts the tokens of a text. A tokenizer gives exact counts; without one, [`approximate_tokens`].
pub type CountTokens = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// About four bytes a token, and at least one a word: within a quarter of the truth for English under the usual
/// byte-pair vocabularies. Only for bounds that are far from what matters.
pub fn approximate_tokens(text: &str) -> usize {
    text.len().div_ceil(4).max(text.split_whitespace().count())
}

/// Bounds; what is `None` is not checked.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Length {
    /// Fewest characters of an answer; of a pair, of the chosen one.
    pub min_chars: Option<usize>,
    /// Most characters of an answer.
    pub max_chars: Option<usize>,
    /// Fewest words of an answer; of a pair, of the chosen one. Scripts without blanks count two characters as a
    /// word.
    pub min_words: Option<usize>,
    /// Fewest tokens of all texts of a row together.
    pub min_tokens: Option<usize>,
    /// Most tokens of all texts of a row together.
    pub max_tokens: Option<usize>,
    /// How tokens are counted.
    #[serde(skip)]
    pub count_tokens: Option<CountTokens>,
}

impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Length")
            .field("min_chars", &self.min_chars)
            .field("max_chars", &self.max_chars)
            .field("min_words", &self.min_words)
            .field("min_tokens", &self.min_tokens)
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// Words of a text, where a script without blanks counts two characters as one.
fn count_words(text: &str) -> usize {
    let is_dense = |c: char| matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff);
    let dense = text.chars().filter(|&c| is_dense(c)).count();
    let spaced =
        text.split_whitespace().filter(|w| w.chars().any(|c| c.is_alphanumeric() && !is_dense(c))).count();
    spaced + dense.div_ceil(2)
}

impl RecordStep for Length {
    fn name(&self) -> &'static str {
        "length"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        for answer in record.answers() {
            let n = answer.text.trim().chars().count();
            let detail = |what: &str| format!("{}: {what}: {}", answer.field, shown(answer.text));
            // The rejected side of a pair may be bad in any way.
            let must_answer = !answer.field.starts_with("rejected");
            if let Some(min) = self.min_chars.filter(|&min| must_answer && n < min) {
                return Err(Drop::new("too_short", detail(&format!("{n} characters of at least {min}"))));
            }
            if let Some(max) = self.max_chars.filter(|&max| n > max) {
                return Err(Drop::new("too_long", detail(&format!("{n} characters of at most {max}"))));
            }
            if let Some(min) = self.min_words.filter(|_| must_answer) {
                let n = count_words(answer.text);
                if n < min {
                    return Err(Drop::new("too_few_words", detail(&format!("{n} words of at least {min}"))));
                }
            }
        }
        if self.min_tokens.is_some() || self.max_tokens.is_some() {
            let count =
                |text: &str| self.count_tokens.as_ref().map_or_else(|| approximate_tokens(text), |f| f(text));
            let n: usize = record.texts().iter().map(|(_, text)| count(text)).sum();
            let about = if self.count_tokens.is_some() { "" } else { "about " };
            if let Some(min) = self.min_tokens.filter(|&min| n < min) {
                return Err(Drop::new("too_few_tokens", format!("{about}{n} tokens of at least {min}")));
            }
            if let Some(max) = self.max_tokens.filter(|&max| n > max) {
                return Err(Drop::new("too_many_tokens", format!("{about}{n} tokens of at most {max}")));
            }
        }
        Ok(())
    }
}
