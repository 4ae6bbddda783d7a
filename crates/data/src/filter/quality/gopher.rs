//! Gopher's quality rules (Rae et al. 2021, arXiv 2112.11446, table A1).

use serde::{Deserialize, Serialize};

use super::tables::PUNCTUATION;
use super::{n_chars, python_lines, ratio, words};
use crate::{Drop, Edit, Record, RecordStep};

/// Shape of ordinary prose: enough words of ordinary length, few symbols, bullets and ellipses, common words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GopherQuality {
    /// Fewest words that are not symbols.
    pub min_words: usize,
    /// Most words that are not symbols.
    pub max_words: usize,
    /// Lowest mean length of a word.
    pub min_mean_word_length: f64,
    /// Highest mean length of a word.
    pub max_mean_word_length: f64,
    /// Most `#`, and most ellipses, for every word.
    pub max_symbol_word_ratio: f64,
    /// Largest share of lines that begin with a bullet.
    pub max_bullet_lines: f64,
    /// Largest share of lines that end with an ellipsis.
    pub max_ellipsis_lines: f64,
    /// Smallest share of words with a letter.
    pub min_alphabetic_words: f64,
    /// Fewest different ones of the common words.
    pub min_common_words: usize,
    /// The common words.
    pub common_words: Vec<String>,
}

impl Default for GopherQuality {
    fn default() -> Self {
        GopherQuality {
            min_words: 50,
            max_words: 100_000,
            min_mean_word_length: 3.0,
            max_mean_word_length: 10.0,
            max_symbol_word_ratio: 0.1,
            max_bullet_lines: 0.9,
            max_ellipsis_lines: 0.3,
            min_alphabetic_words: 0.8,
            min_common_words: 2,
            common_words: ["the", "be", "to", "of", "and", "that", "have", "with"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

impl GopherQuality {
    /// The verdict on one text.
    ///
    /// # Errors
    /// The first rule that it breaks, in datatrove's order.
    pub fn judge(&self, text: &str) -> Result<(), Drop> {
        let words = words(text);
        let is_symbol = |w: &&&str| w.chars().all(|c| PUNCTUATION.binary_search(&c).is_ok());
        let plain: Vec<&str> = words.iter().filter(|w| !is_symbol(w)).copied().collect();
        let n = plain.len();
        if n < self.min_words {
            return Err(Drop::new("gopher_short_doc", format!("{n} words of at least {}", self.min_words)));
        }
        if n > self.max_words {
            return Err(Drop::new("gopher_long_doc", format!("{n} words of at most {}", self.max_words)));
        }
        let mean = plain.iter().map(|w| n_chars(w)).sum::<usize>() as f64 / n.max(1) as f64;
        if mean < self.min_mean_word_length {
            return Err(Drop::new("gopher_below_avg_threshold", ratio(mean, self.min_mean_word_length)));
        }
        if mean > self.max_mean_word_length {
            return Err(Drop::new("gopher_above_avg_threshold", ratio(mean, self.max_mean_word_length)));
        }
        let for_each_word = |n: usize| n as f64 / words.len().max(1) as f64;
        let hashes = for_each_word(text.matches('#').count());
        if hashes > self.max_symbol_word_ratio {
            return Err(Drop::new("gopher_too_many_hashes", ratio(hashes, self.max_symbol_word_ratio)));
        }
        let ellipses = for_each_word(text.matches("...").count() + text.matches('…').count());
        if ellipses > self.max_symbol_word_ratio {
            return Err(Drop::new("gopher_too_many_ellipsis", ratio(ellipses, self.max_symbol_word_ratio)));
        }
        let lines = python_lines(text);
        let share = |is_one: &dyn Fn(&str) -> bool| {
            lines.iter().filter(|l| is_one(l)).count() as f64 / lines.len().max(1) as f64
        };
        let bullets = share(&|line| line.trim_start().starts_with(['•', '-']));
        if bullets > self.max_bullet_lines {
            return Err(Drop::new("gopher_too_many_bullets", ratio(bullets, self.max_bullet_lines)));
        }
        let ends = share(&|line| line.trim_end().ends_with("...") || line.trim_end().ends_with('…'));
        if ends > self.max_ellipsis_lines {
            return Err(Drop::new("gopher_too_many_end_ellipsis", ratio(ends, self.max_ellipsis_lines)));
        }
        let alphabetic = for_each_word(words.iter().filter(|w| w.chars().any(char::is_alphabetic)).count());
        if alphabetic < self.min_alphabetic_words {
            return Err(Drop::new(
                "gopher_below_alpha_threshold",
                ratio(alphabetic, self.min_alphabetic_words),
            ));
        }
        let common = self.common_words.iter().filter(|c| words.contains(&c.as_str())).count();
        if common < self.min_common_words {
            let detail = format!("{common} common words of at least {}", self.min_common_words);
            return Err(Drop::new("gopher_enough_stop_words", detail));
        }
        Ok(())
    }
}

impl RecordStep for GopherQuality {
    fn name(&self) -> &'static str {
        "gopher_quality"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        record.answers().iter().try_for_each(|answer| self.judge(answer.text))
    }
}
