//! Products of bf16 weights with many inputs, by units that multiply tiles (Intel's AMX).
//!
//! A tile is sixteen lines of 64 bytes. One of weights is sixteen rows of 32 numbers, as they lie in memory; one of
//! inputs holds as many numbers of sixteen inputs, neighbours together; their product is added to sixteen times
//! sixteen sums in fp32. An input goes in as two bf16, the second what the first leaves over, so it keeps 16 bits and
//! the products stay near those in fp32. The weights then pass by as fast as memory gives them, whatever the inputs.

use half::bf16;

use crate::kernels::{Bf16, Element as _, for_each_width};

/// Inputs that go together, and weight rows.
const LINES: usize = 16;
/// Numbers of a line.
const DEPTH: usize = 32;

/// A line for each pair of neighbouring numbers, with that pair of every input: the first in the lower half.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Tile([[u32; LINES]; LINES]);

/// Inputs of (m, k) as tiles.
pub(super) struct Tiles {
    m: usize,
    k: usize,
    /// For each sixteen inputs, of every 32 numbers: what bf16 holds of them, and of the rest.
    groups: Vec<Vec<[Tile; 2]>>,
}

impl Tiles {
    /// `None` where the CPU has no such units, or other loops are as good: few inputs, or k not in whole tiles.
    pub(super) fn new(x: &[f32], k: usize) -> Option<Self> {
        let m = x.len() / k;
        if m < LINES / 2 || !k.is_multiple_of(DEPTH) || !amx::here() {
            return None;
        }
        let group = |inputs: &[f32]| {
            let mut tiles = vec![[Tile([[0; LINES]; LINES]); 2]; k / DEPTH];
            for (i, input) in inputs.chunks_exact(k).enumerate() {
                for (tile, numbers) in tiles.iter_mut().zip(input.as_chunks::<DEPTH>().0) {
                    let (mut high, mut low) = ([0; LINES], [0; LINES]);
                    split(numbers, &mut high, &mut low);
                    for line in 0..LINES {
                        tile[0].0[line][i] = high[line];
                        tile[1].0[line][i] = low[line];
                    }
                }
            }
            tiles
        };
        Some(Tiles { m, k, groups: x.chunks(LINES * k).map(group).collect() })
    }

    /// W xᵀ: `w` of (n, k) → `out` of (m, n). False, and nothing done, where there are fewer rows than a tile has.
    pub(super) fn product(&self, w: &[bf16], out: &mut [f32]) -> bool {
        let n = w.len() / self.k;
        assert!(w.len() == n * self.k && out.len() == n * self.m, "{} of {n} rows", out.len());
        if n < LINES {
            return false;
        }
        // The last tile of rows ends where the rows end; what it shares with the one before is computed twice.
        let starts: Vec<usize> = (0..n).step_by(LINES).map(|start| start.min(n - LINES)).collect();
        for (tiles, out) in self.groups.iter().zip(out.chunks_mut(LINES * n)) {
            for pair in starts.chunks(2) {
                let rows = [pair[0], pair[pair.len() - 1]];
                let sums = amx::sums(rows.map(|row| &w[row * self.k..(row + LINES) * self.k]), tiles, self.k);
                for (row, sums) in rows.into_iter().zip(&sums) {
                    for (i, out) in out.chunks_exact_mut(n).enumerate() {
                        for (r, out) in out[row..row + LINES].iter_mut().enumerate() {
                            *out = sums[0][r][i] + sums[1][r][i];
                        }
                    }
                }
            }
        }
        true
    }
}

for_each_width! {
    /// Numbers as what bf16 holds of them, and the rest as bf16; two neighbours in one.
    fn split(x: &[f32; DEPTH], high: &mut [u32; LINES], low: &mut [u32; LINES]) {
        let (mut upper, mut rest) = ([0u32; DEPTH], [0u32; DEPTH]);
        for ((&x, upper), rest) in x.iter().zip(&mut upper).zip(&mut rest) {
            let high = Bf16::put(x);
            *upper = u32::from(high.bits());
            *rest = u32::from(Bf16::put(x - high.get()).bits());
        }
        for line in 0..LINES {
            high[line] = upper[2 * line] | upper[2 * line + 1] << 16;
            low[line] = rest[2 * line] | rest[2 * line + 1] << 16;
        }
    }
}

/// Of two tiles of rows: the sums with the inputs' first parts and with their second, row by row, input by input.
type Sums = [[[[f32; LINES]; LINES]; 2]; 2];

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::asm;
    use std::sync::OnceLock;

    use half::bf16;

    use super::{DEPTH, LINES, Sums, Tile};

    /// Whether the CPU has the units and Linux lets this process use them.
    pub(super) fn here() -> bool {
        static HERE: OnceLock<bool> = OnceLock::new();
        // Their registers are so large that a process asks for them.
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        *HERE.get_or_init(|| {
            crate::device::multiplies_bf16() == crate::device::Bf16Products::Tiles
                // SAFETY: the call takes two numbers and changes only what this process may use.
                && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
        })
    }

    /// What `ldtilecfg` reads: all eight registers are tiles of sixteen lines of 64 bytes.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        lines: [u8; 16],
    }

    static CONFIG: Config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// Two tiles of weight rows, (16, k) each, with sixteen inputs.
    pub(super) fn sums(w: [&[bf16]; 2], x: &[[Tile; 2]], k: usize) -> Sums {
        let depth = k / DEPTH;
        assert!(here() && depth > 0 && x.len() == depth && w.iter().all(|w| w.len() == LINES * k));
        let mut sums: Sums = [[[[0.0; LINES]; LINES]; 2]; 2];
        // SAFETY: `here` asked CPU and system. The loop reads 16 lines of 64 bytes, 2·k apart, `depth` times from
        // each of `w`, and 2 tiles as often from `x`: as many as there are, as was asserted. It writes four tiles,
        // as large as `sums`. The compiler uses no tile registers, and they are given back.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{first} + {stride}*1]",
                "tileloadd tmm6, [{x} + {line}*1]",
                "tileloadd tmm7, [{x} + {line}*1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{second} + {stride}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {first}, 64",
                "add {second}, 64",
                "add {x}, 2048",
                "dec {left}",
                "jnz 2b",
                "tilestored [{out} + {line}*1], tmm0",
                "tilestored [{out} + {line}*1 + 1024], tmm1",
                "tilestored [{out} + {line}*1 + 2048], tmm2",
                "tilestored [{out} + {line}*1 + 3072], tmm3",
                "tilerelease",
                config = in(reg) &raw const CONFIG,
                first = inout(reg) w[0].as_ptr() => _,
                second = inout(reg) w[1].as_ptr() => _,
                x = inout(reg) x.as_ptr() => _,
                left = inout(reg) depth => _,
                stride = in(reg) 2 * k,
                line = in(reg) 64usize,
                out = in(reg) &raw mut sums,
                options(nostack),
            );
        }
        sums
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod amx {
    use super::{Sums, Tile};

    pub(super) fn here() -> bool {
        false
    }

    pub(super) fn sums(_: [&[half::bf16]; 2], _: &[[Tile; 2]], _: usize) -> Sums {
        unreachable!("`here` is asked first")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn products_are_those_in_fp64(n in 1usize..70, depth in 1usize..5, m in 8usize..40, seed: u32) {
            let k = depth * DEPTH;
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            let w: Vec<bf16> = (0..n * k).map(|_| bf16::from_f32(next())).collect();
            let x: Vec<f32> = (0..m * k).map(|_| next()).collect();
            let Some(tiles) = Tiles::new(&x, k) else {
                prop_assert!(!amx::here());
                return Ok(());
            };
            let mut out = vec![f32::NAN; m * n];
            prop_assert_eq!(tiles.product(&w, &mut out), n >= LINES);
            if n < LINES {
                return Ok(());
            }
            for (x, out) in x.chunks_exact(k).zip(out.chunks_exact(n)) {
                for (w, out) in w.chunks_exact(k).zip(out) {
                    let exact: f64 = w.iter().zip(x).map(|(w, &x)| f64::from(w.to_f32()) * f64::from(x)).sum();
                    // Each input is off by 2⁻¹⁷ of itself at most, and what fp32 rounds.
                    prop_assert!((f64::from(*out) - exact).abs() < 1.2e-5 * k as f64, "{out} is not {exact}");
                }
            }
        }
    }
}
