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
        let mut grams = Grams::new(&words);
        for (reason, limit) in TOP.into_iter().zip(self.top_n_grams) {
            grams.lengthen();
            if let Some(chars) = grams.top() {
                over(reason, chars as f64 / total, limit)?;
            }
        }
        for (reason, limit) in DUPLICATED.into_iter().zip(self.dup_n_grams) {
            grams.lengthen();
            over(reason, grams.duplicated() as f64 / total, limit)?;
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

/// The sequences of `n` words of a text, each as a number that equal sequences share.
struct Grams {
    n: usize,
    /// Of the sequence that begins at each word.
    ids: Vec<u32>,
    n_ids: usize,
    /// The words alone.
    words: Vec<u32>,
    /// Characters before each word.
    starts: Vec<usize>,
}

impl Grams {
    fn new(words: &[&str]) -> Self {
        let mut known: HashMap<&str, u32> = HashMap::new();
        let mut starts = vec![0];
        let mut ids = Vec::with_capacity(words.len());
        for word in words {
            let next = known.len() as u32;
            ids.push(*known.entry(word).or_insert(next));
            starts.push(starts[starts.len() - 1] + n_chars(word));
        }
        Grams { n: 1, n_ids: known.len(), words: ids.clone(), ids, starts }
    }

    /// Goes on to sequences of one word more. What stands once stands once when it is longer, so only what repeats
    /// is looked up; in most texts that is little.
    fn lengthen(&mut self) {
        let counts = self.counts();
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        let mut n_ids = 0;
        let pairs = self.ids.iter().zip(self.words.iter().skip(self.n));
        let longer = pairs.map(|(&head, &last)| {
            let next = n_ids;
            let id =
                if counts[head as usize] == 1 { next } else { *known.entry((head, last)).or_insert(next) };
            n_ids += u32::from(id == next);
            id
        });
        self.ids = longer.collect();
        self.n_ids = n_ids as usize;
        self.n += 1;
    }

    /// How often each sequence stands.
    fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.n_ids];
        for &id in &self.ids {
            counts[id as usize] += 1;
        }
        counts
    }

    /// Characters of the sequence that begins at a word, blanks not counted.
    fn chars(&self, at: usize) -> usize {
        self.starts[at + self.n] - self.starts[at]
    }

    /// Characters of the commonest sequence, blanks included, times how often it stands; the first of equally
    /// common ones counts.
    fn top(&self) -> Option<usize> {
        let counts = self.counts();
        // Numbers are given in order of appearance, so the first sequence has the lowest.
        let (id, count) = counts.into_iter().enumerate().max_by_key(|&(id, n)| (n, std::cmp::Reverse(id)))?;
        let at = self.ids.iter().position(|&i| i as usize == id)?;
        Some((self.chars(at) + self.n - 1) * count)
    }

    /// Characters of the sequences that stand earlier too, none counted twice.
    fn duplicated(&self) -> usize {
        let mut seen = vec![false; self.n_ids];
        let (mut at, mut chars) = (0, 0);
        while let Some(&id) = self.ids.get(at) {
            if std::mem::replace(&mut seen[id as usize], true) {
                chars += self.chars(at);
                at += self.n;
            } else {
                at += 1;
            }
        }
        chars
    }
}

impl RecordStep for GopherRepetition {
    fn name(&self) -> &'static str {
        "gopher_repetition"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        record.answers().iter().try_for_each(|answer| self.judge(answer.text))
    }
}
