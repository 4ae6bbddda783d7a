//! Rendered text to training examples.
//!
//! The text is tokenised whole, once, as it will be at inference, and the mask comes from where each token lies in
//! it, never from looking token ids up. **A token is trained on where it shares at least one byte with an assistant
//! span.** One that also holds bytes outside (`"\n\n"` half in the header) straddles the boundary; such tokens are
//! counted, because at inference the model is asked with the header alone.
//!
//! BOS and EOS are checked in the ids of every example, not assumed of a model: a BOS that the tokenizer puts before
//! texts but the template did not write is put there, a doubled BOS or EOS loses its double, and an example whose
//! last span ends without any control token is skipped, since a model trained on it would never stop.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use ferrotune_types::{Example, PairExample, Rendered};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::encoded::Encoded;
use crate::{Tokenizer, TokenizerError};

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
    /// BOS tokens that were missing and were added.
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

impl Tokenizer {
    /// Ids of a rendered text, its literal ranges read as plain characters. No ids are added around it.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the model has no way to say the text.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Encoded, TokenizerError> {
        let text = rendered.text();
        let mut out = Encoded::default();
        let mut at = 0;
        for literal in rendered.literal() {
            self.encode_into(&text[at..literal.start], at, false, &mut out)?;
            self.encode_into(&text[literal.clone()], literal.start, true, &mut out)?;
            at = literal.end;
        }
        self.encode_into(&text[at..], at, false, &mut out)?;
        Ok(out)
    }

    /// Tokenises a rendered conversation; see the module for what is checked.
    ///
    /// # Errors
    /// [`Skipped`] with the reason why the row gives no example.
    pub fn example(&self, rendered: &Rendered, id: &str, limits: &Limits) -> Result<Made<Example>, Skipped> {
        let encoded = self.encode_rendered(rendered).map_err(|e| unencodable(id, &e))?;
        let mut notes = Notes::default();
        let (mut ids, mut mask, straddled) = mask(encoded, rendered.assistant());
        notes.straddled = straddled;
        self.settle_bos_and_eos(&mut ids, &mut mask, &mut notes);
        let missing = !limits.allow_missing_eos && !self.ends_its_last_span(&ids, &mask);
        cut(&mut ids, &mut mask, self.ids().bos, id, limits, &mut notes)?;
        finish(id, ids, mask, notes, missing)
    }

    /// Tokenises a plain text for continued pretraining: every token is trained on, the tokenizer's BOS comes before
    /// and EOS after it. Control tokens that the text spells are plain characters.
    ///
    /// # Errors
    /// [`Skipped`] with the reason why the row gives no example.
    pub fn document(&self, text: &str, id: &str, limits: &Limits) -> Result<Made<Example>, Skipped> {
        let mut encoded = Encoded::default();
        self.encode_into(text, 0, true, &mut encoded).map_err(|e| unencodable(id, &e))?;
        let mut ids: Vec<u32> = Vec::with_capacity(encoded.ids.len() + 2);
        ids.extend(self.ids().bos.filter(|_| self.adds_bos()));
        ids.extend(encoded.ids);
        ids.extend(self.ids().eos);
        let mut mask = vec![true; ids.len()];
        let mut notes = Notes::default();
        cut(&mut ids, &mut mask, self.ids().bos, id, limits, &mut notes)?;
        finish(id, ids, mask, notes, false)
    }

    /// Tokenises a preference pair. The answers are what the full texts' ids have after the prompt's.
    ///
    /// # Errors
    /// [`Skipped`] with the reason; [`SkipReason::PromptNotPrefix`] where the ids of the prompt alone are not how
    /// the ids of prompt and answer begin.
    pub fn pair_example(
        &self,
        prompt: &Rendered,
        chosen: &Rendered,
        rejected: &Rendered,
        id: &str,
        limits: &Limits,
    ) -> Result<Made<PairExample>, Skipped> {
        let mut notes = Notes::default();
        let mut settled = |rendered: &Rendered| {
            let mut ids = self.encode_rendered(rendered).map_err(|e| unencodable(id, &e))?.ids;
            let mut mask = vec![false; ids.len()];
            self.settle_bos_and_eos(&mut ids, &mut mask, &mut notes);
            Ok::<_, Skipped>(ids)
        };
        let (mut prompt, chosen, rejected) = (settled(prompt)?, settled(chosen)?, settled(rejected)?);
        let skip = |reason, detail: String, tokens| Skipped { id: id.to_owned(), reason, detail, tokens };
        let answer = |name: &str, full: &[u32]| {
            if !full.starts_with(&prompt) {
                return Err(skip(SkipReason::PromptNotPrefix, self.parting(&prompt, full, name), full.len()));
            }
            let answer = full[prompt.len()..].to_vec();
            if answer.is_empty() {
                return Err(skip(SkipReason::EmptyAnswer, format!("the {name} answer is empty"), full.len()));
            }
            let ends = answer.iter().rev().take(TAIL).any(|&id| self.is_control(id));
            if !ends && !limits.allow_missing_eos {
                let detail = format!("the {name} answer ends without a control token");
                return Err(skip(SkipReason::MissingEos, detail, full.len()));
            }
            Ok(answer)
        };
        let (mut chosen, mut rejected) = (answer("chosen", &chosen)?, answer("rejected", &rejected)?);
        let longest = prompt.len() + chosen.len().max(rejected.len());
        if longest > limits.max_length {
            let over = longest - limits.max_length;
            match limits.truncation {
                Truncation::Drop | Truncation::Error => {
                    let detail = format!("{longest} tokens, {} are allowed", limits.max_length);
                    return Err(skip(SkipReason::TooLong, detail, longest));
                }
                Truncation::Right if prompt.len() < limits.max_length => {
                    let room = limits.max_length - prompt.len();
                    for answer in [&mut chosen, &mut rejected] {
                        notes.truncated_tokens += answer.len().saturating_sub(room);
                        answer.truncate(room);
                    }
                }
                Truncation::Left if prompt.len() > over + 1 => {
                    let keeps_bos = self.ids().bos == prompt.first().copied();
                    prompt.drain(usize::from(keeps_bos)..usize::from(keeps_bos) + over);
                    notes.truncated_tokens += over;
                }
                Truncation::Left | Truncation::Right => {
                    let detail =
                        format!("the prompt has {} tokens, {} are allowed", prompt.len(), limits.max_length);
                    return Err(skip(SkipReason::NoRoom, detail, longest));
                }
            }
        }
        let item = PairExample::new(id, prompt, chosen, rejected)
            .map_err(|e| skip(SkipReason::EmptyAnswer, e.to_string(), longest))?;
        Ok(Made { item, notes })
    }

    /// Tokenises rendered conversations on all cores, in their order.
    ///
    /// # Errors
    /// As [`Tokenized::gather`].
    pub fn examples(
        &self,
        rows: &[(String, Rendered)],
        limits: &Limits,
    ) -> Result<Tokenized<Example>, TokenizerError> {
        let made: Vec<_> = rows.par_iter().map(|(id, row)| self.example(row, id, limits)).collect();
        Tokenized::gather(made, limits)
    }

    /// One BOS where the tokenizer puts one, never two; never two EOS in a row.
    fn settle_bos_and_eos(&self, ids: &mut Vec<u32>, mask: &mut Vec<bool>, notes: &mut Notes) {
        if let Some(bos) = self.ids().bos {
            let leading = ids.iter().take_while(|&&id| id == bos).count();
            if leading > 1 {
                ids.drain(1..leading);
                mask.drain(1..leading);
                notes.doubles_removed += leading - 1;
            } else if leading == 0 && self.adds_bos() {
                ids.insert(0, bos);
                mask.insert(0, false);
                notes.bos_added += 1;
            }
        }
        if let Some(eos) = self.ids().eos {
            let is_double = |i: usize, ids: &[u32]| i > 0 && ids[i] == eos && ids[i - 1] == eos;
            if (0..ids.len()).any(|i| is_double(i, ids)) {
                let keep: Vec<bool> = (0..ids.len()).map(|i| !is_double(i, ids)).collect();
                let mut kept = keep.iter();
                ids.retain(|_| kept.next() == Some(&true));
                let mut kept = keep.iter();
                mask.retain(|_| kept.next() == Some(&true));
                notes.doubles_removed += keep.iter().filter(|&&keep| !keep).count();
            }
        }
    }

    /// Whether the last trained run has a control token near its end, where an end-of-turn token may be followed by
    /// a line break.
    fn ends_its_last_span(&self, ids: &[u32], mask: &[bool]) -> bool {
        let Some(last) = mask.iter().rposition(|&trained| trained) else { return true };
        let run = mask[..=last].iter().rev().take_while(|&&trained| trained).count();
        ids[..=last].iter().rev().take(run.min(TAIL)).any(|&id| self.is_control(id))
    }

    /// Where a prompt and a full text part, and what to do.
    fn parting(&self, prompt: &[u32], full: &[u32], name: &str) -> String {
        let at = prompt.iter().zip(full).take_while(|(a, b)| a == b).count();
        let show = |ids: &[u32]| {
            let ids = &ids[at.min(ids.len())..ids.len().min(at + 3)];
            self.decode(ids, false).unwrap_or_default()
        };
        format!(
            "the prompt's tokens are not how prompt and {name} answer begin: after {at} of {} tokens one goes on with \
             {:?}, the other with {:?}. A token would reach over the boundary: end the prompt's text where a token \
             ends (a chat template with a header of control tokens or a line break that the answer does not repeat), \
             or strip leading space from the answers",
            prompt.len(),
            show(prompt),
            show(full),
        )
    }
}

/// Tokens at the end of a turn among which a control token is looked for.
const TAIL: usize = 4;

fn unencodable(id: &str, error: &TokenizerError) -> Skipped {
    Skipped { id: id.to_owned(), reason: SkipReason::Unencodable, detail: error.to_string(), tokens: 0 }
}

/// Which tokens share a byte with a span, and how many of them also hold a byte outside.
fn mask(encoded: Encoded, spans: &[Range<usize>]) -> (Vec<u32>, Vec<bool>, usize) {
    // Spans that touch are one: nothing is outside between them.
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(spans.len());
    for span in spans.iter().filter(|span| !span.is_empty()) {
        match merged.last_mut() {
            Some(last) if last.end == span.start => last.end = span.end,
            _ => merged.push(span.clone()),
        }
    }
    let mut spans = merged.into_iter().peekable();
    let mut straddled = 0;
    let mask = encoded
        .offsets
        .iter()
        .map(|&(start, end)| {
            while spans.next_if(|span| span.end <= start).is_some() {}
            let Some(span) = spans.peek() else { return false };
            let trained = start < end && span.start < end;
            straddled += usize::from(trained && (start < span.start || end > span.end));
            trained
        })
        .collect();
    (encoded.ids, mask, straddled)
}

fn cut(
    ids: &mut Vec<u32>,
    mask: &mut Vec<bool>,
    bos: Option<u32>,
    id: &str,
    limits: &Limits,
    notes: &mut Notes,
) -> Result<(), Skipped> {
    let over = ids.len().saturating_sub(limits.max_length);
    if over == 0 {
        return Ok(());
    }
    match limits.truncation {
        Truncation::Drop | Truncation::Error => {
            let detail = format!("{} tokens, {} are allowed", ids.len(), limits.max_length);
            return Err(Skipped {
                id: id.to_owned(),
                reason: SkipReason::TooLong,
                detail,
                tokens: ids.len(),
            });
        }
        Truncation::Right => {
            ids.truncate(limits.max_length);
            mask.truncate(limits.max_length);
        }
        Truncation::Left => {
            let first = usize::from(bos.is_some() && ids.first().copied() == bos && limits.max_length > 0);
            ids.drain(first..first + over);
            mask.drain(first..first + over);
        }
    }
    notes.truncated_tokens += over;
    Ok(())
}

fn finish(
    id: &str,
    ids: Vec<u32>,
    mut mask: Vec<bool>,
    notes: Notes,
    missing_eos: bool,
) -> Result<Made<Example>, Skipped> {
    let skip =
        |reason, detail: &str, tokens| Skipped { id: id.to_owned(), reason, detail: detail.into(), tokens };
    // Nothing comes before the first token that could predict it.
    if let Some(first) = mask.first_mut() {
        *first = false;
    }
    let tokens = ids.len();
    if !mask.contains(&true) {
        let detail = if notes.truncated_tokens > 0 {
            "what the assistant says was cut off"
        } else {
            "the assistant says nothing"
        };
        return Err(skip(SkipReason::NoTargets, detail, tokens));
    }
    if missing_eos {
        let detail =
            "the last assistant turn ends without a control token: the model would not learn to stop";
        return Err(skip(SkipReason::MissingEos, detail, tokens));
    }
    let item =
        Example::new(id, ids, mask).map_err(|e| skip(SkipReason::NoTargets, &e.to_string(), tokens))?;
    Ok(Made { item, notes })
}
