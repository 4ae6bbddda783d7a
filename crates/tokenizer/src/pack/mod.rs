//! Examples to packs and batches.
//!
//! A [`Batch`] is a flat stream of segments that do not see each other, so packing changes no number: it only decides
//! which examples share a step. [`Packing::BestFit`] is TRL's `bfd`, [`Packing::BestFitSplit`] its `bfd_split`,
//! [`Packing::Wrapped`] its `wrapped`; `tests/golden` holds what TRL packs.

mod batches;
mod best_fit;

use std::fmt;

use ferrotune_types::Example;
use serde::{Deserialize, Serialize};

pub use batches::{BatchConfig, BatchSize, batches, pair_batches};

use crate::TokenizerError;

/// How examples are put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Whole examples, longest first, each into the fullest pack that has room; what is over the length is cut off
    /// (TRL `bfd`).
    #[default]
    BestFit,
    /// As [`Packing::BestFit`], but what is over the length goes on as another example (TRL `bfd_split`).
    BestFitSplit,
    /// One stream, cut every `max_length` tokens, across examples (TRL `wrapped`).
    Wrapped,
    /// One example a pack: what a padded batch would hold.
    Padded,
}

/// What packing did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackReport {
    /// Examples that came in.
    pub examples: usize,
    /// Packs that came out.
    pub packs: usize,
    /// Tokens in the packs.
    pub tokens: usize,
    /// Tokens that were cut off.
    pub lost_tokens: usize,
    /// Examples that were cut in pieces.
    pub split_examples: usize,
    /// Share of `packs × max_length` that holds tokens.
    pub efficiency: f64,
}

impl fmt::Display for PackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { examples, packs, tokens, lost_tokens, split_examples, efficiency } = self;
        write!(
            f,
            "{examples} examples in {packs} packs, {tokens} tokens, {:.1}% full; {lost_tokens} tokens lost, \
             {split_examples} examples split",
            efficiency * 100.0
        )
    }
}

/// Packs of examples, each of at most `max_length` tokens. An example that is cut in pieces keeps its id; a piece's
/// first token is never trained on, since nothing of its own segment predicts it.
///
/// # Errors
/// [`TokenizerError::Config`] where `max_length` is 0.
pub fn pack(
    examples: Vec<Example>,
    max_length: usize,
    packing: Packing,
) -> Result<(Vec<Vec<Example>>, PackReport), TokenizerError> {
    if max_length == 0 {
        return Err(TokenizerError::Config("max_length must be at least 1".into()));
    }
    let mut report = PackReport { examples: examples.len(), ..PackReport::default() };
    let total: usize = examples.iter().map(Example::n_tokens).sum();
    let packs = match packing {
        Packing::BestFit => fit(cut_off(examples, max_length), max_length),
        Packing::Padded => cut_off(examples, max_length).into_iter().map(|example| vec![example]).collect(),
        Packing::BestFitSplit => {
            fit(pieces(examples, max_length, false, &mut report.split_examples), max_length)
        }
        Packing::Wrapped => {
            let mut packs: Vec<Vec<Example>> = Vec::new();
            let mut room = 0;
            for piece in pieces(examples, max_length, true, &mut report.split_examples) {
                if room == 0 {
                    packs.push(Vec::new());
                    room = max_length;
                }
                room -= piece.n_tokens();
                if let Some(pack) = packs.last_mut() {
                    pack.push(piece);
                }
            }
            packs
        }
    };
    report.packs = packs.len();
    report.tokens = packs.iter().flatten().map(Example::n_tokens).sum();
    report.lost_tokens = total - report.tokens;
    report.efficiency = report.tokens as f64 / (packs.len() * max_length).max(1) as f64;
    Ok((packs, report))
}

fn fit(examples: Vec<Example>, max_length: usize) -> Vec<Vec<Example>> {
    let lengths: Vec<usize> = examples.iter().map(Example::n_tokens).collect();
    let mut examples: Vec<Option<Example>> = examples.into_iter().map(Some).collect();
    best_fit::decreasing(&lengths, max_length)
        .into_iter()
        .map(|pack| pack.into_iter().filter_map(|i| examples[i].take()).collect())
        .collect()
}

fn cut_off(examples: Vec<Example>, max_length: usize) -> Vec<Example> {
    let cut = |example: Example| {
        if example.n_tokens() <= max_length { example } else { piece(&example, 0..max_length) }
    };
    examples.into_iter().filter(|example| example.n_tokens() > 0).map(cut).collect()
}

/// Cuts examples: each for itself, or as one stream whose cuts fall on multiples of `max_length`.
fn pieces(examples: Vec<Example>, max_length: usize, stream: bool, split: &mut usize) -> Vec<Example> {
    let mut out = Vec::new();
    let mut filled = 0;
    for example in examples {
        let mut start = 0;
        let first = out.len();
        while start < example.n_tokens() {
            let room = if stream { max_length - filled % max_length } else { max_length };
            let end = (start + room).min(example.n_tokens());
            filled += end - start;
            if start == 0 && end == example.n_tokens() {
                break;
            }
            out.push(piece(&example, start..end));
            start = end;
        }
        *split += usize::from(out.len() > first);
        if out.len() == first && example.n_tokens() > 0 {
            out.push(example);
        }
    }
    out
}

fn piece(example: &Example, range: std::ops::Range<usize>) -> Example {
    let mut mask = example.loss_mask()[range.clone()].to_vec();
    if let Some(first) = mask.first_mut() {
        *first = false;
    }
    let ids = example.ids()[range].to_vec();
    // The mask is as long as the ids and not set on the first, which is all that an example asks.
    Example::new(example.id(), ids, mask).unwrap_or_else(|_| example.clone())
}
