use half::bf16;
use tch::{Device, Kind, Tensor};

use super::kernels::rows_times;
use super::team::Team;
use crate::{Linear, Weight};

/// A linear layer as the kernels see it, y = x Wᵀ + b.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    /// Outputs.
    pub(super) n: usize,
    k: usize,
    weight: Rows<'a>,
    bias: Option<Vec<f32>>,
}

/// (n, k), as it is stored.
#[derive(Debug)]
enum Rows<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    /// With a factor for each row.
    I8(&'a [i8], Vec<f32>),
    /// What libtorch multiplies: with an adapter, packed otherwise.
    Other(&'a Linear),
}

impl<'a> Matrix<'a> {
    pub(super) fn of(linear: &'a Linear) -> Self {
        let (n, k) = (linear.out_features() as usize, linear.in_features() as usize);
        let bias = linear.bias.as_ref().map(floats);
        let weight = match &linear.weight {
            _ if linear.has_adapter() => None,
            Weight::Dense(weight) => Rows::dense(weight),
            Weight::Packed(packed) => packed.as_int8().and_then(|int8| {
                Some(Rows::I8(elements(int8.weight(), Kind::Int8)?, floats(int8.scales())))
            }),
        };
        match weight {
            Some(weight) => Matrix { n, k, weight, bias },
            // libtorch's product adds the bias itself.
            None => Matrix { n, k, weight: Rows::Other(linear), bias: None },
        }
    }

    /// A weight of (n, k) without bias, or with one.
    pub(super) fn of_tensor(weight: &'a Tensor, bias: Option<&Tensor>) -> Option<Self> {
        let (n, k) = weight.size2().ok()?;
        let rows = Rows::dense(weight)?;
        Some(Matrix { n: n as usize, k: k as usize, weight: rows, bias: bias.map(floats) })
    }

    /// x of (m, k) → columns `at..at + n` of `out`, whose rows have `stride`.
    pub(super) fn forward(
        &self,
        team: &Team,
        x: &[f32],
        m: usize,
        out: &mut [f32],
        at: usize,
        stride: usize,
    ) {
        assert!(at + self.n <= stride && out.len() >= m * stride && x.len() == m * self.k);
        match &self.weight {
            Rows::F32(w) => self.multiply(team, w, x, m, &mut out[at..], stride, None),
            Rows::Bf16(w) => self.multiply(team, w, x, m, &mut out[at..], stride, None),
            Rows::I8(w, scales) => self.multiply(team, w, x, m, &mut out[at..], stride, Some(scales)),
            Rows::Other(linear) => {
                let kind = match &linear.weight {
                    Weight::Dense(weight) => weight.kind(),
                    Weight::Packed(_) => linear.bias.as_ref().map_or(Kind::Float, Tensor::kind),
                };
                let x = Tensor::from_slice(x).view([m as i64, self.k as i64]).to_kind(kind);
                let y = floats(&linear.forward(&x));
                for (i, row) in y.chunks_exact(self.n).enumerate() {
                    out[i * stride + at..][..self.n].copy_from_slice(row);
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a kernel's operands")]
    fn multiply<E: super::simd::Stored>(
        &self,
        team: &Team,
        w: &[E],
        x: &[f32],
        m: usize,
        out: &mut [f32],
        stride: usize,
        scales: Option<&[f32]>,
    ) {
        let (n, k) = (self.n, self.k);
        // Small enough that threads end together, large enough to be worth handing out: about 64 KiB of weight.
        let per_task = (32_768 / k.max(1)).clamp(8, 512).next_multiple_of(4);
        let target = Columns(out.as_mut_ptr());
        team.run(n.div_ceil(per_task), &|task| {
            let rows = task * per_task..((task + 1) * per_task).min(n);
            // SAFETY: tasks write columns of their own, inside `out`, as `forward` checked.
            unsafe {
                let out = target.get().add(rows.start);
                rows_times(&w[rows.start * k..rows.end * k], x, k, m, out, stride);
                for i in 0..m {
                    let row = std::slice::from_raw_parts_mut(out.add(i * stride), rows.len());
                    if let Some(scales) = scales {
                        row.iter_mut().zip(&scales[rows.clone()]).for_each(|(y, s)| *y *= s);
                    }
                    if let Some(bias) = &self.bias {
                        row.iter_mut().zip(&bias[rows.clone()]).for_each(|(y, b)| *y += b);
                    }
                }
            }
        });
    }
}

impl<'a> Rows<'a> {
    fn dense(weight: &'a Tensor) -> Option<Self> {
        match weight.kind() {
            Kind::Float => elements(weight, Kind::Float).map(Rows::F32),
            Kind::BFloat16 => elements(weight, Kind::BFloat16).map(Rows::Bf16),
            _ => None,
        }
    }
}

/// Where the tasks of a product write, each its own columns.
struct Columns(*mut f32);

// SAFETY: see `Matrix::multiply`.
unsafe impl Sync for Columns {}

impl Columns {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

/// A tensor's elements where they lie: `None` unless it is of `kind`, which must be T's, contiguous, on the CPU.
pub(super) fn elements<T>(tensor: &Tensor, kind: Kind) -> Option<&[T]> {
    if tensor.kind() != kind || tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return None;
    }
    if kind.elt_size_in_bytes() != size_of::<T>() {
        return None;
    }
    // SAFETY: the tensor is contiguous, on the CPU, of elements as large as T, and borrowed as long as the slice.
    // Its storage is changed in place only through another handle on it; nobody holds one while generating.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) })
}

/// Any tensor as fp32 numbers.
pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
    Vec::<f32>::try_from(flat).unwrap_or_default()
}
