//! What becomes of rows on their way to examples, and the figures of a whole set.

use std::collections::BTreeMap;
use std::fmt;

use ferrotune_types::{Example, PairExample};
use serde::{Deserialize, Serialize};

use crate::TokenizerError;

/// What to do with a text that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Skip it, and count it.
    #[default]
    Drop,
    /// Keep its end (and its BOS).
    Left,
    /// Keep its start.
    Right,
    /// Stop with an error.
    Error,
}

/// How long an example may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most tokens of an example; of a pair, of its prompt with either answer.
    pub max_length: usize,
    /// What to do with longer ones.
    pub truncation: Truncation,
    /// Keep examples that end without a control token: the model then has to be stopped by a text.
    pub allow_missing_eos: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_length: 1024, truncation: Truncation::Drop, allow_missing_eos: false }
    }
}

/// Why a row gives no example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It has more tokens than allowed.
    TooLong,
    /// Nothing in it would be trained on.
    NoTargets,
    /// Its last assistant turn ends without a control token.
    MissingEos,
    /// A pair's prompt leaves no room for an answer.
    NoRoom,
    /// A pair's answer has no tokens.
    EmptyAnswer,
    /// A pair's prompt, tokenised alone, is not how prompt and answer begin.
    PromptNotPrefix,
    /// The model has no way to say the text.
    Unencodable,
    /// The chat template refused the conversation.
    NotRendered,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::TooLong => "too_long",
            SkipReason::NoTargets => "no_targets",
            SkipReason::MissingEos => "missing_eos",
            SkipReason::NoRoom => "no_room",
            SkipReason::EmptyAnswer => "empty_answer",
            SkipReason::PromptNotPrefix => "prompt_not_prefix",
            SkipReason::Unencodable => "unencodable",
            SkipReason::NotRendered => "not_rendered",
        })
    }
}

/// A row that gives no example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The row's id.
    pub id: String,
    /// Why.
    pub reason: SkipReason,
    /// This row's figures.
    pub detail: String,
    /// Tokens of the row, where they were counted.
    pub tokens: usize,
}

/// What was done to one row on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notes {
    /// Tokens that were cut off.
    pub truncated_tokens: usize,
    /// Trained tokens that also hold bytes outside the assistant's spans.
    pub straddled: usize,
    /// BOS tokens that were missing and were added; one for a pair, whose texts begin alike.
    pub bos_added: usize,
    /// BOS and EOS tokens that were doubled and were removed.
    pub doubles_removed: usize,
}

/// An example and what was done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made<T> {
    /// The example.
    pub item: T,
    /// What was done to it.
    pub notes: Notes,
}

/// Every row's fate: the examples in the rows' order, the skipped rows, and the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized<T> {
    /// The examples.
    pub examples: Vec<T>,
    /// Rows that gave none.
    pub skipped: Vec<Skipped>,
    /// The figures.
    pub report: TokenizeReport,
}

/// Figures of a tokenised set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizeReport {
    /// Rows that came in.
    pub rows: usize,
    /// Examples that came out.
    pub examples: usize,
    /// Their tokens; a pair's prompt counts once.
    pub tokens: usize,
    /// Their trained tokens.
    pub trained_tokens: usize,
    /// Examples that were cut.
    pub truncated: usize,
    /// Tokens that were cut off.
    pub truncated_tokens: usize,
    /// Trained tokens that also hold bytes outside the assistant's spans.
    pub straddled: usize,
    /// Examples whose BOS was missing and was added.
    pub bos_added: usize,
    /// BOS and EOS tokens that were doubled and were removed.
    pub doubles_removed: usize,
    /// Rows that gave no example, by reason.
    pub dropped: BTreeMap<SkipReason, usize>,
}

impl fmt::Display for TokenizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.trained_tokens as f64 / self.tokens.max(1) as f64;
        write!(
            f,
            "{} of {} rows, {} tokens, {} trained on ({share:.1}%)",
            self.examples, self.rows, self.tokens, self.trained_tokens
        )?;
        let counts = [
            ("truncated", self.truncated),
            ("tokens cut off", self.truncated_tokens),
            ("straddling tokens", self.straddled),
            ("BOS added", self.bos_added),
            ("doubled BOS or EOS removed", self.doubles_removed),
        ];
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "; {count} {name}")?;
        }
        for (reason, count) in &self.dropped {
            write!(f, "; {count} dropped: {reason}")?;
        }
        Ok(())
    }
}

/// What the report counts of an example.
pub trait Counted {
    /// Its tokens and its trained tokens.
    fn counts(&self) -> (usize, usize);
}

impl Counted for Example {
    fn counts(&self) -> (usize, usize) {
        (self.n_tokens(), self.n_targets())
    }
}

impl Counted for PairExample {
    fn counts(&self) -> (usize, usize) {
        (self.n_tokens(), self.chosen().len() + self.rejected().len())
    }
}

impl<T: Counted> Tokenized<T> {
    /// Gathers rows' fates, in order.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] where the policy is [`Truncation::Error`], [`TokenizerError::NotAPrefix`] for a
    /// pair whose prompt is no prefix: both say that the whole set is wrong, not the row.
    pub fn gather(
        rows: impl IntoIterator<Item = Result<Made<T>, Skipped>>,
        limits: &Limits,
    ) -> Result<Self, TokenizerError> {
        let mut out =
            Tokenized { examples: Vec::new(), skipped: Vec::new(), report: TokenizeReport::default() };
        let report = &mut out.report;
        for row in rows {
            report.rows += 1;
            match row {
                Ok(Made { item, notes }) => {
                    let (tokens, trained) = item.counts();
                    report.examples += 1;
                    report.tokens += tokens;
                    report.trained_tokens += trained;
                    report.truncated += usize::from(notes.truncated_tokens > 0);
                    report.truncated_tokens += notes.truncated_tokens;
                    report.straddled += notes.straddled;
                    report.bos_added += notes.bos_added;
                    report.doubles_removed += notes.doubles_removed;
                    out.examples.push(item);
                }
                Err(skipped) if skipped.reason == SkipReason::PromptNotPrefix => {
                    return Err(TokenizerError::NotAPrefix { id: skipped.id, reason: skipped.detail });
                }
                Err(skipped)
                    if skipped.reason == SkipReason::TooLong && limits.truncation == Truncation::Error =>
                {
                    let Skipped { id, tokens, .. } = skipped;
                    return Err(TokenizerError::TooLong { id, tokens, limit: limits.max_length });
                }
                Err(skipped) => {
                    *report.dropped.entry(skipped.reason).or_default() += 1;
                    out.skipped.push(skipped);
                }
            }
        }
        Ok(out)
    }
}
