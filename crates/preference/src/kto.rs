use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::PreferenceError;
use crate::loss::{check_beta, is_not_negative, refuse};

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
    /// λ_d, of answers with a thumb up.
    pub desirable_weight: f64,
    /// λ_u, of answers with a thumb down. Which weights suit a file's counts: [`Kto::balance`].
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
    /// Refuses settings out of range.
    ///
    /// # Errors
    /// [`PreferenceError::Config`] for a β that is not above 0, a λ below 0, or two of 0.
    pub fn check(&self) -> Result<(), PreferenceError> {
        check_beta(self.beta)?;
        let weights =
            [("desirable_weight", self.desirable_weight), ("undesirable_weight", self.undesirable_weight)];
        match weights.into_iter().find(|(_, weight)| !is_not_negative(*weight)) {
            Some((name, weight)) => refuse(format!("{name} is {weight}, not 0 or above")),
            None if weights.iter().all(|(_, weight)| *weight == 0.0) => {
                refuse("desirable_weight and undesirable_weight are both 0, so that nothing is learnt")
            }
            None => Ok(()),
        }
    }

    /// How both thumbs weigh against each other in data with `n_up` answers with a thumb up and `n_down` with a
    /// thumb down. `None` where a thumb is missing from the data or has the weight 0. TRL's trainer warns where this is
    /// not balanced, unless the counts are equal.
    pub fn balance(&self, n_up: usize, n_down: usize) -> Option<KtoBalance> {
        let up = self.desirable_weight * n_up as f64;
        let down = self.undesirable_weight * n_down as f64;
        (up > 0.0 && down > 0.0).then(|| {
            let (even_desirable, even_undesirable) = (down / n_up as f64, up / n_down as f64);
            KtoBalance {
                n_up,
                n_down,
                ratio: up / down,
                desirable_weight: (even_desirable, even_desirable * MOST_UP),
                undesirable_weight: (even_undesirable / MOST_UP, even_undesirable),
            }
        })
    }

    /// policy and reference of (B): summed log-probabilities of the answers. `desirable` of (B). `mismatched`:
    /// the same under policy and reference, of (B'), for prompts with other prompts' answers
    /// ([`mismatched`]): z = max(0, mean(policy − reference)) stands for the KL, without gradient; none makes z 0.
    ///
    /// Up: λ_d·(1 − σ(β(Δ − z))); down: λ_u·(1 − σ(β(z − Δ))). The gradient raises the first, lowers the second.
    ///
    /// # Errors
    /// [`PreferenceError::Shape`], [`PreferenceError::Config`] from [`Self::check`].
    pub fn loss(
        &self,
        policy: &Tensor,
        reference: &Tensor,
        desirable: &[bool],
        mismatched: Option<(&Tensor, &Tensor)>,
    ) -> Result<KtoOutput, PreferenceError> {
        self.check()?;
        let expected = vec![desirable.len() as i64];
        for (what, t) in [("policy", policy), ("reference", reference)] {
            if t.size() != expected {
                return Err(PreferenceError::Shape { what, found: t.size(), expected });
            }
        }
        if let Some((policy, reference)) = mismatched.filter(|(p, r)| p.size() != r.size()) {
            let (found, expected) = (reference.size(), policy.size());
            return Err(PreferenceError::Shape { what: "reference of mismatched rows", found, expected });
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

/// The paper (arXiv 2402.01306, eq. 8) asks for 1 ≤ λ_d·n_up / (λ_u·n_down) ≤ 4/3: thumbs up weigh as much as thumbs
/// down, or a third more.
const MOST_UP: f64 = 4.0 / 3.0;

/// A ratio this near to a bound is inside: whoever sets a weight copies it with two or three digits.
const SLACK: f64 = 0.01;

/// What [`Kto::balance`] finds. `to_string` is a line for a person, which names the weights that would do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KtoBalance {
    /// Answers with a thumb up.
    pub n_up: usize,
    /// Answers with a thumb down.
    pub n_down: usize,
    /// λ_d·n_up / (λ_u·n_down).
    pub ratio: f64,
    /// Least and greatest λ_d that would do, with λ_u as it is.
    pub desirable_weight: (f64, f64),
    /// Least and greatest λ_u that would do, with λ_d as it is.
    pub undesirable_weight: (f64, f64),
}

impl KtoBalance {
    /// Whether the ratio lies in 1 to 4/3, give or take 0.01.
    pub fn is_balanced(&self) -> bool {
        (1.0 - SLACK..=MOST_UP + SLACK).contains(&self.ratio)
    }
}

impl std::fmt::Display for KtoBalance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let KtoBalance { n_up, n_down, ratio, desirable_weight, undesirable_weight } = self;
        let ratio = digits(*ratio);
        write!(f, "{n_up} thumbs up weigh {ratio} times what {n_down} thumbs down do")?;
        if self.is_balanced() {
            return Ok(());
        }
        let range = |(low, high): (f64, f64)| format!("{} to {}", digits(low), digits(high));
        let (up, down) = (range(*desirable_weight), range(*undesirable_weight));
        write!(
            f,
            ", not 1 to 1.33: desirable_weight of {up} would do, or undesirable_weight of {down}, not both"
        )
    }
}

/// Three digits that say something.
fn digits(x: f64) -> String {
    let places = (2.0 - x.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{x:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// For each of `n` rows the row whose answer it borrows to estimate the KL: the one before it, the last for the
/// first, as TRL. The answers of a batch are then the same set, matched or not.
pub fn mismatched(n: usize) -> Vec<usize> {
    (0..n).map(|i| (i + n - 1) % n).collect()
}
