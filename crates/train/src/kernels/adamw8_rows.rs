use ferrotune_model::for_each_width;
use ferrotune_model::kernels::{Element, Rows, elements, parallel};
use tch::Tensor;

use super::adamw_rows::AdamShared;
use crate::blockwise::{BLOCK, Blockwise, Table};

/// One parameter of an AdamW step whose moments are in 8 bits; weight and gradient are contiguous fp32 CPU tensors.
pub(crate) struct Adam8Row<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    pub(crate) exp_avg: &'a Blockwise,
    pub(crate) exp_avg_sq: &'a Blockwise,
    /// 1 − lr · weight decay; 1 where none applies.
    pub(crate) keep: f32,
    /// lr / (1 − β₁ᵗ).
    pub(crate) rate: f32,
}

/// A block at a time: the moments in fp32, updated, the weight moved by them, then put back into 8 bits with the
/// block's new scale.
pub(crate) fn adamw8_row(row: &Adam8Row<'_>, shared: AdamShared) {
    let n = row.weight.numel();
    let weight = Rows::<f32>::of(row.weight, n);
    let gradient = elements::<f32>(row.gradient);
    let (m, v) = (Parts::of(row.exp_avg), Parts::of(row.exp_avg_sq));
    let scale = (row.keep, row.rate);
    parallel(n.div_ceil(BLOCK), 32, |blocks| {
        for block in blocks {
            let range = block * BLOCK..((block + 1) * BLOCK).min(n);
            // SAFETY: each block belongs to one thread, and the tensors are different ones.
            let (w, m, v) = unsafe { (weight.part(range.clone()), m.block(block), v.block(block)) };
            update_block::<f32>(w, &gradient[range], m, v, scale, shared);
        }
    });
}

/// A moment's codes and scales, which several threads write, each its own blocks.
struct Parts<'a> {
    codes: *mut u8,
    n: usize,
    absmax: *mut f32,
    table: &'a Table,
}

// SAFETY: threads get disjoint blocks (see `block`).
unsafe impl Sync for Parts<'_> {}

/// One block of a moment.
struct Moment<'a> {
    codes: &'a mut [u8],
    absmax: &'a mut f32,
    table: &'a Table,
}

impl<'a> Parts<'a> {
    fn of(moment: &'a Blockwise) -> Self {
        let (codes, n) = (&moment.codes, moment.codes.numel());
        assert!(codes.kind() == tch::Kind::Uint8 && codes.is_contiguous());
        assert!(moment.absmax.numel() == n.div_ceil(BLOCK));
        assert!(moment.absmax.kind() == tch::Kind::Float && moment.absmax.is_contiguous());
        let absmax = moment.absmax.data_ptr().cast::<f32>();
        Parts { codes: codes.data_ptr().cast::<u8>(), n, absmax, table: Table::of(moment.signed) }
    }

    /// # Safety
    /// No two live parts may be of the same block.
    unsafe fn block(&self, block: usize) -> Moment<'a> {
        let start = block * BLOCK;
        assert!(start < self.n);
        let length = BLOCK.min(self.n - start);
        // SAFETY: the block lies within the tensor, which outlives 'a; that it is the only one is the caller's promise.
        let (codes, absmax) = unsafe {
            (std::slice::from_raw_parts_mut(self.codes.add(start), length), &mut *self.absmax.add(block))
        };
        Moment { codes, absmax, table: self.table }
    }
}

for_each_width! {
    fn update_block<E: Element>(
        w: &mut [f32],
        g: &[E],
        m: Moment<'_>,
        v: Moment<'_>,
        scale: (f32, f32),
        shared: AdamShared,
    ) {
        let AdamShared { beta1, beta2, eps, correction } = shared;
        let (keep, rate) = scale;
        let n = w.len().min(BLOCK);
        let (mut ms, mut vs) = ([0f32; BLOCK], [0f32; BLOCK]);
        let (mut m_max, mut v_max) = (0f32, 0f32);
        for i in 0..n {
            ms[i] = m.table.values[usize::from(m.codes[i])] * *m.absmax;
            vs[i] = v.table.values[usize::from(v.codes[i])] * *v.absmax;
        }
        for i in 0..n {
            let g = g[i].get();
            ms[i] += (g - ms[i]) * (1.0 - beta1);
            vs[i] = vs[i] * beta2 + g * g * (1.0 - beta2);
            w[i] = w[i] * keep - rate * ms[i] / (vs[i].sqrt() * correction + eps);
            m_max = m_max.max(ms[i].abs());
            v_max = v_max.max(vs[i]);
        }
        let (m_inverse, v_inverse) = (1.0 / m_max.max(f32::MIN_POSITIVE), 1.0 / v_max.max(f32::MIN_POSITIVE));
        for i in 0..n {
            m.codes[i] = m.table.nearest((ms[i] * m_inverse).clamp(-1.0, 1.0));
            v.codes[i] = v.table.nearest((vs[i] * v_inverse).clamp(0.0, 1.0));
        }
        (*m.absmax, *v.absmax) = (m_max, v_max);
    }
}
