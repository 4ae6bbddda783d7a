//! Products with weights in 8 bits, in whole numbers.
//!
//! **Input.** It becomes whole numbers of one scale, q = round(x / s), of as many bits as let every sum of k products
//! fit into 32: 16 at most, 13 where k is 1,536. Sums are exact, so all CPUs give the same result to the last bit, and
//! what is lost is the input's rounding alone.
//!
//! **Weights** lie in panels of 16 rows, (n / 16, k / 4, 16, 4): a vector holds the factors of 4 neighbouring inputs
//! for 16 rows. Each lane sums up a row of its own, so nothing is ever added across a vector, and a panel is read
//! from its first byte to its last.
//!
//! AVX-512 VNNI multiplies bytes, so there q + 2¹⁵ = 256 · high + low, and Σ w q = 256 · Σ w high + Σ w low − 2¹⁵ · Σ w.
//! That is right modulo 2³² whatever the parts are, and the whole fits.

use crate::kernels::for_each_width;

/// Rows of a panel.
pub(super) const ROWS: usize = 16;
/// Neighbouring inputs that lie together.
pub(super) const DEPTH: usize = 4;

/// 4 inputs' factors for 16 rows.
pub(super) type Panel = [i8; ROWS * DEPTH];

/// A weight of (n, k) as the loops read it, or some of its panels. What is beyond n or k is zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panels<'a> {
    /// (n / 16, k / 4).
    pub(super) weight: &'a [Panel],
    /// Σ w of every row, in 16s.
    pub(super) sums: &'a [[i32; ROWS]],
    /// Every row's factor, in 16s.
    pub(super) scales: &'a [[f32; ROWS]],
}

/// Inputs as whole numbers, (m, k / 4, 4).
#[derive(Debug)]
pub(super) struct Input {
    /// q: empty where the loops read bytes.
    whole: Vec<i16>,
    /// q + 2¹⁵ as bytes: empty where the loops read whole numbers.
    high: Vec<u8>,
    low: Vec<u8>,
    /// s of each input.
    scales: Vec<f32>,
    /// k / 4.
    depth: usize,
}

impl Input {
    /// From x of (m, k).
    pub(super) fn new(width: Width, x: &[f32], k: usize) -> Self {
        let (m, depth) = (x.len() / k, k.div_ceil(DEPTH));
        let length = depth * DEPTH;
        let (n_whole, n_bytes) = if width.reads_bytes() { (0, m * length) } else { (m * length, 0) };
        let mut out = Input {
            whole: vec![0; n_whole],
            high: vec![0; n_bytes],
            low: vec![0; n_bytes],
            scales: Vec::with_capacity(m),
            depth,
        };
        let limit = (i32::MAX as usize / (127 * k)).clamp(1, 32_767) as f32;
        for (i, row) in x.chunks_exact(k).enumerate() {
            let places = i * length..i * length + k;
            out.scales.push(if width.reads_bytes() {
                round_to_bytes(row, limit, &mut out.high[places.clone()], &mut out.low[places])
            } else {
                round(row, limit, &mut out.whole[places])
            });
        }
        out
    }

    fn m(&self) -> usize {
        self.scales.len()
    }
}

/// s and 1 / s of an input.
#[inline]
fn scale(row: &[f32], limit: f32) -> (f32, f32) {
    // In lanes, which the compiler makes vectors of.
    let mut lanes = [0.0f32; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = lane.max(x.abs()));
    }
    let greatest = lanes.iter().chain(rest).fold(0.0f32, |greatest, x| greatest.max(x.abs()));
    let scale = if greatest > 0.0 { greatest / limit } else { 1.0 };
    (scale, 1.0 / scale)
}

/// A number as q. 1.5 · 2²³: what is added to it is rounded to a whole number, in the low bits. NaN becomes 0.
#[inline]
fn rounded(x: f32, inverse: f32) -> u16 {
    (x * inverse + 12_582_912.0).to_bits() as u16
}

for_each_width! {
    /// An input as q; gives s.
    fn round(row: &[f32], limit: f32, out: &mut [i16]) -> f32 {
        let (scale, inverse) = scale(row, limit);
        for (&x, out) in row.iter().zip(out) {
            *out = rounded(x, inverse) as i16;
        }
        scale
    }
}

for_each_width! {
    /// An input as q + 2¹⁵ in two bytes; gives s.
    fn round_to_bytes(row: &[f32], limit: f32, high: &mut [u8], low: &mut [u8]) -> f32 {
        let (scale, inverse) = scale(row, limit);
        for (&x, (high, low)) in row.iter().zip(high.iter_mut().zip(low)) {
            let q = rounded(x, inverse) ^ 0x8000;
            *high = (q >> 8) as u8;
            *low = q as u8;
        }
        scale
    }
}

/// W xᵀ: panels of (n, k), `x` of (m, k) → `out` of (m, n); n may end inside the last panel.
pub(super) fn product(width: Width, w: Panels<'_>, x: &Input, out: &mut [f32]) {
    let (panels, n) = (w.sums.len(), out.len() / x.m().max(1));
    assert!(out.len() == x.m() * n && n.div_ceil(ROWS) == panels && w.scales.len() == panels);
    assert!(w.weight.len() == panels * x.depth, "{} of {panels} panels", w.weight.len());
    match width {
        // SAFETY: `Width::here` asked the CPU.
        #[cfg(target_arch = "x86_64")]
        Width::Avx512 => unsafe { avx512::product(w, x, n, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Width::Avx2 => unsafe { avx2::product(w, x, n, out) },
        Width::Plain => plain::product(w, x, n, out),
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

    fn reads_bytes(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Width::Avx512 => true,
            #[cfg(target_arch = "x86_64")]
            Width::Avx2 => false,
            Width::Plain => false,
        }
    }
}

/// Compiles the walk over panels and inputs for one kind of CPU. The module gives `inputs`, an input as its tiles
/// read it, and `tile`, the sums of P panels with M inputs.
macro_rules! loops {
    ($($features:literal)?) => {
        /// As [`super::product`]. One input goes with four panels, several with two.
        $(#[target_feature(enable = $features)])?
        pub(super) fn product(w: Panels<'_>, x: &Input, n: usize, out: &mut [f32]) {
            let (panels, m) = (w.sums.len(), x.m());
            let mut p = 0;
            while p < panels {
                let height = match panels - p {
                    4.. if m == 1 => 4,
                    2.. if m > 1 => 2,
                    _ => 1,
                };
                let mut i = 0;
                while i < m {
                    let width = match m - i {
                        6.. => 6,
                        4..6 => 4,
                        _ => 1,
                    };
                    match (height, width) {
                        (4, _) => place::<4, 1>(w, x, p, i, n, out),
                        (2, 6) => place::<2, 6>(w, x, p, i, n, out),
                        (2, 4) => place::<2, 4>(w, x, p, i, n, out),
                        (2, _) => place::<2, 1>(w, x, p, i, n, out),
                        (_, 6) => place::<1, 6>(w, x, p, i, n, out),
                        (_, 4) => place::<1, 4>(w, x, p, i, n, out),
                        _ => place::<1, 1>(w, x, p, i, n, out),
                    }
                    i += width;
                }
                p += height;
            }
        }

        /// The sums of P panels from `first` on with M inputs from `input` on, scaled, into their places in `out`.
        $(#[target_feature(enable = $features)])?
        fn place<const P: usize, const M: usize>(
            w: Panels<'_>,
            x: &Input,
            first: usize,
            input: usize,
            n: usize,
            out: &mut [f32],
        ) {
            let weight = &w.weight[first * x.depth..(first + P) * x.depth];
            let mut xs = [inputs(x, 0); M];
            for (i, x_of) in xs.iter_mut().enumerate() {
                *x_of = inputs(x, input + i);
            }
            let sums = tile::<P, M>(weight, x.depth, xs);
            for (p, sums) in sums.iter().enumerate() {
                let (row_sums, scales) = (&w.sums[first + p], &w.scales[first + p]);
                for (i, sums) in sums.iter().enumerate() {
                    let mut y = [0.0; ROWS];
                    for r in 0..ROWS {
                        let sum = sums[r].wrapping_sub(row_sums[r].wrapping_mul(OFFSET));
                        y[r] = sum as f32 * x.scales[input + i] * scales[r];
                    }
                    let row = (first + p) * ROWS;
                    let end = (row + ROWS).min(n);
                    out[(input + i) * n..][row..end].copy_from_slice(&y[..end - row]);
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_si512,
    };

    use super::{DEPTH, Input, Panel, Panels, ROWS};
    use crate::cpu::vectors::avx512::prefetch;

    /// What q was raised by.
    const OFFSET: i32 = 1 << 15;
    /// Vectors that are asked for ahead of their use: 4 KiB.
    const AHEAD: usize = 64;

    /// High and low bytes.
    fn inputs(x: &Input, i: usize) -> [&[[u8; DEPTH]]; 2] {
        [&x.high, &x.low].map(|bytes| &bytes.as_chunks().0[i * x.depth..(i + 1) * x.depth])
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(w: &Panel) -> __m512i {
        // SAFETY: the array has as many bytes as are read.
        unsafe { _mm512_loadu_si512(w.as_ptr().cast()) }
    }

    /// Four neighbouring inputs, the same in every lane.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn spread(x: [u8; DEPTH]) -> __m512i {
        _mm512_set1_epi32(i32::from_ne_bytes(x))
    }

    /// Never inlined: among others the sums would not stay in registers.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn tile<const P: usize, const M: usize>(
        w: &[Panel],
        depth: usize,
        x: [[&[[u8; DEPTH]]; 2]; M],
    ) -> [[[i32; ROWS]; M]; P] {
        let mut panels: [&[Panel]; P] = [&[]; P];
        for (p, panel) in panels.iter_mut().enumerate() {
            *panel = &w[p * depth..(p + 1) * depth];
        }
        let mut sums = [[[_mm512_setzero_si512(); 2]; M]; P];
        let x = x.map(|x| x.map(|x| &x[..depth]));
        for j in 0..depth {
            let mut rows = [_mm512_setzero_si512(); P];
            for p in 0..P {
                prefetch(panels[p].as_ptr().wrapping_add(j + AHEAD));
                rows[p] = load(&panels[p][j]);
            }
            for i in 0..M {
                let (high, low) = (spread(x[i][0][j]), spread(x[i][1][j]));
                for p in 0..P {
                    sums[p][i][0] = _mm512_dpbusd_epi32(sums[p][i][0], high, rows[p]);
                    sums[p][i][1] = _mm512_dpbusd_epi32(sums[p][i][1], low, rows[p]);
                }
            }
        }
        let mut out = [[[0; ROWS]; M]; P];
        for p in 0..P {
            for i in 0..M {
                let whole = _mm512_add_epi32(_mm512_slli_epi32::<8>(sums[p][i][0]), sums[p][i][1]);
                // SAFETY: the array has as many numbers as are written.
                unsafe { _mm512_storeu_si512(out[p][i].as_mut_ptr().cast(), whole) };
            }
        }
        out
    }

    loops!("avx512f,avx512vnni");
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_madd_epi16,
        _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    use super::{DEPTH, Input, Panel, Panels, ROWS};
    use crate::cpu::vectors::avx2::prefetch;

    const OFFSET: i32 = 0;
    /// Vectors that are asked for ahead of their use: 4 KiB.
    const AHEAD: usize = 64;

    fn inputs(x: &Input, i: usize) -> &[[i16; DEPTH]] {
        &x.whole.as_chunks().0[i * x.depth..(i + 1) * x.depth]
    }

    /// Four rows' factors.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(w: &[i8; 4 * DEPTH]) -> __m256i {
        // SAFETY: the array has as many bytes as are read.
        _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(w.as_ptr().cast()) })
    }

    /// Four neighbouring inputs, the same for every row.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn spread(x: [i16; DEPTH]) -> __m256i {
        let bits = x.iter().rev().fold(0u64, |bits, &x| bits << 16 | u64::from(x as u16));
        _mm256_set1_epi64x(bits as i64)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn tile<const P: usize, const M: usize>(
        w: &[Panel],
        depth: usize,
        x: [&[[i16; DEPTH]]; M],
    ) -> [[[i32; ROWS]; M]; P] {
        let mut out = [[[0; ROWS]; M]; P];
        for p in 0..P {
            let panel = &w[p * depth..(p + 1) * depth];
            for i in 0..M {
                // Four rows each, two sums a row.
                let mut sums = [_mm256_setzero_si256(); 4];
                for (rows, &x) in panel.iter().zip(x[i]) {
                    prefetch(std::ptr::from_ref(rows).wrapping_add(AHEAD));
                    let x = spread(x);
                    for (sum, four) in sums.iter_mut().zip(rows.as_chunks().0) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(load(four), x));
                    }
                }
                for (out, sum) in out[p][i].as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                    let mut lanes = [0i32; 8];
                    // SAFETY: the array has as many numbers as are written.
                    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
                    *out = std::array::from_fn(|r| lanes[2 * r].wrapping_add(lanes[2 * r + 1]));
                }
            }
        }
        out
    }

    loops!("avx2");
}

mod plain {
    use super::{DEPTH, Input, Panel, Panels, ROWS};

    const OFFSET: i32 = 0;

    fn inputs(x: &Input, i: usize) -> &[[i16; DEPTH]] {
        &x.whole.as_chunks().0[i * x.depth..(i + 1) * x.depth]
    }

    fn tile<const P: usize, const M: usize>(
        w: &[Panel],
        depth: usize,
        x: [&[[i16; DEPTH]]; M],
    ) -> [[[i32; ROWS]; M]; P] {
        let mut out = [[[0i32; ROWS]; M]; P];
        for p in 0..P {
            for i in 0..M {
                for (rows, x) in w[p * depth..(p + 1) * depth].iter().zip(x[i]) {
                    for (sum, row) in out[p][i].iter_mut().zip(rows.as_chunks::<DEPTH>().0) {
                        for (&w, &x) in row.iter().zip(x) {
                            *sum += i32::from(w) * i32::from(x);
                        }
                    }
                }
            }
        }
        out
    }

    loops!();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::{Kind, Tensor};

    use super::*;

    /// Rows as panels, with the sums of rows.
    fn panels(w: &[i8], k: usize) -> (Vec<Panel>, Vec<[i32; ROWS]>) {
        let (n, depth) = (w.len() / k, k.div_ceil(DEPTH));
        let mut out = vec![[0; ROWS * DEPTH]; n.div_ceil(ROWS) * depth];
        let mut sums = vec![[0; ROWS]; n.div_ceil(ROWS)];
        for (r, row) in w.chunks_exact(k).enumerate() {
            for (j, &w) in row.iter().enumerate() {
                out[r / ROWS * depth + j / DEPTH][r % ROWS * DEPTH + j % DEPTH] = w;
                sums[r / ROWS][r % ROWS] += i32::from(w);
            }
        }
        (out, sums)
    }

    /// Every width's product is libtorch's in fp64, but for the input's rounding; and all are the same bits.
    fn check(w: &[i8], x: &[f32], k: usize) {
        let (n, m) = (w.len() / k, x.len() / k);
        let table = |t: Tensor, rows: usize| t.to_kind(Kind::Double).view([rows as i64, k as i64]);
        let expect = table(Tensor::from_slice(x), m).matmul(&table(Tensor::from_slice(w), n).tr());
        let expect = Vec::<f64>::try_from(expect.view(-1)).unwrap();
        let greatest = f64::from(x.iter().fold(0.0f32, |a, b| a.max(b.abs())));
        let step = greatest / (2_147_483_647.0 / (127.0 * k as f64)).floor().min(32_767.0);
        // Half a step for every factor, and what fp32 rounds of the sum.
        let tolerance = 127.0 * k as f64 * (0.5 * step + 2e-7 * greatest) + 1e-6;
        let (weight, sums) = panels(w, k);
        let scales = vec![[1.0; ROWS]; sums.len()];
        let w = Panels { weight: &weight, sums: &sums, scales: &scales };
        let mut first: Option<Vec<f32>> = None;
        for width in Width::here() {
            let mut out = vec![f32::NAN; m * n];
            product(width, w, &Input::new(width, x, k), &mut out);
            for (got, expect) in out.iter().zip(&expect) {
                assert!((f64::from(*got) - expect).abs() <= tolerance, "{width:?}: {got} is not {expect}");
            }
            assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{width:?}");
        }
    }

    proptest! {
        #[test]
        fn products_are_libtorchs(
            (k, w, x) in (1usize..90, 1usize..70, 1usize..14).prop_flat_map(|(k, n, m)| (
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
        for k in [8, 575, 516, 4096, (1 << 16) - 1] {
            check(&vec![127; k], &vec![-3.0; k], k);
            check(&vec![-127; k], &vec![3.0; k], k);
        }
        check(&[5; 8], &[0.0; 8], 8);
    }
}
