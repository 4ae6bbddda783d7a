//! Supervised fine-tuning, top to bottom: the loop over batches of examples that trains an adapter.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ferrotune_model::Decoder;
use ferrotune_peft::Adapter;
use ferrotune_train::{
    AdamW, AdamWConfig, CHECKPOINT_VERSION, Curve, EarlyStop, HeadOptions, MetricLog, Param, RunState,
    Sampler, Turn, check_loss, clip_grad_norm, draw_loss, evaluate_nll, latest_checkpoint, load_checkpoint,
    save_checkpoint, sft_accumulate,
};
use ferrotune_types::{Batch, Example};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::run::{n_steps, schedule, seed_step};
use crate::progress::{Interrupted, Progress, interrupted, peak_rss_mib};

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Optimiser steps; 0 follows `epochs`.
    pub steps: usize,
    /// Passes over the data, where `steps` is 0.
    pub epochs: f64,
    /// Groups of examples a step. A group is one example, or one packed row.
    pub batch: usize,
    /// Tokens that go through the model at once; a step of more is split, with the same gradient.
    pub micro_tokens: usize,
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
    /// B trains at this multiple of the learning rate (LoRA+, arXiv 2402.12354); 1 is plain LoRA.
    pub loraplus_ratio: f64,
    /// Groups in a fresh random order every epoch.
    pub shuffle: bool,
    /// Steps between validations; 0 validates at the start and the end only.
    pub eval_every: usize,
    /// Stop after this many validations without a new best; 0 never.
    pub patience: usize,
    /// Steps between checkpoints; 0 writes none.
    pub checkpoint_every: usize,
    /// Recompute each block in the backward pass instead of keeping its activations.
    pub activation_checkpointing: bool,
    /// Log entropy and token accuracy, which costs about a tenth of the LM head.
    pub token_metrics: bool,
    /// Of the data order.
    pub seed: u64,
}

impl Default for SftConfig {
    fn default() -> Self {
        SftConfig {
            steps: 0,
            epochs: 1.0,
            batch: 4,
            micro_tokens: 4096,
            lr: 2e-4,
            schedule: "cosine".to_owned(),
            warmup_steps: 0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            loraplus_ratio: 1.0,
            shuffle: true,
            eval_every: 0,
            patience: 0,
            checkpoint_every: 0,
            activation_checkpointing: false,
            token_metrics: false,
            seed: 0,
        }
    }
}

/// What a run trains and validates on.
#[derive(Debug, Clone, Default)]
pub struct SftData {
    /// Examples that travel together (a packed row, or one alone).
    pub train: Vec<Vec<Example>>,
    /// Held out.
    pub validation: Vec<Example>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftOutcome {
    /// Optimiser steps taken.
    pub steps: usize,
    /// Loss of every step, in nats a target token.
    pub losses: Vec<f64>,
    /// (step, loss) of every validation.
    pub validations: Vec<(usize, f64)>,
    /// The step whose adapter was kept.
    pub best_step: usize,
    /// Tokens that went through the model in training.
    pub tokens: usize,
    /// Seconds of every step of this process.
    pub step_seconds: Vec<f64>,
    /// Tokens a second over those steps, the first two left out as warm-up.
    pub real_tokens_per_s: f64,
    /// The most memory held.
    pub peak_rss_mib: f64,
    /// In words, where validation has turned.
    pub note: Option<String>,
}

/// Trains `adapter`, which hangs on `decoder`, and leaves the best validated state in it (the last, where there
/// is no validation). `dir` takes `checkpoints/`, `metrics.jsonl` and `loss.svg`; `run_hash` names model, data
/// and settings, so that only this run's own checkpoints are taken up again.
///
/// # Errors
/// Nothing to train on; a loss that is no number; a full disk; [`Interrupted`].
pub fn sft(
    decoder: &Decoder,
    adapter: &Adapter,
    data: &SftData,
    config: &SftConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<SftOutcome> {
    if data.train.is_empty() {
        bail!("there is no example to train on: every row was dropped, or the file is empty");
    }
    let per_epoch = data.train.len() as f64 / config.batch.max(1) as f64;
    let n_steps = n_steps(config.steps, config.epochs, per_epoch);
    let schedule = schedule(&config.schedule, config.warmup_steps, n_steps)?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;

    // The optimiser and where the run stands: fresh, or from this run's newest checkpoint.
    let params = adapter.parameters().into_iter().map(|(name, tensor)| {
        let lr_scale = if name.ends_with("lora_B.weight") { config.loraplus_ratio } else { 1.0 };
        Param { lr_scale, ..Param::new(name, tensor) }
    });
    let adamw = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
    let mut optimizer = AdamW::new(params.collect(), adamw)?;
    let checkpoints = dir.join("checkpoints");
    let mut best = Best::default();
    let mut state = RunState {
        version: CHECKPOINT_VERSION,
        run_hash: run_hash.to_owned(),
        step: 0,
        sampler: Sampler::new(data.train.len(), config.seed, config.shuffle),
        early_stop: EarlyStop::new(config.patience),
        losses: Vec::new(),
        figures: [].into(),
    };
    if let Some(path) = latest_checkpoint(&checkpoints) {
        let found = load_checkpoint(&path, run_hash)?;
        let find = |name: &str| found.tensors.get(name).map(Tensor::shallow_clone);
        optimizer.restore(found.state.step as i64, find)?;
        best.restore(adapter, &find);
        state = found.state;
        eprintln!("{:>12}: going on after step {} ({})", "sft", state.step, path.display());
    }
    let mut log = MetricLog::open(&dir.join("metrics.jsonl"), "sft", state.step)?;
    let mut validations = validations_of(&state);
    let validation = batches(&data.validation.iter().collect::<Vec<_>>(), config.micro_tokens)?;
    let mut progress = Progress::new("sft", n_steps);
    progress.step(state.step, String::new);

    let (mut step_seconds, mut step_tokens) = (Vec::new(), Vec::new());
    let head = HeadOptions { metrics: config.token_metrics, ..HeadOptions::default() };
    loop {
        // Validate: at the start, every so often, and at the end; keep the best adapter at hand.
        let due = state.step == 0
            || state.step == n_steps
            || config.eval_every > 0 && state.step.is_multiple_of(config.eval_every);
        if due && !validation.is_empty() && validations.last().is_none_or(|v| v.0 != state.step) {
            let loss = mean_nll(decoder, adapter, &validation)?;
            validations.push((state.step, loss));
            state.figures.insert(format!("validation.{:06}", state.step), loss);
            log.write("sft", state.step, &[("val_loss", loss)])?;
            progress.say(&format!("step {}: validation loss {loss:.4}", state.step));
            match state.early_stop.see(state.step, loss) {
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

        // One step: gradients of the token mean over all its examples, clipped, then AdamW.
        let started = Instant::now();
        seed_step(config.seed, state.step);
        let groups = state.sampler.take(config.batch.max(1));
        let examples: Vec<&Example> = groups.iter().flat_map(|&g| &data.train[g]).collect();
        let micro_batches = batches(&examples, config.micro_tokens)?;
        let stats = sft_accumulate(decoder, &micro_batches, config.activation_checkpointing, head)?;
        optimizer.gather();
        let grad_norm = clip_grad_norm(&mut optimizer.gradients(), config.max_grad_norm);
        check_loss(state.step + 1, stats.loss + 0.0 * grad_norm, &micro_batches, dir)?;
        let lr = config.lr * schedule.factor(state.step, n_steps);
        optimizer.step(lr);
        state.step += 1;
        state.losses.push(stats.loss);
        step_seconds.push(started.elapsed().as_secs_f64());
        step_tokens.push(stats.n_tokens);
        let num_tokens = state.figures.get("num_tokens").unwrap_or(&0.0) + stats.n_tokens as f64;
        state.figures.insert("num_tokens".to_owned(), num_tokens);

        let rate = stats.n_tokens as f64 / started.elapsed().as_secs_f64();
        log.write(
            "sft",
            state.step,
            &[
                ("loss", stats.loss),
                ("grad_norm", grad_norm),
                ("learning_rate", lr),
                ("epoch", state.sampler.epochs()),
                ("num_tokens", num_tokens),
                ("mean_token_accuracy", stats.mean_token_accuracy),
                ("entropy", stats.entropy),
                ("tokens_per_s", rate),
            ],
        )?;
        progress.step(1, || format!("loss {:.4}  {rate:.0} tokens/s", stats.loss));

        let stop = interrupted();
        if config.checkpoint_every > 0 && (stop || state.step.is_multiple_of(config.checkpoint_every)) {
            save_checkpoint(&checkpoints, &state, &[optimizer.state(), best.tensors()].concat_tensors(), 2)?;
        }
        if stop {
            return Err(Interrupted("the same command with --resume goes on from here".to_owned()).into());
        }
    }

    let best_step = best.put_back(adapter).unwrap_or(state.step);
    let note = state.early_stop.words();
    draw(&dir.join("loss.svg"), &state.losses, &validations, state.early_stop.best())?;
    let warm = if step_seconds.len() > 4 { 2 } else { 0 };
    let seconds: f64 = step_seconds[warm..].iter().sum();
    let tokens: usize = step_tokens[warm..].iter().sum();
    let last = state.losses.last().copied().unwrap_or(f64::NAN);
    progress.finish(&format!("{} steps, loss {last:.4}, best step {best_step}", state.step));
    Ok(SftOutcome {
        steps: state.step,
        losses: state.losses,
        validations,
        best_step,
        tokens: step_tokens.iter().sum(),
        real_tokens_per_s: if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 },
        step_seconds,
        peak_rss_mib: peak_rss_mib(),
        note,
    })
}

/// Examples in order, as many to a batch as `micro_tokens` allows; one that is longer goes alone.
pub(crate) fn batches(examples: &[&Example], micro_tokens: usize) -> Result<Vec<Batch>> {
    let mut out = Vec::new();
    let mut now: Vec<&Example> = Vec::new();
    let mut n_tokens = 0;
    for example in examples {
        if !now.is_empty() && n_tokens + example.n_tokens() > micro_tokens {
            out.push(Batch::from_examples(&now)?);
            now.clear();
            n_tokens = 0;
        }
        n_tokens += example.n_tokens();
        now.push(example);
    }
    if !now.is_empty() {
        out.push(Batch::from_examples(&now)?);
    }
    Ok(out)
}

/// Mean negative log-likelihood a target token, dropout off.
pub(crate) fn mean_nll(decoder: &Decoder, adapter: &Adapter, batches: &[Batch]) -> Result<f64> {
    adapter.set_training(false);
    let (mut nll, mut n) = (0.0, 0);
    for batch in batches {
        let (batch_nll, batch_n) = evaluate_nll(decoder, batch)?;
        nll += batch_nll;
        n += batch_n;
    }
    adapter.set_training(true);
    Ok(nll / n as f64)
}

/// The adapter at its best validation, kept in memory and in every checkpoint.
#[derive(Default)]
pub(crate) struct Best(Option<(usize, Vec<(String, Tensor)>)>);

impl Best {
    pub(crate) fn keep(&mut self, adapter: &Adapter, step: usize) {
        let copy = |(name, tensor): (String, Tensor)| (name, tensor.detach().copy());
        self.0 = Some((step, adapter.parameters().into_iter().map(copy).collect()));
    }

    /// As a checkpoint holds it.
    pub(crate) fn tensors(&self) -> Vec<(String, Tensor)> {
        let Some((step, tensors)) = &self.0 else { return Vec::new() };
        let named = tensors.iter().map(|(name, t)| (format!("best.{name}"), t.shallow_clone()));
        named.chain([("best_step".to_owned(), Tensor::from_slice(&[*step as f32]))]).collect()
    }

    pub(crate) fn restore(&mut self, adapter: &Adapter, find: &impl Fn(&str) -> Option<Tensor>) {
        let Some(step) = find("best_step") else { return };
        let tensors = adapter
            .parameters()
            .into_iter()
            .filter_map(|(name, _)| Some((name.clone(), find(&format!("best.{name}"))?)));
        self.0 = Some((step.double_value(&[0]) as usize, tensors.collect()));
    }

    /// Puts the best state back into the adapter; tells its step.
    pub(crate) fn put_back(self, adapter: &Adapter) -> Option<usize> {
        let (step, tensors) = self.0?;
        let _guard = tch::no_grad_guard();
        for ((_, live), (_, best)) in adapter.parameters().iter().zip(&tensors) {
            live.detach().copy_(best);
        }
        Some(step)
    }
}

/// Joins lists of named tensors, which cannot be cloned.
pub(crate) trait ConcatTensors {
    fn concat_tensors(self) -> Vec<(String, Tensor)>;
}

impl ConcatTensors for [Vec<(String, Tensor)>; 2] {
    fn concat_tensors(self) -> Vec<(String, Tensor)> {
        self.into_iter().flatten().collect()
    }
}

fn validations_of(state: &RunState) -> Vec<(usize, f64)> {
    let steps = state.figures.iter().filter_map(|(name, &loss)| {
        let step = name.strip_prefix("validation.")?.parse().ok()?;
        Some((step, loss))
    });
    steps.collect()
}

fn draw(path: &Path, losses: &[f64], validations: &[(usize, f64)], best: Option<(usize, f64)>) -> Result<()> {
    let mut curves = vec![Curve {
        name: "train".to_owned(),
        points: losses.iter().enumerate().map(|(i, &l)| ((i + 1) as f64, l)).collect(),
    }];
    if !validations.is_empty() {
        let points = validations.iter().map(|&(step, loss)| (step as f64, loss)).collect();
        curves.push(Curve { name: "validation".to_owned(), points });
    }
    Ok(draw_loss(path, "Supervised fine-tuning", &curves, best)?)
}
