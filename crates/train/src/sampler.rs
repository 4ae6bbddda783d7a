use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Endless batches of indices: every epoch a fresh order that depends on the seed and the epoch only, so the
/// state of a run is two numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    n: usize,
    seed: u64,
    shuffle: bool,
    epoch: u64,
    next: usize,
    #[serde(skip)]
    order: Vec<usize>,
}

impl Sampler {
    /// Over `n` items.
    pub fn new(n: usize, seed: u64, shuffle: bool) -> Self {
        Sampler { n, seed, shuffle, epoch: 0, next: 0, order: Vec::new() }
    }

    /// The next item. Every item comes once before any comes again.
    pub fn next_index(&mut self) -> Option<usize> {
        if self.n == 0 {
            return None;
        }
        if self.next >= self.n {
            self.next = 0;
            self.epoch += 1;
            self.order.clear();
        }
        if self.order.is_empty() {
            self.order = (0..self.n).collect();
            if self.shuffle {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                rng.set_stream(self.epoch);
                self.order.shuffle(&mut rng);
            }
        }
        let index = self.order[self.next];
        self.next += 1;
        Some(index)
    }

    /// The next `k` items, all of them where there are fewer: a step does not take a row twice to fill itself. One that
    /// runs on over an epoch's end may meet a row of either side.
    pub fn take(&mut self, k: usize) -> Vec<usize> {
        (0..k.min(self.n)).map_while(|_| self.next_index()).collect()
    }

    /// Epochs done, as a fraction.
    pub fn epochs(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.epoch as f64 + self.next as f64 / self.n as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_epoch_is_a_permutation_and_a_saved_sampler_goes_on_alike(n in 1..50usize, seed: u64, at in 0..120usize) {
            let mut sampler = Sampler::new(n, seed, true);
            let mut first = sampler.take(n);
            first.sort_unstable();
            prop_assert_eq!(first, (0..n).collect::<Vec<_>>());

            let go_on = |sampler: &mut Sampler, k: usize| {
                (0..k).map(|_| sampler.next_index()).collect::<Vec<_>>()
            };
            let mut whole = Sampler::new(n, seed, true);
            go_on(&mut whole, at);
            let saved = serde_json::to_string(&whole).unwrap();
            let mut resumed: Sampler = serde_json::from_str(&saved).unwrap();
            prop_assert_eq!(go_on(&mut whole, 2 * n + 1), go_on(&mut resumed, 2 * n + 1));
        }

        #[test]
        fn a_batch_larger_than_the_data_is_the_data(n in 1..50usize, more in 0..100usize, seed: u64) {
            let mut sampler = Sampler::new(n, seed, true);
            for epoch in 1..4u32 {
                let mut batch = sampler.take(n + more);
                batch.sort_unstable();
                prop_assert_eq!(batch, (0..n).collect::<Vec<_>>());
                prop_assert_eq!(sampler.epochs(), f64::from(epoch));
            }
        }
    }
}
