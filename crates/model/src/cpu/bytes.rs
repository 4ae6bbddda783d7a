//! Products with weights in 8 bits, in whole numbers.
//!
//! The input becomes 16-bit numbers of one scale, q = round(x / s) + 2¹⁵, in two bytes q = 256 · high + low, because
//! CPUs multiply bytes: Σ w x = s · (256 · Σ w high + Σ w low − 2¹⁵ · Σ w), and every sum is exact. What is lost is
//! the input's rounding, 2⁻¹⁶ of its greatest number; and all CPUs give the same result to the last bit.

/// Inputs as bytes, (m, k).
#[derive(Debug)]
pub(super) struct Bytes {
    high: Vec<u8>,
    low: Vec<u8>,
    /// s of each input.
    scales: Vec<f32>,
}

impl Bytes {
    /// From x of (m, k).
    pub(super) fn new(x: &[f32], k: usize) -> Self {
        let mut out = Bytes { high: vec![0; x.len()], low: vec![0; x.len()], scales: Vec::new() };
        for (i, row) in x.chunks_exact(k).enumerate() {
            let greatest = row.iter().fold(0.0f32, |greatest, x| greatest.max(x.abs()));
            let scale = if greatest > 0.0 { greatest / 32_767.0 } else { 1.0 };
            let (inverse, places) = (1.0 / scale, i * k..(i + 1) * k);
            let bytes = out.high[places.clone()].iter_mut().zip(&mut out.low[places]);
            for (&x, (high, low)) in row.iter().zip(bytes) {
                // 1.5 · 2²³: what is added to it is rounded to a whole number, in the low bits. No NaN is one.
                let q = (x * inverse + 12_582_912.0).to_bits() as u16 ^ 0x8000;
                *high = (q >> 8) as u8;
                *low = q as u8;
            }
            out.scales.push(scale);
        }
        out
    }
}

/// W xᵀ: `w` of (n, k) with the sums of its rows, `x` of (m, k) → `out` of (m, n).
pub(super) fn product(width: Width, w: &[i8], sums: &[i32], x: &Bytes, k: usize, out: &mut [f32]) {
    let (n, m) = (sums.len(), x.scales.len());
    // Beyond this the sum of k products of bytes would not fit into 32 bits.
    assert!(k > 0 && k < 1 << 16 && w.len() == n * k && x.high.len() == m * k && out.len() == m * n);
    match width {
        // SAFETY: `Width::here` asked the CPU.
        #[cfg(target_arch = "x86_64")]
        Width::Avx512 => unsafe { avx512::product(w, sums, x, k, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Width::Avx2 => unsafe { avx2::product(w, sums, x, k, out) },
        Width::Plain => plain::product(w, sums, x, k, out),
    }
}

/// Which of the compiled loops a CPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// With VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Width {
    /// All that this CPU runs, the best first.
    pub(super) fn here() -> Vec<Width> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512vnni") {
                all.push(Width::Avx512);
            }
            if has!("avx2") {
                all.push(Width::Avx2);
            }
        }
        all.push(Width::Plain);
        all
    }
}

/// Compiles the loops for one kind of CPU. The module says how many bytes a vector takes (`LANES`), how weights and
/// inputs are loaded, and how their products are added to sums (`plus`).
macro_rules! loops {
    ($($features:literal)?) => {
        /// As [`super::product`]. Four rows go together, with two inputs or one.
        $(#[target_feature(enable = $features)])?
        pub(super) fn product(w: &[i8], sums: &[i32], x: &super::Bytes, k: usize, out: &mut [f32]) {
            let (n, m) = (sums.len(), x.scales.len());
            let mut r = 0;
            while r < n {
                let height = if r + 4 <= n { 4 } else { 1 };
                let mut i = 0;
                while i < m {
                    let width = if i + 2 <= m { 2 } else { 1 };
                    let rows = &w[r * k..(r + height) * k];
                    match (height, width) {
                        (4, 2) => tile::<4, 2>(rows, &sums[r..], x, i, k, &mut out[i * n + r..], n),
                        (4, _) => tile::<4, 1>(rows, &sums[r..], x, i, k, &mut out[i * n + r..], n),
                        (_, 2) => tile::<1, 2>(rows, &sums[r..], x, i, k, &mut out[i * n + r..], n),
                        _ => tile::<1, 1>(rows, &sums[r..], x, i, k, &mut out[i * n + r..], n),
                    }
                    i += width;
                }
                r += height;
            }
        }

        /// R rows with the M inputs from `first` on; row r with input i goes to `out[i * stride + r]`.
        $(#[target_feature(enable = $features)])?
        fn tile<const R: usize, const M: usize>(
            w: &[i8],
            row_sums: &[i32],
            x: &super::Bytes,
            first: usize,
            k: usize,
            out: &mut [f32],
            stride: usize,
        ) {
            let whole = k / LANES;
            let mut rows: [&[[i8; LANES]]; R] = [&[]; R];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = &w[r * k..(r + 1) * k].as_chunks().0[..whole];
            }
            let mut halves: [[&[[u8; LANES]]; 2]; M] = [[&[]; 2]; M];
            for (i, halves) in halves.iter_mut().enumerate() {
                let places = (first + i) * k..(first + i + 1) * k;
                *halves = [&x.high[places.clone()].as_chunks().0[..whole], &x.low[places].as_chunks().0[..whole]];
            }
            let mut sums = [[[zero(); 2]; M]; R];
            for j in 0..whole {
                let mut inputs = [[zero(); 2]; M];
                for i in 0..M {
                    inputs[i] = [load_input(&halves[i][0][j]), load_input(&halves[i][1][j])];
                }
                for r in 0..R {
                    // The same place two tiles on: the hardware follows rows, not tiles.
                    prefetch(w.as_ptr().wrapping_add((2 * R + r) * k + j * LANES));
                    let weights = load_weights(&rows[r][j]);
                    for i in 0..M {
                        sums[r][i][0] = plus(sums[r][i][0], inputs[i][0], weights);
                        sums[r][i][1] = plus(sums[r][i][1], inputs[i][1], weights);
                    }
                }
            }
            for r in 0..R {
                for i in 0..M {
                    let (mut high, mut low) = (total(sums[r][i][0]), total(sums[r][i][1]));
                    for j in whole * LANES..k {
                        let (w, place) = (i32::from(w[r * k + j]), (first + i) * k + j);
                        high += w * i32::from(x.high[place]);
                        low += w * i32::from(x.low[place]);
                    }
                    let sum = 256 * i64::from(high) + i64::from(low) - 32_768 * i64::from(row_sums[r]);
                    out[i * stride + r] = sum as f32 * x.scales[first + i];
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_reduce_add_epi32, _mm512_setzero_si512,
    };

    use crate::cpu::vectors::avx512::prefetch;

    const LANES: usize = 64;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> __m512i {
        _mm512_setzero_si512()
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_weights(w: &[i8; LANES]) -> __m512i {
        // SAFETY: the array has as many bytes as are read.
        unsafe { _mm512_loadu_si512(w.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_input(x: &[u8; LANES]) -> __m512i {
        // SAFETY: the array has as many bytes as are read.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    /// Four neighbouring products go into one sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn plus(sums: __m512i, x: __m512i, w: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, x, w)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn total(sums: __m512i) -> i32 {
        _mm512_reduce_add_epi32(sums)
    }

    loops!("avx512f,avx512vnni");
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_cvtepu8_epi16,
        _mm256_madd_epi16, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    use crate::cpu::vectors::avx2::prefetch;

    const LANES: usize = 16;

    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> __m256i {
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_weights(w: &[i8; LANES]) -> __m256i {
        // SAFETY: the array has as many bytes as are read.
        _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(w.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_input(x: &[u8; LANES]) -> __m256i {
        // SAFETY: the array has as many bytes as are read.
        _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
    }

    /// Two neighbouring products go into one sum.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn plus(sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
        _mm256_add_epi32(sums, _mm256_madd_epi16(x, w))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(sums: __m256i) -> i32 {
        let mut lanes = [0i32; 8];
        // SAFETY: the array has as many numbers as are written.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) };
        lanes.iter().sum()
    }

    loops!("avx2");
}

mod plain {
    use crate::cpu::vectors::plain::prefetch;

    const LANES: usize = 16;

    #[inline]
    fn zero() -> [i32; LANES] {
        [0; LANES]
    }

    #[inline]
    fn load_weights(w: &[i8; LANES]) -> [i32; LANES] {
        w.map(i32::from)
    }

    #[inline]
    fn load_input(x: &[u8; LANES]) -> [i32; LANES] {
        x.map(i32::from)
    }

    #[inline]
    fn plus(mut sums: [i32; LANES], x: [i32; LANES], w: [i32; LANES]) -> [i32; LANES] {
        for i in 0..LANES {
            sums[i] += x[i] * w[i];
        }
        sums
    }

    #[inline]
    fn total(sums: [i32; LANES]) -> i32 {
        sums.iter().sum()
    }

    loops!();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Kind, Tensor};

    use super::*;

    /// Every width's product is libtorch's in fp64, but for the input's rounding; and all are the same bits.
    fn check(w: &[i8], x: &[f32], k: usize) {
        let (n, m) = (w.len() / k, x.len() / k);
        let table = |t: Tensor, rows: usize| t.to_kind(Kind::Double).view([rows as i64, k as i64]);
        let expect = table(Tensor::from_slice(x), m).matmul(&table(Tensor::from_slice(w), n).tr());
        let expect = Vec::<f64>::try_from(expect.view(-1)).unwrap();
        let greatest = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let tolerance = f64::from(greatest) / 32_767.0 * 127.0 * k as f64 + 1e-6;
        let sums: Vec<i32> = w.chunks_exact(k).map(|row| row.iter().map(|&w| i32::from(w)).sum()).collect();
        let bytes = Bytes::new(x, k);
        let mut first: Option<Vec<f32>> = None;
        for width in Width::here() {
            let mut out = vec![f32::NAN; m * n];
            product(width, w, &sums, &bytes, k, &mut out);
            for (got, expect) in out.iter().zip(&expect) {
                assert!((f64::from(*got) - expect).abs() <= tolerance, "{width:?}: {got} is not {expect}");
            }
            assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{width:?}");
        }
    }

    proptest! {
        #[test]
        fn products_are_libtorchs(
            (k, w, x) in (1usize..150, 1usize..10, 1usize..6).prop_flat_map(|(k, n, m)| (
                Just(k),
                proptest::collection::vec(-127i8..=127, n * k),
                proptest::collection::vec(-50f32..50.0, m * k),
            )),
        ) {
            check(&w, &x, k);
        }
    }

    #[test]
    fn the_greatest_sums_fit() {
        let k = (1 << 16) - 1;
        check(&vec![127; k], &vec![-3.0; k], k);
        check(&vec![-127; k], &vec![3.0; k], k);
        check(&[5; 8], &[0.0; 8], 8);
    }
}
