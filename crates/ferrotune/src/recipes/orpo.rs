//! Preference tuning without a reference, top to bottom: ORPO, SimPO and CPO.
//!
//! One pass a step and no reference to keep or compute. ORPO learns the chosen text (prompt and answer) as SFT does
//! and weighs the odds of the answers; SimPO compares mean log-probabilities; CPO adds the chosen answer's NLL.

use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_model::Decoder;
use ferrotune_peft::Adapter;
use ferrotune_preference::{Cpo, orpo as odds_ratio, sum_answers};
use ferrotune_train::{Forward, HeadOptions, score};
use ferrotune_types::{Batch, PairExample, Segment};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::run::{Run, RunConfig, RunOutcome, fixed_batches, params};

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
}

/// Trains `adapter`, which hangs on `decoder`, and leaves the best validated state in it.
///
/// # Errors
/// No pairs; a setting out of range; a loss that is no number; a full disk; [`crate::progress::Interrupted`].
pub fn orpo(
    decoder: &Decoder,
    adapter: &Adapter,
    [train, validation]: [&[PairExample]; 2],
    loss: &FreeLoss,
    config: &RunConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<RunOutcome> {
    if train.is_empty() {
        bail!("there is no preference pair to train on: every row was dropped, or the file is empty");
    }
    let whole_text = matches!(loss, FreeLoss::Orpo { .. });
    let batch = |pairs: &[&PairExample]| pair_batch(pairs, whole_text);
    let train = fixed_batches(train, config.batch, Some(config.seed), batch)?;
    let validation = fixed_batches(validation, config.batch, None, batch)?;
    let mut run = Run::start("orpo", params(adapter), config, train.len(), dir, run_hash)?;
    adapter.set_training(true);

    loop {
        if run.validates() && !validation.is_empty() {
            adapter.set_training(false);
            let mut sums = [0.0; 3];
            for batch in &validation {
                let found = tch::no_grad(|| one(decoder, batch, loss, false, false))?;
                let n = found.n_pairs as f64;
                for (sum, value) in
                    sums.iter_mut().zip([found.loss * n, found.accuracy * n, found.margin * n])
                {
                    *sum += value;
                }
            }
            adapter.set_training(true);
            let n = validation.iter().map(|b| b.segments().len() / 3).sum::<usize>() as f64;
            let [held, accuracy, margin] = sums.map(|sum| sum / n);
            let names = ["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"];
            if !run.validated(&[(names[0], held), (names[1], accuracy), (names[2], margin)])? {
                break;
            }
        }
        let Some(b) = run.next_batch() else { break };
        let found = one(decoder, &train[b], loss, true, config.activation_checkpointing)?;
        let figures = [
            ("rewards/accuracies", found.accuracy),
            ("rewards/margins", found.margin),
            ("nll_loss", found.nll),
        ];
        run.update(found.loss, &train[b], &figures)?;
    }
    Ok(run.finish())
}

/// What a batch gave.
struct Found {
    n_pairs: usize,
    loss: f64,
    nll: f64,
    accuracy: f64,
    margin: f64,
}

/// The mean loss of a batch's pairs; where `learn`, its gradients go to `.grad`.
fn one(decoder: &Decoder, batch: &Batch, loss: &FreeLoss, learn: bool, checkpointing: bool) -> Result<Found> {
    let (mut ids, mut answers, mut liked) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (_, target, segment)) in batch.targets().enumerate() {
        ids.push(batch.ids()[target]);
        // Segments come as prompt, chosen, rejected.
        if segment % 3 > 0 {
            answers.push(i as i64);
        }
        if segment % 3 < 2 {
            liked.push(i as i64);
        }
    }
    let lengths: Vec<(usize, usize)> =
        batch.segments().chunks_exact(3).map(|pair| (pair[1].range.len(), pair[2].range.len())).collect();
    let on_device = |rows: &[i64]| Tensor::from_slice(rows).to_device(decoder.device);

    let forward = Forward::run(decoder, batch, checkpointing)?;
    let options = HeadOptions { gradient: learn, ..HeadOptions::default() };
    let scored = score(decoder, forward.graded(), &on_device(&ids), options);
    let (value, nll, rewards, weights) = tch::with_grad(|| -> Result<_> {
        let logps = scored.logps.detach().set_requires_grad(true);
        let (chosen, rejected) = sum_answers(&logps.index_select(0, &on_device(&answers)), &lengths, None)?;
        let nll = -logps.index_select(0, &on_device(&liked)).mean(Kind::Float);
        let count = |pick: fn(&(usize, usize)) -> usize| {
            let counts: Vec<f32> = lengths.iter().map(|l| pick(l) as f32).collect();
            Tensor::from_slice(&counts).to_device(decoder.device)
        };
        let mean = |sum: &Tensor, pick| sum / count(pick);
        let (total, rewards) = match loss {
            FreeLoss::Orpo { beta } => {
                let out = odds_ratio(&mean(&chosen, |l| l.0), &mean(&rejected, |l| l.1), *beta);
                (out.losses.mean(Kind::Float) + &nll, (out.chosen_rewards, out.rejected_rewards))
            }
            FreeLoss::Cpo(cpo) => {
                let out = if cpo.averages() {
                    cpo.loss(&mean(&chosen, |l| l.0), &mean(&rejected, |l| l.1))?
                } else {
                    cpo.loss(&chosen, &rejected)?
                };
                (
                    out.losses.mean(Kind::Float) + &nll * cpo.cpo_alpha,
                    (out.chosen_rewards, out.rejected_rewards),
                )
            }
        };
        let weights = Tensor::f_run_backward(&[&total], &[&logps], false, false)?.remove(0);
        Ok((total.double_value(&[]), nll.double_value(&[]), rewards, weights.detach()))
    })?;
    if learn {
        forward.backward(&scored, &weights)?;
    }
    let margins = rewards.0 - rewards.1;
    Ok(Found {
        n_pairs: lengths.len(),
        loss: value,
        nll,
        accuracy: margins.gt(0.0).to_kind(Kind::Float).mean(Kind::Double).double_value(&[]),
        margin: margins.mean(Kind::Double).double_value(&[]),
    })
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
