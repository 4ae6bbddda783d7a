use std::ops::Range;

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::bytes::{self, Bytes};
use super::kernels::{Stored, Width};
use super::parallel::parallel;
use crate::{Linear, Weight};

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

/// (n, k), as it is stored.
#[derive(Debug)]
enum Rows<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    I8(Int8Rows<'a>),
}

/// Whole numbers, with a factor for each row.
#[derive(Debug)]
struct Int8Rows<'a> {
    weight: &'a [i8],
    sums: &'a [i32],
    scales: Vec<f32>,
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
            Weight::Packed(packed) => {
                let int8 = packed.as_int8()?;
                let (n, k) = packed.size();
                let rows = Int8Rows {
                    weight: elements(int8.weight(), Kind::Int8)?,
                    sums: elements(int8.sums(), Kind::Int)?,
                    scales: floats(int8.scales()),
                    width: *bytes::Width::here().first()?,
                };
                let bias = linear.bias.as_ref().map(floats);
                Some(Matrix { n: n as usize, k: k as usize, weight: Rows::I8(rows), bias })
            }
        }
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

    /// x of (m, k) → columns `at..at + n` of `out`, whose m rows have `stride`.
    pub(super) fn forward(&self, width: Width, x: &[f32], out: &mut [f32], at: usize, stride: usize) {
        let k = self.k;
        let target = Target { out, at, stride };
        match &self.weight {
            Rows::F32(w) => self.share(x, target, |rows, y| {
                f32::product(width, &w[rows.start * k..rows.end * k], x, k, y);
            }),
            Rows::Bf16(w) => self.share(x, target, |rows, y| {
                bf16::product(width, &w[rows.start * k..rows.end * k], x, k, y);
            }),
            Rows::I8(Int8Rows { weight, sums, scales, width }) => {
                let input = Bytes::new(x, k);
                self.share(x, target, |rows, y| {
                    let weight = &weight[rows.start * k..rows.end * k];
                    bytes::product(*width, weight, &sums[rows.clone()], &input, k, y);
                    for y in y.chunks_exact_mut(rows.len()) {
                        y.iter_mut().zip(&scales[rows.clone()]).for_each(|(y, s)| *y *= s);
                    }
                });
            }
        }
    }

    /// Shares the weight's rows out: `product` gives those of a range for every input, (m, rows).
    fn share(&self, x: &[f32], target: Target<'_>, product: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let (n, m) = (self.n, x.len() / self.k);
        let Target { out, at, stride } = target;
        assert!(at + n <= stride && out.len() == m * stride, "{m} rows of {n} into {} numbers", out.len());
        // Small enough that threads end together, large enough to be worth handing out.
        let per_task = (49_152 / self.k).clamp(8, 1024).next_multiple_of(4);
        let target = Columns(out.as_mut_ptr());
        parallel(n.div_ceil(per_task), &|task| {
            let rows = task * per_task..((task + 1) * per_task).min(n);
            let mut y = vec![0.0; m * rows.len()];
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

/// Columns from `at` on of rows of `stride` numbers.
struct Target<'a> {
    out: &'a mut [f32],
    at: usize,
    stride: usize,
}

/// Where the tasks of a product write, each its own columns.
pub(super) struct Columns(pub(super) *mut f32);

// SAFETY: `write` is unsafe and asks for places of one's own.
unsafe impl Sync for Columns {}

impl Columns {
    /// # Safety
    /// `place..place + x.len()` must be writable, and nobody else may look there meanwhile.
    pub(super) unsafe fn write(&self, place: usize, x: &[f32]) {
        // SAFETY: the caller vouches for it.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), self.0.add(place), x.len()) }
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
