use tch::{Kind, Tensor};

/// A normalisation over the last dimension.
#[derive(Debug)]
pub enum Norm {
    /// x / rms(x) · w, computed in fp32 (Llama: arXiv 1910.07467).
    Rms {
        /// (C).
        weight: Tensor,
        /// Added to the mean square.
        eps: f64,
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
            Norm::Rms { weight, eps } => {
                let kind = x.kind();
                let x = x.to_kind(Kind::Float);
                let scale = (x.square().mean_dim([-1i64].as_slice(), true, None) + *eps).rsqrt();
                (x * scale).to_kind(kind) * weight
            }
            Norm::Layer { weight, bias, eps } => {
                x.layer_norm(weight.size(), Some(weight), bias.as_ref(), *eps, false)
            }
        }
    }
}
