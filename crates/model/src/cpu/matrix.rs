use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::bytes::{self, Input, Panels};
use super::compact::Compact;
use super::kernels::{self, Out, Scratch, Stored, Width};
use super::parallel::parallel;
use super::tiles::Tiles;
use crate::{Int8Weight, Linear, PackedWeight as _, Weight};

/// A linear layer as the kernels see it, y = x Wᵀ + b.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    /// Outputs.
    pub(super) n: usize,
    /// Inputs.
    k: usize,
    weight: Rows<'a>,
    bias: Option<Vec<f32>>,
}

/// Rows of a compact weight that are widened at a time, for so many inputs: few enough for the nearest caches, and whole
/// tiles of the loops.
fn widened(inputs: usize) -> usize {
    if inputs < 4 { 4 } else { 3 }
}

/// (n, k), as it is stored.
#[derive(Debug)]
enum Rows<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    I8(Int8Rows<'a>),
    /// fp32 in fewer bits.
    Compact(Compact),
}

/// Panels of whole numbers, with a factor for each row.
#[derive(Debug)]
struct Int8Rows<'a> {
    weight: &'a [bytes::Panel],
    sums: &'a [[i32; bytes::ROWS]],
    scales: Vec<[f32; bytes::ROWS]>,
    width: bytes::Width,
}

impl<'a> Matrix<'a> {
    /// `None` for what the kernels do not know: an adapter, another packing, fp16.
    pub(super) fn of(linear: &'a Linear) -> Option<Self> {
        if linear.has_adapter() {
            return None;
        }
        match &linear.weight {
            Weight::Dense(weight) => Matrix::of_tensor(weight, linear.bias.as_ref()),
            Weight::Packed(packed) => Matrix::of_int8(packed.as_int8()?, linear.bias.as_ref()),
        }
    }

    pub(super) fn of_int8(int8: &'a Int8Weight, bias: Option<&Tensor>) -> Option<Self> {
        let (n, k) = int8.size();
        let mut scales = floats(int8.scales());
        scales.resize(scales.len().next_multiple_of(bytes::ROWS), 0.0);
        let rows = Int8Rows {
            weight: elements(int8.panels(), Kind::Int8)?.as_chunks().0,
            sums: elements(int8.sums(), Kind::Int)?.as_chunks().0,
            scales: scales.as_chunks().0.to_vec(),
            width: *bytes::Width::here().first()?,
        };
        Some(Matrix { n: n as usize, k: k as usize, weight: Rows::I8(rows), bias: bias.map(floats) })
    }

    /// A weight of (n, k), with a bias or without.
    pub(super) fn of_tensor(weight: &'a Tensor, bias: Option<&Tensor>) -> Option<Self> {
        let (n, k) = weight.size2().ok()?;
        let rows = match weight.kind() {
            Kind::Float => Rows::F32(elements(weight, Kind::Float)?),
            Kind::BFloat16 => Rows::Bf16(elements(weight, Kind::BFloat16)?),
            _ => return None,
        };
        Some(Matrix { n: n as usize, k: k as usize, weight: rows, bias: bias.map(floats) })
    }

    /// Puts fp32 weights that came from fewer bits back into them, where that changes none.
    pub(super) fn compact(&mut self) {
        if let Rows::F32(w) = self.weight
            && let Some(compact) = Compact::of(w, self.k)
        {
            self.weight = Rows::Compact(compact);
        }
    }

    /// x of (m, k) → columns `at..at + n` of `out`, whose m rows have `stride`; all of them are written.
    pub(super) fn forward(
        &self,
        width: Width,
        x: &[f32],
        out: &mut [MaybeUninit<f32>],
        at: usize,
        stride: usize,
    ) {
        let k = self.k;
        let target = Target { out, at, stride };
        match &self.weight {
            Rows::Bf16(w) => {
                let (input, tiles) = (OnceLock::new(), Tiles::new(x, k));
                self.share(x, target, |rows, y| {
                    let (n, w) = (rows.len(), &w[rows.start * k..rows.end * k]);
                    if !tiles.as_ref().is_some_and(|tiles| tiles.product(w, y)) {
                        let input = input.get_or_init(|| bf16::arrange(width, x, k));
                        let w = kernels::Weight { rows: w, cached: false };
                        bf16::product(width, w, input, k, Out { numbers: y, stride: n });
                    }
                });
            }
            Rows::F32(w) => {
                let input = f32::arrange(width, x, k);
                self.share(x, target, |rows, y| {
                    let n = rows.len();
                    let w = kernels::Weight { rows: &w[rows.start * k..rows.end * k], cached: false };
                    f32::product(width, w, &input, k, Out { numbers: y, stride: n });
                });
            }
            Rows::Compact(compact) => {
                let (input, tall) = (f32::arrange(width, x, k), widened(x.len() / k));
                self.share(x, target, |rows, y| {
                    let n = rows.len();
                    let mut wide = Scratch::new(tall * k);
                    for start in (0..n).step_by(tall) {
                        let end = n.min(start + tall);
                        let wide = &mut wide[..(end - start) * k];
                        compact.widen(rows.start + start..rows.start + end, k, wide);
                        let w = kernels::Weight { rows: wide, cached: true };
                        f32::product(width, w, &input, k, Out { numbers: &mut y[start..], stride: n });
                    }
                });
            }
            Rows::I8(Int8Rows { weight, sums, scales, width }) => {
                let (input, depth) = (Input::new(*width, x, k), k.div_ceil(bytes::DEPTH));
                self.share(x, target, |rows, y| {
                    let panels = rows.start / bytes::ROWS..rows.end.div_ceil(bytes::ROWS);
                    let part = Panels {
                        weight: &weight[panels.start * depth..panels.end * depth],
                        sums: &sums[panels.clone()],
                        scales: &scales[panels],
                    };
                    bytes::product(*width, part, &input, y);
                });
            }
        }
    }

    /// Shares the weight's rows out: `product` writes those of a range for every input, all of (m, rows).
    fn share(&self, x: &[f32], target: Target<'_>, product: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let (n, m) = (self.n, x.len() / self.k);
        let Target { out, at, stride } = target;
        assert!(at + n <= stride && out.len() == m * stride, "{m} rows of {n} into {} numbers", out.len());
        // Small enough that threads end together, large enough to be worth handing out; whole tiles of every kind.
        let tiles = if matches!(self.weight, Rows::Bf16(_)) { 96 } else { 48 };
        let per_task = (49_152 / self.k / m.div_ceil(4)).clamp(8, 1024).next_multiple_of(tiles);
        let target = Columns(out.as_mut_ptr().cast::<f32>());
        parallel(n.div_ceil(per_task), &|task| {
            let rows = task * per_task..((task + 1) * per_task).min(n);
            let mut y = Scratch::new(m * rows.len());
            product(rows.clone(), &mut y);
            for (i, y) in y.chunks_exact_mut(rows.len()).enumerate() {
                if let Some(bias) = &self.bias {
                    y.iter_mut().zip(&bias[rows.clone()]).for_each(|(y, b)| *y += b);
                }
                // SAFETY: inside `out`, as was asserted; every task has columns of its own, and nobody else looks
                // at them before `parallel` comes back.
                unsafe { target.write(i * stride + at + rows.start, y) };
            }
        });
    }
}

/// What several matrices make of x, (m, k), side by side.
pub(super) fn side_by_side(width: Width, matrices: &[Matrix<'_>], x: &[f32]) -> Vec<f32> {
    let stride = matrices.iter().map(|matrix| matrix.n).sum();
    let len = matrices.first().map_or(0, |matrix| x.len() / matrix.k * stride);
    let mut out = Vec::with_capacity(len);
    let mut at = 0;
    for matrix in matrices {
        matrix.forward(width, x, &mut out.spare_capacity_mut()[..len], at, stride);
        at += matrix.n;
    }
    // SAFETY: there is room, and the matrices' columns, all of which are written, are together whole rows.
    unsafe { out.set_len(len) };
    out
}

/// Columns from `at` on of rows of `stride` numbers.
struct Target<'a> {
    out: &'a mut [MaybeUninit<f32>],
    at: usize,
    stride: usize,
}

/// Where tasks write, each its own places.
pub(super) struct Columns<T>(pub(super) *mut T);

// SAFETY: `write` is unsafe and asks for places of one's own.
unsafe impl<T: Send> Sync for Columns<T> {}

impl<T: Copy> Columns<T> {
    /// # Safety
    /// `place..place + x.len()` must be writable, and nobody else may look there meanwhile.
    pub(super) unsafe fn write(&self, place: usize, x: &[T]) {
        // SAFETY: the caller vouches for it.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), self.0.add(place), x.len()) }
    }

    /// # Safety
    /// `place..place + n` must hold numbers, and nobody may write there while the slice is used.
    pub(super) unsafe fn read(&self, place: usize, n: usize) -> &[T] {
        // SAFETY: the caller vouches for it.
        unsafe { std::slice::from_raw_parts(self.0.add(place), n) }
    }
}

/// A tensor's elements where they lie: `None` unless it is of `kind`, which must be T's, contiguous, on the CPU.
pub(super) fn elements<T>(tensor: &Tensor, kind: Kind) -> Option<&[T]> {
    let fits = tensor.kind() == kind && kind.elt_size_in_bytes() == size_of::<T>();
    if !fits || tensor.device() != Device::Cpu || !tensor.is_contiguous() || tensor.numel() == 0 {
        return None;
    }
    // SAFETY: the tensor is contiguous, on the CPU, of elements as large as T, and borrowed as long as the slice.
    // Its storage is changed in place only through another handle on it; nobody holds one while generating.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) })
}

/// Any tensor as fp32 numbers.
pub(crate) fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
    Vec::<f32>::try_from(flat).unwrap_or_default()
}

/// x Wᵀ for a weight in 8 bits, x of (…, k); `None` where one of them is not on the CPU, or where x has so many rows
/// that widening the weight for libtorch's product pays.
pub(crate) fn int8_product(weight: &Int8Weight, x: &Tensor) -> Option<Tensor> {
    const MOST_ROWS: i64 = 64;
    if x.device() != Device::Cpu || x.numel() as i64 > MOST_ROWS * weight.size().1 {
        return None;
    }
    let matrix = Matrix::of_int8(weight, None)?;
    let mut size = x.size();
    *size.last_mut()? = matrix.n as i64;
    let x_plain = floats(x);
    let out = side_by_side(*Width::here().first()?, std::slice::from_ref(&matrix), &x_plain);
    Some(Tensor::from_slice(&out).view(size.as_slice()).to_kind(x.kind()))
}
