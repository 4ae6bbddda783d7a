//! Which learning rate to begin with: a short run whose rate rises step by step until the loss explodes.

use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_model::Decoder;
use ferrotune_peft::Neftune;
use ferrotune_train::{
    AdamW, HeadOptions, LrPoint, LrSweep, Sampler, clip_grad_norm, draw_lr_sweep, sft_accumulate_from,
};
use ferrotune_types::Example;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::run::{adamw_config, seed_step, step_seed};
use super::sft::{SftConfig, SftData, batches};
use super::trained::Trained;
use crate::progress::{Interrupted, Progress, interrupted};

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LrFound {
    /// Where the loss falls steepest; `None` where it never falls.
    pub suggestion: Option<f64>,
    /// Every step.
    pub points: Vec<LrPoint>,
}

impl LrFound {
    /// In words.
    pub fn words(&self) -> String {
        match self.suggestion {
            Some(lr) => format!("suggested learning rate: {lr:.1e} (the loss falls steepest there)"),
            None => "the loss never fell: no learning rate is suggested".to_owned(),
        }
    }
}

/// Sweeps from `low` to `high` in at most `n_steps` steps and puts everything trained back as it was, bit by bit.
/// `dir` takes `lr_find.svg`.
///
/// # Errors
/// Nothing to train on; a range that is none; [`Interrupted`].
pub fn find_lr<'a>(
    decoder: &Decoder,
    trained: impl Into<Trained<'a>>,
    data: &SftData,
    config: &SftConfig,
    (low, high, n_steps): (f64, f64, usize),
    dir: &Path,
) -> Result<LrFound> {
    if data.train.is_empty() {
        bail!("there is no example to train on: every row was dropped, or the file is empty");
    }
    let trained = trained.into();
    let mut sweep = LrSweep::new(low, high, n_steps)?;
    let params = trained.params(config.loraplus_ratio);
    let before: Vec<(Tensor, Tensor)> =
        params.iter().map(|p| (p.tensor.detach(), p.tensor.detach().copy())).collect();
    let mut optimizer = AdamW::new(params, adamw_config(&config.run())?)?;
    let mut sampler = Sampler::new(data.train.len(), config.seed, config.shuffle);
    let mut progress = Progress::new("find-lr", n_steps);
    trained.set_training(true);
    while let Some(lr) = sweep.next_lr() {
        let step = sweep.points().len();
        seed_step(config.seed, step);
        let groups = sampler.take(config.batch.max(1));
        let examples: Vec<&Example> = groups.iter().flat_map(|&g| &data.train[g]).collect();
        let micro_batches = batches(&examples, config.micro_tokens)?;
        let checkpointing = config.activation_checkpointing;
        let noise = Neftune::new(config.neftune_alpha, step_seed(config.seed, step));
        let head = HeadOptions::default();
        let stats = sft_accumulate_from(decoder, &micro_batches, checkpointing, head, &|batch, x| {
            noise.add(x, batch)
        })?;
        optimizer.gather();
        clip_grad_norm(&mut optimizer.gradients(), config.run().most_norm());
        sweep.see(stats.loss);
        if sweep.points().len() == step || interrupted() {
            break; // the loss is no number any more, or the user has seen enough
        }
        optimizer.step(lr);
        progress.step(1, || format!("lr {lr:.1e}  loss {:.4}", stats.loss));
    }
    trained.set_training(false);
    for param in optimizer.params() {
        param.tensor.shallow_clone().zero_grad();
    }
    tch::no_grad(|| before.into_iter().for_each(|(mut live, value)| live.copy_(&value)));
    if interrupted() {
        return Err(Interrupted("the sweep left nothing behind".to_owned()).into());
    }
    let found = LrFound { suggestion: sweep.suggestion(), points: sweep.points().to_vec() };
    std::fs::create_dir_all(dir)?;
    draw_lr_sweep(&dir.join("lr_find.svg"), &found.points, found.suggestion)?;
    progress.finish(&found.words());
    Ok(found)
}
