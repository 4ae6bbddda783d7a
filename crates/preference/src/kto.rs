use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::PreferenceError;
use crate::loss::is_positive;

/// The unpaired losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KtoLoss {
    /// KTO.
    Kto,
    /// APO-zero without pairs: no reference point.
    ApoZeroUnpaired,
}

/// KTO (arXiv 2402.01306) for answers with a thumb up or down, TRL's names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kto {
    /// The form.
    pub loss_type: KtoLoss,
    /// β.
    pub beta: f64,
    /// λ of answers with a thumb up.
    pub desirable_weight: f64,
    /// λ of answers with a thumb down. The paper asks (λ_u · n_down) / (λ_d · n_up) to lie in 1 to 4/3.
    pub undesirable_weight: f64,
}

impl Default for Kto {
    fn default() -> Self {
        Kto { loss_type: KtoLoss::Kto, beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

/// What an unpaired loss gives.
#[derive(Debug)]
pub struct KtoOutput {
    /// (B), weighted, in the order of the input. Training minimises their mean.
    pub losses: Tensor,
    /// (B), β·Δ, no gradient.
    pub rewards: Tensor,
    /// z, the reference point.
    pub kl: f64,
}

impl Kto {
    /// policy and reference of (B): summed log-probabilities of the answers. `desirable` of (B). `mismatched`:
    /// the same under policy and reference, of (B'), for prompts with other prompts' answers
    /// ([`mismatched`]): z = max(0, mean(policy − reference)) stands for the KL, without gradient; none makes z 0.
    ///
    /// Up: λ_d·(1 − σ(β(Δ − z))); down: λ_u·(1 − σ(β(z − Δ))). The gradient raises the first, lowers the second.
    ///
    /// # Errors
    /// [`PreferenceError::Shape`], [`PreferenceError::Config`] for a β that is not above 0.
    pub fn loss(
        &self,
        policy: &Tensor,
        reference: &Tensor,
        desirable: &[bool],
        mismatched: Option<(&Tensor, &Tensor)>,
    ) -> Result<KtoOutput, PreferenceError> {
        if !is_positive(self.beta) {
            return Err(PreferenceError::Config(format!("beta is {}, not above 0", self.beta)));
        }
        let expected = vec![desirable.len() as i64];
        for (what, t) in [("policy", policy), ("reference", reference)] {
            if t.size() != expected {
                return Err(PreferenceError::Shape { what, found: t.size(), expected });
            }
        }
        let device = policy.device();
        let kl = match (self.loss_type, mismatched) {
            (KtoLoss::Kto, Some((policy, reference))) => tch::no_grad(|| {
                (policy.to_kind(Kind::Float) - reference).mean(Kind::Float).clamp_min(0.0).double_value(&[])
            }),
            _ => 0.0,
        };
        let ratio = policy.to_kind(Kind::Float) - reference.detach();
        let per_row = |up: f64, down: f64| {
            let values: Vec<f32> = desirable.iter().map(|&d| if d { up } else { down } as f32).collect();
            Tensor::from_slice(&values).to_device(device)
        };
        // 1 − σ(x) with x = ±β(Δ − z): one formula for both thumbs.
        let signed = (&ratio - kl) * per_row(self.beta, -self.beta);
        let losses = (1.0 - signed.sigmoid()) * per_row(self.desirable_weight, self.undesirable_weight);
        Ok(KtoOutput { losses, rewards: ratio.detach() * self.beta, kl })
    }
}

/// For each of `n` rows the row whose answer it borrows to estimate the KL: the one before it, the last for the
/// first, as TRL. The answers of a batch are then the same set, matched or not.
pub fn mismatched(n: usize) -> Vec<usize> {
    (0..n).map(|i| (i + n - 1) % n).collect()
}
