//! Supervised fine-tuning, top to bottom: the loop over batches of examples that trains an adapter, or the model itself.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use ferrotune_model::Decoder;
use ferrotune_peft::Neftune;
use ferrotune_train::{
    Curve, Estimate, HeadOptions, HeldMemory, draw_loss, evaluate_nll, sft_accumulate_from,
};
use ferrotune_types::{Batch, Example};
use serde::{Deserialize, Serialize};

use super::forecast::forecast;
use super::run::{Run, RunConfig, RunOutcome};
use super::trained::Trained;

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
    /// `adamw`, or `adamw8bit`, whose moments take 2 bytes a number instead of 8.
    pub optimizer: String,
    /// B, biases and DoRA's magnitudes train at this multiple of the learning rate (LoRA+, arXiv 2402.12354, as PEFT does
    /// it); 1 is plain LoRA.
    pub loraplus_ratio: f64,
    /// Noise on the token embeddings in training (NEFTune, arXiv 2310.05914); 5 is usual, 0 is none.
    pub neftune_alpha: f64,
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
            optimizer: "adamw".to_owned(),
            loraplus_ratio: 1.0,
            neftune_alpha: 0.0,
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

impl SftConfig {
    /// Refuses settings that no run can mean.
    ///
    /// # Errors
    /// The first one that is out of range.
    pub fn check(&self) -> Result<()> {
        self.run().check()?;
        let ratio = self.loraplus_ratio;
        if !(ratio.is_finite() && ratio > 0.0) {
            bail!("loraplus_ratio is {ratio}, not above 0");
        }
        let alpha = self.neftune_alpha;
        if !(alpha.is_finite() && alpha >= 0.0) {
            bail!("neftune_alpha is {alpha}, not 0 or above");
        }
        Ok(())
    }

    /// What it shares with the other recipes.
    pub(crate) fn run(&self) -> RunConfig {
        RunConfig {
            steps: self.steps,
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
            best: None,
            patience: self.patience,
            checkpoint_every: self.checkpoint_every,
            activation_checkpointing: self.activation_checkpointing,
            seed: self.seed,
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
    /// The step whose weights were kept.
    pub best_step: usize,
    /// Tokens that went through the model in training.
    pub tokens: usize,
    /// Seconds of every step of this process.
    pub step_seconds: Vec<f64>,
    /// Tokens a second over those steps, the first two left out as warm-up.
    pub real_tokens_per_s: f64,
    /// The most memory held.
    pub peak_rss_mib: f64,
    /// What was expected before the first step.
    pub estimate: Option<Estimate>,
    /// Seconds from there to the end.
    pub seconds: f64,
    /// In words, where validation has turned.
    pub note: Option<String>,
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, and leaves the best validated state in it
/// (the last, where there is no validation). `dir` takes `checkpoints/`, `metrics.jsonl` and `loss.svg`; `run_hash`
/// names model, data and settings, so that only this run's own checkpoints are taken up again.
///
/// # Errors
/// Nothing to train on; a loss that is no number; a full disk; [`crate::progress::Interrupted`].
pub fn sft<'a>(
    decoder: &Decoder,
    trained: impl Into<Trained<'a>>,
    data: &SftData,
    config: &SftConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<SftOutcome> {
    if data.train.is_empty() {
        bail!("there is no example to train on: every row was dropped, or the file is empty");
    }
    let mut every = data.train.iter().flatten().chain(&data.validation);
    if let Some(mute) = every.find(|example| !example.loss_mask().contains(&true)) {
        bail!("the example {:?} has no token to train on", mute.id());
    }
    config.check()?;
    let trained = trained.into();
    let held = HeldMemory::now();
    let groups = config.batch.max(1);
    let params = trained.params(config.loraplus_ratio);
    let mut run = Run::over("sft", params, &config.run(), (data.train.len(), groups), dir, run_hash)?;
    let validation = batches(&data.validation.iter().collect::<Vec<_>>(), config.micro_tokens)?;
    trained.set_training(true);
    let estimate = forecast(decoder, &run, data, &validation, config, held)?;
    run.say(&estimate.words());

    let started = Instant::now();
    let head = HeadOptions { metrics: config.token_metrics, ..HeadOptions::TRAIN };
    let mut step_tokens = Vec::new();
    let mut num_tokens = run.series("num_tokens").last().copied().unwrap_or(0.0);
    loop {
        if run.validates() && !validation.is_empty() {
            trained.set_training(false);
            let loss = mean_nll(decoder, &validation)?;
            trained.set_training(true);
            if !run.validated(&[("eval_loss", loss)])? {
                break;
            }
        }

        // One step: gradients of the token mean over all its examples, clipped, then AdamW.
        let Some(groups) = run.next_batches(groups) else { break };
        let examples: Vec<&Example> = groups.iter().flat_map(|&g| &data.train[g]).collect();
        let micro_batches = batches(&examples, config.micro_tokens)?;
        let noise = Neftune::new(config.neftune_alpha, run.noise_seed());
        let stats = sft_accumulate_from(
            decoder,
            &micro_batches,
            config.activation_checkpointing,
            head,
            &|batch, x| noise.add(x, batch),
        )?;
        step_tokens.push(stats.n_tokens);
        num_tokens += stats.n_tokens as f64;
        run.keep("num_tokens", num_tokens);
        let figures = [
            ("num_tokens", num_tokens),
            ("mean_token_accuracy", stats.mean_token_accuracy),
            ("entropy", stats.entropy),
        ];
        run.update_over(stats.loss, &micro_batches.iter().collect::<Vec<_>>(), &figures)?;
    }
    trained.set_training(false);

    let RunOutcome { steps, losses, validations, best_step, step_seconds, peak_rss_mib, note } = run.finish();
    let validations: Vec<(usize, f64)> =
        validations.iter().filter_map(|(step, figures)| Some((*step, *figures.get("eval_loss")?))).collect();
    draw(&dir.join("loss.svg"), &losses, &validations, best_step)?;
    let warm = if step_seconds.len() > 4 { 2 } else { 0 };
    let timed: f64 = step_seconds[warm..].iter().sum();
    let tokens: usize = step_tokens[warm..].iter().sum();
    Ok(SftOutcome {
        steps,
        losses,
        validations,
        best_step,
        tokens: step_tokens.iter().sum(),
        real_tokens_per_s: if timed > 0.0 { tokens as f64 / timed } else { 0.0 },
        step_seconds,
        peak_rss_mib,
        estimate: Some(estimate),
        seconds: started.elapsed().as_secs_f64(),
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

/// Mean negative log-likelihood a target token.
fn mean_nll(decoder: &Decoder, batches: &[Batch]) -> Result<f64> {
    let (mut nll, mut n) = (0.0, 0);
    for batch in batches {
        let (batch_nll, batch_n) = evaluate_nll(decoder, batch)?;
        nll += batch_nll;
        n += batch_n;
    }
    Ok(nll / n as f64)
}

fn draw(path: &Path, losses: &[f64], validations: &[(usize, f64)], best_step: usize) -> Result<()> {
    let mut curves = vec![Curve {
        name: "train".to_owned(),
        points: losses.iter().enumerate().map(|(i, &l)| ((i + 1) as f64, l)).collect(),
    }];
    if !validations.is_empty() {
        let points = validations.iter().map(|&(step, loss)| (step as f64, loss)).collect();
        curves.push(Curve { name: "validation".to_owned(), points });
    }
    let best = validations.iter().copied().find(|(step, _)| *step == best_step);
    Ok(draw_loss(path, "Supervised fine-tuning", &curves, best)?)
}
