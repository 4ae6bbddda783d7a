//! KTO, top to bottom: preference tuning on single answers with a thumb up or down.
//!
//! The reference is the model as it was when the run began, computed once over fixed batches. How far the policy has
//! drifted is estimated, as in TRL, on prompts paired with the answer of the row before; APO-zero takes no estimate.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrotune_data::chat::{ChatTemplate, RenderOptions};
use ferrotune_model::Decoder;
use ferrotune_preference::{Kto, KtoLoss, KtoOutput, MetricMeans, Metrics, kto_metrics, mismatched};
use ferrotune_tokenizer::{
    Counted, Limits, Made, Notes, SkipReason, Skipped, Tokenized, Tokenizer, Truncation,
};
use ferrotune_train::{Forward, HeadOptions, Sampler, Scored};
use ferrotune_types::{Batch, Conversation, Example, InvalidValue, PairExample, PreferencePair};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::held_pairs::{HeldPairs, mean_of, score_targets};
use super::reference::computed_once;
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

/// Prompts with their answers, each followed by its neighbour's where the loss estimates the drift: both continue one
/// computation of the prompt.
struct Rows {
    batch: Batch,
    desirable: Vec<bool>,
    borrows: bool,
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, and leaves the best validated state in them.
///
/// # Errors
/// No rows; a batch or a set of 1, where the loss takes a neighbour's answer; a row of more tokens than are allowed; a
/// setting out of range; a reference of another run in `dir`; a loss that is no number; a full disk;
/// [`crate::progress::Interrupted`].
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
    let held: Vec<&ThumbExample> = data.validation.iter().collect();
    let alone = borrows && held.len() == 1;
    let held = if alone { Vec::new() } else { in_batches(&held, config.batch, borrows) };
    let n_train = chunks.len();
    let lends = borrows.then_some(max_length);
    let rows = chunks.into_iter().chain(held).map(|rows| Rows::of(rows, lends));
    let rows: Vec<Rows> = rows.collect::<Result<_>>()?;
    let wanted = wanted.into_iter().chain(n_train..rows.len()).collect();
    let batches: Vec<&Batch> = rows.iter().map(|rows| &rows.batch).collect();
    let said = |b: usize| Ok(Vec::<f32>::try_from(rows[b].said(decoder)?.view(-1))?);
    let (reference, _) = computed_once(&batches, &wanted, dir, run_hash, said)?;
    let reference = |b: usize| {
        let sums = reference[b].as_ref().with_context(|| format!("the reference of batch {b} is missing"))?;
        let size = [rows[b].desirable.len() as i64, -1];
        anyhow::Ok(Tensor::from_slice(sums).view(size).to_device(decoder.device))
    };
    let pairs = HeldPairs::new(decoder, &data.pairs, config.batch, |pairs| Ok(Batch::from_pairs(pairs)?))?;
    let mut run = Run::start("kto", trained.params(1.0), config, n_train, dir, run_hash)?;
    run.say("the reference is the model as it was when preference tuning began, frozen");
    let n_up = data.train.iter().filter(|row| row.desirable).count();
    let n_down = data.train.len() - n_up;
    let counts = || format!("{n_up} thumbs up, {n_down} thumbs down");
    run.say(&loss.balance(n_up, n_down).map_or_else(counts, |balance| balance.to_string()));
    if alone {
        run.say("the held-out row is left out: it is the only one and has no neighbour");
    }

    loop {
        if run.validates() && n_train < rows.len() {
            let (mut held, mut hits, mut n, mut means) = (0.0, 0.0, 0, MetricMeans::default());
            // Before the first step policy and reference are one, and what the latter says is known.
            let unmoved = run.step() == 0;
            for (b, rows) in rows.iter().enumerate().skip(n_train) {
                let reference = reference(b)?;
                let said = if unmoved { reference.shallow_clone() } else { rows.said(decoder)? };
                let out = rows.loss(loss, &said, &reference)?;
                means.add(&kto_metrics(&said.select(1, 0), &rows.desirable, &out));
                held += out.losses.sum(Kind::Double).double_value(&[]);
                // A thumb is met where the reward has its sign; a reward of 0, such as all have at the start, is half met.
                let signs: Vec<f32> = rows.desirable.iter().map(|&up| if up { 1.0 } else { -1.0 }).collect();
                let signs = Tensor::from_slice(&signs).to_device(decoder.device);
                hits += ((out.rewards.sign() * signs + 1.0) * 0.5).sum(Kind::Double).double_value(&[]);
                n += rows.desirable.len();
            }
            let n = n as f64;
            let means = means.take("eval_");
            let mut figures = vec![("eval_loss", held / n), ("eval_thumbs_met", hits / n)];
            figures.extend(means.iter().map(|(name, value)| (name.as_str(), *value)));
            if !pairs.is_empty() {
                figures.extend(pairs.drift_and(decoder, unmoved, |_, _, _| Ok(()))?.figures());
            }
            if !run.validated_with(hits / n, Best::Accuracy, &figures)? {
                break;
            }
        }
        let Some(b) = run.next_batch() else { break };
        let rows = &rows[b];
        let learns_from = |segment: usize| !(rows.borrows && segment % 3 == 2);
        let forward =
            Forward::run_learning_from(decoder, &rows.batch, config.activation_checkpointing, &learns_from)?;
        let options = HeadOptions { metrics: true, ..HeadOptions::TRAIN };
        let scored = score_targets(decoder, &forward, options);
        let sums = rows.sums(&scored.logps).set_requires_grad(true);
        let out = rows.loss(loss, &sums, &reference(b)?)?;
        let most = out.rewards.abs().max().double_value(&[]);
        if run.step() == 0 && most > 1e-4 {
            bail!("before the first update policy and reference are one, but a reward is {most:.6}");
        }
        let mean = out.losses.mean(Kind::Float);
        // d loss / d ln p of a token is that of its answer's sum; a borrowed answer's is 0.
        let by_answer = Tensor::f_run_backward(&[&mean], &[&sums], false, false)?.remove(0).detach();
        let weights = by_answer.view(-1).index_select(0, &rows.owners(decoder.device));
        forward.backward(&scored, &weights)?;
        let mut figures = kto_metrics(&sums.detach().select(1, 0), &rows.desirable, &out);
        figures.extend(rows.head_metrics(&scored));
        figures.push(("num_tokens", run.count("num_tokens", rows.n_tokens())));
        run.update(mean.double_value(&[]), &rows.batch, &figures)?;
    }
    Ok(run.finish())
}

impl Rows {
    /// `lends`: the most tokens of a prompt with its neighbour's answer, where the loss reads such rows.
    fn of(rows: &[&ThumbExample], lends: Option<usize>) -> Result<Self> {
        let desirable = rows.iter().map(|row| row.desirable).collect();
        Ok(Rows { batch: lay(rows, lends)?, desirable, borrows: lends.is_some() })
    }

    /// As [`Self::sums`], by the model as it is now.
    fn said(&self, decoder: &Decoder) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let forward = Forward::run(decoder, &self.batch, false)?;
        Ok(self.sums(&score_targets(decoder, &forward, HeadOptions::EVALUATE).logps))
    }

    /// (B, 1 or 2): log-probabilities of each row's answer, and of the borrowed one behind it, summed from those of
    /// all targets, (N).
    fn sums(&self, logps: &Tensor) -> Tensor {
        let answers = if self.borrows { 2 } else { 1 };
        let size = [self.desirable.len() as i64, answers];
        let zeros = Tensor::zeros([size[0] * answers], (Kind::Float, logps.device()));
        zeros.index_add(0, &self.owners(logps.device()), logps).view(size)
    }

    /// Of prompts and their own answers.
    fn n_tokens(&self) -> usize {
        let all = self.batch.segments().iter().map(|segment| segment.range.len());
        if self.borrows {
            all.enumerate().filter(|(i, _)| i % 3 < 2).map(|(_, n)| n).sum()
        } else {
            all.sum()
        }
    }

    /// Which answer each target belongs to, (N): places in [`Self::sums`].
    fn owners(&self, device: Device) -> Tensor {
        let answer = |segment: usize| if self.borrows { segment / 3 * 2 + segment % 3 - 1 } else { segment };
        let owners: Vec<i64> = self.batch.targets().map(|(.., segment)| answer(segment) as i64).collect();
        Tensor::from_slice(&owners).to_device(device)
    }

    /// What TRL reads off the LM head, under its names, of the own answers' tokens: entropy, and the mean logit of answers
    /// with a thumb up and down.
    fn head_metrics(&self, scored: &Scored) -> Metrics {
        let (Some(entropy), Some(logit)) = (&scored.entropy, &scored.mean_logit) else { return Vec::new() };
        let thumb = |segment: usize| match (self.borrows, segment % 3) {
            (true, 1) => Some(self.desirable[segment / 3]),
            (true, _) => None,
            (false, _) => Some(self.desirable[segment]),
        };
        let thumbs: Vec<Option<bool>> = self.batch.targets().map(|(.., segment)| thumb(segment)).collect();
        let mean = |values: &Tensor, wanted: fn(&Option<bool>) -> bool| {
            mean_of(values, &thumbs.iter().map(wanted).collect::<Vec<_>>())
        };
        let figures = [
            ("entropy", mean(entropy, Option::is_some)),
            ("logits/chosen", mean(logit, |thumb| *thumb == Some(true))),
            ("logits/rejected", mean(logit, |thumb| *thumb == Some(false))),
        ];
        figures.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Of the policy's and the reference's [`Self::sums`].
    fn loss(&self, loss: &Kto, policy: &Tensor, reference: &Tensor) -> Result<KtoOutput> {
        let column = |i: i64| (policy.select(1, i), reference.select(1, i));
        let borrowed = self.borrows.then(|| column(1));
        let drift = borrowed.as_ref().map(|(policy, reference)| (policy, reference));
        let (policy, reference) = column(0);
        Ok(tch::with_grad(|| loss.loss(&policy, &reference, &self.desirable, drift))?)
    }
}

/// Prompts with their answers, which alone are targets: segments of prompt, own and borrowed answer where there is one,
/// else of the whole row.
fn lay(rows: &[&ThumbExample], lends: Option<usize>) -> Result<Batch> {
    let Some(max_length) = lends else {
        let whole = |row: &&ThumbExample| {
            let (n_prompt, n) = (row.prompt.len(), row.counts().0);
            Example::new(
                row.id(),
                [row.prompt(), row.answer()].concat(),
                (0..n).map(|t| t >= n_prompt).collect(),
            )
        };
        let rows: Vec<Example> = rows.iter().map(whole).collect::<Result<_, _>>()?;
        return Ok(Batch::from_examples(&rows.iter().collect::<Vec<_>>())?);
    };
    let both = |(row, lender): (&&ThumbExample, usize)| {
        let lent = lent(row, rows[lender], max_length).to_vec();
        PairExample::new(row.id(), row.prompt.clone(), row.answer.clone(), lent)
    };
    let rows: Vec<PairExample> =
        rows.iter().zip(mismatched(rows.len())).map(both).collect::<Result<_, _>>()?;
    Ok(Batch::from_pairs(&rows.iter().collect::<Vec<_>>())?)
}

/// What of `lender`'s answer finds room behind `row`'s prompt in `max_length` tokens.
fn lent<'a>(row: &ThumbExample, lender: &'a ThumbExample, max_length: usize) -> &'a [u32] {
    // A prompt leaves room for one token, since its own answer has one.
    let room = max_length.saturating_sub(row.prompt.len()).max(1);
    &lender.answer[..lender.answer.len().min(room)]
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

    fn thumb(prompt: &[u32], answer: &[u32]) -> ThumbExample {
        ThumbExample::new("t", prompt.to_vec(), answer.to_vec(), true).unwrap()
    }

    #[test]
    fn a_lent_answer_is_cut_to_the_room_that_its_prompt_leaves() {
        let rows = [thumb(&[1, 2, 3, 4], &[5]), thumb(&[1], &[6, 7, 8, 9]), thumb(&[1, 2], &[10, 11])];
        let rows: Vec<&ThumbExample> = rows.iter().collect();
        let parts = |max_length| {
            let batch = lay(&rows, Some(max_length)).unwrap();
            let part = |i: usize| batch.ids()[batch.segments()[i].range.clone()].to_vec();
            (0..3).map(|row| [0, 1, 2].map(|i| part(3 * row + i))).collect::<Vec<_>>()
        };
        let whole = parts(9);
        assert_eq!(whole[0], [vec![1, 2, 3, 4], vec![5], vec![10, 11]], "nothing is cut that fits");
        assert_eq!(whole[1], [vec![1], vec![6, 7, 8, 9], vec![5]]);
        assert_eq!(whole[2], [vec![1, 2], vec![10, 11], vec![6, 7, 8, 9]]);
        let cut = parts(5);
        assert_eq!(cut[0], [vec![1, 2, 3, 4], vec![5], vec![10]]);
        assert_eq!(cut[2], [vec![1, 2], vec![10, 11], vec![6, 7, 8]], "prompts and own answers stay whole");
    }

    #[test]
    fn answers_that_share_a_prompt_are_said_as_if_alone() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
        let place = crate::model_store::Place::parse("cpu", "fp32").unwrap();
        let model = crate::model_store::load(&folder.display().to_string(), place, "").unwrap();
        let rows =
            [thumb(&[21, 34, 30, 44], &[25]), thumb(&[51], &[26, 37, 48, 59]), thumb(&[61, 22], &[30, 31])];
        let rows: Vec<&ThumbExample> = rows.iter().collect();
        let numbers = |t: Tensor| Vec::<f32>::try_from(t.contiguous().view(-1)).unwrap();
        let together = numbers(Rows::of(&rows, Some(5)).unwrap().said(&model.decoder).unwrap());
        let mut alone = Vec::new();
        for (row, from) in rows.iter().zip([2, 0, 1]) {
            let borrowed = thumb(row.prompt(), lent(row, rows[from], 5));
            for row in [*row, &borrowed] {
                alone.extend(numbers(Rows::of(&[row], None).unwrap().said(&model.decoder).unwrap()));
            }
        }
        assert_eq!(together.len(), 6);
        assert!(together.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5), "{together:?}, {alone:?}");
        let own = numbers(Rows::of(&rows, None).unwrap().said(&model.decoder).unwrap());
        assert!(own.iter().zip(together.chunks(2)).all(|(a, both)| (a - both[0]).abs() < 1e-5), "{own:?}");
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
