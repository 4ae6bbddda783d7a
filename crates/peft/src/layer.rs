use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrotune_model::{Linear, LinearAdapter, Update, Weight};
use tch::{Kind, Tensor};

/// The low-rank update of one linear layer: W becomes W + s·B·A (arXiv 2106.09685).
///
/// A and B are fp32 whatever the model's dtype; the forward pass casts them to the dtype of its input. So the
/// optimiser steps on fp32 values, and the products run in the model's dtype, as under PyTorch's autocast.
/// Casting costs r·(in + out) elements a layer, under 1% of the layer's own product from a few tokens on.
#[derive(Debug)]
pub struct LoraLayer {
    /// Module path of the layer underneath, as in the checkpoint.
    pub path: String,
    /// (r, in), trained.
    pub a: Tensor,
    /// (out, r), trained.
    pub b: Tensor,
    /// s: α / r, or α / √r.
    pub scale: f64,
    /// (out): DoRA's magnitudes, trained.
    pub magnitude: Option<Tensor>,
    /// A₀ and B₀ of an initialisation that is not zero (PiSSA, OLoRA): the update is s·(B·A − B₀·A₀), so that
    /// the base stays as it is.
    pub(crate) origin: Option<(Tensor, Tensor)>,
    /// (out): squared row norms of the weight underneath, for DoRA.
    pub(crate) squared_norm: Option<Tensor>,
}

impl LoraLayer {
    /// Rank.
    pub fn r(&self) -> i64 {
        self.a.size()[0]
    }

    /// A handle on the same tensors: what one changes the other sees.
    pub(crate) fn share(&self) -> LoraLayer {
        let same = |t: &Option<Tensor>| t.as_ref().map(Tensor::shallow_clone);
        LoraLayer {
            path: self.path.clone(),
            a: self.a.shallow_clone(),
            b: self.b.shallow_clone(),
            scale: self.scale,
            magnitude: same(&self.magnitude),
            origin: self.origin.as_ref().map(|(a, b)| (a.shallow_clone(), b.shallow_clone())),
            squared_norm: same(&self.squared_norm),
        }
    }

    /// The factors of the whole update in `kind`: (r', in) and (out, r'), r' = 2r where an origin is subtracted.
    pub(crate) fn factors(&self, kind: Kind) -> (Tensor, Tensor) {
        match &self.origin {
            None => (self.a.to_kind(kind), self.b.to_kind(kind)),
            Some((a0, b0)) => (
                Tensor::cat(&[&self.a, a0], 0).to_kind(kind),
                Tensor::cat(&[&self.b, &b0.neg()], 1).to_kind(kind),
            ),
        }
    }

    /// s·B·A in fp32, (out, in), without gradient. DoRA's rescaling is not in it.
    pub fn delta(&self) -> Tensor {
        tch::no_grad(|| {
            let (a, b) = self.factors(Kind::Float);
            b.matmul(&a) * self.scale
        })
    }

    /// Frobenius norm of [`Self::delta`], from the r×r products: tr(BᵀB · AAᵀ).
    pub fn delta_norm(&self) -> f64 {
        tch::no_grad(|| {
            let (a, b) = self.factors(Kind::Double);
            let square = (b.tr().matmul(&b) * a.matmul(&a.tr())).sum(Kind::Double).double_value(&[]);
            square.max(0.0).sqrt() * self.scale.abs()
        })
    }

    /// (out): row norms of W + s·B·A in fp32, without gradient (the paper's section 4.3).
    ///
    /// ‖w + s·bA‖² = ‖w‖² + 2s·(A w)·b + s²·b·(AAᵀ)b for every row, so the (out, in) sum is never built.
    pub(crate) fn row_norms(&self, linear: &Linear) -> Tensor {
        tch::no_grad(|| {
            let (a, b) = self.factors(Kind::Float);
            let squared = match &self.squared_norm {
                Some(squared) => squared.shallow_clone(),
                None => squared_row_norms(&linear.weight),
            };
            let kind = match &linear.weight {
                Weight::Dense(w) => w.kind(),
                Weight::Packed(_) => Kind::Float,
            };
            let aw = without_bias(linear, &a.to_kind(kind)).to_kind(Kind::Float).tr(); // (out, r)
            let cross = (aw * &b).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
            let own =
                (b.matmul(&a.matmul(&a.tr())) * &b).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
            (squared + cross * (2.0 * self.scale) + own * (self.scale * self.scale)).clamp_min(1e-30).sqrt()
        })
    }
}

/// (out): squared row norms in fp32.
pub(crate) fn squared_row_norms(weight: &Weight) -> Tensor {
    weight.dense(Kind::Float).square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
}

/// x Wᵀ, the layer without its bias.
fn without_bias(linear: &Linear, x: &Tensor) -> Tensor {
    match &linear.weight {
        Weight::Dense(w) => x.linear(w, None::<&Tensor>),
        Weight::Packed(w) => w.matmul(x),
    }
}

/// What all layers of one adapter share: whether it is on, and whether dropout is.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) enabled: AtomicBool,
    pub(crate) training: AtomicBool,
}

/// What hangs on a layer of the model.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) layer: LoraLayer,
    pub(crate) dropout: f64,
    pub(crate) switch: Arc<Switch>,
}

impl LinearAdapter for Hook {
    fn forward(&self, x: &Tensor, linear: &Linear) -> Tensor {
        if !self.switch.enabled.load(Ordering::Relaxed) {
            return linear.base(x);
        }
        if x.dim() == 2 {
            return self.adapted(x, linear);
        }
        let mut size = x.size();
        let width = size.pop().unwrap_or(0);
        size.push(linear.out_features());
        self.adapted(&x.reshape([-1, width]), linear).reshape(size)
    }

    fn update(&self) -> Update {
        let layer = &self.layer;
        let drops = self.dropout > 0.0 && self.switch.training.load(Ordering::Relaxed);
        if !self.switch.enabled.load(Ordering::Relaxed) {
            Update::None
        } else if drops || layer.magnitude.is_some() || layer.origin.is_some() {
            Update::Opaque
        } else {
            Update::LowRank { a: layer.a.shallow_clone(), b: layer.b.shallow_clone(), scale: layer.scale }
        }
    }
}

impl Hook {
    /// x of (T, in) → (T, out).
    fn adapted(&self, x: &Tensor, linear: &Linear) -> Tensor {
        let layer = &self.layer;
        let drops = self.dropout > 0.0 && self.switch.training.load(Ordering::Relaxed);
        let (a, b) = layer.factors(x.kind());
        let dropped = if drops { x.dropout(self.dropout, true) } else { x.shallow_clone() };
        // Scaling h, the narrowest of the tensors here, in place: libtorch keeps no copy of it for A's gradient.
        let mut h = dropped.linear(&a, None::<&Tensor>); // (T, r)
        if layer.scale != 1.0 {
            h = h.g_mul_scalar_(layer.scale);
        }
        let Some(magnitude) = &layer.magnitude else {
            // Into the base layer's fresh output: no further (T, out) tensor is written.
            return linear.base(x).addmm_(&h, &b.tr());
        };
        // DoRA: (m / ‖W + sBA‖) · (W + sBA) x + bias; with dropout, x is dropped in all but the base's own term.
        let gain = (magnitude / layer.row_norms(linear)).to_kind(x.kind()); // (out)
        if drops {
            let direction = without_bias(linear, &dropped);
            return linear.base(x) + direction * (&gain - 1.0) + h.matmul(&b.tr()) * gain;
        }
        let y = without_bias(linear, x).addmm_(&h, &b.tr()) * gain;
        match &linear.bias {
            Some(bias) => y + bias,
            None => y,
        }
    }
}
