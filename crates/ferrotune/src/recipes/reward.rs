//! A reward model, top to bottom: the decoder with an adapter, and one row that turns an answer's last hidden state
//! into a score (Bradley and Terry).

use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_model::Decoder;
use ferrotune_preference::{bradley_terry, reward_metrics};
use ferrotune_train::{Forward, Param};
use ferrotune_types::{Batch, PairExample};
use tch::{Device, Kind, Tensor};

use super::run::{Best, Run, RunConfig, RunOutcome, fixed_batches};
use super::trained::Trained;

/// The row that scores, (1, C) in fp32, zero at first, so that every answer begins with the same score.
pub fn reward_head(decoder: &Decoder) -> Tensor {
    let size = [1, decoder.config.hidden_size as i64];
    Tensor::zeros(size, (Kind::Float, decoder.device)).set_requires_grad(true)
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, and `head` ([`reward_head`]) to score the
/// chosen answer above the rejected one, by a pair's margin where it has one, and leaves the best validated state in them.
/// `centering` pulls scores towards zero (0.01 is usual).
///
/// # Errors
/// No pairs; a loss that is no number; a full disk; [`crate::progress::Interrupted`].
#[expect(clippy::too_many_arguments, reason = "model, data, settings and place are four things")]
pub fn reward<'a>(
    decoder: &Decoder,
    trained: impl Into<Trained<'a>>,
    head: &Tensor,
    [train, validation]: [&[PairExample]; 2],
    centering: Option<f64>,
    config: &RunConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<RunOutcome> {
    if train.is_empty() {
        bail!("there is no preference pair to train on: every row was dropped, or the file is empty");
    }
    let lay = |pairs: &[&PairExample]| Rows::of(pairs, decoder.device);
    let train = fixed_batches(train, config.batch, config.shuffle.then_some(config.seed), lay)?;
    let validation = fixed_batches(validation, config.batch, None, lay)?;
    let trained = trained.into();
    let mut params = trained.params(1.0);
    params.push(Param::new("score.weight", head.shallow_clone()));
    let mut run = Run::start("reward", params, config, train.len(), dir, run_hash)?;
    trained.set_training(false); // as in TRL: dropout would put noise into the scores that are compared

    loop {
        if run.validates() && !validation.is_empty() {
            let (mut held, mut hits, mut margin, mut n) = (0.0, 0.0, 0.0, 0.0);
            for rows in &validation {
                let forward = tch::no_grad(|| Forward::run_at(decoder, &rows.batch, false, &rows.last))?;
                let (chosen, rejected) = tch::no_grad(|| scores(forward.graded(), head));
                let pairs = chosen.size()[0] as f64;
                let losses = bradley_terry(&chosen, &rejected, rows.margin.as_ref(), centering)?;
                held += losses.sum(Kind::Double).double_value(&[]);
                // A tie is half a hit: an untrained head scores 0.5, not 0.
                let ties = chosen.eq_tensor(&rejected).to_kind(Kind::Float) * 0.5;
                hits += (chosen.gt_tensor(&rejected).to_kind(Kind::Float) + ties)
                    .sum(Kind::Double)
                    .double_value(&[]);
                margin += (chosen - rejected).sum(Kind::Double).double_value(&[]);
                n += pairs;
            }
            let figures = [("eval_loss", held / n), ("eval_accuracy", hits / n), ("eval_margin", margin / n)];
            if !run.validated_with(hits / n, Best::Accuracy, &figures)? {
                break;
            }
        }
        let Some(b) = run.next_batch() else { break };
        let rows = &train[b];
        let forward = Forward::run_at(decoder, &rows.batch, config.activation_checkpointing, &rows.last)?;
        let hidden = forward.graded().detach().set_requires_grad(true);
        let (chosen, rejected) = scores(&hidden, head);
        let loss = bradley_terry(&chosen, &rejected, rows.margin.as_ref(), centering)?.mean(Kind::Float);
        loss.backward(); // the head's gradient, and that of the hidden states, which goes on into the model
        forward.backward_from(&hidden.grad())?;
        let mut figures = reward_metrics(&chosen.detach(), &rejected.detach());
        figures.push(("num_tokens", run.count("num_tokens", rows.n_tokens)));
        run.update(loss.double_value(&[]), &rows.batch, &figures)?;
    }
    Ok(run.finish())
}

/// Pairs that go together.
struct Rows {
    batch: Batch,
    /// The last token of each answer, chosen and rejected in turns: its hidden state scores the answer.
    last: Vec<usize>,
    /// (B): how far apart their scores are to be, where any pair says so; 0 for one that does not.
    margin: Option<Tensor>,
    /// As TRL counts them: each answer is a row with a prompt of its own.
    n_tokens: usize,
}

impl Rows {
    fn of(pairs: &[&PairExample], device: Device) -> Result<Self> {
        let margins: Vec<f32> = pairs.iter().map(|pair| pair.margin().unwrap_or(0.0) as f32).collect();
        let margin = pairs.iter().any(|pair| pair.margin().is_some());
        let margin = margin.then(|| Tensor::from_slice(&margins).to_device(device));
        let n_tokens = pairs.iter().map(|pair| pair.prompt().len() + pair.n_tokens()).sum();
        let batch = Batch::from_pairs(pairs)?;
        let answers = batch.segments().iter().filter(|segment| segment.prefix.is_some());
        let last = answers.map(|answer| answer.range.end - 1).collect();
        Ok(Rows { batch, last, margin, n_tokens })
    }
}

/// Scores of the chosen and the rejected answers, (B) each, from their last hidden states, (2·B, C) in turns.
fn scores(hidden: &Tensor, head: &Tensor) -> (Tensor, Tensor) {
    let scores = hidden.to_kind(Kind::Float).matmul(&head.tr()).view([-1, 2]);
    (scores.select(1, 0), scores.select(1, 1))
}
