use half::bf16;
use tch::{Device, Kind, Tensor};

use super::bytes::{DEPTH, ROWS};
use super::kernels::Stored;
use super::matrix::{Columns, elements};
use super::parallel::parallel;
use crate::kernels::for_each_width;

/// A weight in 8 bits: what [`crate::Int8Weight`] keeps.
pub(crate) struct Packed {
    /// (n / 16, k / 4, 16, 4), int8.
    pub(crate) panels: Tensor,
    /// (n), bf16.
    pub(crate) scales: Tensor,
    /// (n / 16, 16), int32.
    pub(crate) sums: Tensor,
}

/// Rounds a weight of (n, k) to 8 bits, panel by panel on all threads; each row's greatest element becomes ±127.
pub(crate) fn pack(weight: &Tensor) -> Packed {
    let (n, k) = weight.size2().unwrap_or((0, 0));
    let weight = weight.detach().to_device(Device::Cpu).contiguous();
    if let Some(rows) = elements::<bf16>(&weight, Kind::BFloat16) {
        pack_rows(rows, n as usize, k as usize)
    } else {
        let weight = weight.to_kind(Kind::Float);
        pack_rows(elements::<f32>(&weight, Kind::Float).unwrap_or_default(), n as usize, k as usize)
    }
}

fn pack_rows<E: Stored>(weight: &[E], n: usize, k: usize) -> Packed {
    let (n_panels, depth) = (n.div_ceil(ROWS), k.div_ceil(DEPTH));
    let length = depth * DEPTH * ROWS;
    let mut panels = vec![0i8; n_panels * length];
    let mut scales = vec![0.0f32; n_panels * ROWS];
    let mut sums = vec![0i32; n_panels * ROWS];
    let targets = (Columns(panels.as_mut_ptr()), Columns(scales.as_mut_ptr()), Columns(sums.as_mut_ptr()));
    parallel(n_panels, &|p| {
        let (mut panel, mut panel_scales, mut panel_sums) = (vec![0; length], [0.0; ROWS], [0; ROWS]);
        let mut rounded = vec![0i8; depth * DEPTH];
        for (r, row) in weight[p * ROWS * k..].chunks_exact(k).take(ROWS).enumerate() {
            let row: Vec<f32> = row.iter().map(|x| x.widen()).collect();
            panel_scales[r] = round_row(&row, &mut rounded[..k]);
            panel_sums[r] = rounded.iter().map(|&q| i32::from(q)).sum();
            for (to, four) in panel.chunks_exact_mut(ROWS * DEPTH).zip(rounded.chunks_exact(DEPTH)) {
                to[r * DEPTH..][..DEPTH].copy_from_slice(four);
            }
        }
        // SAFETY: every task has a panel of its own, and all are looked at when all tasks are done.
        unsafe {
            targets.0.write(p * length, &panel);
            targets.1.write(p * ROWS, &panel_scales);
            targets.2.write(p * ROWS, &panel_sums);
        }
    });
    let size = [n_panels, depth, ROWS, DEPTH].map(|n| n as i64);
    Packed {
        panels: Tensor::from_slice(&panels).view(size),
        scales: Tensor::from_slice(&scales[..n]).to_kind(Kind::BFloat16),
        sums: Tensor::from_slice(&sums).view([n_panels as i64, ROWS as i64]),
    }
}

for_each_width! {
    /// A row as whole numbers; gives its scale, which is a bf16: it is rounded before it is used, so that its own
    /// rounding costs nothing.
    fn round_row(row: &[f32], out: &mut [i8]) -> f32 {
        let mut lanes = [1.27e-10f32; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = lane.max(x.abs()));
        }
        let greatest = lanes.iter().chain(rest).fold(0.0f32, |greatest, x| greatest.max(x.abs()));
        let scale = bf16::from_f32(greatest / 127.0).to_f32();
        for (&x, out) in row.iter().zip(out) {
            // 1.5 · 2²³: what is added to it is rounded to a whole number, in the low bits.
            let q = (x / scale).clamp(-127.0, 127.0) + 12_582_912.0;
            *out = q.to_bits() as i8;
        }
        scale
    }
}
