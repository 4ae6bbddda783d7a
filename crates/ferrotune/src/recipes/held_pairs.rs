//! Held-out preference pairs beside what the reference says of them: how far a run has gone, whatever its loss.

use anyhow::Result;
use ferrotune_model::Decoder;
use ferrotune_model::generate::{Flow, Sampling, generate};
use ferrotune_preference::{Drift, DriftSum, PairLogps, sum_answers, token_kl};
use ferrotune_train::{Forward, HeadOptions, Scored, score};
use ferrotune_types::{Batch, Finish, PairExample};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Answer positions at which the KL is taken: evenly spread over all, and few enough that a validation hardly notices.
const KL_POSITIONS: usize = 2048;

/// Held-out pairs with the reference's figures, taken once before anything moves.
#[derive(Debug)]
pub struct HeldPairs {
    batches: Vec<(Batch, Seen)>,
    /// The reference's LM head, (V, C), where training moves the model's.
    head: Option<Tensor>,
}

/// What the reference says of a batch's pairs.
#[derive(Debug)]
pub(crate) struct Seen {
    /// (B): summed log-probabilities of the chosen and the rejected answers.
    pub(crate) sums: (Tensor, Tensor),
    /// Every target's log-probability, (N).
    pub(crate) logps: Tensor,
    /// Which targets the KL is taken at, (n), and the reference's hidden states there, (n, C).
    rows: Tensor,
    hidden: Tensor,
}

impl HeldPairs {
    /// Of `pairs` in batches of `batch`; the reference is the model as it is now. `lay` makes a batch whose segments
    /// come as prompt, chosen, rejected, such as `Batch::from_pairs`.
    ///
    /// # Errors
    /// Where `lay` or the model refuses a batch.
    pub fn new(
        decoder: &Decoder,
        pairs: &[PairExample],
        batch: usize,
        lay: impl Fn(&[&PairExample]) -> Result<Batch>,
    ) -> Result<Self> {
        let rows: Vec<&PairExample> = pairs.iter().collect();
        let batches = rows.chunks(batch.max(1)).map(lay).collect::<Result<Vec<_>>>()?;
        let n_answers: usize = batches.iter().map(|b| answers(b).len()).sum();
        let stride = n_answers.div_ceil(KL_POSITIONS).max(1);
        let mut position = 0;
        let seen = |batch: Batch| {
            let forward = tch::no_grad(|| Forward::run(decoder, &batch, false))?;
            let scored = score_targets(decoder, &forward, HeadOptions::EVALUATE);
            let answers = answers(&batch);
            let rows: Vec<i64> =
                (position..).zip(&answers).filter(|(i, _)| i % stride == 0).map(|(_, &t)| t).collect();
            position += answers.len();
            let rows = Tensor::from_slice(&rows).to_device(decoder.device);
            let seen = Seen {
                sums: sums(&batch, &scored.logps)?,
                hidden: forward.graded().detach().index_select(0, &rows),
                logps: scored.logps,
                rows,
            };
            drop(forward);
            Ok((batch, seen))
        };
        let batches: Vec<(Batch, Seen)> = batches.into_iter().map(seen).collect::<Result<_>>()?;
        let head = decoder.head_weight();
        let moves = head.requires_grad() && !batches.is_empty();
        Ok(HeldPairs { batches, head: moves.then(|| head.detach().copy()) })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many there are.
    pub fn n_pairs(&self) -> usize {
        self.batches.iter().map(|(batch, _)| lengths(batch).len()).sum()
    }

    /// How far the model has gone from the reference. Dropout must be off.
    ///
    /// # Errors
    /// Where the model refuses a batch.
    pub fn drift(&self, decoder: &Decoder) -> Result<Drift> {
        self.drift_and(decoder, false, |_, _, _| Ok(()))
    }

    /// As [`Self::drift`]; `also` sees each batch with the log-probabilities of its targets, so that a recipe's own
    /// loss needs no second pass. `unmoved`: the model is still the reference, so that there is no pass at all.
    pub(crate) fn drift_and(
        &self,
        decoder: &Decoder,
        unmoved: bool,
        mut also: impl FnMut(&Batch, &Seen, &Tensor) -> Result<()>,
    ) -> Result<Drift> {
        if unmoved {
            self.batches.iter().try_for_each(|(batch, seen)| also(batch, seen, &seen.logps))?;
            return Ok(Drift { n_pairs: self.n_pairs(), accuracy: 0.5, kl: Some(0.0), ..Drift::default() });
        }
        let mut sum = DriftSum::default();
        for (batch, seen) in &self.batches {
            let forward = tch::no_grad(|| Forward::run(decoder, batch, false))?;
            let scored = score_targets(decoder, &forward, HeadOptions::EVALUATE);
            let (chosen, rejected) = (seen.sums.0.shallow_clone(), seen.sums.1.shallow_clone());
            sum.add(&PairLogps::new(sums(batch, &scored.logps)?, (chosen, rejected), &lengths(batch))?);
            if seen.rows.numel() > 0 {
                let _guard = tch::no_grad_guard();
                let hidden = forward.graded().detach().index_select(0, &seen.rows);
                let reference = match &self.head {
                    Some(head) => decoder.logits_by(&seen.hidden, head),
                    None => decoder.logits(&seen.hidden),
                };
                sum.add_kl(&token_kl(&decoder.logits(&hidden), &reference)?);
            }
            also(batch, seen, &scored.logps)?;
        }
        Ok(sum.finish())
    }

    /// Leaves the KL out from now on: for a reference whose head is not the model's.
    pub(crate) fn forget_hidden(&mut self) {
        for (_, seen) in &mut self.batches {
            seen.rows = seen.rows.narrow(0, 0, 0);
        }
    }
}

/// Scores every target of a batch that went through the blocks.
pub(crate) fn score_targets(decoder: &Decoder, forward: &Forward<'_>, options: HeadOptions) -> Scored {
    let batch = forward.batch();
    let ids: Vec<i64> = batch.targets().map(|(_, target, _)| batch.ids()[target]).collect();
    let targets = Tensor::from_slice(&ids).to_device(decoder.device);
    score(decoder, forward.graded(), &targets, options)
}

/// The mean of what a mask picks, (N) both; none where it picks nothing.
pub(crate) fn mean_of(values: &Tensor, picked: &[bool]) -> Option<f64> {
    let picked_values = values.masked_select(&Tensor::from_slice(picked).to_device(values.device()));
    picked.contains(&true).then(|| picked_values.mean(Kind::Double).double_value(&[]))
}

/// Which of a batch's targets are answer tokens, chosen before rejected, pair by pair.
pub(crate) fn answers(batch: &Batch) -> Vec<i64> {
    let targets = batch.targets().enumerate();
    targets.filter(|(_, (.., segment))| segment % 3 > 0).map(|(i, _)| i as i64).collect()
}

/// Tokens of each pair's chosen and rejected answer.
pub(crate) fn lengths(batch: &Batch) -> Vec<(usize, usize)> {
    batch.segments().chunks_exact(3).map(|pair| (pair[1].range.len(), pair[2].range.len())).collect()
}

/// (B) each: summed log-probabilities of a batch's chosen and rejected answers, from those of all its targets, (N).
pub(crate) fn sums(batch: &Batch, logps: &Tensor) -> Result<(Tensor, Tensor)> {
    let rows = Tensor::from_slice(&answers(batch)).to_device(logps.device());
    Ok(sum_answers(&logps.index_select(0, &rows), &lengths(batch), None)?)
}

/// How long a model's greedy answers are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerTokens {
    /// Prompts answered.
    pub n: usize,
    /// Mean tokens of an answer.
    pub mean: f64,
    /// Share of answers that the limit cut off; where it is high, the mean says little.
    pub cut: f64,
}

/// Greedy answers to `prompts`, at most `limit` tokens each, ended by any of `stop_ids`.
///
/// # Errors
/// Where a prompt is empty or leaves no room in the context.
pub fn answer_tokens(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    stop_ids: &[u32],
    limit: usize,
) -> Result<AnswerTokens> {
    let sampling = Sampling {
        max_new_tokens: limit,
        temperature: 0.0,
        stop_ids: stop_ids.to_vec(),
        ..Sampling::default()
    };
    let answers = generate(decoder, prompts, &sampling, &mut |_, _| Flow::Continue)?;
    let n = answers.len().max(1) as f64;
    Ok(AnswerTokens {
        n: answers.len(),
        mean: answers.iter().map(|a| a.ids.len() as f64).sum::<f64>() / n,
        cut: answers.iter().filter(|a| a.finish == Finish::Length).count() as f64 / n,
    })
}
