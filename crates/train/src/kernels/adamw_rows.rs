use ferrotune_model::for_each_width;
use ferrotune_model::kernels::{Element, Rows, elements, parallel};
use tch::{Kind, Tensor};

/// One parameter of an AdamW step, all contiguous fp32 CPU tensors of one size.
pub(crate) struct AdamRow<'a> {
    pub(crate) weight: Tensor,
    pub(crate) gradient: Tensor,
    pub(crate) exp_avg: &'a Tensor,
    pub(crate) exp_avg_sq: &'a Tensor,
    /// 1 − lr · weight decay; 1 where none applies.
    pub(crate) keep: f32,
    /// lr / (1 − β₁ᵗ).
    pub(crate) rate: f32,
}

/// What all parameters of a step share.
#[derive(Clone, Copy)]
pub(crate) struct AdamShared {
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) eps: f32,
    /// 1 / √(1 − β₂ᵗ).
    pub(crate) correction: f32,
}

/// Whether the kernel takes these tensors.
pub(crate) fn takes(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| {
        t.kind() == Kind::Float && t.is_contiguous() && t.device() == tch::Device::Cpu && t.numel() > 0
    })
}

/// One AdamW update of every row: libtorch takes ten operations a parameter, this one pass over its four tensors.
pub(crate) fn adamw_rows(rows: &[AdamRow<'_>], shared: AdamShared) {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let whole = |t: &Tensor| Rows::<f32>::of(t, t.numel());
            (
                whole(&row.weight),
                elements::<f32>(&row.gradient),
                whole(row.exp_avg),
                whole(row.exp_avg_sq),
                row.keep,
                row.rate,
            )
        })
        .collect();
    parallel(rows.len(), 8, |range| {
        for (weight, gradient, exp_avg, exp_avg_sq, keep, rate) in &rows[range] {
            // SAFETY: each parameter belongs to one thread, and its tensors are different ones.
            let (w, m, v) = unsafe { (weight.row(0), exp_avg.row(0), exp_avg_sq.row(0)) };
            update_row::<f32>(w, gradient, m, v, (*keep, *rate), shared);
        }
    });
}

for_each_width! {
    fn update_row<E: Element>(
        w: &mut [f32],
        g: &[E],
        m: &mut [f32],
        v: &mut [f32],
        scale: (f32, f32),
        shared: AdamShared,
    ) {
        let AdamShared { beta1, beta2, eps, correction } = shared;
        let (keep, rate) = scale;
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g.get();
            *m += (g - *m) * (1.0 - beta1);
            *v = *v * beta2 + g * g * (1.0 - beta2);
            *w = *w * keep - rate * *m / (v.sqrt() * correction + eps);
        }
    }
}
