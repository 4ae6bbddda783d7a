//! Gopher's repetition rules (Rae et al. 2021, arXiv 2112.11446, table A1).

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{n_chars, ratio, words};
use crate::{Drop, Edit, Record, RecordStep};

/// Shares of a text that repeat; each limit as in the paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GopherRepetition {
    /// Share of lines that stand earlier too.
    pub dup_lines: f64,
    /// Share of paragraphs that stand earlier too.
    pub dup_paragraphs: f64,
    /// Share of characters in such lines.
    pub dup_line_chars: f64,
    /// Share of characters in such paragraphs.
    pub dup_paragraph_chars: f64,
    /// For 2, 3 and 4 words: share of characters in the commonest sequence.
    pub top_n_grams: [f64; 3],
    /// For 5 to 10 words: share of characters in sequences that stand earlier too.
    pub dup_n_grams: [f64; 6],
}

impl Default for GopherRepetition {
    fn default() -> Self {
        GopherRepetition {
            dup_lines: 0.30,
            dup_paragraphs: 0.30,
            dup_line_chars: 0.20,
            dup_paragraph_chars: 0.20,
            top_n_grams: [0.20, 0.18, 0.16],
            dup_n_grams: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
        }
    }
}

static PARAGRAPHS: LazyLock<Regex> = LazyLock::new(|| newlines("\n{2,}"));
static LINES: LazyLock<Regex> = LazyLock::new(|| newlines("\n+"));
const TOP: [&str; 3] = ["top_2_gram", "top_3_gram", "top_4_gram"];
const DUPLICATED: [&str; 6] = [
    "duplicated_5_n_grams",
    "duplicated_6_n_grams",
    "duplicated_7_n_grams",
    "duplicated_8_n_grams",
    "duplicated_9_n_grams",
    "duplicated_10_n_grams",
];

fn newlines(pattern: &str) -> Regex {
    // The two patterns above are valid.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{e}"))
}

impl GopherRepetition {
    /// The verdict on one text.
    ///
    /// # Errors
    /// The first rule that it breaks, in datatrove's order.
    pub fn judge(&self, text: &str) -> Result<(), Drop> {
        if text.is_empty() {
            return Err(Drop::new("empty", "nothing to judge"));
        }
        let total = n_chars(text) as f64;
        let over = |reason: &'static str, share: f64, limit: f64| {
            if share > limit { Err(Drop::new(reason, ratio(share, limit))) } else { Ok(()) }
        };
        let paragraphs: Vec<&str> = PARAGRAPHS.split(text.trim()).collect();
        let (n, chars) = duplicates(&paragraphs);
        over("dup_para_frac", n as f64 / paragraphs.len() as f64, self.dup_paragraphs)?;
        over("dup_para_char_frac", chars as f64 / total, self.dup_paragraph_chars)?;
        let lines: Vec<&str> = LINES.split(text).collect();
        let (n, chars) = duplicates(&lines);
        over("dup_line_frac", n as f64 / lines.len() as f64, self.dup_lines)?;
        over("dup_line_char_frac", chars as f64 / total, self.dup_line_chars)?;
        let words = words(text);
        for (i, limit) in self.top_n_grams.into_iter().enumerate() {
            if let Some(chars) = top_n_gram(&words, i + 2) {
                over(TOP[i], chars as f64 / total, limit)?;
            }
        }
        for (i, limit) in self.dup_n_grams.into_iter().enumerate() {
            over(DUPLICATED[i], duplicated_n_grams(&words, i + 5) as f64 / total, limit)?;
        }
        Ok(())
    }
}

/// How many elements stand earlier too, and their characters.
pub(super) fn duplicates(elements: &[&str]) -> (usize, usize) {
    let mut seen = HashSet::new();
    let repeated = elements.iter().filter(|e| !seen.insert(**e));
    repeated.fold((0, 0), |(n, chars), e| (n + 1, chars + n_chars(e)))
}

/// Characters of the commonest sequence of `n` words, blanks included, times how often it stands; the first of
/// equally common ones counts.
fn top_n_gram(words: &[&str], n: usize) -> Option<usize> {
    let mut counts: HashMap<&[&str], (usize, usize)> = HashMap::new();
    for (at, gram) in words.windows(n).enumerate() {
        counts.entry(gram).or_insert((0, at)).0 += 1;
    }
    let (gram, (count, _)) =
        counts.into_iter().max_by_key(|&(_, (count, at))| (count, std::cmp::Reverse(at)))?;
    Some((gram.iter().map(|w| n_chars(w)).sum::<usize>() + n - 1) * count)
}

/// Characters of the sequences of `n` words that stand earlier too, none counted twice.
fn duplicated_n_grams(words: &[&str], n: usize) -> usize {
    let mut seen: HashSet<String> = HashSet::new();
    let (mut at, mut chars) = (0, 0);
    while at + n <= words.len() {
        let gram = words[at..at + n].concat();
        let len = n_chars(&gram);
        if seen.insert(gram) {
            at += 1;
        } else {
            chars += len;
            at += n;
        }
    }
    chars
}

impl RecordStep for GopherRepetition {
    fn name(&self) -> &'static str {
        "gopher_repetition"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        record.answers().iter().try_for_each(|answer| self.judge(answer.text))
    }
}
