//! Preference tuning without a reference, top to bottom: ORPO, SimPO and CPO.
//!
//! One pass a step and no reference to keep or compute. ORPO learns the chosen text (prompt and answer) as SFT does
//! and weighs the odds of the answers; SimPO compares mean log-probabilities; CPO adds the chosen answer's NLL.

use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_model::Decoder;
use ferrotune_preference::{
    Cpo, CpoLoss, MetricMeans, Metrics, Orpo, PairLoss, check_beta, orpo as odds_ratio, pair_metrics_of,
};
use ferrotune_train::{Forward, HeadOptions};
use ferrotune_types::{Batch, PairExample, Segment};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::held_pairs::{HeldPairs, Seen, lengths, score_targets, sums};
use super::run::{Best, Run, RunConfig, RunOutcome, fixed_batches};
use super::trained::Trained;

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FreeLoss {
    /// ORPO with its β (λ in the paper).
    Orpo {
        /// Weight of the odds ratio.
        beta: f64,
    },
    /// CPO, SimPO and AlphaPO.
    Cpo(Cpo),
}

impl FreeLoss {
    /// `orpo`, `simpo` or `cpo` with its authors' settings; `beta` replaces theirs.
    ///
    /// # Errors
    /// An unknown name.
    pub fn from_name(name: &str, beta: Option<f64>) -> Result<Self> {
        Ok(match name {
            "orpo" => FreeLoss::Orpo { beta: beta.unwrap_or(0.1) },
            "simpo" => {
                let beta = beta.unwrap_or(2.0);
                FreeLoss::Cpo(Cpo::simpo(beta, beta / 2.0))
            }
            "cpo" => FreeLoss::Cpo(Cpo { beta: beta.unwrap_or(0.1), ..Cpo::default() }),
            other => bail!("unknown loss {other:?}; known: orpo, simpo, cpo"),
        })
    }

    /// What its run is called.
    fn name(&self) -> &'static str {
        match self {
            FreeLoss::Orpo { .. } => "orpo",
            FreeLoss::Cpo(cpo) if cpo.loss_type == CpoLoss::Simpo => "simpo",
            FreeLoss::Cpo(_) => "cpo",
        }
    }

    /// Refuses settings that are out of range.
    fn check(&self) -> Result<()> {
        match self {
            FreeLoss::Orpo { beta } => check_beta(*beta)?,
            FreeLoss::Cpo(cpo) => cpo.check()?,
        }
        Ok(())
    }
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, and leaves the best validated state in them.
///
/// # Errors
/// No pairs; a setting out of range; a loss that is no number; a full disk; [`crate::progress::Interrupted`].
pub fn orpo<'a>(
    decoder: &Decoder,
    trained: impl Into<Trained<'a>>,
    [train, validation]: [&[PairExample]; 2],
    loss: &FreeLoss,
    config: &RunConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<RunOutcome> {
    if train.is_empty() {
        bail!("there is no preference pair to train on: every row was dropped, or the file is empty");
    }
    loss.check()?;
    let trained = trained.into();
    trained.set_training(false); // as in TRL: dropout would put noise into what pairs are compared by
    let whole_text = matches!(loss, FreeLoss::Orpo { .. });
    let lay = |pairs: &[&PairExample]| pair_batch(pairs, whole_text);
    let train = fixed_batches(train, config.batch, config.shuffle.then_some(config.seed), lay)?;
    // No reference enters the loss; how far the run goes from where it began is told all the same.
    let held = HeldPairs::new(decoder, validation, config.batch, lay)?;
    let mut run = Run::start(loss.name(), trained.params(1.0), config, train.len(), dir, run_hash)?;

    loop {
        if run.validates() && !held.is_empty() {
            let (mut eval_loss, mut means) = (0.0, MetricMeans::default());
            let figures = |batch: &Batch, _: &Seen, logps: &Tensor| {
                let (value, _, metrics) = batch_loss(batch, logps, loss)?;
                let n = lengths(batch).len();
                eval_loss += value * n as f64;
                means.add_many(&metrics, n);
                Ok(())
            };
            let unmoved = run.step() == 0;
            let drift = held.drift_and(decoder, unmoved, figures)?;
            let mut figures: Vec<(String, f64)> =
                vec![("eval_loss".to_owned(), eval_loss / held.n_pairs() as f64)];
            figures.extend(means.take("eval_"));
            figures.extend(drift.figures().into_iter().map(|(name, value)| (name.to_owned(), value)));
            let figures: Vec<(&str, f64)> =
                figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            // Their losses are more than a preference: ORPO and CPO imitate, and may be the better for it.
            if !run.validated_with(drift.accuracy, Best::Loss, &figures)? {
                break;
            }
        }
        let Some(b) = run.next_batch() else { break };
        let forward = Forward::run(decoder, &train[b], config.activation_checkpointing)?;
        let scored = score_targets(decoder, &forward, HeadOptions::TRAIN);
        let (value, weights, metrics) = batch_loss(&train[b], &scored.logps, loss)?;
        forward.backward(&scored, &weights)?;
        run.update(value, &train[b], &metrics)?;
    }
    Ok(run.finish())
}

/// The mean loss of a batch's pairs, d loss / d ln p of every target, (N), and TRL's metrics. `logps` of (N).
fn batch_loss(batch: &Batch, logps: &Tensor, loss: &FreeLoss) -> Result<(f64, Tensor, Metrics)> {
    let device = logps.device();
    // Segments come as prompt, chosen, rejected; a prompt has targets only where the whole text is learnt.
    let liked = batch.targets().enumerate().filter(|(_, (.., segment))| segment % 3 < 2);
    let liked: Vec<i64> = liked.map(|(i, _)| i as i64).collect();
    let lengths = lengths(batch);
    let count = |pick: fn(&(usize, usize)) -> usize| {
        let counts: Vec<f32> = lengths.iter().map(|l| pick(l) as f32).collect();
        Tensor::from_slice(&counts).to_device(device)
    };
    let logps = logps.detach().set_requires_grad(true);
    let (mut chosen, mut rejected) = sums(batch, &logps)?;
    let nll = -logps.index_select(0, &Tensor::from_slice(&liked).to_device(device)).mean(Kind::Float);
    if matches!(loss, FreeLoss::Orpo { .. }) || matches!(loss, FreeLoss::Cpo(cpo) if cpo.averages()) {
        (chosen, rejected) = (chosen / count(|l| l.0), rejected / count(|l| l.1));
    }
    let (total, out, more) = match loss {
        FreeLoss::Orpo { beta } => {
            let out = odds_ratio(&chosen, &rejected, *beta);
            let more = vec![("log_odds_ratio", out.log_odds_ratio), ("log_odds_chosen", out.log_odds_chosen)];
            let Orpo { losses, chosen_rewards, rejected_rewards, .. } = out;
            (losses.mean(Kind::Float) + &nll, PairLoss { losses, chosen_rewards, rejected_rewards }, more)
        }
        FreeLoss::Cpo(cpo) => {
            let out = cpo.loss(&chosen, &rejected)?;
            (out.losses.mean(Kind::Float) + &nll * cpo.cpo_alpha, out, Vec::new())
        }
    };
    let weights = Tensor::f_run_backward(&[&total], &[&logps], false, false)?.remove(0);
    let mut metrics = pair_metrics_of(&chosen.detach(), &rejected.detach(), &out);
    metrics.push(("nll_loss", nll.double_value(&[])));
    metrics.extend(more);
    Ok((total.double_value(&[]), weights.detach(), metrics))
}

/// Pairs as `Batch::from_pairs` lays them; where `whole_text`, the prompt's tokens are targets too.
fn pair_batch(pairs: &[&PairExample], whole_text: bool) -> Result<Batch> {
    let batch = Batch::from_pairs(pairs)?;
    if !whole_text {
        return Ok(batch);
    }
    let segments: Vec<Segment> = batch.segments().to_vec();
    let mut mask = vec![true; batch.n_tokens()];
    for segment in segments.iter().filter(|s| s.prefix.is_none()) {
        mask[segment.range.start] = false; // nothing predicts a text's first token
    }
    Ok(Batch::new(batch.ids().to_vec(), mask, segments)?)
}
