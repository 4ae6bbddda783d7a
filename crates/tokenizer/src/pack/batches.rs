use ferrotune_types::{Batch, Example, InvalidValue, PairExample};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::TokenizerError;

/// How much goes into one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    /// This many examples (or packs, or pairs); the last batch may have fewer.
    Examples(usize),
    /// At most this many tokens, but never less than one example.
    Tokens(usize),
}

/// How examples are dealt into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// How much goes into one batch.
    pub size: BatchSize,
    /// Shuffles examples and batches; the same seed gives the same order. Without it, the order is kept.
    pub shuffle: Option<u64>,
    /// Puts examples of like length together: they are sorted within windows of 50 batches.
    pub length_grouped: bool,
}

impl Default for BatchConfig {
    fn default() -> Self {
        BatchConfig { size: BatchSize::Examples(8), shuffle: Some(0), length_grouped: false }
    }
}

/// Batches that length grouping sorts together: enough for like lengths, few enough that order stays random.
const WINDOW: usize = 50;

/// Deals packs into batches, one segment an example. For unpacked examples pass packs of one
/// ([`crate::Packing::Padded`]).
///
/// # Errors
/// [`TokenizerError::Config`] where the size is 0 or a pack holds an empty example.
pub fn batches(packs: &[Vec<Example>], config: &BatchConfig) -> Result<Vec<Batch>, TokenizerError> {
    let lengths: Vec<usize> = packs.iter().map(|pack| pack.iter().map(Example::n_tokens).sum()).collect();
    let make = |dealt: Vec<usize>| {
        let examples: Vec<&Example> = dealt.iter().flat_map(|&i| &packs[i]).collect();
        Batch::from_examples(&examples).map_err(|e: InvalidValue| TokenizerError::Config(e.to_string()))
    };
    deal(&lengths, config)?.into_iter().map(make).collect()
}

/// Deals preference pairs into batches, three segments a pair.
///
/// # Errors
/// [`TokenizerError::Config`] where the size is 0.
pub fn pair_batches(pairs: &[PairExample], config: &BatchConfig) -> Result<Vec<Batch>, TokenizerError> {
    let lengths: Vec<usize> = pairs.iter().map(PairExample::n_tokens).collect();
    let make = |dealt: Vec<usize>| {
        let pairs: Vec<&PairExample> = dealt.iter().map(|&i| &pairs[i]).collect();
        Batch::from_pairs(&pairs).map_err(|e: InvalidValue| TokenizerError::Config(e.to_string()))
    };
    deal(&lengths, config)?.into_iter().map(make).collect()
}

fn deal(lengths: &[usize], config: &BatchConfig) -> Result<Vec<Vec<usize>>, TokenizerError> {
    let (BatchSize::Examples(size) | BatchSize::Tokens(size)) = config.size;
    if size == 0 {
        return Err(TokenizerError::Config("a batch must hold at least one example or token".into()));
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    let mut rng = config.shuffle.map(ChaCha8Rng::seed_from_u64);
    if let Some(rng) = &mut rng {
        order.shuffle(rng);
    }
    if config.length_grouped {
        let window = match config.size {
            BatchSize::Examples(n) => n.saturating_mul(WINDOW),
            BatchSize::Tokens(n) => {
                let mean = (lengths.iter().sum::<usize>() / lengths.len().max(1)).max(1);
                (n / mean).max(1).saturating_mul(WINDOW)
            }
        };
        for window in order.chunks_mut(window) {
            window.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
        }
    }
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for i in order {
        let is_full = match (batches.last(), config.size) {
            (None, _) => true,
            (Some(batch), BatchSize::Examples(n)) => batch.len() == n,
            (Some(_), BatchSize::Tokens(n)) => tokens + lengths[i] > n,
        };
        if is_full {
            batches.push(Vec::new());
            tokens = 0;
        }
        tokens += lengths[i];
        if let Some(batch) = batches.last_mut() {
            batch.push(i);
        }
    }
    // Sorted windows would show all long examples first.
    if let Some(rng) = rng.as_mut().filter(|_| config.length_grouped) {
        batches.shuffle(rng);
    }
    Ok(batches)
}
