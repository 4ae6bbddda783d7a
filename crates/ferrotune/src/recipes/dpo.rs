//! Direct preference optimisation and its relatives, top to bottom.
//!
//! The reference is the model as the run found it (for a fresh LoRA that is the base; after SFT it is the frozen SFT
//! model), the base, or another model. Its log-probabilities are computed once, before anything moves, on the very
//! batches that training will see and on no others, so that policy and reference agree to the last bit before the
//! first step. Dropout is off, as in TRL: it would put noise into every log-ratio.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ferrotune_model::Decoder;
use ferrotune_preference::{
    Divergence, Drift, Loss, MetricMeans, Metrics, Objective, PairLogps, pair_metrics, sum_answers,
};
use ferrotune_train::{Forward, HeadOptions, Sampler, Scored};
use ferrotune_types::{Batch, PairExample};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::held_pairs::{HeldPairs, Seen, lengths, mean_of, score_targets};
use super::reference::computed_once;
use super::run::{Best, Run, RunConfig, fixed_batches, n_steps};
use super::trained::Trained;
use super::words::adapter_on;
use crate::files::{content_hash, hash_parts};
use crate::model_store::{self, Place};
use crate::progress::peak_rss_mib;

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoConfig {
    /// Optimiser steps; 0 follows `epochs`.
    pub steps: usize,
    /// Passes over the pairs, where `steps` is 0.
    pub epochs: f64,
    /// Pairs a batch; one batch goes through the model at once.
    pub batch: usize,
    /// Batches a step.
    pub accumulation: usize,
    /// `sigmoid`, `ipo`, `hinge`, … (`ferrotune_preference`); several with commas between them are added up.
    pub loss: String,
    /// A weight for each of several losses; 1 each where there is none.
    pub loss_weights: Option<Vec<f64>>,
    /// How far the policy may go from the reference: larger keeps it nearer.
    pub beta: f64,
    /// For the losses that smooth labels.
    pub label_smoothing: f64,
    /// The divergence that holds the policy to the reference.
    pub f_divergence_type: Divergence,
    /// α of the α-divergence.
    pub f_alpha_divergence_coef: f64,
    /// τ of DiscoPOP's gate.
    pub discopop_tau: f64,
    /// LD-DPO: how much the tokens of the longer answer beyond the shorter one's length count, 0 to 1.
    pub ld_alpha: Option<f64>,
    /// `start`: the model as it was when the run began; `base`: the model without its adapter; else another model, as
    /// `--model` names one.
    pub reference: String,
    /// An adapter to put on a reference that is another model.
    pub reference_adapter: Option<PathBuf>,
    /// Peak learning rate.
    pub lr: f64,
    /// `constant`, `linear`, `cosine` or `wsd`.
    pub schedule: String,
    /// Steps of warm-up.
    pub warmup_steps: usize,
    /// Gradients are scaled down to this joint norm.
    pub max_grad_norm: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// `adamw`, or `adamw8bit`, whose moments take 2 bytes a number instead of 8.
    pub optimizer: String,
    /// Batches in a fresh random order every epoch.
    pub shuffle: bool,
    /// Steps between validations; 0 validates at the start and the end only.
    pub eval_every: usize,
    /// What makes a validation the best: held-out `accuracy`, or `loss`.
    pub best: Best,
    /// Stop after this many validations without a new best; 0 never.
    pub patience: usize,
    /// Steps between checkpoints; 0 writes none.
    pub checkpoint_every: usize,
    /// Also log what TRL reads off the LM head: entropy, token accuracy, mean logits. A few percent of the time.
    pub head_metrics: bool,
    /// Recompute each block in the backward pass instead of keeping its activations.
    pub activation_checkpointing: bool,
    /// Of the batches and their order.
    pub seed: u64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        let Objective {
            beta, label_smoothing, discopop_tau, f_divergence_type, f_alpha_divergence_coef, ..
        } = Objective::default();
        DpoConfig {
            steps: 0,
            epochs: 1.0,
            batch: 4,
            accumulation: 1,
            loss: "sigmoid".to_owned(),
            loss_weights: None,
            beta,
            label_smoothing,
            f_divergence_type,
            f_alpha_divergence_coef,
            discopop_tau,
            ld_alpha: None,
            reference: "start".to_owned(),
            reference_adapter: None,
            lr: 5e-5,
            schedule: "cosine".to_owned(),
            warmup_steps: 0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            optimizer: "adamw".to_owned(),
            shuffle: true,
            eval_every: 0,
            best: Best::Accuracy,
            patience: 0,
            checkpoint_every: 0,
            head_metrics: false,
            activation_checkpointing: false,
            seed: 0,
        }
    }
}

impl DpoConfig {
    /// What is minimised.
    ///
    /// # Errors
    /// An unknown loss; a setting that is out of range or that none of the losses reads.
    pub fn objective(&self) -> Result<Objective> {
        let names = self.loss.split(',').map(str::trim).filter(|name| !name.is_empty());
        let objective = Objective {
            loss_type: names.map(Loss::from_name).collect::<Result<_, _>>()?,
            loss_weights: self.loss_weights.clone(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            discopop_tau: self.discopop_tau,
            f_divergence_type: self.f_divergence_type,
            f_alpha_divergence_coef: self.f_alpha_divergence_coef,
            ld_alpha: self.ld_alpha,
        };
        objective.check()?;
        Ok(objective)
    }

    /// Refuses settings that no run can mean.
    ///
    /// # Errors
    /// As [`Self::objective`]; the first other one that is out of range.
    pub fn check(&self) -> Result<()> {
        self.objective()?;
        self.run(self.steps).check()
    }

    /// What it shares with the other recipes.
    fn run(&self, n_steps: usize) -> RunConfig {
        RunConfig {
            steps: n_steps,
            epochs: self.epochs,
            batch: self.batch,
            lr: self.lr,
            schedule: self.schedule.clone(),
            warmup_steps: self.warmup_steps,
            max_grad_norm: self.max_grad_norm,
            weight_decay: self.weight_decay,
            optimizer: self.optimizer.clone(),
            shuffle: self.shuffle,
            eval_every: self.eval_every,
            best: Some(self.best),
            patience: self.patience,
            checkpoint_every: self.checkpoint_every,
            activation_checkpointing: self.activation_checkpointing,
            seed: self.seed,
        }
    }
}

/// What a run did. Vectors hold one figure a step, named as TRL names them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DpoOutcome {
    /// Optimiser steps taken.
    pub steps: usize,
    /// Loss.
    pub losses: Vec<f64>,
    /// Share of pairs whose chosen answer has the higher reward (strictly).
    pub accuracies: Vec<f64>,
    /// Mean reward margin.
    pub margins: Vec<f64>,
    /// (step, figures) of every validation.
    pub validations: Vec<(usize, Held)>,
    /// The step whose adapter was kept.
    pub best_step: usize,
    /// What the reference was, in words.
    pub reference: String,
    /// Pairs whose reference was computed or read: those that the steps use, and the held-out ones.
    pub reference_pairs: usize,
    /// Seconds that the reference's log-probabilities took, or 0 where they came from the cache.
    pub reference_seconds: f64,
    /// Pairs a second over the steps, the first two left out; the reference's time counted in.
    pub pairs_per_s: f64,
    /// Seconds of every step of this process.
    pub step_seconds: Vec<f64>,
    /// The most memory held.
    pub peak_rss_mib: f64,
    /// In words, where validation has turned, or was never better than before the first step.
    pub note: Option<String>,
}

/// Figures on the held-out pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Mean loss.
    pub loss: f64,
    /// Share of pairs whose chosen answer has the higher reward; a tie counts half, so it starts at 0.5.
    pub accuracy: f64,
    /// Mean reward margin.
    pub margin: f64,
    /// How far the policy has gone from the reference.
    pub drift: Drift,
}

/// Summed log-probabilities of a batch's answers under the reference, in the order of the batch's pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reference {
    chosen: Vec<f32>,
    rejected: Vec<f32>,
}

impl Reference {
    fn of(decoder: &Decoder, batch: &Batch, ld_alpha: Option<f64>) -> Result<Self> {
        let forward = Forward::run(decoder, batch, false)?;
        let scored = score_targets(decoder, &forward, HeadOptions::EVALUATE);
        let (chosen, rejected) = sum_answers(&scored.logps, &lengths(batch), ld_alpha)?;
        let plain = |t: Tensor| Vec::<f32>::try_from(t.contiguous());
        Ok(Reference { chosen: plain(chosen)?, rejected: plain(rejected)? })
    }
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, on preference pairs, and leaves the best
/// validated state in them.
///
/// # Errors
/// No pairs; an unknown loss; a step-0 loss other than the formula's; a loss that is no number; a full disk;
/// [`crate::progress::Interrupted`].
pub fn dpo<'a>(
    decoder: &Decoder,
    trained: impl Into<Trained<'a>>,
    train: &[PairExample],
    validation: &[PairExample],
    config: &DpoConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<DpoOutcome> {
    if train.is_empty() {
        bail!("there is no preference pair to train on: every row was dropped, or the file is empty");
    }
    let loss = config.objective()?;
    let trained = trained.into();
    if matches!(trained, Trained::Model(_)) && config.reference == "base" {
        bail!(
            "a model that is trained whole has no adapter to switch off: its reference is start or another model"
        );
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;

    // Fixed batches: which pairs share a batch is settled once, so the reference's figures belong to a batch.
    let lay = |pairs: &[&PairExample]| Ok(Batch::from_pairs(pairs)?);
    let train = fixed_batches(train, config.batch, config.shuffle.then_some(config.seed), lay)?;
    let accumulation = config.accumulation.clamp(1, train.len().max(1));
    let n_steps = n_steps(config.steps, config.epochs, train.len() as f64 / accumulation as f64);

    // The reference, before anything moves. Batches that no step comes to are left out.
    trained.set_training(false);
    let wanted: BTreeSet<usize> = Sampler::new(train.len(), config.seed, config.shuffle)
        .take((n_steps * accumulation).min(train.len()))
        .into_iter()
        .collect();
    let (other, run_hash) = match other_model(config, decoder)? {
        Some((other, content)) => (Some(other), hash_parts(&[run_hash.as_bytes(), &content])),
        None => (None, run_hash.to_owned()),
    };
    let run_hash = run_hash.as_str();
    // Whether policy and reference are one before the first step.
    let begins_there = config.reference == "start" || config.reference == "base" && trained.adds_nothing();
    let started = Instant::now();
    let (reference, mut held, cached) =
        with_reference(decoder, &trained, other.as_ref(), config, |decoder| {
            let batches: Vec<&Batch> = train.iter().collect();
            let of = |b: usize| Reference::of(decoder, &train[b], loss.ld_alpha);
            let (train, cached) = computed_once(&batches, &wanted, dir, run_hash, of)?;
            anyhow::Ok((train, HeldPairs::new(decoder, validation, config.batch, lay)?, cached))
        })?;
    let reference_seconds = if cached { 0.0 } else { started.elapsed().as_secs_f64() };
    if other.is_some() {
        held.forget_hidden(); // they belong to another head
    }
    drop(other);

    let mut run = Run::start("dpo", trained.params(1.0), &config.run(n_steps), train.len(), dir, run_hash)?;
    let words = reference_words(config);
    run.say(&format!("the reference is {words}"));
    if matches!(trained, Trained::Adapter(adapter) if adapter.config.lora_dropout > 0.0) {
        run.say("LoRA's dropout is off in preference tuning");
    }

    loop {
        if run.validates() && !held.is_empty() {
            let (mut eval_loss, mut means) = (0.0, MetricMeans::default());
            let figures = |batch: &Batch, seen: &Seen, logps: &Tensor| {
                let reference = sum_answers(&seen.logps, &lengths(batch), loss.ld_alpha)?;
                let (value, _, metrics) = pair_loss(&loss, batch, logps, reference)?;
                eval_loss += value;
                means.add_many(&metrics, lengths(batch).len());
                Ok(())
            };
            let unmoved = run.step() == 0 && begins_there;
            let drift = held.drift_and(decoder, unmoved, figures)?;
            let eval_loss = eval_loss / held.n_pairs() as f64;
            let mut figures: Vec<(String, f64)> = vec![("eval_loss".to_owned(), eval_loss)];
            figures.extend(means.take("eval_"));
            figures.extend(drift.figures().into_iter().map(|(name, value)| (name.to_owned(), value)));
            let figures: Vec<(&str, f64)> =
                figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            if !run.validated_with(drift.accuracy, config.best, &figures)? {
                break;
            }
        }
        let Some(picked) = run.next_batches(accumulation) else { break };

        // One step: mean over all its pairs, batch by batch.
        let n_pairs: usize = picked.iter().map(|&b| lengths(&train[b]).len()).sum();
        let (mut step_loss, mut n_tokens, mut means) = (0.0, 0, MetricMeans::default());
        for &b in &picked {
            let Some(reference) = &reference[b] else { bail!("the reference of batch {b} is missing") };
            let forward = Forward::run(decoder, &train[b], config.activation_checkpointing)?;
            let options = HeadOptions { metrics: config.head_metrics, ..HeadOptions::TRAIN };
            let scored = score_targets(decoder, &forward, options);
            let on_device = |values: &[f32]| Tensor::from_slice(values).to_device(decoder.device);
            let sums = (on_device(&reference.chosen), on_device(&reference.rejected));
            let (value, weights, metrics) = pair_loss(&loss, &train[b], &scored.logps, sums)?;
            step_loss += value / n_pairs as f64;
            means.add_many(&metrics, lengths(&train[b]).len());
            means.add(&head_metrics(&train[b], &scored));
            n_tokens += tokens_as_rows(&train[b]);
            forward.backward(&scored, &(weights / n_pairs as f64))?;
            run.gather();
        }
        let mut figures = means.take("");
        let margin = figures.get("rewards/margins").copied().unwrap_or_default();
        if run.step() == 0 && begins_there {
            loss.check_start(step_loss, 1e-4)?;
            if margin.abs() > 1e-4 {
                bail!(
                    "before the first update policy and reference are one, but their reward margin is {margin:.6}"
                );
            }
        }
        run.keep("accuracy", figures.get("rewards/accuracies").copied().unwrap_or_default());
        run.keep("margin", margin);
        figures.insert("num_tokens".to_owned(), run.count("num_tokens", n_tokens));
        let figures: Vec<(&str, f64)> = figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let batches: Vec<&Batch> = picked.iter().map(|&b| &train[b]).collect();
        run.update_over(step_loss, &batches, &figures)?;
    }

    let (accuracies, margins) = (run.series("accuracy"), run.series("margin"));
    let n_held = held.n_pairs();
    let outcome = run.finish();
    let validations =
        outcome.validations.iter().map(|(step, figures)| (*step, Held::read(figures, n_held))).collect();
    let warm = if outcome.step_seconds.len() > 4 { 2 } else { 0 };
    let seconds: f64 = outcome.step_seconds[warm..].iter().sum();
    // The reference is paid once for all pairs; a step's share of it is counted with the step.
    let n_train: usize = reference.iter().flatten().map(|r| r.chosen.len()).sum();
    // The last batch may be shorter than the others.
    let pairs_per_step = (n_train * accumulation) as f64 / wanted.len().max(1) as f64;
    let share = reference_seconds / (n_train + n_held).max(1) as f64 * pairs_per_step;
    let timed = (outcome.step_seconds.len() - warm) as f64;
    Ok(DpoOutcome {
        steps: outcome.steps,
        losses: outcome.losses,
        accuracies,
        margins,
        validations,
        best_step: outcome.best_step,
        reference: words,
        reference_pairs: n_train + n_held,
        reference_seconds,
        pairs_per_s: if timed > 0.0 { pairs_per_step * timed / (seconds + share * timed) } else { 0.0 },
        step_seconds: outcome.step_seconds,
        peak_rss_mib: peak_rss_mib(),
        note: outcome.note,
    })
}

impl Held {
    fn read(figures: &BTreeMap<String, f64>, n_pairs: usize) -> Self {
        let get = |name: &str| figures.get(name).copied();
        let of = |name: &str| get(name).unwrap_or_default();
        let drift = Drift {
            n_pairs,
            accuracy: of("eval_drift/accuracy"),
            margin: of("eval_drift/margin"),
            chosen: of("eval_drift/chosen"),
            rejected: of("eval_drift/rejected"),
            kl: get("eval_drift/kl"),
        };
        Held { loss: of("eval_loss"), accuracy: drift.accuracy, margin: of("eval_rewards/margins"), drift }
    }
}

/// A batch's loss summed over its pairs, d loss / d ln p of every target, (N), and TRL's metrics. `logps` of (N),
/// `reference` of (B) each.
fn pair_loss(
    loss: &Objective,
    batch: &Batch,
    logps: &Tensor,
    reference: (Tensor, Tensor),
) -> Result<(f64, Tensor, Metrics)> {
    let lengths = lengths(batch);
    let logps = logps.detach().set_requires_grad(true);
    let pairs = PairLogps::new(sum_answers(&logps, &lengths, loss.ld_alpha)?, reference, &lengths)?;
    let output = loss.loss(&pairs)?;
    let total = output.losses.sum(Kind::Float);
    let gradient = Tensor::f_run_backward(&[&total], &[&logps], false, false)?.remove(0);
    Ok((total.double_value(&[]), gradient.detach(), pair_metrics(&pairs, &output)))
}

/// What TRL reads off the LM head, under its names: `entropy` over the tokens of both answers, `mean_token_accuracy`
/// over the chosen one's, mean logits. Nothing where the head was not asked.
fn head_metrics(batch: &Batch, scored: &Scored) -> Metrics {
    let (Some(entropy), Some(correct), Some(logit)) = (&scored.entropy, &scored.correct, &scored.mean_logit)
    else {
        return Vec::new();
    };
    let part =
        |which: usize| -> Vec<bool> { batch.targets().map(|(.., segment)| segment % 3 == which).collect() };
    let (chosen, rejected) = (part(1), part(2));
    let figures = [
        ("entropy", Some(entropy.mean(Kind::Double).double_value(&[]))),
        ("mean_token_accuracy", mean_of(&correct.to_kind(Kind::Float), &chosen)),
        ("logits/chosen", mean_of(logit, &chosen)),
        ("logits/rejected", mean_of(logit, &rejected)),
    ];
    figures.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Tokens as TRL counts them: each answer is a row with a prompt of its own.
fn tokens_as_rows(batch: &Batch) -> usize {
    let pairs = batch.segments().chunks_exact(3);
    pairs.map(|p| 2 * p[0].range.len() + p[1].range.len() + p[2].range.len()).sum()
}

fn reference_words(config: &DpoConfig) -> String {
    match (config.reference.as_str(), &config.reference_adapter) {
        ("start", _) => "the model as it was when preference tuning began, frozen".to_owned(),
        ("base", _) => "the base model, the adapter switched off".to_owned(),
        (id, None) => format!("the model {id}"),
        (id, Some(adapter)) => format!("the model {id} with the adapter {}", adapter.display()),
    }
}

/// The reference, where it is a model of its own, and the hash of what its files hold.
fn other_model(config: &DpoConfig, decoder: &Decoder) -> Result<Option<(Decoder, Vec<u8>)>> {
    let id = match config.reference.as_str() {
        "start" | "base" if config.reference_adapter.is_some() => {
            bail!(
                "reference_adapter goes with a reference that is another model; name the model it belongs on"
            )
        }
        "start" | "base" => return Ok(None),
        id => id,
    };
    let place = Place { device: decoder.device, kind: decoder.kind };
    let loaded = model_store::load(id, place, "").context("the reference is start, base or a model")?;
    let mut content = content_hash(&loaded.path)?;
    let mut other = loaded.decoder;
    if let Some(folder) = &config.reference_adapter {
        content.extend(content_hash(folder)?);
        adapter_on(&mut other, folder).context("the reference's adapter")?;
    }
    let (ours, theirs) = (decoder.config.vocab_size, other.config.vocab_size);
    if ours != theirs {
        bail!("the reference {id:?} has {theirs} tokens, the model {ours}: they do not read the same ids");
    }
    Ok(Some((other, content)))
}

/// Runs `f` with the reference in place.
fn with_reference<T>(
    decoder: &Decoder,
    trained: &Trained<'_>,
    other: Option<&Decoder>,
    config: &DpoConfig,
    f: impl FnOnce(&Decoder) -> T,
) -> T {
    match other {
        Some(other) => f(other),
        None if config.reference == "base" || trained.adds_nothing() => trained.without(|| f(decoder)),
        None => f(decoder),
    }
}
