use tch::{Kind, Tensor};

/// A normalisation over the last dimension.
#[derive(Debug)]
pub enum Norm {
    /// x / rms(x) · w, computed in fp32 (Llama: arXiv 1910.07467).
    Rms {
        /// (C). In fp32 where the product with it is rounded only once (Gemma, OLMo 2).
        weight: Tensor,
        /// Added to the mean square.
        eps: f64,
        /// The weight is stored less one (Gemma).
        weight_plus_one: bool,
    },
    /// (x − mean) / std · w + b.
    Layer {
        /// (C).
        weight: Tensor,
        /// (C).
        bias: Option<Tensor>,
        /// Added to the variance.
        eps: f64,
    },
}

impl Norm {
    /// x of (…, C) → (…, C), same dtype.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Norm::Rms { weight, eps, weight_plus_one } => {
                let shifted;
                let weight = if *weight_plus_one {
                    shifted = weight + 1.0;
                    &shifted
                } else {
                    weight
                };
                if weight.kind() == x.kind() {
                    rms_norm(x, weight, *eps)
                } else {
                    rms_norm(&x.to_kind(Kind::Float), weight, *eps).to_kind(x.kind())
                }
            }
            Norm::Layer { weight, bias, eps } => {
                x.layer_norm(weight.size(), Some(weight), bias.as_ref(), *eps, false)
            }
        }
    }

    /// (C).
    pub fn weight(&self) -> &Tensor {
        match self {
            Norm::Rms { weight, .. } | Norm::Layer { weight, .. } => weight,
        }
    }

    /// (C), where it has one.
    pub fn bias(&self) -> Option<&Tensor> {
        match self {
            Norm::Rms { .. } => None,
            Norm::Layer { bias, .. } => bias.as_ref(),
        }
    }

    /// As [`Self::bias`].
    pub fn bias_mut(&mut self) -> Option<&mut Tensor> {
        match self {
            Norm::Rms { .. } => None,
            Norm::Layer { bias, .. } => bias.as_mut(),
        }
    }
}

/// One kernel where no gradient is wanted; libtorch takes it apart by itself where one is.
fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    x.internal_fused_rms_norm(weight.size(), Some(weight), eps).0
}
