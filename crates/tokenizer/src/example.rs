//! Rendered text to training examples.
//!
//! The text is tokenised whole, once, as it will be at inference, and the mask comes from where each token lies in
//! it, never from looking token ids up. **A token is trained on where it shares at least one byte with an assistant
//! span.** One that also holds bytes outside (`"\n\n"` half in the header) straddles the boundary; such tokens are
//! counted, because at inference the model is asked with the header alone.
//!
//! BOS and EOS are checked in the ids of every example, not assumed of a model: a BOS that the tokenizer puts before
//! texts but the template did not write is put there, a doubled BOS or EOS loses its double, and an example whose
//! last span does not end with a control token, space after it aside, is skipped: a model trained on it would never
//! stop.

use std::ops::Range;
use std::slice;

use ferrotune_types::{Example, Rendered};
use rayon::prelude::*;

use crate::encoded::Encoded;
use crate::report::{Limits, Made, Notes, SkipReason, Skipped, Tokenized, Truncation};
use crate::{Tokenizer, TokenizerError};

impl Tokenizer {
    /// Ids of a rendered text, read whole, with what its literal ranges spell as plain characters. No ids are added
    /// around it.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the model has no way to say the text.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Encoded, TokenizerError> {
        let mut out = Encoded::default();
        self.encode_into(rendered.text(), rendered.literal(), &mut out)?;
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
        self.encode_into(text, slice::from_ref(&(0..text.len())), &mut encoded)
            .map_err(|e| unencodable(id, &e))?;
        let mut ids: Vec<u32> = Vec::with_capacity(encoded.ids.len() + 2);
        ids.extend(self.ids().bos.filter(|_| self.adds_bos()));
        ids.extend(encoded.ids);
        ids.extend(self.ids().eos);
        let mut mask = vec![true; ids.len()];
        let mut notes = Notes::default();
        cut(&mut ids, &mut mask, self.ids().bos, id, limits, &mut notes)?;
        finish(id, ids, mask, notes, false)
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
    pub(crate) fn settle_bos_and_eos(&self, ids: &mut Vec<u32>, mask: &mut Vec<bool>, notes: &mut Notes) {
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

    /// Whether the last trained run ends a turn.
    fn ends_its_last_span(&self, ids: &[u32], mask: &[bool]) -> bool {
        let Some(last) = mask.iter().rposition(|&trained| trained) else { return true };
        let run = mask[..=last].iter().rev().take_while(|&&trained| trained).count();
        self.ends_a_turn(&ids[last + 1 - run..=last])
    }
}

pub(crate) fn unencodable(id: &str, error: &TokenizerError) -> Skipped {
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
