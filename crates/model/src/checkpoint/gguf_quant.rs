//! GGUF's block formats, as llama.cpp's `ggml-quants.c` lays them out.

use half::{bf16, f16};

/// How a GGUF tensor's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are llama.cpp's own")]
#[expect(non_camel_case_types, reason = "the names are llama.cpp's own")]
pub enum GgufType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

use GgufType::{BF16, F16, F32, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};

/// Number in the file, type, elements a block, bytes a block.
const TYPES: [(u32, GgufType, usize, usize); 13] = [
    (0, F32, 1, 4),
    (1, F16, 1, 2),
    (2, Q4_0, 32, 18),
    (3, Q4_1, 32, 20),
    (6, Q5_0, 32, 22),
    (7, Q5_1, 32, 24),
    (8, Q8_0, 32, 34),
    (10, Q2_K, 256, 84),
    (11, Q3_K, 256, 110),
    (12, Q4_K, 256, 144),
    (13, Q5_K, 256, 176),
    (14, Q6_K, 256, 210),
    (30, BF16, 1, 2),
];

impl GgufType {
    /// By its number in the file.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        TYPES.iter().find(|(n, ..)| *n == number).map(|(_, kind, ..)| *kind)
    }

    /// Elements and bytes of a block.
    pub(super) fn block(self) -> (usize, usize) {
        TYPES.iter().find(|(_, kind, ..)| *kind == self).map_or((1, 1), |&(.., n, bytes)| (n, bytes))
    }

    /// The readable types, for messages.
    pub(super) fn known() -> String {
        TYPES.map(|(_, kind, ..)| format!("{kind:?}")).join(", ")
    }

    /// Stored bytes → numbers. `bytes` must hold whole blocks; large tensors are split over the cores, which
    /// changes no number.
    pub(super) fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let (n, n_bytes) = self.block();
        let n_blocks = bytes.len() / n_bytes;
        let mut out = vec![0.0; n_blocks * n];
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let share = n_blocks.div_ceil(threads).max(4096);
        std::thread::scope(|scope| {
            for (bytes, out) in bytes.chunks(share * n_bytes).zip(out.chunks_mut(share * n)) {
                let mut work = move || self.dequantize_blocks(bytes, out);
                if n_blocks <= share {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
        });
        out
    }

    fn dequantize_blocks(self, bytes: &[u8], out: &mut [f32]) {
        let (n, n_bytes) = self.block();
        let block = match self {
            F32 => |b: &[u8], y: &mut [f32]| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            F16 => |b: &[u8], y: &mut [f32]| y[0] = half_at(b, 0),
            BF16 => |b: &[u8], y: &mut [f32]| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Q4_0 => q4_0,
            Q4_1 => q4_1,
            Q5_0 => q5_0,
            Q5_1 => q5_1,
            Q8_0 => q8_0,
            Q2_K => q2_k,
            Q3_K => q3_k,
            Q4_K => q4_k,
            Q5_K => q5_k,
            Q6_K => q6_k,
        };
        for (bytes, out) in bytes.chunks_exact(n_bytes).zip(out.chunks_exact_mut(n)) {
            block(bytes, out);
        }
    }
}

/// The half-precision number at byte `at`.
fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// d · (q − 8): scale, then 16 bytes whose low halves are the first 16 elements.
fn q4_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, &q) in b[2..18].iter().enumerate() {
        y[i] = d * (f32::from(q & 15) - 8.0);
        y[i + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

/// d · q + m.
fn q4_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, &q) in b[4..20].iter().enumerate() {
        y[i] = d * f32::from(q & 15) + m;
        y[i + 16] = d * f32::from(q >> 4) + m;
    }
}

/// d · (q − 16); the fifth bits of all 32 elements lie in 4 bytes of their own.
fn q5_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    for (i, &q) in b[6..22].iter().enumerate() {
        y[i] = d * (five_bits(q & 15, high, i) - 16.0);
        y[i + 16] = d * (five_bits(q >> 4, high, i + 16) - 16.0);
    }
}

/// d · q + m, with fifth bits as [`q5_0`].
fn q5_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    for (i, &q) in b[8..24].iter().enumerate() {
        y[i] = d * five_bits(q & 15, high, i) + m;
        y[i + 16] = d * five_bits(q >> 4, high, i + 16) + m;
    }
}

fn five_bits(low: u8, high: u32, i: usize) -> f32 {
    (u32::from(low) | ((high >> i) & 1) << 4) as f32
}

/// d · q.
fn q8_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (y, &q) in y.iter_mut().zip(&b[2..34]) {
        *y = f32::from(q as i8) * d;
    }
}

/// 16 sub-blocks of 16, each with a 4-bit scale and minimum; 2 bits an element, four planes of 32 in 32 bytes.
fn q2_k(b: &[u8], y: &mut [f32]) {
    let (scales, q) = (&b[..16], &b[16..80]);
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (i, y) in y.iter_mut().enumerate() {
        let scale = scales[i / 16];
        let q = (q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
        *y = (d * f32::from(scale & 15)) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

/// 16 sub-blocks of 16 with 6-bit scales; 2 low bits laid out as [`q2_k`], the third in a mask: absent means −4.
fn q3_k(b: &[u8], y: &mut [f32]) {
    let (mask, q, packed, d) = (&b[..32], &b[32..96], &b[96..108], half_at(b, 108));
    let mut scales = [0.0; 16];
    for (i, scale) in scales.iter_mut().enumerate() {
        let low = (packed[i % 8] >> (i / 8 * 4)) & 15;
        let high = (packed[8 + i % 4] >> (i / 4 * 2)) & 3;
        *scale = d * (f32::from(low | high << 4) - 32.0);
    }
    for (i, y) in y.iter_mut().enumerate() {
        let low = (q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
        let high = (mask[i % 32] >> (i / 32)) & 1;
        *y = scales[i / 16] * (f32::from(low) - f32::from((high ^ 1) * 4));
    }
}

/// 8 sub-blocks of 32 with 6-bit scales and minima; 4 bits an element, low halves before high ones.
fn q4_k(b: &[u8], y: &mut [f32]) {
    let (scales, minima) = k_scales(b);
    let q = &b[16..144];
    for (i, y) in y.iter_mut().enumerate() {
        let q = (q[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4)) & 15;
        *y = scales[i / 32] * f32::from(q) - minima[i / 32];
    }
}

/// As [`q4_k`], with the fifth bits in 32 bytes: bit j of byte i belongs to element i of sub-block j.
fn q5_k(b: &[u8], y: &mut [f32]) {
    let (scales, minima) = k_scales(b);
    let (high, q) = (&b[16..48], &b[48..176]);
    for (i, y) in y.iter_mut().enumerate() {
        let low = (q[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4)) & 15;
        let q = low | ((high[i % 32] >> (i / 32)) & 1) << 4;
        *y = scales[i / 32] * f32::from(q) - minima[i / 32];
    }
}

/// d, dmin and 12 packed bytes → 8 scales and 8 minima.
fn k_scales(b: &[u8]) -> ([f32; 8], [f32; 8]) {
    let (d, dmin, packed) = (half_at(b, 0), half_at(b, 2), &b[4..16]);
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    for i in 0..4 {
        let (s, m, high) = (packed[i], packed[i + 4], packed[i + 8]);
        scales[i] = d * f32::from(s & 63);
        minima[i] = dmin * f32::from(m & 63);
        scales[i + 4] = d * f32::from(high & 0x0f | (s >> 2) & 0x30);
        minima[i + 4] = dmin * f32::from(high >> 4 | (m >> 2) & 0x30);
    }
    (scales, minima)
}

/// 16 sub-blocks of 16 with 8-bit scales; 4 low bits in 128 bytes, 2 high bits in 64.
fn q6_k(b: &[u8], y: &mut [f32]) {
    let (ql, qh, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (i, y) in y.iter_mut().enumerate() {
        let (half, j) = (i / 128, i % 128);
        let low = (ql[half * 64 + j % 64] >> (j / 64 * 4)) & 15;
        let high = (qh[half * 32 + j % 32] >> (j / 32 * 2)) & 3;
        let q = f32::from(low | high << 4) - 32.0;
        *y = (d * f32::from(scales[i / 16] as i8)) * q;
    }
}
