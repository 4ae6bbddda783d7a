//! Direct preference optimisation and its relatives, top to bottom.
//!
//! The reference is the adapter's state when the run starts (for a fresh LoRA that is the base; after SFT it is
//! the frozen SFT model), unless the config names the base. Its log-probabilities are computed once, on the very
//! batches that training will see, so that policy and reference agree to the last bit before the first step.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ferrotune_model::Decoder;
use ferrotune_peft::Adapter;
use ferrotune_preference::{Loss, Objective, PairLogps, sum_answers};
use ferrotune_train::{
    AdamW, AdamWConfig, CHECKPOINT_VERSION, EarlyStop, Forward, HeadOptions, MetricLog, RunState, Sampler,
    Scored, Turn, check_loss, clip_grad_norm, latest_checkpoint, load_checkpoint, save_checkpoint, score,
};
use ferrotune_types::{Batch, PairExample};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::run::{fixed_batches, n_steps, params, schedule, seed_step};
use super::sft::{Best, ConcatTensors};
use crate::progress::{Interrupted, Progress, interrupted, peak_rss_mib};

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
    /// `sigmoid`, `ipo`, `hinge`, … (`ferrotune_preference`).
    pub loss: String,
    /// How far the policy may go from the reference: larger keeps it nearer.
    pub beta: f64,
    /// For the losses that smooth labels.
    pub label_smoothing: f64,
    /// `start`: the adapter as it was when the run began; `base`: the model without it.
    pub reference: String,
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
    /// Batches in a fresh random order every epoch.
    pub shuffle: bool,
    /// Steps between validations; 0 validates at the end only.
    pub eval_every: usize,
    /// Stop after this many validations without a better held-out loss; 0 never.
    pub patience: usize,
    /// Steps between checkpoints; 0 writes none.
    pub checkpoint_every: usize,
    /// Recompute each block in the backward pass instead of keeping its activations.
    pub activation_checkpointing: bool,
    /// Of the batches and their order.
    pub seed: u64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        DpoConfig {
            steps: 0,
            epochs: 1.0,
            batch: 4,
            accumulation: 1,
            loss: "sigmoid".to_owned(),
            beta: 0.1,
            label_smoothing: 0.0,
            reference: "start".to_owned(),
            lr: 5e-5,
            schedule: "cosine".to_owned(),
            warmup_steps: 0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            shuffle: true,
            eval_every: 0,
            patience: 0,
            checkpoint_every: 0,
            activation_checkpointing: false,
            seed: 0,
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
    /// Seconds that the reference's log-probabilities took, or 0 where they came from the cache.
    pub reference_seconds: f64,
    /// Pairs a second over the steps, the first two left out; the reference's time counted in.
    pub pairs_per_s: f64,
    /// Seconds of every step of this process.
    pub step_seconds: Vec<f64>,
    /// The most memory held.
    pub peak_rss_mib: f64,
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
}

/// Summed log-probabilities of a batch's answers under the reference, in the order of the batch's pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reference {
    chosen: Vec<f32>,
    rejected: Vec<f32>,
}

/// Trains `adapter`, which hangs on `decoder`, on preference pairs, and leaves the best validated state in it.
///
/// # Errors
/// No pairs; an unknown loss; a step-0 loss other than the formula's; a loss that is no number; a full disk;
/// [`Interrupted`].
pub fn dpo(
    decoder: &Decoder,
    adapter: &mut Adapter,
    train: &[PairExample],
    validation: &[PairExample],
    config: &DpoConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<DpoOutcome> {
    if train.is_empty() {
        bail!("there is no preference pair to train on: every row was dropped, or the file is empty");
    }
    let loss = Objective {
        label_smoothing: config.label_smoothing,
        ..Objective::new(Loss::from_name(&config.loss)?, config.beta)
    };
    loss.check()?;
    let reference_words = match config.reference.as_str() {
        "start" => "the model as it was when preference tuning began, frozen",
        "base" => "the base model, the adapter switched off",
        other => bail!("unknown reference {other:?}; known: start, base"),
    };
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;

    // Fixed batches: which pairs share a batch is settled once, so the reference's figures belong to a batch.
    let pairs = |pairs: &[&PairExample]| Ok(Batch::from_pairs(pairs)?);
    let train = fixed_batches(train, config.batch, Some(config.seed), pairs)?;
    let validation = fixed_batches(validation, config.batch, None, pairs)?;
    let per_epoch = train.len().div_ceil(config.accumulation.max(1));
    let n_steps = n_steps(config.steps, config.epochs, per_epoch as f64);
    let schedule = schedule(&config.schedule, config.warmup_steps, n_steps)?;

    // The reference, before anything moves.
    let started = Instant::now();
    let cache = dir.join("reference.json");
    adapter.set_training(false);
    let (references, cached) = reference(decoder, adapter, config, [&train, &validation], &cache, run_hash)?;
    let reference_seconds = if cached { 0.0 } else { started.elapsed().as_secs_f64() };
    let [train_reference, validation_reference] = &references;
    adapter.set_training(true);

    let adamw = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
    let mut optimizer = AdamW::new(params(adapter), adamw)?;
    let checkpoints = dir.join("checkpoints");
    let mut best = Best::default();
    let mut state = RunState {
        version: CHECKPOINT_VERSION,
        run_hash: run_hash.to_owned(),
        step: 0,
        sampler: Sampler::new(train.len(), config.seed, config.shuffle),
        early_stop: EarlyStop::new(config.patience),
        losses: Vec::new(),
        figures: BTreeMap::new(),
    };
    if let Some(path) = latest_checkpoint(&checkpoints) {
        let found = load_checkpoint(&path, run_hash)?;
        let find = |name: &str| found.tensors.get(name).map(Tensor::shallow_clone);
        optimizer.restore(found.state.step as i64, find)?;
        best.restore(adapter, &find);
        state = found.state;
        eprintln!("{:>12}: going on after step {} ({})", "dpo", state.step, path.display());
    }
    let mut log = MetricLog::open(&dir.join("metrics.jsonl"), "dpo", state.step)?;
    let mut progress = Progress::new("dpo", n_steps);
    progress.say(&format!("the reference is {reference_words}"));
    progress.step(state.step, String::new);
    let mut step_seconds = Vec::new();

    loop {
        let due = state.step == 0
            || state.step == n_steps
            || config.eval_every > 0 && state.step.is_multiple_of(config.eval_every);
        let key = |figure: &str, step: usize| format!("{figure}.{step:06}");
        if due && !validation.is_empty() && !state.figures.contains_key(&key("eval_loss", state.step)) {
            adapter.set_training(false);
            let held = evaluate(decoder, &loss, &validation, validation_reference)?;
            adapter.set_training(true);
            for (name, value) in
                [("eval_loss", held.loss), ("eval_accuracy", held.accuracy), ("eval_margin", held.margin)]
            {
                state.figures.insert(key(name, state.step), value);
            }
            log.write(
                "dpo",
                state.step,
                &[
                    ("eval_loss", held.loss),
                    ("eval_rewards/accuracies", held.accuracy),
                    ("eval_rewards/margins", held.margin),
                ],
            )?;
            progress.say(&format!(
                "step {}: held-out loss {:.4}, accuracy {:.3}, margin {:.3}",
                state.step, held.loss, held.accuracy, held.margin
            ));
            match state.early_stop.see(state.step, held.loss) {
                Turn::Best => best.keep(adapter, state.step),
                Turn::Worse => {}
                Turn::Stop => {
                    progress.say(&format!("stopping early at step {}", state.step));
                    break;
                }
            }
        }
        if state.step >= n_steps {
            break;
        }

        // One step: mean over all its pairs, batch by batch.
        let started = Instant::now();
        seed_step(config.seed, state.step);
        let picked = state.sampler.take(config.accumulation.max(1));
        let n_pairs: usize = picked.iter().map(|&b| train_reference[b].chosen.len()).sum();
        let (mut step_loss, mut hits, mut margin) = (0.0, 0.0, 0.0);
        for &b in &picked {
            let forward = Forward::run(decoder, &train[b], config.activation_checkpointing)?;
            let scored = score_batch(decoder, &forward, true);
            let (value, weights) = pair_loss(&loss, &train[b], &scored, &train_reference[b])?;
            step_loss += value.loss_sum;
            hits += value.strict_hits;
            margin += value.margin_sum;
            forward.backward(&scored, &(weights / n_pairs as f64))?;
            optimizer.gather();
        }
        let n = n_pairs as f64;
        let (step_loss, accuracy, margin) = (step_loss / n, hits / n, margin / n);
        let batches: Vec<Batch> = picked.iter().map(|&b| train[b].clone()).collect();
        check_loss(state.step + 1, step_loss, &batches, dir)?;
        if state.step == 0
            && config.reference == "start"
            && let Some(expected) = loss.expected_at_start()
            && (step_loss - expected).abs() > 1e-4
        {
            bail!(
                "before the first update the policy is the reference, so the {} loss must be {expected:.6}, \
                         but it is {step_loss:.6}: the reference does not belong to this model or data",
                config.loss
            );
        }
        let grad_norm = clip_grad_norm(&mut optimizer.gradients(), config.max_grad_norm);
        let lr = config.lr * schedule.factor(state.step, n_steps);
        optimizer.step(lr);
        state.step += 1;
        state.losses.push(step_loss);
        state.figures.insert(key("accuracy", state.step), accuracy);
        state.figures.insert(key("margin", state.step), margin);
        step_seconds.push(started.elapsed().as_secs_f64());
        log.write(
            "dpo",
            state.step,
            &[
                ("loss", step_loss),
                ("rewards/accuracies", accuracy),
                ("rewards/margins", margin),
                ("grad_norm", grad_norm),
                ("learning_rate", lr),
                ("epoch", state.sampler.epochs()),
            ],
        )?;
        progress.step(1, || format!("loss {step_loss:.4}  accuracy {accuracy:.2}"));

        let stop = interrupted();
        if config.checkpoint_every > 0 && (stop || state.step.is_multiple_of(config.checkpoint_every)) {
            save_checkpoint(&checkpoints, &state, &[optimizer.state(), best.tensors()].concat_tensors(), 2)?;
        }
        if stop {
            return Err(Interrupted("the same command with --resume goes on from here".to_owned()).into());
        }
    }

    let best_step = best.put_back(adapter).unwrap_or(state.step);
    let series = |figure: &str| -> Vec<(usize, f64)> {
        let prefix = format!("{figure}.");
        let rows = state
            .figures
            .iter()
            .filter_map(|(name, &v)| Some((name.strip_prefix(&prefix)?.parse().ok()?, v)));
        rows.collect()
    };
    let values = |figure: &str| series(figure).into_iter().map(|(_, v)| v).collect();
    let validations = series("eval_loss")
        .into_iter()
        .zip(series("eval_accuracy"))
        .zip(series("eval_margin"))
        .map(|(((step, loss), (_, accuracy)), (_, margin))| (step, Held { loss, accuracy, margin }));
    let warm = if step_seconds.len() > 4 { 2 } else { 0 };
    let seconds: f64 = step_seconds[warm..].iter().sum();
    let pairs_per_step = (config.batch * config.accumulation.max(1)) as f64;
    // The reference is paid once for all pairs; a step's share of it is counted with the step.
    let n_all: usize = train_reference.iter().chain(validation_reference).map(|r| r.chosen.len()).sum();
    let share = reference_seconds / n_all.max(1) as f64 * pairs_per_step;
    let counted = (step_seconds.len() - warm) as f64;
    progress.finish(&format!("{} steps, best step {best_step}", state.step));
    Ok(DpoOutcome {
        steps: state.step,
        accuracies: values("accuracy"),
        margins: values("margin"),
        validations: validations.collect(),
        best_step,
        reference: reference_words.to_owned(),
        reference_seconds,
        pairs_per_s: if counted > 0.0 { counted * pairs_per_step / (seconds + share * counted) } else { 0.0 },
        step_seconds,
        peak_rss_mib: peak_rss_mib(),
        losses: state.losses,
    })
}

fn score_batch(decoder: &Decoder, forward: &Forward<'_>, gradient: bool) -> Scored {
    let batch = forward.batch();
    let ids: Vec<i64> = batch.targets().map(|(_, target, _)| batch.ids()[target]).collect();
    let targets = Tensor::from_slice(&ids).to_device(decoder.device);
    score(decoder, forward.graded(), &targets, HeadOptions { gradient, ..HeadOptions::default() })
}

/// Tokens of each pair's chosen and rejected answer. `Batch::from_pairs` lays prompt, chosen, rejected.
fn answer_lengths(batch: &Batch) -> Vec<(usize, usize)> {
    batch.segments().chunks_exact(3).map(|pair| (pair[1].range.len(), pair[2].range.len())).collect()
}

struct PairFigures {
    loss_sum: f64,
    strict_hits: f64,
    half_hits: f64,
    margin_sum: f64,
}

/// The loss summed over a batch's pairs with its figures, and d loss / d ln p of every target, (N).
fn pair_loss(
    loss: &Objective,
    batch: &Batch,
    scored: &Scored,
    reference: &Reference,
) -> Result<(PairFigures, Tensor)> {
    let device = scored.logps.device();
    let lengths = answer_lengths(batch);
    let logps = scored.logps.detach().set_requires_grad(true);
    let policy = sum_answers(&logps, &lengths, loss.ld_alpha)?;
    let on_device = |values: &[f32]| Tensor::from_slice(values).to_device(device);
    let reference = (on_device(&reference.chosen), on_device(&reference.rejected));
    let output = loss.loss(&PairLogps::new(policy, reference, &lengths)?)?;
    let total = output.losses.sum(Kind::Float);
    let gradient = Tensor::f_run_backward(&[&total], &[&logps], false, false)?.remove(0);
    let margins = output.chosen_rewards - output.rejected_rewards;
    let sum = |t: &Tensor| t.sum(Kind::Double).double_value(&[]);
    let strict_hits = sum(&margins.gt(0.0));
    let figures = PairFigures {
        loss_sum: total.double_value(&[]),
        strict_hits,
        half_hits: strict_hits + 0.5 * sum(&margins.eq(0.0)),
        margin_sum: sum(&margins),
    };
    Ok((figures, gradient.detach()))
}

fn evaluate(
    decoder: &Decoder,
    loss: &Objective,
    batches: &[Batch],
    references: &[Reference],
) -> Result<Held> {
    let (mut held, mut n) = (Held::default(), 0);
    for (batch, reference) in batches.iter().zip(references) {
        let scored = tch::no_grad(|| -> Result<Scored> {
            let forward = Forward::run(decoder, batch, false)?;
            Ok(score_batch(decoder, &forward, false))
        })?;
        let (figures, _) = pair_loss(loss, batch, &scored, reference)?;
        held.loss += figures.loss_sum;
        held.accuracy += figures.half_hits;
        held.margin += figures.margin_sum;
        n += reference.chosen.len();
    }
    let n = n as f64;
    Ok(Held { loss: held.loss / n, accuracy: held.accuracy / n, margin: held.margin / n })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceFile {
    version: u32,
    run_hash: String,
    batches: [Vec<Reference>; 2],
}

/// The reference's figures for every batch: from the cache where it belongs to this run, else computed and
/// cached. A run that resumes must find them there: its adapter has moved on.
fn reference(
    decoder: &Decoder,
    adapter: &mut Adapter,
    config: &DpoConfig,
    batches: [&[Batch]; 2],
    cache: &Path,
    run_hash: &str,
) -> Result<([Vec<Reference>; 2], bool)> {
    if let Ok(bytes) = std::fs::read(cache) {
        let file: ReferenceFile = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is broken; remove it and start again", cache.display()))?;
        let fits = file.batches.iter().zip(batches).all(|(have, want)| have.len() == want.len());
        if file.version == 1 && file.run_hash == run_hash && fits {
            return Ok((file.batches, true));
        }
        bail!(
            "{} belongs to another model, data or settings; remove it or use another folder",
            cache.display()
        );
    }
    let mut progress = Progress::new("reference", batches.iter().map(|b| b.len()).sum());
    let mut compute = || -> Result<[Vec<Reference>; 2]> {
        let _guard = tch::no_grad_guard();
        let mut out = [Vec::new(), Vec::new()];
        for (half, list) in out.iter_mut().zip(batches) {
            for batch in list {
                let forward = Forward::run(decoder, batch, false)?;
                let scored = score_batch(decoder, &forward, false);
                let (chosen, rejected) = sum_answers(&scored.logps, &answer_lengths(batch), None)?;
                let plain = |t: Tensor| Vec::<f32>::try_from(t.contiguous());
                half.push(Reference { chosen: plain(chosen)?, rejected: plain(rejected)? });
                progress.step(1, String::new);
                if interrupted() {
                    return Err(
                        Interrupted("the same command with --resume goes on from here".to_owned()).into()
                    );
                }
            }
        }
        Ok(out)
    };
    let found = if config.reference == "base" { adapter.without(&mut compute)? } else { compute()? };
    progress.finish("log-probabilities of the reference computed");
    let file = ReferenceFile { version: 1, run_hash: run_hash.to_owned(), batches: found };
    crate::files::write_atomic(cache, &serde_json::to_vec(&file)?)?;
    Ok((file.batches, false))
}
