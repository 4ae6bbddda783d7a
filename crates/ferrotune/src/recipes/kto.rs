//! KTO, top to bottom: preference tuning on single answers with a thumb up or down.
//!
//! The reference is the model as it was when the run began, computed once over fixed batches. How far the policy has
//! drifted is estimated, as in TRL, on prompts paired with the answer of the row before; APO-zero takes no estimate.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_data::chat::{ChatTemplate, RenderOptions};
use ferrotune_model::Decoder;
use ferrotune_preference::{Kto, KtoLoss, KtoOutput, kto_metrics, mismatched};
use ferrotune_tokenizer::{
    Counted, Limits, Made, Notes, SkipReason, Skipped, Tokenized, Tokenizer, Truncation,
};
use ferrotune_train::{Forward, Sampler, Scored};
use ferrotune_types::{Batch, Conversation, Example, InvalidValue, PairExample, PreferencePair};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::held_pairs::{HeldPairs, score_targets};
use super::run::{Best, Run, RunConfig, RunOutcome, n_steps};
use super::trained::Trained;

/// An answer to a prompt and what people thought of it. Neither is empty.
#[derive(Debug, Clone, PartialEq)]
pub struct ThumbExample {
    id: String,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    desirable: bool,
}

/// As many pairs as TRL takes apart at a time.
const UNPAIRED_AT_ONCE: usize = 1000;

impl ThumbExample {
    /// `desirable` is a thumb up.
    ///
    /// # Errors
    /// [`InvalidValue::Example`] where the prompt or the answer has no tokens.
    pub fn new(
        id: impl Into<String>,
        prompt: Vec<u32>,
        answer: Vec<u32>,
        desirable: bool,
    ) -> Result<Self, InvalidValue> {
        let id = id.into();
        for (name, part) in [("prompt", &prompt), ("answer", &answer)] {
            if part.is_empty() {
                return Err(InvalidValue::Example { id, reason: format!("the {name} has no tokens") });
            }
        }
        Ok(ThumbExample { id, prompt, answer, desirable })
    }

    /// Both answers of every pair, each with its thumb: the chosen ones first, then the rejected ones, of a thousand
    /// pairs at a time as in TRL. Laid pair by pair, a row's neighbour would be the other answer to its own prompt.
    pub fn of_pairs(pairs: &[PairExample]) -> Vec<Self> {
        let thumb = |pair: &PairExample, answer: &[u32], desirable| ThumbExample {
            id: pair.id().to_owned(),
            prompt: pair.prompt().to_vec(),
            answer: answer.to_vec(),
            desirable,
        };
        let unpaired = |pairs: &[PairExample]| -> Vec<Self> {
            let up = pairs.iter().map(|pair| thumb(pair, pair.chosen(), true));
            up.chain(pairs.iter().map(|pair| thumb(pair, pair.rejected(), false))).collect()
        };
        pairs.chunks(UNPAIRED_AT_ONCE).flat_map(unpaired).collect()
    }

    /// The row's id, for messages about it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The prompt's tokens, up to and with the header that opens the assistant's turn.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The answer's tokens, its end-of-turn token included.
    pub fn answer(&self) -> &[u32] {
        &self.answer
    }

    /// Whether the thumb is up.
    pub fn desirable(&self) -> bool {
        self.desirable
    }
}

impl Counted for ThumbExample {
    fn counts(&self) -> (usize, usize) {
        (self.prompt.len() + self.answer.len(), self.answer.len())
    }
}

/// Renders and tokenises chats whose last turn is the answer that the thumb beside them is for, as pairs are: the
/// answer is what the chat's tokens have after the prompt's. What leaves no room for an answer is skipped and counted.
///
/// # Errors
/// Where a prompt is no prefix of its chat: then the template, not the row, is wrong.
pub fn thumb_examples(
    chats: &[(Conversation, bool)],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    limits: &Limits,
) -> Result<Tokenized<ThumbExample>> {
    let made = chats.par_iter().map(|(chat, up)| thumb_example(chat, *up, template, tokenizer, limits));
    Ok(Tokenized::gather(made.collect::<Vec<_>>(), limits)?)
}

/// A thumb is made as a pair whose two answers are the same one.
fn thumb_example(
    chat: &Conversation,
    desirable: bool,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    limits: &Limits,
) -> Result<Made<ThumbExample>, Skipped> {
    let skip = |reason, detail: String| Skipped { id: chat.id.clone(), reason, detail, tokens: 0 };
    let Some((answer, prompt)) = chat.messages.split_last() else {
        return Err(skip(SkipReason::EmptyAnswer, "the chat has no turns".to_owned()));
    };
    let mut pair = PreferencePair {
        id: chat.id.clone(),
        prompt: prompt.to_vec(),
        chosen: vec![answer.clone()],
        rejected: vec![answer.clone()],
        meta: serde_json::Map::new(),
    };
    if !chat.tools.is_empty() {
        pair.meta.insert("tools".to_owned(), chat.tools.clone().into());
    }
    let rendered = template
        .render_pair(&pair, &RenderOptions::default())
        .map_err(|error| skip(SkipReason::NotRendered, error.to_string()))?;
    let Made { item, notes } =
        tokenizer.pair_example(&rendered.prompt, &rendered.chosen, &rendered.rejected, &chat.id, limits)?;
    // What was done to the answer was done, and counted, twice.
    let cut_twice = limits.truncation == Truncation::Right;
    let notes = Notes {
        truncated_tokens: notes.truncated_tokens / if cut_twice { 2 } else { 1 },
        doubles_removed: notes.doubles_removed.div_ceil(2),
        ..notes
    };
    let item = ThumbExample::new(item.id(), item.prompt().to_vec(), item.chosen().to_vec(), desirable)
        .map_err(|error| skip(SkipReason::EmptyAnswer, error.to_string()))?;
    Ok(Made { item, notes })
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
    /// Most tokens of a row; the answer that a prompt borrows is cut to it. None: as many as the model reads.
    pub max_length: Option<usize>,
}

/// A batch, the same prompts with other rows' answers, and what the reference says of both.
struct Rows {
    batch: Batch,
    desirable: Vec<bool>,
    reference: Tensor,
    /// None where the loss takes no estimate of the drift.
    borrowed: Option<(Batch, Tensor)>,
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, and leaves the best validated state in them.
///
/// # Errors
/// No rows; a batch or a set of 1, where the loss takes a neighbour's answer; a row of more tokens than are allowed; a
/// setting out of range; a loss that is no number; a full disk; [`crate::progress::Interrupted`].
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
    loss.check()?;
    let context = decoder.config.max_position_embeddings;
    let max_length = data.max_length.unwrap_or(context).min(context);
    let too_long = |row: &&ThumbExample| row.counts().0 > max_length;
    if let Some(row) = data.train.iter().chain(&data.validation).find(too_long) {
        bail!("{}: {} tokens, {max_length} are allowed", row.id, row.counts().0);
    }
    let borrows = loss.loss_type == KtoLoss::Kto;
    if borrows && (config.batch < 2 || data.train.len() < 2) {
        let (what, n) = if config.batch < 2 { ("batch is", config.batch) } else { ("number of rows is", 1) };
        bail!("the {what} {n}: KTO compares a row's answer with its neighbour's, so it takes 2");
    }
    let trained = trained.into();
    trained.set_training(false); // as in TRL: dropout would put noise into every log-ratio
    let mut order: Vec<&ThumbExample> = data.train.iter().collect();
    if config.shuffle {
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
    }
    let chunks = in_batches(&order, config.batch, borrows);
    let n_steps = n_steps(config.steps, config.epochs, chunks.len() as f64);
    // The reference is computed for the batches that a step comes to.
    let wanted: BTreeSet<usize> = Sampler::new(chunks.len(), config.seed, config.shuffle)
        .take(n_steps.min(chunks.len()))
        .into_iter()
        .collect();
    let of = |rows: &[&ThumbExample]| Rows::of(decoder, rows, borrows.then_some(max_length));
    let train: Vec<Option<Rows>> = chunks
        .iter()
        .enumerate()
        .map(|(b, rows)| wanted.contains(&b).then(|| of(rows)).transpose())
        .collect::<Result<_>>()?;
    let held: Vec<&ThumbExample> = data.validation.iter().collect();
    let alone = borrows && held.len() == 1;
    let held = if alone { Vec::new() } else { in_batches(&held, config.batch, borrows) };
    let validation: Vec<Rows> = held.into_iter().map(of).collect::<Result<_>>()?;
    let pairs = HeldPairs::new(decoder, &data.pairs, config.batch, |pairs| Ok(Batch::from_pairs(pairs)?))?;
    let mut run = Run::start("kto", trained.params(1.0), config, train.len(), dir, run_hash)?;
    run.say("the reference is the model as it was when preference tuning began, frozen");
    let n_up = data.train.iter().filter(|row| row.desirable).count();
    let n_down = data.train.len() - n_up;
    let counts = || format!("{n_up} thumbs up, {n_down} thumbs down");
    run.say(&loss.balance(n_up, n_down).map_or_else(counts, |balance| balance.to_string()));
    if alone {
        run.say("the held-out row is left out: it is the only one and has no neighbour");
    }

    loop {
        if run.validates() && !validation.is_empty() {
            let (mut held, mut hits, mut n) = (0.0, 0.0, 0);
            for rows in &validation {
                let policy = said(decoder, &rows.batch)?;
                let out = rows.loss(loss, &policy, rows.drifted(decoder)?.as_ref())?;
                held += out.losses.sum(Kind::Double).double_value(&[]);
                // A thumb is met where the reward has its sign; a reward of 0, such as all have at the start, is half met.
                let signs: Vec<f32> = rows.desirable.iter().map(|&up| if up { 1.0 } else { -1.0 }).collect();
                let signs = Tensor::from_slice(&signs).to_device(decoder.device);
                hits += ((out.rewards.sign() * signs + 1.0) * 0.5).sum(Kind::Double).double_value(&[]);
                n += rows.desirable.len();
            }
            let n = n as f64;
            let mut figures = vec![("eval_loss", held / n), ("eval_thumbs_met", hits / n)];
            if !pairs.is_empty() {
                figures.extend(pairs.drift(decoder)?.figures());
            }
            if !run.validated_with(hits / n, Best::Accuracy, &figures)? {
                break;
            }
        }
        let Some(b) = run.next_batch() else { break };
        let Some(rows) = &train[b] else { bail!("the reference of batch {b} is missing") };
        let drifted = rows.drifted(decoder)?;
        let (pass, sums) = logps(decoder, &rows.batch, true, config.activation_checkpointing)?;
        let sums = sums.detach().set_requires_grad(true);
        let out = rows.loss(loss, &sums, drifted.as_ref())?;
        let mean = out.losses.mean(Kind::Float);
        // d loss / d ln p of a token is that of its answer's sum.
        let by_answer = Tensor::f_run_backward(&[&mean], &[&sums], false, false)?.remove(0).detach();
        let weights = by_answer.index_select(0, &owners(&rows.batch, decoder.device));
        pass.forward.backward(&pass.scored, &weights)?;
        let figures = kto_metrics(&sums.detach(), &rows.desirable, &out);
        run.update(mean.double_value(&[]), &rows.batch, &figures)?;
    }
    Ok(run.finish())
}

impl Rows {
    /// `lends`: the most tokens of a prompt with its neighbour's answer, where the loss reads such rows.
    fn of(decoder: &Decoder, rows: &[&ThumbExample], lends: Option<usize>) -> Result<Self> {
        let own: Vec<(&[u32], &[u32])> = rows.iter().map(|row| (row.prompt(), row.answer())).collect();
        let with_reference = |parts: &[(&[u32], &[u32])]| {
            let batch = lay(parts)?;
            let reference = said(decoder, &batch)?;
            anyhow::Ok((batch, reference))
        };
        let borrowed = lends.map(|max_length| with_reference(&lent(&own, max_length))).transpose()?;
        let (batch, reference) = with_reference(&own)?;
        let desirable = rows.iter().map(|row| row.desirable).collect();
        Ok(Rows { batch, desirable, reference, borrowed })
    }

    /// What the policy says of the borrowed answers, (B).
    fn drifted(&self, decoder: &Decoder) -> Result<Option<Tensor>> {
        self.borrowed.as_ref().map(|(batch, _)| said(decoder, batch)).transpose()
    }

    fn loss(&self, loss: &Kto, policy: &Tensor, drifted: Option<&Tensor>) -> Result<KtoOutput> {
        let drift = drifted.zip(self.borrowed.as_ref().map(|(_, reference)| reference));
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
    let sums = zeros.index_add(0, &owners(batch, decoder.device), &scored.logps);
    Ok((Open { forward, scored }, sums))
}

/// As [`logps`], of a model that only tells.
fn said(decoder: &Decoder, batch: &Batch) -> Result<Tensor> {
    Ok(tch::no_grad(|| logps(decoder, batch, false, false))?.1)
}

/// Which row each target belongs to, (N).
fn owners(batch: &Batch, device: Device) -> Tensor {
    let rows: Vec<i64> = batch.targets().map(|(.., segment)| segment as i64).collect();
    Tensor::from_slice(&rows).to_device(device)
}

/// Prompts with their answers, which alone are targets.
fn lay(parts: &[(&[u32], &[u32])]) -> Result<Batch> {
    let row = |(prompt, answer): &(&[u32], &[u32])| {
        let mask = (0..prompt.len() + answer.len()).map(|t| t >= prompt.len()).collect();
        Example::new("row", [*prompt, *answer].concat(), mask)
    };
    let rows: Vec<Example> = parts.iter().map(row).collect::<Result<_, _>>()?;
    Ok(Batch::from_examples(&rows.iter().collect::<Vec<_>>())?)
}

/// Each prompt with the answer of the row before it, cut so that both have `max_length` tokens at most.
fn lent<'a>(own: &[(&'a [u32], &'a [u32])], max_length: usize) -> Vec<(&'a [u32], &'a [u32])> {
    let lend = |(&(prompt, _), from): (&(&'a [u32], &'a [u32]), usize)| {
        let answer = own[from].1;
        // A prompt leaves room for one token, since its own answer has one.
        let room = max_length.saturating_sub(prompt.len()).max(1);
        (prompt, &answer[..answer.len().min(room)])
    };
    own.iter().zip(mismatched(own.len())).map(lend).collect()
}

/// Rows in batches of `n`. Where each borrows its neighbour's answer, a rest of one row joins the batch before it.
fn in_batches<T>(rows: &[T], n: usize, borrows: bool) -> Vec<&[T]> {
    let n = n.max(1);
    let alone = borrows && rows.len() > n && rows.len() % n == 1;
    let (whole, last) = rows.split_at(if alone { rows.len() - n - 1 } else { rows.len() });
    whole.chunks(n).chain((!last.is_empty()).then_some(last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lent_answer_is_cut_to_the_room_that_its_prompt_leaves() {
        let own: [(&[u32], &[u32]); 3] = [(&[1, 2, 3, 4], &[5]), (&[1], &[6, 7, 8, 9]), (&[1, 2], &[10, 11])];
        let at = |max_length| lent(&own, max_length).into_iter().map(|(_, a)| a.to_vec()).collect::<Vec<_>>();
        assert_eq!(at(9), [vec![10, 11], vec![5], vec![6, 7, 8, 9]], "nothing is cut that fits");
        assert_eq!(at(5), [vec![10], vec![5], vec![6, 7, 8]]);
        assert!(lent(&own, 5).iter().all(|(prompt, answer)| prompt.len() + answer.len() <= 5));
        let prompts = lent(&own, 5).into_iter().map(|(p, _)| p.len()).collect::<Vec<_>>();
        assert_eq!(prompts, [4, 1, 2], "prompts stay whole");
    }

    #[test]
    fn a_rest_of_one_row_joins_the_batch_before_it() {
        let check = |n_rows: usize, n: usize, borrows: bool, expect: &[usize]| {
            let rows: Vec<usize> = (0..n_rows).collect();
            let batches = in_batches(&rows, n, borrows);
            assert_eq!(batches.concat(), rows, "{n_rows} rows by {n}");
            assert_eq!(batches.iter().map(|b| b.len()).collect::<Vec<_>>(), expect, "{n_rows} rows by {n}");
        };
        check(9, 4, true, &[4, 5]);
        check(9, 4, false, &[4, 4, 1]);
        check(10, 4, true, &[4, 4, 2]);
        check(8, 4, true, &[4, 4]);
        check(3, 2, true, &[3]);
        check(3, 8, true, &[3]);
        check(3, 1, false, &[1, 1, 1]);
        check(0, 4, true, &[]);
    }
}
