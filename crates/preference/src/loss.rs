use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::divergence::Divergence;
use crate::losses;
use crate::{PairLogps, PreferenceError};

/// The paired losses, under TRL's names; `cdpo` is sigmoid with label smoothing, which TRL no longer offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is documented by its function in `losses`")]
pub enum Loss {
    Sigmoid,
    Cdpo,
    Hinge,
    Ipo,
    Robust,
    ExoPair,
    NcaPair,
    BcoPair,
    SppoHard,
    Aot,
    AotUnpaired,
    ApoZero,
    ApoDown,
    Discopop,
    Sft,
    SigmoidNorm,
}

impl Loss {
    /// All of them.
    pub const ALL: [Loss; 16] = [
        Loss::Sigmoid,
        Loss::Cdpo,
        Loss::Hinge,
        Loss::Ipo,
        Loss::Robust,
        Loss::ExoPair,
        Loss::NcaPair,
        Loss::BcoPair,
        Loss::SppoHard,
        Loss::Aot,
        Loss::AotUnpaired,
        Loss::ApoZero,
        Loss::ApoDown,
        Loss::Discopop,
        Loss::Sft,
        Loss::SigmoidNorm,
    ];

    /// Its name in configs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Sigmoid => "sigmoid",
            Loss::Cdpo => "cdpo",
            Loss::Hinge => "hinge",
            Loss::Ipo => "ipo",
            Loss::Robust => "robust",
            Loss::ExoPair => "exo_pair",
            Loss::NcaPair => "nca_pair",
            Loss::BcoPair => "bco_pair",
            Loss::SppoHard => "sppo_hard",
            Loss::Aot => "aot",
            Loss::AotUnpaired => "aot_unpaired",
            Loss::ApoZero => "apo_zero",
            Loss::ApoDown => "apo_down",
            Loss::Discopop => "discopop",
            Loss::Sft => "sft",
            Loss::SigmoidNorm => "sigmoid_norm",
        }
    }

    /// By name.
    ///
    /// # Errors
    /// [`PreferenceError::UnknownLoss`], which lists the known ones.
    pub fn from_name(name: &str) -> Result<Self, PreferenceError> {
        Loss::ALL.into_iter().find(|l| l.name() == name).ok_or_else(|| PreferenceError::UnknownLoss {
            asked: name.to_owned(),
            known: Loss::ALL.map(Loss::name).join(", "),
        })
    }

    /// Whether it reads `label_smoothing`.
    fn smooths(self) -> bool {
        matches!(self, Loss::Cdpo | Loss::Robust | Loss::ExoPair | Loss::Aot | Loss::AotUnpaired)
    }

    /// Whether it compares answers under the divergence's scores rather than under plain log-ratios.
    fn scores(self) -> bool {
        matches!(
            self,
            Loss::Sigmoid
                | Loss::Cdpo
                | Loss::Hinge
                | Loss::Ipo
                | Loss::Robust
                | Loss::ExoPair
                | Loss::Discopop
                | Loss::SigmoidNorm
        )
    }
}

/// What a preference run minimises: one loss or a weighted sum of several, and their settings, with TRL's
/// names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Objective {
    /// The losses.
    pub loss_type: Vec<Loss>,
    /// Their weights, one each; `None` is 1 each.
    pub loss_weights: Option<Vec<f64>>,
    /// β: how strongly the policy is held to the reference.
    pub beta: f64,
    /// ε: the share of pairs labelled the wrong way round.
    pub label_smoothing: f64,
    /// τ of DiscoPOP's gate.
    pub discopop_tau: f64,
    /// The divergence that holds the policy to the reference.
    pub f_divergence_type: Divergence,
    /// α of the α-divergence.
    pub f_alpha_divergence_coef: f64,
    /// α of LD-DPO: give it to [`crate::sum_answers`] for policy and reference alike. Not beside `sft`.
    pub ld_alpha: Option<f64>,
}

impl Default for Objective {
    fn default() -> Self {
        Objective {
            loss_type: vec![Loss::Sigmoid],
            loss_weights: None,
            beta: 0.1,
            label_smoothing: 0.0,
            discopop_tau: 0.05,
            f_divergence_type: Divergence::ReverseKl,
            f_alpha_divergence_coef: 0.5,
            ld_alpha: None,
        }
    }
}

/// What a paired objective gives.
#[derive(Debug)]
pub struct PairLoss {
    /// (B): the loss of every pair; their mean is what training minimises. In `aot` losses the batch is
    /// sorted, and `sft` is one number for the batch: there the values do not belong to single pairs.
    pub losses: Tensor,
    /// (B), β·Δc, no gradient.
    pub chosen_rewards: Tensor,
    /// (B), β·Δr, no gradient.
    pub rejected_rewards: Tensor,
}

impl Objective {
    /// One loss with TRL's other defaults.
    pub fn new(loss: Loss, beta: f64) -> Self {
        Objective { loss_type: vec![loss], beta, ..Self::default() }
    }

    /// Refuses settings out of range, and settings that none of the losses reads.
    ///
    /// # Errors
    /// [`PreferenceError::Config`].
    pub fn check(&self) -> Result<(), PreferenceError> {
        if self.loss_type.is_empty() {
            return refuse("loss_type is empty");
        }
        self.check_ranges()?;
        self.check_readers()
    }

    fn check_ranges(&self) -> Result<(), PreferenceError> {
        let Objective { label_smoothing, discopop_tau, f_alpha_divergence_coef, .. } = self;
        if let Some(weights) = &self.loss_weights {
            if weights.len() != self.loss_type.len() {
                return refuse(format!("{} loss_weights for {} losses", weights.len(), self.loss_type.len()));
            }
            if let Some(weight) = weights.iter().find(|w| !is_not_negative(**w)) {
                return refuse(format!("one of loss_weights is {weight}, not 0 or above"));
            }
            if weights.iter().all(|w| *w == 0.0) {
                return refuse("loss_weights are all 0, so that nothing is learnt");
            }
        }
        check_beta(self.beta)?;
        if !(0.0..1.0).contains(label_smoothing) {
            return refuse(format!("label_smoothing is {label_smoothing}, not in 0 <= e < 1"));
        }
        if self.has(Loss::Robust) && *label_smoothing >= 0.5 {
            return refuse(format!("robust needs label_smoothing below 0.5, not {label_smoothing}"));
        }
        if self.has(Loss::ExoPair) && *label_smoothing == 0.0 {
            return refuse("exo_pair needs label_smoothing above 0 (its loss is infinite at 0)");
        }
        if !is_positive(*discopop_tau) {
            return refuse(format!("discopop_tau is {discopop_tau}, not above 0"));
        }
        if !f_alpha_divergence_coef.is_finite() {
            return refuse(format!(
                "f_alpha_divergence_coef is {f_alpha_divergence_coef}, not a finite number"
            ));
        }
        match self.ld_alpha {
            Some(alpha) if !(0.0..=1.0).contains(&alpha) => {
                refuse(format!("ld_alpha is {alpha}, not in 0..=1"))
            }
            _ => Ok(()),
        }
    }

    /// A setting is set where it differs from its default.
    fn check_readers(&self) -> Result<(), PreferenceError> {
        let default = Objective::default();
        let names = || self.loss_type.iter().map(|l| l.name()).collect::<Vec<_>>().join(", ");
        if self.label_smoothing != default.label_smoothing && !self.loss_type.iter().any(|l| l.smooths()) {
            return refuse(format!(
                "{} does not read label_smoothing; sigmoid with label smoothing is called cdpo",
                names()
            ));
        }
        if self.f_divergence_type != default.f_divergence_type && !self.loss_type.iter().any(|l| l.scores()) {
            return refuse(format!(
                "none of the losses reads f_divergence_type {:?}",
                self.f_divergence_type
            ));
        }
        if self.f_alpha_divergence_coef != default.f_alpha_divergence_coef
            && self.f_divergence_type != Divergence::AlphaDivergence
        {
            return refuse(
                "f_alpha_divergence_coef is read where f_divergence_type is alpha_divergence alone",
            );
        }
        if self.discopop_tau != default.discopop_tau && !self.has(Loss::Discopop) {
            return refuse(format!("{} does not read discopop_tau; discopop does", names()));
        }
        // At α = 1 every token counts in full, and the sums are what `sft` needs.
        match self.ld_alpha {
            Some(alpha) if alpha != 1.0 && self.has(Loss::Sft) => refuse(
                "sft learns every token of the chosen answers in full, and ld_alpha takes weight from some: \
                 leave out ld_alpha or sft",
            ),
            _ => Ok(()),
        }
    }

    fn has(&self, loss: Loss) -> bool {
        self.loss_type.contains(&loss)
    }

    /// The losses of a batch and its rewards.
    ///
    /// # Errors
    /// [`PreferenceError::Config`] from [`Self::check`].
    pub fn loss(&self, logps: &PairLogps) -> Result<PairLoss, PreferenceError> {
        self.check()?;
        let (chosen, rejected) = (logps.chosen_ratio(), logps.rejected_ratio());
        let alpha = self.f_alpha_divergence_coef;
        let chosen_score = self.f_divergence_type.score(&chosen, alpha);
        let rejected_score = self.f_divergence_type.score(&rejected, alpha);
        let scores = Scores {
            delta: &chosen_score - &rejected_score,
            chosen_score,
            rejected_score,
            chosen: &chosen,
            rejected: &rejected,
        };
        let mut total: Option<Tensor> = None;
        for (i, &loss) in self.loss_type.iter().enumerate() {
            let one = self.one(loss, &scores, logps);
            let weighted = match self.loss_weights.as_ref().map(|w| w[i]) {
                Some(weight) => one * weight,
                None => one,
            };
            total = Some(match total {
                Some(sum) => sum + weighted,
                None => weighted,
            });
        }
        let losses = total.unwrap_or_else(|| chosen.zeros_like());
        let reward = |ratio: &Tensor| ratio.detach() * self.beta;
        Ok(PairLoss { losses, chosen_rewards: reward(&chosen), rejected_rewards: reward(&rejected) })
    }

    fn one(&self, loss: Loss, s: &Scores<'_>, logps: &PairLogps) -> Tensor {
        let (beta, smoothing) = (self.beta, self.label_smoothing);
        let normed = || &s.chosen_score / &logps.chosen_len - &s.rejected_score / &logps.rejected_len;
        match loss {
            Loss::Sigmoid => losses::sigmoid(&s.delta, beta),
            Loss::Cdpo => losses::cdpo(&s.delta, beta, smoothing),
            Loss::Hinge => losses::hinge(&s.delta, beta),
            Loss::Ipo => losses::ipo(&normed(), beta),
            Loss::Robust => losses::robust(&s.delta, beta, smoothing),
            Loss::ExoPair => losses::exo_pair(&s.delta, beta, smoothing),
            Loss::NcaPair => losses::nca_pair(s.chosen, s.rejected, beta),
            Loss::BcoPair => losses::bco_pair(s.chosen, s.rejected, beta),
            Loss::SppoHard => losses::sppo_hard(s.chosen, s.rejected, beta),
            Loss::Aot => losses::aot(logps, beta, smoothing),
            Loss::AotUnpaired => losses::aot_unpaired(s.chosen, s.rejected, beta, smoothing),
            Loss::ApoZero => losses::apo_zero(s.chosen, s.rejected, beta),
            Loss::ApoDown => losses::apo_down(s.chosen, s.rejected, beta),
            Loss::Discopop => losses::discopop(&s.delta, beta, self.discopop_tau),
            Loss::Sft => losses::sft(&logps.policy_chosen, &logps.chosen_len),
            Loss::SigmoidNorm => losses::sigmoid(&normed(), beta),
        }
    }

    /// The loss while policy and reference are the same model, whatever the data: ln 2 for the sigmoid
    /// family. `None` where it depends on the data (`sft`).
    pub fn expected_at_start(&self) -> Option<f64> {
        let one = |i: usize| self.loss_weights.as_ref().and_then(|w| w.get(i)).map_or(1.0, |w| *w);
        self.loss_type.iter().enumerate().map(|(i, &l)| Some(one(i) * self.one_at_start(l)?)).sum()
    }

    fn one_at_start(&self, loss: Loss) -> Option<f64> {
        let (ln2, beta, smoothing) = (std::f64::consts::LN_2, self.beta, self.label_smoothing);
        match loss {
            Loss::Sigmoid | Loss::Cdpo | Loss::Robust | Loss::Aot | Loss::AotUnpaired | Loss::SigmoidNorm => {
                Some(ln2)
            }
            Loss::Hinge | Loss::ApoZero | Loss::ApoDown => Some(1.0),
            Loss::Ipo => Some(0.25 / (beta * beta)),
            Loss::ExoPair => Some(-ln2 - 0.5 * ((1.0 - smoothing).ln() + smoothing.ln())),
            Loss::NcaPair | Loss::BcoPair => Some(2.0 * ln2),
            Loss::SppoHard => Some(0.5 / (beta * beta)),
            Loss::Discopop => Some(0.5 * ln2 + 0.5),
            Loss::Sft => None,
        }
    }

    /// Refuses a first loss that differs by more than `tolerance` (relative) from what policy = reference
    /// gives: the reference is then another model than training starts from. 1e-4 suits fp32, 2e-2 bf16.
    ///
    /// # Errors
    /// [`PreferenceError::Start`].
    pub fn check_start(&self, first_loss: f64, tolerance: f64) -> Result<(), PreferenceError> {
        let Some(expected) = self.expected_at_start() else { return Ok(()) };
        let off = (first_loss - expected).abs();
        if off.is_nan() || off > tolerance * expected.abs().max(1e-9) {
            return Err(PreferenceError::Start { found: first_loss, expected });
        }
        Ok(())
    }
}

/// Refuses a β that is not above 0: with 0 a loss learns no preference, with less the opposite one. Every loss
/// here checks its own, but for [`crate::orpo`], whose caller does.
///
/// # Errors
/// [`PreferenceError::Config`].
pub fn check_beta(beta: f64) -> Result<(), PreferenceError> {
    if is_positive(beta) { Ok(()) } else { refuse(format!("beta is {beta}, not above 0")) }
}

pub(crate) fn refuse(reason: impl Into<String>) -> Result<(), PreferenceError> {
    Err(PreferenceError::Config(reason.into()))
}

/// Above zero and a number.
fn is_positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

/// Zero or above, and a number.
pub(crate) fn is_not_negative(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}

/// What single losses are made of, each (B).
struct Scores<'a> {
    chosen: &'a Tensor,
    rejected: &'a Tensor,
    chosen_score: Tensor,
    rejected_score: Tensor,
    delta: Tensor,
}
