use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The f-divergence that holds the policy to the reference (f-DPO, arXiv 2309.16240). Its derivative f′ at
/// t = π/π_ref takes the place of the log-ratio Δ = log t in the losses that compare scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// KL(π ‖ π_ref), standard DPO: Δ.
    ReverseKl,
    /// KL(π_ref ‖ π): 1 − e^{−Δ}.
    ForwardKl,
    /// Jensen–Shannon: ln 2 + log σ(Δ).
    JsDivergence,
    /// α-divergence: (e^{(α−1)Δ} − 1) / (α − 1); Δ at α = 1.
    AlphaDivergence,
}

impl Divergence {
    /// Δ of (B) → f′ of (B). The exponent of the α-divergence is cut at 80 (11 for fp16), as TRL does, so that
    /// it stays a number.
    pub fn score(self, ratio: &Tensor, alpha: f64) -> Tensor {
        match self {
            Divergence::ReverseKl => ratio.shallow_clone(),
            Divergence::ForwardKl => 1.0 - ratio.neg().exp(),
            Divergence::JsDivergence => ratio.log_sigmoid() + std::f64::consts::LN_2,
            Divergence::AlphaDivergence if (alpha - 1.0).abs() < 1e-6 => ratio.shallow_clone(),
            Divergence::AlphaDivergence => {
                let limit = if ratio.kind() == Kind::Half { 11.0 } else { 80.0 };
                let exponent = (ratio * (alpha - 1.0)).to_kind(Kind::Float).clamp_max(limit);
                (exponent.exp() - 1.0).to_kind(ratio.kind()) * (1.0 / (alpha - 1.0))
            }
        }
    }
}
