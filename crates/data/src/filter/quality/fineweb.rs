//! FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557).

use serde::{Deserialize, Serialize};

use super::gopher_repetition::duplicates;
use super::tables::TERMINAL;
use super::{n_chars, ratio, words};
use crate::{Drop, Edit, Record, RecordStep};

/// Lines that end like sentences, are not too short, and do not repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineWebQuality {
    /// Smallest share of lines that end with a full stop or the like.
    pub min_terminal_lines: f64,
    /// Largest share of lines of at most `short_line` characters.
    pub max_short_lines: f64,
    /// Length of a short line.
    pub short_line: usize,
    /// Largest share of characters in lines that stand earlier too.
    pub max_dup_line_chars: f64,
    /// Most line breaks for every word.
    pub max_newline_ratio: f64,
}

impl Default for FineWebQuality {
    fn default() -> Self {
        FineWebQuality {
            min_terminal_lines: 0.12,
            max_short_lines: 0.67,
            short_line: 30,
            max_dup_line_chars: 0.01,
            max_newline_ratio: 0.3,
        }
    }
}

impl FineWebQuality {
    /// The verdict on one text.
    ///
    /// # Errors
    /// The first rule that it breaks, in datatrove's order.
    pub fn judge(&self, text: &str) -> Result<(), Drop> {
        let lines: Vec<&str> = text.split('\n').filter(|l| !l.trim().is_empty()).collect();
        if lines.is_empty() {
            return Err(Drop::new("empty", "nothing to judge"));
        }
        let share = |is_one: &dyn Fn(&str) -> bool| {
            lines.iter().filter(|l| is_one(l)).count() as f64 / lines.len() as f64
        };
        let terminal = share(&|l| l.chars().next_back().is_some_and(|c| TERMINAL.binary_search(&c).is_ok()));
        if terminal < self.min_terminal_lines {
            return Err(Drop::new("line_punct_ratio", ratio(terminal, self.min_terminal_lines)));
        }
        let short = share(&|l| n_chars(l) <= self.short_line);
        if short > self.max_short_lines {
            return Err(Drop::new("short_line_ratio", ratio(short, self.max_short_lines)));
        }
        let n_newlines = text.matches('\n').count();
        let repeated = duplicates(&lines).1 as f64 / (n_chars(text) - n_newlines) as f64;
        if repeated > self.max_dup_line_chars {
            return Err(Drop::new("char_dup_ratio", ratio(repeated, self.max_dup_line_chars)));
        }
        let newlines = n_newlines as f64 / words(text).len().max(1) as f64;
        if newlines > self.max_newline_ratio {
            return Err(Drop::new("list_ratio", ratio(newlines, self.max_newline_ratio)));
        }
        Ok(())
    }
}

impl RecordStep for FineWebQuality {
    fn name(&self) -> &'static str {
        "fineweb_quality"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        record.answers().iter().try_for_each(|answer| self.judge(answer.text))
    }
}
