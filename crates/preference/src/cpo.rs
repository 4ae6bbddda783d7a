use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::loss::{check_beta, is_not_negative, refuse};
use crate::losses::{cdpo, hinge, ipo};
use crate::{PairLoss, PreferenceError};

/// Which form of the reference-free losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoLoss {
    /// CPO: −log σ(βd).
    Sigmoid,
    /// max(0, 1 − βd).
    Hinge,
    /// (d − 1/(2β))² on averaged log-probabilities.
    Ipo,
    /// SimPO: −log σ(βd − γ) on averaged log-probabilities.
    Simpo,
}

/// CPO (arXiv 2401.08417), SimPO (arXiv 2405.14734) and AlphaPO (arXiv 2501.03884): no reference, TRL's names
/// and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpo {
    /// The form.
    pub loss_type: CpoLoss,
    /// β.
    pub beta: f64,
    /// ε, for sigmoid and SimPO.
    pub label_smoothing: f64,
    /// γ: SimPO's target margin, for SimPO alone.
    pub simpo_gamma: f64,
    /// Weight of the chosen answers' NLL, which the caller adds: 1 for CPO, 0 for SimPO alone.
    pub cpo_alpha: f64,
    /// AlphaPO's shape of the reward (1 − p^{−α})/α; 0 is log p.
    pub alpha: f64,
}

impl Default for Cpo {
    fn default() -> Self {
        Cpo {
            loss_type: CpoLoss::Sigmoid,
            beta: 0.1,
            label_smoothing: 0.0,
            simpo_gamma: 0.5,
            cpo_alpha: 1.0,
            alpha: 0.0,
        }
    }
}

impl Cpo {
    /// SimPO without the NLL term. Its authors use β of 2 to 10 and γ of about half of β.
    pub fn simpo(beta: f64, simpo_gamma: f64) -> Self {
        Cpo { loss_type: CpoLoss::Simpo, beta, simpo_gamma, cpo_alpha: 0.0, ..Self::default() }
    }

    /// Whether it reads log-probabilities averaged over the answer's tokens instead of summed ones.
    pub fn averages(&self) -> bool {
        matches!(self.loss_type, CpoLoss::Ipo | CpoLoss::Simpo)
    }

    /// Refuses settings out of range, and settings that the form does not read.
    ///
    /// # Errors
    /// [`PreferenceError::Config`].
    pub fn check(&self) -> Result<(), PreferenceError> {
        let Cpo { loss_type, label_smoothing, simpo_gamma, cpo_alpha, alpha, .. } = self;
        check_beta(self.beta)?;
        if !(0.0..1.0).contains(label_smoothing) {
            return refuse(format!("label_smoothing is {label_smoothing}, not in 0 <= e < 1"));
        }
        for (name, value) in [("simpo_gamma", simpo_gamma), ("cpo_alpha", cpo_alpha)] {
            if !is_not_negative(*value) {
                return refuse(format!("{name} is {value}, not 0 or above"));
            }
        }
        if !alpha.is_finite() {
            return refuse(format!("alpha is {alpha}, not a finite number"));
        }
        let default = Cpo::default();
        if *label_smoothing != default.label_smoothing && matches!(loss_type, CpoLoss::Hinge | CpoLoss::Ipo) {
            return refuse("label_smoothing is read by the forms sigmoid and simpo alone");
        }
        if *simpo_gamma != default.simpo_gamma && *loss_type != CpoLoss::Simpo {
            return refuse("simpo_gamma is read by the form simpo alone");
        }
        Ok(())
    }

    /// Both inputs (B): log-probabilities of the answers, summed or averaged as [`Self::averages`] says. The
    /// gradient raises the chosen and lowers the rejected one (in the IPO form up to a margin of 1/(2β)).
    ///
    /// # Errors
    /// [`PreferenceError::Config`] from [`Self::check`].
    pub fn loss(&self, chosen: &Tensor, rejected: &Tensor) -> Result<PairLoss, PreferenceError> {
        self.check()?;
        let reward = |logps: &Tensor| {
            if self.alpha == 0.0 {
                logps.shallow_clone()
            } else {
                (1.0 - (logps * -self.alpha).exp()) / self.alpha
            }
        };
        let (chosen, rejected) = (reward(chosen), reward(rejected));
        let margin = &chosen - &rejected;
        let losses = match self.loss_type {
            CpoLoss::Sigmoid => cdpo(&margin, self.beta, self.label_smoothing),
            CpoLoss::Simpo => cdpo(&(margin - self.simpo_gamma / self.beta), self.beta, self.label_smoothing),
            CpoLoss::Hinge => hinge(&margin, self.beta),
            CpoLoss::Ipo => ipo(&margin, self.beta),
        };
        let reward = |t: &Tensor| t.detach() * self.beta;
        Ok(PairLoss { losses, chosen_rewards: reward(&chosen), rejected_rewards: reward(&rejected) })
    }
}
