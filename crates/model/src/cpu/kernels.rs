//! The inner loops, written once over vectors of fp32 numbers and compiled for each kind of CPU and of storage;
//! which one runs is asked at run time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use half::bf16;

#[cfg(target_arch = "x86_64")]
use crate::kernels::has_avx512;

/// A buffer that holds anything, and goes back to its thread's others: a task is too short to ask the allocator. It begins
/// where a line of the cache does: a vector that crosses from one to the next is read twice.
#[derive(Debug)]
pub(super) struct Scratch {
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    const LINE: usize = 64;

    pub(super) fn new(len: usize) -> Self {
        let mut buffer = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        let most = len + Self::LINE / size_of::<f32>() - 1;
        if buffer.len() < most {
            buffer = vec![0.0; most];
        }
        let start = buffer.as_ptr().align_offset(Self::LINE).min(most - len);
        Scratch { buffer, start, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // A thread that ends has given its others up.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().push(buffer));
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

/// Rows of a weight, (n, k).
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight<'a, E> {
    pub(super) rows: &'a [E],
    /// Already in the cache: memory is asked ahead of its use.
    pub(super) cached: bool,
}

/// Where a product goes: that of input i with row r to `numbers[i * stride + r]`.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pub(super) numbers: &'a mut [f32],
    pub(super) stride: usize,
}

/// A type that weights and caches are stored in.
pub(super) trait Stored: Copy + Send + Sync + 'static {
    fn widen(self) -> f32;
    fn narrow(x: f32) -> Self;
    /// x of (m, k) in the order in which [`Self::product`] reads it.
    fn arrange(width: Width, x: &[f32], k: usize) -> Scratch;
    /// Inputs of `k` numbers by the rows of `w`.
    fn product(width: Width, w: Weight<'_, Self>, x: &[f32], k: usize, out: Out<'_>);
    /// `out` += Σ weight · row, over the rows of `values`, (weights, out).
    fn mix(width: Width, weights: &[f32], values: &[Self], out: &mut [f32]);
}

/// Which of the compiled loops a CPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
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
            if has_avx512() {
                all.push(Width::Avx512);
            }
            if has!("avx2") && has!("fma") {
                all.push(Width::Avx2);
            }
        }
        all.push(Width::Plain);
        all
    }
}

/// Compiles the loops for one kind of CPU and one kind of storage. `load` makes a vector of stored numbers; `part`
/// makes `parts` of them, and an input is arranged as they come out.
macro_rules! loops {
    ($name:ident, $vectors:ident, $stored:ty, $load:ident, $part:ident, $parts:literal $(, $features:literal)?) => {
        mod $name {
            use super::super::vectors::$vectors as v;
            use super::{Out, Scratch, Stored as _, Weight};

            /// Numbers that are read at once.
            const CHUNK: usize = $parts * v::LANES;

            /// Of so many inputs, how many go together.
            fn group(left: usize) -> usize {
                match left {
                    v::INPUTS.. => v::INPUTS,
                    4.. => 4,
                    _ => left,
                }
            }

            /// Group by group: a chunk of each of its inputs, the next chunk of each, …, and what is left of each.
            pub(super) fn arrange(x: &[f32], k: usize) -> Scratch {
                let m = x.len() / k;
                let mut out = Scratch::new(x.len());
                let (whole, rest) = (k / CHUNK, k % CHUNK);
                let mut first = 0;
                while first < m {
                    let n = group(m - first);
                    let (body, tails) = out[first * k..(first + n) * k].split_at_mut(n * whole * CHUNK);
                    for (i, x) in x[first * k..(first + n) * k].chunks_exact(k).enumerate() {
                        let (chunks, tail) = x.as_chunks::<CHUNK>();
                        let places = body.as_chunks_mut::<CHUNK>().0.iter_mut().skip(i).step_by(n);
                        for (x, out) in chunks.iter().zip(places) {
                            let parts = out.as_chunks_mut::<{ v::LANES }>().0.iter_mut().enumerate();
                            for (part, out) in parts {
                                for (i, out) in out.iter_mut().enumerate() {
                                    *out = x[i * $parts + part];
                                }
                            }
                        }
                        tails[i * rest..(i + 1) * rest].copy_from_slice(tail);
                    }
                    first += n;
                }
                out
            }

            /// Several inputs go together: one load of a weight serves them all. So do several rows: one load of an
            /// input serves them all. All rows pass by a group of inputs, which stays in the nearest cache.
            $(#[target_feature(enable = $features)])?
            pub(super) fn product(w: Weight<'_, $stored>, x: &[f32], k: usize, out: Out<'_>) {
                let (Weight { rows: w, cached }, Out { numbers: out, stride }) = (w, out);
                let m = x.len() / k;
                let mut i = 0;
                while i < m {
                    let width = group(m - i);
                    let (x, out) = (&x[i * k..(i + width) * k], &mut out[i * stride..]);
                    match width {
                        v::INPUTS => tiles::<{ v::ROWS }, { v::INPUTS }>(w, cached, x, k, out, stride),
                        4 => tiles::<{ v::ROWS }, 4>(w, cached, x, k, out, stride),
                        3 => tiles::<4, 3>(w, cached, x, k, out, stride),
                        2 => tiles::<4, 2>(w, cached, x, k, out, stride),
                        _ => tiles::<4, 1>(w, cached, x, k, out, stride),
                    }
                    i += width;
                }
            }

            /// All rows, R at a time as long as there are so many, with M inputs.
            $(#[target_feature(enable = $features)])?
            fn tiles<const R: usize, const M: usize>(
                w: &[$stored],
                cached: bool,
                x: &[f32],
                k: usize,
                out: &mut [f32],
                stride: usize,
            ) {
                let n = w.len() / k;
                let whole = n - n % R;
                for r in (0..whole).step_by(R) {
                    tile::<R, M>(&w[r * k..(r + R) * k], cached, x, k, &mut out[r..], stride);
                }
                for r in whole..n {
                    tile::<1, M>(&w[r * k..(r + 1) * k], cached, x, k, &mut out[r..], stride);
                }
            }

            /// R rows with M inputs: R · M sums at once, each over all of k. Row r with input i goes to
            /// `out[i * stride + r]`. Never inlined: among others the sums would not stay in registers.
            #[inline(never)]
            $(#[target_feature(enable = $features)])?
            fn tile<const R: usize, const M: usize>(
                w: &[$stored],
                cached: bool,
                x: &[f32],
                k: usize,
                out: &mut [f32],
                stride: usize,
            ) {
                let whole = k / CHUNK;
                // The same place two tiles on: the hardware follows rows, not tiles.
                let ahead = 2 * R * k;
                let mut rows: [&[[$stored; CHUNK]]; R] = [&[]; R];
                for r in 0..R {
                    rows[r] = &w[r * k..(r + 1) * k].as_chunks().0[..whole];
                }
                let (body, tails) = x.split_at(M * whole * CHUNK);
                let lanes: &[[[f32; v::LANES]; $parts]] = body.as_chunks().0.as_chunks().0;
                let inputs: &[[[[f32; v::LANES]; $parts]; M]] = &lanes.as_chunks().0[..whole];
                let mut sums = [[v::fill(0.0); M]; R];
                for j in 0..whole {
                    let mut parts = [[v::fill(0.0); $parts]; R];
                    for r in 0..R {
                        if !cached {
                            v::prefetch(w.as_ptr().wrapping_add(ahead + r * k + j * CHUNK));
                        }
                        parts[r] = v::$part(&rows[r][j]);
                    }
                    for i in 0..M {
                        for part in 0..$parts {
                            let x = v::load_f32(&inputs[j][i][part]);
                            for r in 0..R {
                                sums[r][i] = v::plus(sums[r][i], parts[r][part], x);
                            }
                        }
                    }
                }
                // Four sums are totalled for less than four times the price of one.
                let mut totals = [[0.0; M]; R];
                if M.is_multiple_of(4) {
                    for r in 0..R {
                        for i in (0..M).step_by(4) {
                            let four = [sums[r][i], sums[r][(i + 1) % M], sums[r][(i + 2) % M], sums[r][(i + 3) % M]];
                            totals[r][i..i + 4].copy_from_slice(&v::totals(four));
                        }
                    }
                } else if R == 4 {
                    for i in 0..M {
                        let four = [sums[0][i], sums[1 % R][i], sums[2 % R][i], sums[3 % R][i]];
                        for (r, total) in v::totals(four).into_iter().enumerate() {
                            totals[r % R][i] = total;
                        }
                    }
                } else {
                    for r in 0..R {
                        for i in 0..M {
                            totals[r][i] = v::total(sums[r][i]);
                        }
                    }
                }
                for i in 0..M {
                    let out = &mut out[i * stride..][..R];
                    for r in 0..R {
                        out[r] = totals[r][i];
                    }
                }
                let rest = k - whole * CHUNK;
                if rest > 0 {
                    for r in 0..R {
                        let w = &w[r * k + whole * CHUNK..(r + 1) * k];
                        for i in 0..M {
                            let out = &mut out[i * stride + r];
                            for (w, x) in w.iter().zip(&tails[i * rest..]) {
                                *out += w.widen() * x;
                            }
                        }
                    }
                }
            }

            /// N chunks from number `from` on: as many sums at once, each over all rows. Gives N.
            #[inline]
            $(#[target_feature(enable = $features)])?
            fn mix_chunks<const N: usize>(
                weights: &[f32],
                values: &[$stored],
                d: usize,
                from: usize,
                out: &mut [[f32; v::LANES]],
            ) -> usize {
                let mut sums = [v::fill(0.0); N];
                for n in 0..N {
                    sums[n] = v::load_f32(&out[from + n]);
                }
                for (&weight, row) in weights.iter().zip(values.chunks_exact(d)) {
                    let (weight, row) = (v::fill(weight), &row.as_chunks().0[from..from + N]);
                    for n in 0..N {
                        sums[n] = v::plus(sums[n], weight, v::$load(&row[n]));
                    }
                }
                for n in 0..N {
                    v::store(sums[n], &mut out[from + n]);
                }
                N
            }

            $(#[target_feature(enable = $features)])?
            pub(super) fn mix(weights: &[f32], values: &[$stored], out: &mut [f32]) {
                let d = out.len();
                let (chunks, rest) = out.as_chunks_mut::<{ v::LANES }>();
                let mut from = 0;
                while from < chunks.len() {
                    from += match chunks.len() - from {
                        4.. => mix_chunks::<4>(weights, values, d, from, chunks),
                        _ => mix_chunks::<1>(weights, values, d, from, chunks),
                    };
                }
                let start = d - rest.len();
                for (j, out) in rest.iter_mut().enumerate() {
                    for (&weight, row) in weights.iter().zip(values.chunks_exact(d)) {
                        *out += weight * row[start + j].widen();
                    }
                }
            }
        }
    };
}

/// The loops for one kind of storage on every kind of CPU, and the choice between them.
macro_rules! stored {
    (
        $stored:ty, $load:ident, $part:ident, $parts:literal, $avx512:ident, $avx2:ident, $plain:ident,
        $widen:expr, $narrow:expr
    ) => {
        #[cfg(target_arch = "x86_64")]
        loops!($avx512, avx512, $stored, $load, $part, $parts, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma");
        #[cfg(target_arch = "x86_64")]
        loops!($avx2, avx2, $stored, $load, $part, $parts, "avx2,fma");
        loops!($plain, plain, $stored, $load, $part, $parts);

        impl Stored for $stored {
            #[inline]
            fn widen(self) -> f32 {
                $widen(self)
            }

            fn narrow(x: f32) -> Self {
                $narrow(x)
            }

            fn arrange(width: Width, x: &[f32], k: usize) -> Scratch {
                match width {
                    #[cfg(target_arch = "x86_64")]
                    Width::Avx512 => $avx512::arrange(x, k),
                    #[cfg(target_arch = "x86_64")]
                    Width::Avx2 => $avx2::arrange(x, k),
                    Width::Plain => $plain::arrange(x, k),
                }
            }

            fn product(width: Width, w: Weight<'_, Self>, x: &[f32], k: usize, out: Out<'_>) {
                assert!(k > 0 && w.rows.len().is_multiple_of(k) && x.len().is_multiple_of(k), "rows of {k}");
                let (n, m) = (w.rows.len() / k, x.len() / k);
                let fits = n <= out.stride && m * out.stride <= out.numbers.len() + out.stride - n;
                assert!(fits, "{m} times {n} results into {}", out.numbers.len());
                match width {
                    // SAFETY: `Width::here` asked the CPU.
                    #[cfg(target_arch = "x86_64")]
                    Width::Avx512 => unsafe { $avx512::product(w, x, k, out) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Width::Avx2 => unsafe { $avx2::product(w, x, k, out) },
                    Width::Plain => $plain::product(w, x, k, out),
                }
            }

            fn mix(width: Width, weights: &[f32], values: &[Self], out: &mut [f32]) {
                assert!(
                    !out.is_empty() && values.len() == weights.len() * out.len(),
                    "{} values",
                    values.len()
                );
                match width {
                    // SAFETY: `Width::here` asked the CPU.
                    #[cfg(target_arch = "x86_64")]
                    Width::Avx512 => unsafe { $avx512::mix(weights, values, out) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Width::Avx2 => unsafe { $avx2::mix(weights, values, out) },
                    Width::Plain => $plain::mix(weights, values, out),
                }
            }
        }
    };
}

stored!(f32, load_f32, part_f32, 1, f32_avx512, f32_avx2, f32_plain, |x| x, |x| x);
stored!(
    half::bf16,
    load_bf16,
    parts_bf16,
    2,
    bf16_avx512,
    bf16_avx2,
    bf16_plain,
    |x: bf16| f32::from_bits(u32::from(x.to_bits()) << 16),
    bf16::from_f32
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Kind, Tensor};

    use super::*;

    /// Numbers that every storage holds exactly.
    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 20) % 201) as f32 - 100.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Every width's product is libtorch's.
    fn check<E: Stored>(n: usize, k: usize, m: usize, seed: u32) {
        let (w, x) = (numbers(n * k, seed), numbers(m * k, seed ^ 7));
        let table = |x: &[f32], rows: usize| Tensor::from_slice(x).view([rows as i64, k as i64]);
        let expect =
            (table(&x, m) / 64.0).to_kind(Kind::Double).matmul(&table(&w, n).to_kind(Kind::Double).tr());
        let x: Vec<f32> = x.iter().map(|x| x / 64.0).collect();
        let w: Vec<E> = w.into_iter().map(E::narrow).collect();
        for width in Width::here() {
            for cached in [false, true] {
                let mut out = vec![f32::NAN; m * n];
                let w = Weight { rows: &w[..], cached };
                E::product(width, w, &E::arrange(width, &x, k), k, Out { numbers: &mut out, stride: n });
                let got = Tensor::from_slice(&out).view([m as i64, n as i64]);
                let worst = (got - &expect).abs().max().double_value(&[]);
                assert!(worst < 1e-2, "{width:?} differs by {worst:e}");
            }
        }
    }

    #[test]
    fn scratch_is_ones_own() {
        let mut first = Scratch::new(3);
        first.fill(1.0);
        // Longer than the one before, and shorter.
        for len in [100, 2, 0] {
            let mut second = Scratch::new(len);
            assert_eq!(second.len(), len);
            assert!(second.as_ptr().addr().is_multiple_of(Scratch::LINE));
            second.fill(2.0);
        }
        assert_eq!(*first, [1.0; 3]);
    }

    proptest! {
        #[test]
        fn products_are_libtorchs(n in 1usize..11, k in 1usize..70, m in 1usize..18, seed: u32) {
            check::<f32>(n, k, m, seed);
            check::<bf16>(n, k, m, seed);
        }

        #[test]
        fn an_input_does_not_feel_its_neighbours(n in 1usize..11, k in 1usize..70, m in 2usize..18, seed: u32) {
            // Thirds, so that every sum rounds and its order shows.
            let thirds = |n, seed| numbers(n, seed).into_iter().map(|x| x / 3.0).collect::<Vec<_>>();
            let (w, x) = (thirds(n * k, seed), thirds(m * k, seed ^ 7));
            let w: Vec<bf16> = w.into_iter().map(bf16::narrow).collect();
            for width in Width::here() {
                let mut all = vec![f32::NAN; m * n];
                let w = Weight { rows: &w[..], cached: false };
                bf16::product(width, w, &bf16::arrange(width, &x, k), k, Out { numbers: &mut all, stride: n });
                for (x, all) in x.chunks_exact(k).zip(all.chunks_exact(n)) {
                    let mut alone = vec![f32::NAN; n];
                    bf16::product(width, w, &bf16::arrange(width, x, k), k, Out { numbers: &mut alone, stride: n });
                    prop_assert_eq!(&alone, all, "{:?}", width);
                }
            }
        }

        #[test]
        fn mixtures_are_libtorchs(n in 1usize..20, d in 1usize..70, seed: u32) {
            let (weights, values) = (numbers(n, seed), numbers(n * d, seed ^ 3));
            let weights: Vec<f32> = weights.iter().map(|x| x / 64.0).collect();
            let table = Tensor::from_slice(&values).view([n as i64, d as i64]);
            let expect = Vec::<f32>::try_from(Tensor::from_slice(&weights).unsqueeze(0).matmul(&table).view(-1)).unwrap();
            let stored: Vec<bf16> = values.iter().map(|&x| bf16::narrow(x)).collect();
            for width in Width::here() {
                let mut out = vec![0.0; d];
                bf16::mix(width, &weights, &stored, &mut out);
                prop_assert!(out.iter().zip(&expect).all(|(a, b)| (a - b).abs() < 1e-2), "{width:?}");
            }
        }
    }
}
