//! Loops: a model or a macro that says one thing over and over.

use serde::{Deserialize, Serialize};

use super::shown;
use crate::{Drop, Edit, Record, RecordStep};

/// Refuses rows with an answer that loops. Made for short texts too, where Gopher's shares say nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Repetition {
    /// A unit said at least three times in a row, covering this share of the text, is a loop.
    pub min_share: f64,
    /// A unit said this often in a row is one wherever it stands, if it covers a quarter of the text.
    pub min_times: usize,
}

impl Default for Repetition {
    fn default() -> Self {
        Repetition { min_share: 0.5, min_times: 5 }
    }
}

/// A stretch of text that repeats.
#[derive(Debug, Clone, PartialEq)]
pub struct Loop {
    /// What is repeated.
    pub unit: String,
    /// How often it stands in a row.
    pub times: usize,
    /// Share of the text's words that it covers, 0 to 1.
    pub share: f64,
    /// Words of the unit; in a script without blanks, half its characters.
    pub words: usize,
}

/// Longest unit looked for, in words.
const MAX_UNIT: usize = 60;

/// The loop that covers most of a text, whatever its length; `None` where nothing stands twice in a row.
///
/// Words are compared without case and punctuation. A script without blanks is read character by character.
pub fn find_loop(text: &str) -> Option<Loop> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let n_chars = text.chars().count();
    let chars: Vec<&str>;
    // One very long "word" is a script without blanks, or a key held down.
    let pieces: &[&str] = if n_chars > 25 * words.len() {
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        chars = starts.windows(2).map(|w| &text[w[0]..w[1]]).filter(|c| !c.trim().is_empty()).collect();
        &chars
    } else {
        &words
    };
    let plain: Vec<String> = pieces
        .iter()
        .map(|p| {
            let bare: String =
                p.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
            if bare.is_empty() { (*p).to_owned() } else { bare }
        })
        .collect();
    let n = plain.len();
    let mut best: Option<(usize, usize, usize)> = None;
    for unit in 1..=MAX_UNIT.min(n / 2) {
        let mut run = 0;
        for i in 0..n - unit {
            run = if plain[i] == plain[i + unit] { run + 1 } else { 0 };
            // The smallest unit that covers most wins: a loop of `a b` is also one of `a b a b`.
            if run >= unit && best.is_none_or(|(_, _, covered)| run + unit > covered) {
                best = Some((unit, i + unit + 1 - run - unit, run + unit));
            }
        }
    }
    let (unit, start, covered) = best?;
    let is_spaced = std::ptr::eq(pieces, &raw const *words);
    Some(Loop {
        unit: pieces[start..start + unit].join(if is_spaced { " " } else { "" }),
        times: covered / unit,
        share: covered as f64 / n as f64,
        words: if is_spaced { unit } else { unit.div_ceil(2) },
    })
}

impl Repetition {
    fn is_loop(&self, found: &Loop) -> bool {
        let n_words = found.words;
        let often = found.times >= self.min_times && found.share >= 0.25 && found.times * n_words >= 10;
        // One word three times is emphasis ("no no no").
        let mostly = found.times >= 3 && found.share >= self.min_share && found.times * n_words >= 6;
        // A whole answer said twice.
        let doubled = found.times >= 2 && found.share >= 0.9 && n_words >= 8;
        often || mostly || doubled
    }
}

impl RecordStep for Repetition {
    fn name(&self) -> &'static str {
        "repetition"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        for answer in record.answers() {
            if let Some(found) = find_loop(answer.text).filter(|l| self.is_loop(l)) {
                let percent = (100.0 * found.share).round();
                let detail =
                    format!("{}: {} {} times, {percent}%", answer.field, shown(&found.unit), found.times);
                return Err(Drop::new("repetition", detail));
            }
        }
        Ok(())
    }
}
