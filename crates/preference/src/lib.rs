//! Preference losses: DPO and its relatives, equal to TRL 1.16 in value and gradient.
//!
//! The key types are [`Objective`], what a run over pairs minimises, and [`PairLogps`], what it reads:
//! log-probabilities of (B), summed over each answer, under policy and reference. There is no model here:
//! everything is a pure function of such tensors, so that a recipe may compute them as leanly as it can (shared
//! prompts, cached reference) and a test can feed it numbers. One file a loss under [`losses`]; the
//! reference-free and unpaired ones are [`orpo`], [`Cpo`] (SimPO too) and [`Kto`]; reward models learn by
//! [`bradley_terry`]. [`Drift`] says how far a run has gone from its reference, whatever the loss.
//!
//! The data's side needs no tensor: [`pairs::check_pairs`] says with figures what is wrong with pairs, and
//! [`pairs::from_ranking`], [`pairs::from_scores`], [`pairs::from_thumbs`] and [`pairs::from_log`] make them.
//!
//! **Invariants.** An empty answer is refused, so that no loss can become NaN by it. Rewards carry no gradient.
//! A setting that no chosen loss reads is an error, and so is one out of range: a β that is not above 0, a weight below
//! 0, what is no number ([`orpo`] leaves its β to [`check_beta`]). With policy = reference the loss is
//! [`Objective::expected_at_start`], and [`Objective::check_start`] holds a run to it.
//!
//! ```
//! use ferrotune_preference::{Loss, Objective, PairLogps};
//! use tch::{Kind, Tensor};
//!
//! let (chosen, rejected) = (Tensor::from_slice(&[-12.0f32, -30.0]), Tensor::from_slice(&[-15.0f32, -22.0]));
//! let same = || (chosen.shallow_clone(), rejected.shallow_clone());
//! let logps = PairLogps::new(same(), same(), &[(8, 9), (20, 11)])?;
//! let objective = Objective::new(Loss::from_name("sigmoid")?, 0.1);
//! let loss = objective.loss(&logps)?.losses.mean(Kind::Float).double_value(&[]);
//! objective.check_start(loss, 1e-6)?; // policy = reference: ln 2
//! # Ok::<(), ferrotune_preference::PreferenceError>(())
//! ```

mod cpo;
mod divergence;
mod drift;
mod error;
mod kto;
mod logps;
mod loss;
mod metrics;
mod orpo;
mod reward;

pub mod losses;
pub mod pairs;

pub use cpo::{Cpo, CpoLoss};
pub use divergence::Divergence;
pub use drift::{Drift, DriftSum, token_kl};
pub use error::PreferenceError;
pub use kto::{Kto, KtoBalance, KtoLoss, KtoOutput, mismatched};
pub use logps::{PairLogps, sum_answers};
pub use loss::{Loss, Objective, PairLoss, check_beta};
pub use metrics::{MetricMeans, Metrics, kto_metrics, pair_metrics, pair_metrics_of};
pub use orpo::{Orpo, orpo};
pub use reward::{bradley_terry, reward_metrics};
