//! KTO, top to bottom: preference tuning on single answers with a thumb up or down.
//!
//! The reference is the model as it was when the run began, computed once over fixed batches. How far the policy has
//! drifted is estimated, as in TRL, on prompts paired with the answer of the row before.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_model::Decoder;
use ferrotune_preference::{Kto, kto_metrics, mismatched};
use ferrotune_train::{Forward, Sampler, Scored};
use ferrotune_types::{Batch, Example, PairExample};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::held_pairs::{HeldPairs, score_targets};
use super::run::{Run, RunConfig, RunOutcome, n_steps};
use super::trained::Trained;

/// An answer to a prompt and what people thought of it. The answer is the last run of trained tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ThumbExample {
    /// Prompt and answer.
    pub example: Example,
    /// A thumb up.
    pub desirable: bool,
}

impl ThumbExample {
    /// A pair's two answers, each with its thumb.
    pub fn of_pair(pair: &PairExample) -> Vec<Self> {
        let thumb = |answer: &[u32], desirable| {
            let ids = [pair.prompt(), answer].concat();
            let mask = (0..ids.len()).map(|t| t >= pair.prompt().len()).collect();
            Some(ThumbExample { example: Example::new(pair.id(), ids, mask).ok()?, desirable })
        };
        [thumb(pair.chosen(), true), thumb(pair.rejected(), false)].into_iter().flatten().collect()
    }
}

/// What a run learns from and what it is measured on.
#[derive(Debug, Clone, Default)]
pub struct ThumbData {
    /// Trained on.
    pub train: Vec<ThumbExample>,
    /// Held out.
    pub validation: Vec<ThumbExample>,
    /// Held-out pairs, on which runs of other losses are measured too; there need be none.
    pub pairs: Vec<PairExample>,
}

/// A batch, the same prompts with other rows' answers, and what the reference says of both.
struct Rows {
    batch: Batch,
    borrowed: Batch,
    desirable: Vec<bool>,
    reference: Tensor,
    borrowed_reference: Tensor,
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, and leaves the best validated state in them.
///
/// # Errors
/// No rows, or a batch of 1 (there is no other answer to borrow); a setting out of range; a loss that is no
/// number; a full disk; [`crate::progress::Interrupted`].
pub fn kto<'a>(
    decoder: &Decoder,
    trained: impl Into<Trained<'a>>,
    data: &ThumbData,
    loss: &Kto,
    config: &RunConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<RunOutcome> {
    if data.train.is_empty() {
        bail!("there is no answer with a thumb to train on: every row was dropped, or the file is empty");
    }
    if config.batch < 2 {
        bail!(
            "the batch is {}: KTO compares a row's answer with its neighbour's, so it takes 2",
            config.batch
        );
    }
    let trained = trained.into();
    trained.set_training(false); // as in TRL: dropout would put noise into every log-ratio
    let mut order: Vec<&ThumbExample> = data.train.iter().collect();
    if config.shuffle {
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
    }
    // A rest of one row has no neighbour and is left out.
    let chunks: Vec<&[&ThumbExample]> = order.chunks(config.batch).filter(|rows| rows.len() > 1).collect();
    let n_steps = n_steps(config.steps, config.epochs, chunks.len() as f64);
    // The reference is computed for the batches that a step comes to.
    let wanted: BTreeSet<usize> = Sampler::new(chunks.len(), config.seed, config.shuffle)
        .take(n_steps.min(chunks.len()))
        .into_iter()
        .collect();
    let rows = |(b, rows): (usize, &&[&ThumbExample])| {
        wanted.contains(&b).then(|| Rows::of(decoder, rows)).transpose()
    };
    let train: Vec<Option<Rows>> = chunks.iter().enumerate().map(rows).collect::<Result<_>>()?;
    let held: Vec<&ThumbExample> = data.validation.iter().collect();
    let held = held.chunks(config.batch).filter(|rows| rows.len() > 1);
    let validation: Vec<Rows> = held.map(|rows| Rows::of(decoder, rows)).collect::<Result<_>>()?;
    let pairs = HeldPairs::new(decoder, &data.pairs, config.batch, |pairs| Ok(Batch::from_pairs(pairs)?))?;
    let mut run = Run::start("kto", trained.params(1.0), config, train.len(), dir, run_hash)?;
    run.say("the reference is the model as it was when preference tuning began, frozen");

    loop {
        if run.validates() && !validation.is_empty() {
            let (mut held, mut hits, mut n) = (0.0, 0.0, 0);
            for rows in &validation {
                let policy = tch::no_grad(|| logps(decoder, &rows.batch, false, false))?.1;
                let drift = tch::no_grad(|| logps(decoder, &rows.borrowed, false, false))?.1;
                let out = rows.loss(loss, &policy, &drift)?;
                held += out.losses.sum(Kind::Double).double_value(&[]);
                // A thumb is met where the reward has its sign.
                let up = Tensor::from_slice(&rows.desirable);
                hits += out.rewards.gt(0.0).eq_tensor(&up).sum(Kind::Float).double_value(&[]);
                n += rows.desirable.len();
            }
            let n = n as f64;
            let mut figures = vec![("eval_loss", held / n), ("eval_thumbs_met", hits / n)];
            if !pairs.is_empty() {
                figures.extend(pairs.drift(decoder)?.figures());
            }
            if !run.validated(&figures)? {
                break;
            }
        }
        let Some(b) = run.next_batch() else { break };
        let Some(rows) = &train[b] else { bail!("the reference of batch {b} is missing") };
        let drift = tch::no_grad(|| logps(decoder, &rows.borrowed, false, false))?.1;
        let (pass, sums) = logps(decoder, &rows.batch, true, config.activation_checkpointing)?;
        let sums = sums.detach().set_requires_grad(true);
        let out = rows.loss(loss, &sums, &drift)?;
        let mean = out.losses.mean(Kind::Float);
        // d loss / d ln p of a token is that of its answer's sum.
        let by_answer = Tensor::f_run_backward(&[&mean], &[&sums], false, false)?.remove(0).detach();
        let weights = by_answer.index_select(0, &owners(&rows.batch));
        pass.forward.backward(&pass.scored, &weights)?;
        let figures = kto_metrics(&sums.detach(), &rows.desirable, &out);
        run.update(mean.double_value(&[]), &rows.batch, &figures)?;
    }
    Ok(run.finish())
}

impl Rows {
    fn of(decoder: &Decoder, rows: &[&ThumbExample]) -> Result<Self> {
        let parts: Vec<(&[u32], &[u32])> = rows.iter().map(|row| prompt_and_answer(&row.example)).collect();
        let lay = |prompt: &[u32], answer: &[u32]| {
            let mask = (0..prompt.len() + answer.len()).map(|t| t >= prompt.len()).collect();
            Example::new("row", [prompt, answer].concat(), mask)
        };
        let own: Vec<Example> = parts.iter().map(|(p, a)| lay(p, a)).collect::<Result<_, _>>()?;
        let other = mismatched(rows.len());
        let lent: Vec<Example> =
            parts.iter().zip(other).map(|((p, _), from)| lay(p, parts[from].1)).collect::<Result<_, _>>()?;
        let batch = Batch::from_examples(&own.iter().collect::<Vec<_>>())?;
        let borrowed = Batch::from_examples(&lent.iter().collect::<Vec<_>>())?;
        let reference = tch::no_grad(|| logps(decoder, &batch, false, false))?.1;
        let borrowed_reference = tch::no_grad(|| logps(decoder, &borrowed, false, false))?.1;
        let desirable = rows.iter().map(|row| row.desirable).collect();
        Ok(Rows { batch, borrowed, desirable, reference, borrowed_reference })
    }

    fn loss(&self, loss: &Kto, policy: &Tensor, drift: &Tensor) -> Result<ferrotune_preference::KtoOutput> {
        let drift = Some((drift, &self.borrowed_reference));
        Ok(tch::with_grad(|| loss.loss(policy, &self.reference, &self.desirable, drift))?)
    }
}

/// A forward pass that can still go back.
struct Open<'a> {
    forward: Forward<'a>,
    scored: Scored,
}

/// Log-probabilities of a batch's answers, summed, (B).
fn logps<'a>(
    decoder: &'a Decoder,
    batch: &'a Batch,
    gradient: bool,
    checkpointing: bool,
) -> Result<(Open<'a>, Tensor)> {
    let forward = Forward::run(decoder, batch, checkpointing)?;
    let scored = score_targets(decoder, &forward, gradient);
    let zeros = Tensor::zeros([batch.segments().len() as i64], (Kind::Float, decoder.device));
    let sums = zeros.index_add(0, &owners(batch).to_device(decoder.device), &scored.logps);
    Ok((Open { forward, scored }, sums))
}

/// Which row each target belongs to, (N).
fn owners(batch: &Batch) -> Tensor {
    Tensor::from_slice(&batch.targets().map(|(.., segment)| segment as i64).collect::<Vec<_>>())
}

/// An example cut where its last run of trained tokens begins.
fn prompt_and_answer(example: &Example) -> (&[u32], &[u32]) {
    let mask = example.loss_mask();
    let end = mask.iter().rposition(|&m| m).map_or(mask.len(), |t| t + 1);
    let start = mask[..end].iter().rposition(|&m| !m).map_or(1, |t| t + 1);
    (&example.ids()[..start], &example.ids()[start..end])
}
