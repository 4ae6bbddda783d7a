//! Passages that occur twice: the later copy is cut out of its document (Lee et al., arXiv 2107.06499).

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::shingle::{ngrams, word_hashes, word_spans};
use crate::{DataError, Drop, Dropped, Edit, Item, Record};

/// What counts as a repeated passage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubstringConfig {
    /// Words that must agree in a row; case and punctuation do not count.
    pub min_words: usize,
    /// A document with fewer words left is dropped whole.
    pub min_left: usize,
}

impl Default for SubstringConfig {
    fn default() -> Self {
        SubstringConfig { min_words: 50, min_left: 10 }
    }
}

/// Documents without repeated passages.
#[derive(Debug, Clone, PartialEq)]
pub struct Cutout {
    /// The rows to go on with.
    pub kept: Vec<Record>,
    /// Documents of which too little was left, reason `repeats_others`.
    pub dropped: Vec<Dropped>,
    /// What was cut.
    pub edits: Vec<Edit>,
}

const STEP: &str = "substring_dedup";

/// Cuts out of documents every passage of at least `min_words` words that occurred before, in the same or an
/// earlier document, so that afterwards none occurs twice (a passage that overlaps itself is one). Chats and pairs pass unchanged: an answer with a
/// passage cut out is no answer.
///
/// Takes about 24 bytes of memory a word.
///
/// # Errors
/// [`DataError::Config`] where `min_words` is below 2.
pub fn substring_dedup(mut records: Vec<Record>, config: &SubstringConfig) -> Result<Cutout, DataError> {
    if config.min_words < 2 {
        return Err(DataError::Config("substring dedup: min_words must be at least 2".to_owned()));
    }
    let mut edits = Vec::new();
    let mut is_cut = vec![false; records.len()];
    // A cut brings words together that may repeat others: until there is nothing left to cut. Each round cuts
    // at least a passage, so it ends.
    loop {
        let cuts = repeats(&records, config.min_words);
        if cuts.is_empty() {
            break;
        }
        for (row, spans) in cuts {
            if let Item::Document(document) = &mut records[row].item {
                is_cut[row] = true;
                document.text = cut(&document.id, &document.text, &spans, &mut edits);
            }
        }
    }
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (record, is_cut) in records.into_iter().zip(is_cut) {
        let left: usize = record.texts().iter().map(|(_, text)| word_spans(text).len()).sum();
        if is_cut && left < config.min_left {
            let detail = format!("{left} words left of it, fewer than {}", config.min_left);
            dropped.push(record.dropped(STEP, Drop::new("repeats_others", detail)));
        } else {
            kept.push(record);
        }
    }
    Ok(Cutout { kept, dropped, edits })
}

/// For each document the words that repeat an earlier passage, as runs of word numbers.
fn repeats(records: &[Record], n: usize) -> Vec<(usize, Vec<Range<usize>>)> {
    let words: Vec<Vec<u64>> = records
        .par_iter()
        .map(|record| {
            let mut words = Vec::new();
            if let Item::Document(document) = &record.item {
                word_hashes(&document.text, &mut words);
            }
            words
        })
        .collect();
    let mut windows: Vec<(u64, u32, u32)> = words
        .par_iter()
        .enumerate()
        .filter(|(_, words)| words.len() >= n)
        .flat_map_iter(|(row, words)| {
            let mut hashes = Vec::with_capacity(words.len());
            ngrams(words, n, 0, &mut hashes);
            hashes.into_iter().enumerate().map(move |(at, hash)| (hash, row as u32, at as u32))
        })
        .collect();
    windows.par_sort_unstable();
    let passage = |&(_, row, at): &(u64, u32, u32)| &words[row as usize][at as usize..at as usize + n];
    let mut later: Vec<(u32, u32)> = windows
        .chunk_by(|a, b| a.0 == b.0)
        .flat_map(|same| {
            let (first, (_, first_row, first_at)) = (passage(&same[0]), same[0]);
            let is_copy = move |w: &&(u64, u32, u32)| {
                let overlaps = w.1 == first_row && w.2 < first_at + n as u32;
                !overlaps && passage(w) == first
            };
            same[1..].iter().filter(is_copy).map(|&(_, row, at)| (row, at))
        })
        .collect();
    later.sort_unstable();
    later
        .chunk_by(|a, b| a.0 == b.0)
        .map(|of_row| {
            let mut spans: Vec<Range<usize>> = Vec::new();
            for &(_, at) in of_row {
                let (start, end) = (at as usize, at as usize + n);
                match spans.last_mut() {
                    Some(last) if start <= last.end => last.end = end,
                    _ => spans.push(start..end),
                }
            }
            (of_row[0].0 as usize, spans)
        })
        .collect()
}

/// `text` without some runs of its words, and what stands between them and the next word.
fn cut(id: &str, text: &str, runs: &[Range<usize>], edits: &mut Vec<Edit>) -> String {
    let words = word_spans(text);
    let (mut out, mut done, mut chars) = (String::with_capacity(text.len()), 0, 0);
    for run in runs {
        let start = words[run.start].start;
        let end = words.get(run.end).map_or(text.len(), |next| next.start);
        out.push_str(&text[done..start]);
        chars += text[done..start].chars().count();
        let before = &text[start..end];
        let length = before.chars().count();
        edits.push(Edit {
            id: id.to_owned(),
            step: STEP.to_owned(),
            field: "text".to_owned(),
            start: chars,
            end: chars + length,
            before: before.to_owned(),
            after: String::new(),
        });
        chars += length;
        done = end;
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Origin;
    use ferrotune_types::Document;
    use proptest::prelude::*;

    fn rows(texts: &[&str]) -> Vec<Record> {
        let row = |(i, text): (usize, &&str)| Record {
            item: Item::Document(Document {
                id: format!("{i}"),
                text: (*text).to_owned(),
                meta: serde_json::Map::new(),
            }),
            origin: Origin::default(),
        };
        texts.iter().enumerate().map(row).collect()
    }

    #[test]
    fn the_later_copy_goes_and_is_told() {
        let check = |texts: &[&str], expect: &[&str]| {
            let config = SubstringConfig { min_words: 4, min_left: 2 };
            let result = substring_dedup(rows(texts), &config).unwrap();
            let kept: Vec<&str> = result.kept.iter().map(|r| r.texts()[0].1).collect();
            assert_eq!(kept, expect);
            assert_eq!(result.kept.len() + result.dropped.len(), texts.len());
        };
        check(
            &["One: click here to subscribe now. Bye.", "Two, é: Click here to subscribe, now! The end."],
            &["One: click here to subscribe now. Bye.", "Two, é: The end."],
        );
        check(&["a b c d", "a b c d"], &["a b c d"]);
        check(&["a b c", "a b c"], &["a b c", "a b c"]);
        check(&["x x x x x x x x"], &["x x x x "]);
        let config = SubstringConfig { min_words: 4, min_left: 2 };
        let result = substring_dedup(rows(&["p a b c d q r", "é a b c d s t"]), &config).unwrap();
        let edit = &result.edits[0];
        assert_eq!((edit.start, edit.end, &*edit.before), (2, 10, "a b c d "));
    }

    proptest! {
        #[test]
        fn afterwards_nothing_occurs_twice(texts in prop::collection::vec("([a-d] ){0,30}", 1..8)) {
            let config = SubstringConfig { min_words: 3, min_left: 0 };
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let once = substring_dedup(rows(&texts), &config).unwrap();
            prop_assert_eq!(repeats(&once.kept, 3), []);
            let twice = substring_dedup(once.kept.clone(), &config).unwrap();
            prop_assert_eq!(twice.edits.len(), 0);
            prop_assert_eq!(twice.kept, once.kept);
        }
    }
}
