//! Metrics of two texts, each equal to the program that defined it.

mod bleu;
mod chrf;
mod rouge;
mod squad;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use bleu::{bleu, corpus_bleu};
pub use chrf::{chrf, chrf_plus_plus, corpus_chrf};
pub use rouge::{rouge_l, rouge_n};
pub use squad::{exact_match, token_f1};

/// Precision, recall and their harmonic mean, each from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Prf {
    /// Share of the answer that the reference has.
    pub precision: f64,
    /// Share of the reference that the answer has.
    pub recall: f64,
    /// 2 * precision * recall / (precision + recall).
    pub f1: f64,
}

impl Prf {
    /// From weights: what both share, the answer's whole and the reference's whole. All 0 where a whole is 0.
    pub(crate) fn of(shared: f64, answer: f64, reference: f64) -> Self {
        if shared <= 0.0 || answer <= 0.0 || reference <= 0.0 {
            return Prf::default();
        }
        let (precision, recall) = (shared / answer, shared / reference);
        Prf { precision, recall, f1: 2.0 * precision * recall / (precision + recall) }
    }
}

/// How often each item comes.
fn counted<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_insert(0) += 1;
    }
    counts
}

/// How many items two multisets share.
fn shared<T: Ord>(a: &BTreeMap<T, usize>, b: &BTreeMap<T, usize>) -> usize {
    a.iter().map(|(item, n)| b.get(item).map_or(0, |m| *n.min(m))).sum()
}
