//! What the loops of the recipes share: settings, the optimiser and its schedule, checkpoints, the log.
//!
//! The loop stays with the recipe; [`Run`] is what it would repeat word for word.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ferrotune_train::{
    AdamW, AdamWConfig, CHECKPOINT_VERSION, EarlyStop, MetricLog, Param, RunState, Sampler, Schedule, Turn,
    check_loss, clip_grad_norm, latest_checkpoint, load_checkpoint, save_checkpoint,
};
use ferrotune_types::Batch;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::progress::{Interrupted, Progress, interrupted, peak_rss_mib};

/// Settings that these recipes share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Optimiser steps; 0 follows `epochs`.
    pub steps: usize,
    /// Passes over the data, where `steps` is 0.
    pub epochs: f64,
    /// Rows or pairs a step.
    pub batch: usize,
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
    /// What makes a validation the best; the recipe's own choice where it is not set.
    pub best: Option<Best>,
    /// Stop after this many validations without a new best; 0 never.
    pub patience: usize,
    /// Steps between checkpoints; 0 writes none.
    pub checkpoint_every: usize,
    /// Recompute each block in the backward pass instead of keeping its activations.
    pub activation_checkpointing: bool,
    /// Of the batches and their order.
    pub seed: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            steps: 0,
            epochs: 1.0,
            batch: 4,
            lr: 5e-5,
            schedule: "cosine".to_owned(),
            warmup_steps: 0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            optimizer: "adamw".to_owned(),
            shuffle: true,
            eval_every: 0,
            best: None,
            patience: 0,
            checkpoint_every: 0,
            activation_checkpointing: false,
            seed: 0,
        }
    }
}

impl RunConfig {
    /// Refuses settings that no run can mean. A rate of 0 learns nothing, which tests may want; a `max_grad_norm` of 0 does
    /// not clip.
    ///
    /// # Errors
    /// The first one that is out of range.
    pub fn check(&self) -> Result<()> {
        let not_negative =
            [("lr", self.lr), ("weight_decay", self.weight_decay), ("max_grad_norm", self.max_grad_norm)];
        if let Some((name, value)) =
            not_negative.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0))
        {
            bail!("{name} is {value}, not 0 or above");
        }
        if self.batch == 0 {
            bail!("batch is 0: a step takes at least one row");
        }
        if self.steps == 0 && !(self.epochs.is_finite() && self.epochs > 0.0) {
            bail!("epochs is {}, not above 0", self.epochs);
        }
        schedule(&self.schedule, self.warmup_steps, 1)?;
        adamw_config(self)?;
        Ok(())
    }

    /// What gradients are clipped to.
    pub(crate) fn most_norm(&self) -> f64 {
        if self.max_grad_norm == 0.0 { f64::INFINITY } else { self.max_grad_norm }
    }
}

/// What makes a validation the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Best {
    /// The highest held-out accuracy; of equal ones the lowest loss.
    Accuracy,
    /// The lowest held-out loss.
    Loss,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunOutcome {
    /// Optimiser steps taken.
    pub steps: usize,
    /// Loss of every step.
    pub losses: Vec<f64>,
    /// (step, figures by name) of every validation.
    pub validations: Vec<(usize, BTreeMap<String, f64>)>,
    /// The step whose weights were kept.
    pub best_step: usize,
    /// Seconds of every step of this process.
    pub step_seconds: Vec<f64>,
    /// The most memory held.
    pub peak_rss_mib: f64,
    /// In words, where validation has turned, or was never better than before the first step.
    pub note: Option<String>,
}

/// What is said of a run whose best validation is the one before its first step.
const UNTOUCHED: &str = "no validation was better than the one before the first step, so the weights kept are those of \
                         the start and an adapter adds nothing: try a lower learning rate";

/// What a single step's figures begin with among the state's; all others are a validation's.
const STEP: &str = "step/";

/// Where a run stands.
pub(crate) struct Run {
    name: &'static str,
    config: RunConfig,
    n_steps: usize,
    schedule: Schedule,
    optimizer: AdamW,
    state: RunState,
    /// The trained tensors at the best validation.
    best: Option<(usize, Vec<Tensor>)>,
    dir: PathBuf,
    log: MetricLog,
    progress: Progress,
    validations: Vec<(usize, BTreeMap<String, f64>)>,
    started: Instant,
    step_seconds: Vec<f64>,
}

impl Run {
    /// Over `n_batches` fixed batches; goes on from this run's newest checkpoint in `dir`, where there is one.
    pub(crate) fn start(
        name: &'static str,
        params: Vec<Param>,
        config: &RunConfig,
        n_batches: usize,
        dir: &Path,
        run_hash: &str,
    ) -> Result<Self> {
        Run::over(name, params, config, (n_batches, 1), dir, run_hash)
    }

    /// As [`Self::start`], over `n` rows of which a step takes `per_step`.
    pub(crate) fn over(
        name: &'static str,
        params: Vec<Param>,
        config: &RunConfig,
        (n, per_step): (usize, usize),
        dir: &Path,
        run_hash: &str,
    ) -> Result<Self> {
        config.check()?;
        let per_step = per_step.min(n).max(1);
        let n_steps = n_steps(config.steps, config.epochs, n as f64 / per_step as f64);
        let schedule = schedule(&config.schedule, config.warmup_steps, n_steps)?;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut optimizer = AdamW::new(params, adamw_config(config)?)?;
        let mut state = RunState {
            version: CHECKPOINT_VERSION,
            run_hash: run_hash.to_owned(),
            step: 0,
            sampler: Sampler::new(n, config.seed, config.shuffle),
            early_stop: EarlyStop::new(config.patience),
            losses: Vec::new(),
            figures: BTreeMap::new(),
        };
        let mut best = None;
        if let Some(path) = latest_checkpoint(&dir.join("checkpoints")) {
            let found = load_checkpoint(&path, run_hash)?;
            let find = |key: &str| found.tensors.get(key).map(Tensor::shallow_clone);
            optimizer.restore(found.state.step as i64, find)?;
            let kept: Option<Vec<Tensor>> =
                optimizer.params().iter().map(|p| find(&format!("best.{}", p.name))).collect();
            best = find("best_step").map(|t| t.double_value(&[0]) as usize).zip(kept);
            state = found.state;
            eprintln!("{name:>12}: going on after step {} ({})", state.step, path.display());
        }
        let log = MetricLog::open(&dir.join("metrics.jsonl"), name, state.step)?;
        let mut progress = Progress::new(name, n_steps);
        progress.step(state.step, String::new);
        Ok(Run {
            name,
            config: config.clone(),
            n_steps,
            schedule,
            optimizer,
            validations: validations_of(&state),
            state,
            best,
            dir: dir.to_owned(),
            log,
            progress,
            started: Instant::now(),
            step_seconds: Vec::new(),
        })
    }

    /// Says a line beside the progress bar.
    pub(crate) fn say(&self, line: &str) {
        self.progress.say(line);
    }

    /// Whether a validation is due now: at the start, every so often, and at the end.
    pub(crate) fn validates(&self) -> bool {
        let step = self.state.step;
        self.due(step) && self.validations.last().is_none_or(|v| v.0 != step)
    }

    fn due(&self, step: usize) -> bool {
        let every = self.config.eval_every;
        step == 0 || step == self.n_steps || every > 0 && step.is_multiple_of(every)
    }

    /// Takes a validation's figures, `eval_loss` among them, which the best step has lowest. False where the run is to
    /// stop early.
    pub(crate) fn validated(&mut self, figures: &[(&str, f64)]) -> Result<bool> {
        if self.config.best == Some(Best::Accuracy) {
            bail!("best is \"accuracy\", of which {} measures none: leave it out", self.name);
        }
        self.validated_by(eval_loss(figures), figures)
    }

    /// As [`Self::validated`], where an `accuracy` is measured too; `best` decides where the settings do not. Accuracies come
    /// in steps of one row; the loss, squeezed below the smallest, decides between equals.
    pub(crate) fn validated_with(
        &mut self,
        accuracy: f64,
        best: Best,
        figures: &[(&str, f64)],
    ) -> Result<bool> {
        let loss = eval_loss(figures);
        match self.config.best.unwrap_or(best) {
            Best::Accuracy => self.validated_by(-accuracy + 1e-6 * loss.atan(), figures),
            Best::Loss => self.validated_by(loss, figures),
        }
    }

    /// By a figure of which less is better.
    fn validated_by(&mut self, score: f64, figures: &[(&str, f64)]) -> Result<bool> {
        let step = self.state.step;
        self.log.write(self.name, step, figures)?;
        let shown: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.progress.say(&format!("step {step}: {}", shown.join(", ")));
        for (name, value) in figures {
            self.state.figures.insert(format!("{name}.{step:06}"), *value);
        }
        self.validations.push((step, figures.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()));
        match self.state.early_stop.see(step, score) {
            Turn::Best => {
                let copies = self.optimizer.params().iter().map(|p| p.tensor.detach().copy()).collect();
                self.best = Some((step, copies));
                Ok(true)
            }
            Turn::Worse => Ok(true),
            Turn::Stop => {
                self.progress.say(&format!("stopping early at step {step}"));
                Ok(false)
            }
        }
    }

    /// Optimiser steps taken.
    pub(crate) fn step(&self) -> usize {
        self.state.step
    }

    /// Optimiser steps still to take.
    pub(crate) fn steps_left(&self) -> usize {
        self.n_steps.saturating_sub(self.state.step)
    }

    /// Validations still to come, if none stops the run.
    pub(crate) fn validations_left(&self) -> usize {
        (self.state.step..=self.n_steps).filter(|&step| self.due(step)).count()
    }

    /// Where in the data the run stands: what it will take, without taking it.
    pub(crate) fn sampler(&self) -> Sampler {
        self.state.sampler.clone()
    }

    /// A seed for this step's noise.
    pub(crate) fn noise_seed(&self) -> u64 {
        step_seed(self.config.seed, self.state.step)
    }

    /// Bytes of gradients, of the optimiser's states, and of the best weights where validations keep them.
    pub(crate) fn state_bytes(&self, validates: bool) -> usize {
        let params: usize = self
            .optimizer
            .params()
            .iter()
            .map(|p| p.tensor.numel() * p.tensor.kind().elt_size_in_bytes())
            .sum();
        self.optimizer.n_bytes() + params * (1 + usize::from(validates))
    }

    /// Clears gradients that no step is to use.
    pub(crate) fn forget_gradients(&self) {
        self.optimizer.params().iter().for_each(|p| p.tensor.shallow_clone().zero_grad());
    }

    /// How long clipping and an update take, from those of a part of the numbers that are trained.
    pub(crate) fn time_update(&self) -> Result<Duration> {
        let Some(first) = self.optimizer.params().first() else { return Ok(Duration::ZERO) };
        let n: usize = self.optimizer.params().iter().map(|p| p.tensor.numel()).sum();
        let part = n.min(1 << 22);
        let like = (first.tensor.kind(), first.tensor.device());
        let scratch = Tensor::ones([part as i64], like).set_requires_grad(true);
        // Gradients that differ, as real ones do: states in 8 bits take longer for them than for equal ones.
        let uneven = Tensor::arange(part as i64, (Kind::Float, like.1)).sin().to_kind(like.0);
        let mut optimizer =
            AdamW::new(vec![Param::new("scratch", scratch.shallow_clone())], adamw_config(&self.config)?)?;
        let mut best = Duration::MAX;
        for _ in 0..2 {
            (&scratch * &uneven).sum(scratch.kind()).backward();
            let started = Instant::now();
            optimizer.gather();
            clip_grad_norm(&mut optimizer.gradients(), 1.0);
            optimizer.step(1e-4);
            best = best.min(started.elapsed());
        }
        Ok(best.mul_f64(n as f64 / part.max(1) as f64))
    }

    /// The next step's batch; `None` when the run is done.
    pub(crate) fn next_batch(&mut self) -> Option<usize> {
        self.next_batches(1)?.pop()
    }

    /// The next step's batches, `n` of them; `None` when the run is done.
    pub(crate) fn next_batches(&mut self, n: usize) -> Option<Vec<usize>> {
        if self.state.step >= self.n_steps {
            return None;
        }
        self.started = Instant::now();
        seed_step(self.config.seed, self.state.step);
        Some(self.state.sampler.take(n))
    }

    /// Takes in a micro-batch's gradients; call it between the batches of a step.
    pub(crate) fn gather(&mut self) {
        self.optimizer.gather();
    }

    /// Keeps a figure of the step that comes next, for [`Self::series`].
    pub(crate) fn keep(&mut self, name: &str, value: f64) {
        self.state.figures.insert(format!("{STEP}{name}.{:06}", self.state.step + 1), value);
    }

    /// Adds to a count over all steps, those before a resumption too; gives it.
    pub(crate) fn count(&mut self, name: &str, more: usize) -> f64 {
        let prefix = format!("{STEP}{name}.");
        // A slash is what comes after the dot.
        let before = self.state.figures.range(prefix..format!("{STEP}{name}/")).next_back();
        let total = before.map_or(0.0, |f| *f.1) + more as f64;
        self.keep(name, total);
        total
    }

    /// What [`Self::keep`] kept, step by step, those before a resumption too.
    pub(crate) fn series(&self, name: &str) -> Vec<f64> {
        let prefix = format!("{STEP}{name}.");
        self.state
            .figures
            .range(prefix.clone()..)
            .take_while(|f| f.0.starts_with(&prefix))
            .map(|f| *f.1)
            .collect()
    }

    /// Ends a step whose gradients lie in `.grad`: checks the loss, clips, updates, logs, saves.
    pub(crate) fn update(&mut self, loss: f64, batch: &Batch, figures: &[(&str, f64)]) -> Result<()> {
        self.update_over(loss, &[batch], figures)
    }

    /// As [`Self::update`], after several batches.
    pub(crate) fn update_over(
        &mut self,
        loss: f64,
        batches: &[&Batch],
        figures: &[(&str, f64)],
    ) -> Result<()> {
        self.optimizer.gather();
        let grad_norm = clip_grad_norm(&mut self.optimizer.gradients(), self.config.most_norm());
        let first = self.state.losses.first().copied();
        check_loss(self.state.step + 1, loss + 0.0 * grad_norm, first, batches, &self.dir)?;
        let lr = self.config.lr * self.schedule.factor(self.state.step, self.n_steps);
        self.optimizer.step(lr);
        self.state.step += 1;
        self.state.losses.push(loss);
        let seconds = self.started.elapsed().as_secs_f64();
        self.step_seconds.push(seconds);
        let rate = batches.iter().map(|b| b.n_tokens()).sum::<usize>() as f64 / seconds;
        let common = [
            ("loss", loss),
            ("grad_norm", grad_norm),
            ("learning_rate", lr),
            ("epoch", self.state.sampler.epochs()),
            ("tokens_per_s", rate),
        ];
        self.log.write(self.name, self.state.step, &[&common[..], figures].concat())?;
        self.progress.step(1, || format!("loss {loss:.4}  {rate:.0} tokens/s"));

        let stop = interrupted();
        let every = self.config.checkpoint_every;
        if every > 0 && (stop || self.state.step.is_multiple_of(every)) {
            let mut tensors = self.optimizer.state();
            if let Some((step, best)) = &self.best {
                tensors.push(("best_step".to_owned(), Tensor::from_slice(&[*step as f32])));
                let named = self.optimizer.params().iter().zip(best);
                tensors.extend(named.map(|(p, t)| (format!("best.{}", p.name), t.shallow_clone())));
            }
            save_checkpoint(&self.dir.join("checkpoints"), &self.state, &tensors, 2)?;
        }
        if stop {
            let words = match every {
                0 => "nothing was kept: checkpoint_every is 0",
                _ => "the same command with --resume goes on from here",
            };
            return Err(Interrupted(words.to_owned()).into());
        }
        Ok(())
    }

    /// Puts the best validated weights back and says what the run did.
    pub(crate) fn finish(self) -> RunOutcome {
        let mut best_step = self.state.step;
        if let Some((step, best)) = self.best {
            best_step = step;
            let _guard = tch::no_grad_guard();
            for (param, best) in self.optimizer.params().iter().zip(&best) {
                param.tensor.detach().copy_(best);
            }
        }
        let untouched = (best_step == 0 && self.state.step > 0).then(|| UNTOUCHED.to_owned());
        let note = untouched.or_else(|| self.state.early_stop.words());
        if let Some(note) = &note {
            self.progress.say(note);
        }
        let last = self.state.losses.last().copied().unwrap_or(f64::NAN);
        self.progress.finish(&format!("{} steps, loss {last:.4}, best step {best_step}", self.state.step));
        RunOutcome {
            steps: self.state.step,
            losses: self.state.losses,
            validations: self.validations,
            best_step,
            step_seconds: self.step_seconds,
            peak_rss_mib: peak_rss_mib(),
            note,
        }
    }
}

fn eval_loss(figures: &[(&str, f64)]) -> f64 {
    figures.iter().find(|f| f.0 == "eval_loss").map_or(f64::NAN, |f| f.1)
}

/// Optimiser steps: those asked for, or with 0 as many as `epochs` passes of `per_epoch` steps take.
pub(crate) fn n_steps(asked: usize, epochs: f64, per_epoch: f64) -> usize {
    if asked == 0 { (epochs * per_epoch).ceil().max(1.0) as usize } else { asked }
}

/// The optimiser that a run asks for.
pub(crate) fn adamw_config(config: &RunConfig) -> Result<AdamWConfig> {
    let eight_bit = match config.optimizer.as_str() {
        "adamw" => false,
        "adamw8bit" => true,
        other => bail!("unknown optimizer {other:?}; known: adamw, adamw8bit"),
    };
    Ok(AdamWConfig { weight_decay: config.weight_decay, eight_bit, ..AdamWConfig::default() })
}

/// The schedule of that name.
pub(crate) fn schedule(name: &str, warmup_steps: usize, n_steps: usize) -> Result<Schedule> {
    Schedule::from_name(name, warmup_steps, n_steps)
        .with_context(|| format!("unknown schedule {name:?}; known: constant, linear, cosine, wsd"))
}

/// Seeds libtorch's generator, from which dropout draws, by the step, so that a resumed run draws the same.
pub(crate) fn seed_step(seed: u64, step: usize) {
    tch::manual_seed(step_seed(seed, step) as i64);
}

/// A seed of a step's own.
pub(crate) fn step_seed(seed: u64, step: usize) -> u64 {
    seed.wrapping_mul(1_000_003).wrapping_add(step as u64)
}

/// Rows in fixed batches of `batch`, shuffled once where a seed is given.
pub(crate) fn fixed_batches<T, B>(
    rows: &[T],
    batch: usize,
    seed: Option<u64>,
    make: impl FnMut(&[&T]) -> Result<B>,
) -> Result<Vec<B>> {
    let mut order: Vec<&T> = rows.iter().collect();
    if let Some(seed) = seed {
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    }
    order.chunks(batch.max(1)).map(make).collect()
}

fn validations_of(state: &RunState) -> Vec<(usize, BTreeMap<String, f64>)> {
    let mut by_step: BTreeMap<usize, BTreeMap<String, f64>> = BTreeMap::new();
    for (name, value) in state.figures.iter().filter(|(name, _)| !name.starts_with(STEP)) {
        if let Some((name, step)) = name.rsplit_once('.')
            && let Ok(step) = step.parse()
        {
            by_step.entry(step).or_default().insert(name.to_owned(), *value);
        }
    }
    by_step.into_iter().collect()
}
