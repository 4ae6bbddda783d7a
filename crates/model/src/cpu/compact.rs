//! fp32 weights that came from fewer bits, put back into them: the same numbers from a part of the memory.
//!
//! A step for one row reads every weight once and is bound by that. A weight that was stored in bf16, or in a GGUF file's
//! blocks of 4 or 8 bits, holds no more than that after it was widened to fp32. [`Compact::of`] finds this out from the
//! numbers themselves, whatever file they came from, and checks each of them: a matrix of which one number would change
//! stays as it is. Products widen a few rows at a time again, into the nearest cache, to the same bits.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};

use super::matrix::Columns;
use super::parallel::parallel;
use crate::kernels::for_each_width;
#[cfg(target_arch = "x86_64")]
use crate::kernels::has_avx512;

/// Neighbouring numbers of a row that share a scale, as in llama.cpp's Q4_0, Q4_1 and Q8_0.
const BLOCK: usize = 32;

/// A matrix in fewer bits, row by row.
#[derive(Debug)]
pub(super) enum Compact {
    /// The upper halves; the lower ones are zero.
    Bf16(Vec<bf16>),
    /// 6 bits a number, scales counted in.
    Four(Vec<Four>),
    /// 9 bits a number.
    Eight(Vec<Eight>),
}

/// scale · code + least, codes from 0 to 15: those of the first 16 numbers in the lower halves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Four {
    scale: f32,
    least: f32,
    codes: [u8; BLOCK / 2],
}

/// scale · code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eight {
    scale: f32,
    codes: [i8; BLOCK],
}

impl Compact {
    /// Rows of `k` numbers, where some form holds every one of them.
    pub(super) fn of(w: &[f32], k: usize) -> Option<Compact> {
        if let Some(halves) = packed(w, |x: &[f32; 1]| narrow(x[0])) {
            return Some(Compact::Bf16(halves));
        }
        if !k.is_multiple_of(BLOCK) {
            return None;
        }
        let four = packed(w, Four::of).map(Compact::Four);
        four.or_else(|| packed(w, Eight::of).map(Compact::Eight))
    }

    /// Rows `rows` of `k` numbers each.
    pub(super) fn widen(&self, rows: Range<usize>, k: usize, out: &mut [f32]) {
        let of = |size: usize| rows.start * k / size..rows.end * k / size;
        match self {
            Compact::Bf16(all) => widen_bf16(&all[of(1)], out),
            Compact::Four(all) => widen_four(&all[of(BLOCK)], out.as_chunks_mut().0),
            Compact::Eight(all) => widen_eight(&all[of(BLOCK)], out.as_chunks_mut().0),
        }
    }
}

/// Every N numbers as one T, on all threads; `None` as soon as that fails for some.
fn packed<T: Copy + Default + Send, const N: usize>(
    w: &[f32],
    pack: impl Fn(&[f32; N]) -> Option<T> + Sync,
) -> Option<Vec<T>> {
    const PER_TASK: usize = 1 << 16;
    let (blocks, []) = w.as_chunks::<N>() else { return None };
    pack(blocks.first()?)?;
    let mut out = vec![T::default(); blocks.len()];
    let (target, fails) = (Columns(out.as_mut_ptr()), AtomicBool::new(false));
    let per_task = PER_TASK / N;
    parallel(blocks.len().div_ceil(per_task), &|task| {
        let places = task * per_task..((task + 1) * per_task).min(blocks.len());
        if fails.load(Ordering::Relaxed) {
            return;
        }
        match blocks[places.clone()].iter().map(&pack).collect::<Option<Vec<T>>>() {
            // SAFETY: every task has places of its own, inside `out`, which is looked at when all are done.
            Some(packed) => unsafe { target.write(places.start, &packed) },
            None => fails.store(true, Ordering::Relaxed),
        }
    });
    (!fails.into_inner()).then_some(out)
}

fn narrow(x: f32) -> Option<bf16> {
    let half = bf16::from_bits((x.to_bits() >> 16) as u16);
    (half.to_f32().to_bits() == x.to_bits()).then_some(half)
}

impl Default for Four {
    fn default() -> Self {
        Four { scale: 0.0, least: 0.0, codes: [0; BLOCK / 2] }
    }
}

impl Default for Eight {
    fn default() -> Self {
        Eight { scale: 0.0, codes: [0; BLOCK] }
    }
}

impl Four {
    /// The least number has code 0 and the greatest 15, and the scale was an fp16, as llama.cpp packs.
    fn of(x: &[f32; BLOCK]) -> Option<Four> {
        let (least, greatest) = range(x);
        let scale = f16::from_f32((greatest - least) / 15.0).to_f32();
        let all = codes(x, scale, least, 0.0, 15.0)?;
        let mut codes = [0; BLOCK / 2];
        for (i, code) in codes.iter_mut().enumerate() {
            *code = all[i] as u8 | (all[i + BLOCK / 2] as u8) << 4;
        }
        Some(Four { scale, least, codes })
    }
}

impl Eight {
    /// The greatest in size has code 127 or −127, and the scale was an fp16.
    fn of(x: &[f32; BLOCK]) -> Option<Eight> {
        let (least, greatest) = range(x);
        let scale = f16::from_f32(greatest.max(-least) / 127.0).to_f32();
        let codes = codes(x, scale, 0.0, -127.0, 127.0)?;
        Some(Eight { scale, codes: codes.map(|code| code as i8) })
    }
}

for_each_width! {
    fn range(x: &[f32; BLOCK]) -> (f32, f32) {
        let (mut least, mut greatest) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
        for half in x.as_chunks::<16>().0 {
            for i in 0..16 {
                least[i] = least[i].min(half[i]);
                greatest[i] = greatest[i].max(half[i]);
            }
        }
        (least.into_iter().fold(f32::INFINITY, f32::min), greatest.into_iter().fold(f32::NEG_INFINITY, f32::max))
    }
}

for_each_width! {
    /// Whole numbers with scale · code + least = x to the last bit, where there are such for all of x.
    fn codes(x: &[f32; BLOCK], scale: f32, least: f32, from: f32, to: f32) -> Option<[i32; BLOCK]> {
        const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: what is added to it is rounded to a whole number, in the low bits
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let (mut out, mut differ) = ([0; BLOCK], 0);
        for (x, out) in x.iter().zip(&mut out) {
            let rounded = ((x - least) * inverse).clamp(from, to) + ROUND;
            differ |= scale.mul_add(rounded - ROUND, least).to_bits() ^ x.to_bits() | u32::from(x.is_nan());
            // From the bits: `as i32` looks at each number alone for what no whole number holds.
            *out = rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        }
        (differ == 0).then_some(out)
    }
}

for_each_width! {
    fn widen_bf16(from: &[bf16], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(from) {
            *out = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

/// By hand for AVX-512: from loops the compiler makes vectors across blocks, which must be gathered and scattered.
fn widen_four(from: &[Four], out: &mut [[f32; BLOCK]]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the machine has these instructions.
        return unsafe { avx512::widen_four(from, out) };
    }
    for (out, block) in out.iter_mut().zip(from) {
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for ((low, high), &codes) in low.iter_mut().zip(high).zip(&block.codes) {
            *low = block.scale * f32::from(codes & 15) + block.least;
            *high = block.scale * f32::from(codes >> 4) + block.least;
        }
    }
}

/// As [`widen_four`].
fn widen_eight(from: &[Eight], out: &mut [[f32; BLOCK]]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the machine has these instructions.
        return unsafe { avx512::widen_eight(from, out) };
    }
    for (out, block) in out.iter_mut().zip(from) {
        for (out, &code) in out.iter_mut().zip(&block.codes) {
            *out = block.scale * f32::from(code);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m128i, _mm_loadu_si128, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32,
        _mm512_fmadd_ps, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_setr_ps,
        _mm512_srli_epi32, _mm512_storeu_ps,
    };

    use super::{BLOCK, Eight, Four};

    /// Bytes, at the least.
    const AHEAD: usize = 2048;

    /// Codes of 16 numbers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load<T>(codes: &[T; 16]) -> __m128i {
        const { assert!(size_of::<T>() == 1) };
        // SAFETY: the array has as many bytes as are read.
        unsafe { _mm_loadu_si128(codes.as_ptr().cast()) }
    }

    /// Asks for what is widened next, while this is multiplied: reading stops after every few rows, and the hardware loses
    /// the thread.
    #[inline]
    fn prefetch<T>(block: *const T, all: &[T]) {
        crate::cpu::vectors::avx512::prefetch(block.cast::<u8>().wrapping_add(AHEAD.max(size_of_val(all))));
    }

    /// The 16 numbers that a block's codes stand for are a table; a look-up takes the lowest 4 bits of an index.
    #[target_feature(enable = "avx512f")]
    pub(super) fn widen_four(from: &[Four], out: &mut [[f32; BLOCK]]) {
        let all = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
        for (out, block) in out.iter_mut().zip(from) {
            prefetch(block, from);
            let table = _mm512_fmadd_ps(all, _mm512_set1_ps(block.scale), _mm512_set1_ps(block.least));
            let codes = _mm512_cvtepu8_epi32(load(&block.codes));
            let halves = [codes, _mm512_srli_epi32::<4>(codes)];
            for (out, codes) in out.as_chunks_mut::<16>().0.iter_mut().zip(halves) {
                // SAFETY: the array has as many numbers as are written.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(codes, table)) };
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn widen_eight(from: &[Eight], out: &mut [[f32; BLOCK]]) {
        for (out, block) in out.iter_mut().zip(from) {
            prefetch(block, from);
            let scale = _mm512_set1_ps(block.scale);
            for (out, codes) in out.as_chunks_mut::<16>().0.iter_mut().zip(block.codes.as_chunks::<16>().0) {
                let codes = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load(codes)));
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(codes, scale)) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    /// What comes back of rows of `k`, two at a time.
    fn widened(compact: &Compact, n: usize, k: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; n * k];
        for (i, out) in out.chunks_mut(2 * k).enumerate() {
            compact.widen(2 * i..2 * i + out.len() / k, k, out);
        }
        out
    }

    proptest! {
        /// Blocks as llama.cpp packs them come back to the last bit, and a number between two codes is refused.
        #[test]
        fn packed_weights_are_found_and_come_back(
            codes in prop::collection::vec(0..16u8, 3 * 2 * BLOCK),
            scales in prop::collection::vec((1e-4f32..0.1, -0.8f32..0.0), 6),
            wrong in 0..6 * BLOCK,
        ) {
            let half = |x: f32| f16::from_f32(x).to_f32();
            let (mut four, mut eight) = (Vec::new(), Vec::new());
            for (codes, &(scale, least)) in codes.chunks(BLOCK).zip(&scales) {
                for (i, &code) in codes.iter().enumerate() {
                    // The ends of the range are always taken.
                    let code = [0, 15].get(i).copied().unwrap_or(code);
                    four.push(half(scale) * f32::from(code) + half(least));
                    let code = [127, -127].get(i).copied().unwrap_or(i16::from(code) * 9 - 60);
                    eight.push(half(scale) * f32::from(code));
                }
            }
            let k = 2 * BLOCK;
            for (mut w, is_four) in [(four, true), (eight, false)] {
                let compact = Compact::of(&w, k).unwrap();
                prop_assert_eq!(matches!(compact, Compact::Four(_)), is_four);
                prop_assert_eq!(bits(&widened(&compact, 3, k)), bits(&w));
                w[wrong] = f32::from_bits(w[wrong].to_bits() ^ 0x55);
                let still = Compact::of(&w, k).map(|compact| bits(&widened(&compact, 3, k)));
                prop_assert!(still.is_none_or(|still| still == bits(&w)));
            }
        }

        #[test]
        fn what_was_bf16_is_bf16_again(x in prop::collection::vec(-4f32..4.0, 30)) {
            let w: Vec<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
            let compact = Compact::of(&w, 10).unwrap();
            prop_assert!(matches!(compact, Compact::Bf16(_)));
            prop_assert_eq!(bits(&widened(&compact, 3, 10)), bits(&w));
            prop_assert!(Compact::of(&x, 10).is_none() || x == w);
        }
    }

    #[test]
    fn odd_numbers_are_left_alone() {
        for x in [f32::NAN, f32::INFINITY, -0.0, 1e-40, f32::MAX] {
            let mut w = vec![0.1f32; BLOCK];
            w[7] = x;
            assert!(Compact::of(&w, BLOCK).is_none_or(|c| bits(&widened(&c, 1, BLOCK)) == bits(&w)), "{x}");
        }
        assert!(Compact::of(&[], 32).is_none());
    }
}
