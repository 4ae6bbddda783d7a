//! The inner loops. Each is written once over a vector type and compiled for every kind of vector; which one runs
//! is asked of the CPU at run time.

use super::simd::{Plain, Simd, Stored};
use crate::Activation;

/// How many rows of a weight are multiplied at once: their loads overlap, and each input is loaded once for all.
const TILE_ROWS: usize = 4;

/// Rows `rows` of W x for `m` inputs: `w` holds those rows of (n, k), `x` is (m, k); row r of the result for input
/// i goes to `out[i * stride + r]`.
///
/// # Safety
/// `out` must be writable at all those places, which nothing else reads or writes meanwhile.
pub(super) unsafe fn rows_times<E: Stored>(
    w: &[E],
    x: &[f32],
    k: usize,
    m: usize,
    out: *mut f32,
    stride: usize,
) {
    assert!(k > 0 && w.len().is_multiple_of(k) && x.len() == m * k, "rows of {k} for {m} inputs");
    // SAFETY: the asserts cover what is read; the caller vouches for what is written; the CPU was asked.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return rows_avx512(w, x, k, m, out, stride);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return rows_avx2(w, x, k, m, out, stride);
            }
        }
        rows::<Plain, E>(w, x, k, m, out, stride);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn rows_avx512<E: Stored>(w: &[E], x: &[f32], k: usize, m: usize, out: *mut f32, stride: usize) {
    unsafe { rows::<super::simd::Avx512, E>(w, x, k, m, out, stride) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn rows_avx2<E: Stored>(w: &[E], x: &[f32], k: usize, m: usize, out: *mut f32, stride: usize) {
    unsafe { rows::<super::simd::Avx2, E>(w, x, k, m, out, stride) }
}

#[inline(always)]
unsafe fn rows<S: Simd, E: Stored>(w: &[E], x: &[f32], k: usize, m: usize, out: *mut f32, stride: usize) {
    let n = w.len() / k;
    let mut r = 0;
    while r < n {
        let height = if n - r >= TILE_ROWS { TILE_ROWS } else { 1 };
        let mut i = 0;
        while i < m {
            let width = (m - i).min(4);
            // SAFETY: rows r.. and inputs i.. are inside, as `rows_times` checked.
            unsafe {
                let (w, x) = (w.as_ptr().add(r * k), x.as_ptr().add(i * k));
                let out = out.add(i * stride + r);
                match (height, width) {
                    (TILE_ROWS, 1) => tile::<S, E, TILE_ROWS, 1>(w, x, k, out, stride),
                    (TILE_ROWS, 2) => tile::<S, E, TILE_ROWS, 2>(w, x, k, out, stride),
                    (TILE_ROWS, 3) => tile::<S, E, TILE_ROWS, 3>(w, x, k, out, stride),
                    (TILE_ROWS, _) => tile::<S, E, TILE_ROWS, 4>(w, x, k, out, stride),
                    (_, 1) => tile::<S, E, 1, 1>(w, x, k, out, stride),
                    (_, 2) => tile::<S, E, 1, 2>(w, x, k, out, stride),
                    (_, 3) => tile::<S, E, 1, 3>(w, x, k, out, stride),
                    _ => tile::<S, E, 1, 4>(w, x, k, out, stride),
                }
            }
            i += width;
        }
        r += height;
    }
}

/// R rows with M inputs: R · M sums at once, each over all of k.
#[inline(always)]
unsafe fn tile<S: Simd, E: Stored, const R: usize, const M: usize>(
    w: *const E,
    x: *const f32,
    k: usize,
    out: *mut f32,
    stride: usize,
) {
    unsafe {
        let mut sums = [[S::zero(); M]; R];
        let whole = k / S::LANES * S::LANES;
        let mut j = 0;
        while j < whole {
            let mut inputs = [S::zero(); M];
            for (i, input) in inputs.iter_mut().enumerate() {
                *input = S::load_f32(x.add(i * k + j));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weights = E::load::<S>(w.add(r * k + j));
                for (sum, &input) in sums.iter_mut().zip(&inputs) {
                    *sum = weights.times_plus(input, *sum);
                }
            }
            j += S::LANES;
        }
        for (r, sums) in sums.iter().enumerate() {
            for (i, sum) in sums.iter().enumerate() {
                let mut sum = sum.sum();
                for j in whole..k {
                    sum += (*w.add(r * k + j)).widen() * *x.add(i * k + j);
                }
                *out.add(i * stride + r) = sum;
            }
        }
    }
}

/// One head's attention for one query: `q` of (D), `keys` and `values` of (slots, D) → `out` of (D).
pub(super) fn attend<E: Stored>(
    q: &[f32],
    keys: &[E],
    values: &[E],
    scale: f32,
    softcap: Option<f32>,
    out: &mut [f32],
) {
    let d = q.len();
    assert!(d > 0 && keys.len() == values.len() && keys.len().is_multiple_of(d) && out.len() == d);
    // SAFETY: lengths were checked; the CPU was asked.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return attend_avx512(q, keys, values, scale, softcap, out);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return attend_avx2(q, keys, values, scale, softcap, out);
            }
        }
        attend_with::<Plain, E>(q, keys, values, scale, softcap, out);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn attend_avx512<E: Stored>(
    q: &[f32],
    keys: &[E],
    values: &[E],
    scale: f32,
    softcap: Option<f32>,
    out: &mut [f32],
) {
    unsafe { attend_with::<super::simd::Avx512, E>(q, keys, values, scale, softcap, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2<E: Stored>(
    q: &[f32],
    keys: &[E],
    values: &[E],
    scale: f32,
    softcap: Option<f32>,
    out: &mut [f32],
) {
    unsafe { attend_with::<super::simd::Avx2, E>(q, keys, values, scale, softcap, out) }
}

#[inline(always)]
unsafe fn attend_with<S: Simd, E: Stored>(
    q: &[f32],
    keys: &[E],
    values: &[E],
    scale: f32,
    softcap: Option<f32>,
    out: &mut [f32],
) {
    let d = q.len();
    let n = keys.len() / d;
    let mut scores = vec![0.0f32; n];
    unsafe {
        // Scores are a product of the keys with the query.
        rows::<S, E>(keys, q, d, 1, scores.as_mut_ptr(), n);
        for score in &mut scores {
            *score *= scale;
            if let Some(cap) = softcap {
                *score = tanh(*score / cap) * cap;
            }
        }
        softmax(&mut scores);
        let whole = d / S::LANES * S::LANES;
        let mut j = 0;
        while j < whole {
            let mut sum = S::zero();
            for (slot, &p) in scores.iter().enumerate() {
                sum = S::fill(p).times_plus(E::load::<S>(values.as_ptr().add(slot * d + j)), sum);
            }
            sum.store(out.as_mut_ptr().add(j));
            j += S::LANES;
        }
        for j in whole..d {
            out[j] = scores.iter().enumerate().map(|(slot, &p)| p * values[slot * d + j].widen()).sum();
        }
    }
}

#[inline(always)]
fn softmax(x: &mut [f32]) {
    let greatest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = exp(*x - greatest);
        sum += *x;
    }
    for x in x.iter_mut() {
        *x /= sum;
    }
}

/// `gate[i] = act(gate[i]) · up[i]`, or `act(gate[i])` alone.
pub(super) fn activate(activation: Activation, gate: &mut [f32], up: Option<&[f32]>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU was asked.
        return unsafe { activate_avx512(activation, gate, up) };
    }
    activate_with(activation, gate, up);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn activate_avx512(activation: Activation, gate: &mut [f32], up: Option<&[f32]>) {
    activate_with(activation, gate, up);
}

#[inline(always)]
fn activate_with(activation: Activation, gate: &mut [f32], up: Option<&[f32]>) {
    match activation {
        Activation::Silu => gate.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x)),
        Activation::Relu => gate.iter_mut().for_each(|x| *x = x.max(0.0)),
        Activation::GeluTanh => gate.iter_mut().for_each(|x| {
            let inner = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
            *x *= 0.5 * (1.0 + tanh(inner));
        }),
        Activation::Gelu => gate.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + erf(*x * 0.707_106_77))),
    }
    if let Some(up) = up {
        gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
    }
}

/// eˣ to a unit or two in the last place, without a branch, so that loops over it become vectors: x is split into a
/// power of two and a remainder (Cephes' `expf`).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³: what is added to it is rounded to a whole number
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// To 1.5e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let poly = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_72) * t + 0.254_829_6) * t;
    let y = 1.0 - poly * exp(-a * a);
    if x < 0.0 { -y } else { y }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_and_its_relatives_are_close() {
        for i in -8000..8000 {
            let x = i as f32 / 100.0;
            let close = |got: f32, expect: f64, what: &str| {
                let error = (f64::from(got) - expect).abs() / expect.abs().max(1e-3);
                assert!(error < 1e-5, "{what}({x}) is {got}, not {expect}");
            };
            close(exp(x), f64::from(x).exp(), "exp");
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 1e-6, "tanh({x})");
        }
        for (x, expect) in [(0.0, 0.0), (0.5, 0.520_499_9), (-1.0, -0.842_700_8), (2.0, 0.995_322_3)] {
            assert!((erf(x) - expect).abs() < 1e-6, "erf({x}) is {}", erf(x));
        }
    }

    fn check<E: Stored>(n: usize, k: usize, m: usize, seed: u32) {
        let number = |i: usize| {
            let bits = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503));
            ((bits >> 16) % 201) as f32 - 100.0
        };
        let w: Vec<E> = (0..n * k).map(|i| E::narrow(number(i))).collect();
        let x: Vec<f32> = (0..m * k).map(|i| number(i + 7) / 64.0).collect();
        let mut out = vec![f32::NAN; m * n];
        // SAFETY: out has room for m rows of n.
        unsafe { rows_times(&w, &x, k, m, out.as_mut_ptr(), n) };
        for i in 0..m {
            for r in 0..n {
                let expect: f64 =
                    (0..k).map(|j| f64::from(w[r * k + j].widen()) * f64::from(x[i * k + j])).sum();
                let got = f64::from(out[i * n + r]);
                assert!((got - expect).abs() < 1e-2, "row {r} input {i}: {got} is not {expect}");
            }
        }
    }

    proptest! {
        #[test]
        fn products_are_sums(n in 1usize..10, k in 1usize..70, m in 1usize..8, seed: u32) {
            check::<f32>(n, k, m, seed);
            check::<bf16>(n, k, m, seed);
            check::<i8>(n, k, m, seed);
        }

        #[test]
        fn attention_is_a_weighted_mean(d in 1usize..40, n in 1usize..20, cap in proptest::option::of(1f32..5.0)) {
            let number = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
            let q: Vec<f32> = (0..d).map(number).collect();
            let keys: Vec<f32> = (0..n * d).map(|i| number(i + 3)).collect();
            let values: Vec<f32> = (0..n * d).map(|i| number(i + 11)).collect();
            let mut out = vec![0.0; d];
            attend(&q, &keys, &values, 0.5, cap, &mut out);
            let scores: Vec<f64> = keys
                .chunks(d)
                .map(|key| key.iter().zip(&q).map(|(a, b)| f64::from(a * b)).sum::<f64>() * 0.5)
                .map(|s| cap.map_or(s, |cap| (s / f64::from(cap)).tanh() * f64::from(cap)).exp())
                .collect();
            let total: f64 = scores.iter().sum();
            for j in 0..d {
                let expect: f64 =
                    scores.iter().zip(values.chunks(d)).map(|(s, v)| s / total * f64::from(v[j])).sum();
                prop_assert!((f64::from(out[j]) - expect).abs() < 1e-5);
            }
        }
    }
}
