//! Masked language modelling, top to bottom: an encoder reads documents of your own with some of their words hidden,
//! and learns to guess them.

use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_model::Encoder;
use ferrotune_tokenizer::Tokenizer;
use ferrotune_train::{MaskedBatch, Masking, Param, mask_tokens, mlm_accumulate, mlm_nll};
use ferrotune_types::Example;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::run::{Run, RunConfig, RunOutcome};
use super::sft::batches;

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlmConfig {
    /// What it shares with the other recipes; `batch` counts texts.
    pub run: RunConfig,
    /// How words are hidden.
    pub masking: Masking,
    /// Tokens that go through the model at once; a step of more is split, with the same gradient.
    pub micro_tokens: usize,
}

impl Default for MlmConfig {
    fn default() -> Self {
        let run = RunConfig { batch: 16, ..RunConfig::default() };
        MlmConfig { run, masking: Masking::default(), micro_tokens: 4096 }
    }
}

/// Trains `params` (from [`ferrotune_train::unfreeze`]), tensors of `encoder`, which has a masked-LM head, and leaves
/// the best validated state in them. Every epoch hides other words; the held-out texts' are hidden once.
///
/// # Errors
/// No texts; a tokenizer without a mask token; a loss that is no number; a full disk;
/// [`crate::progress::Interrupted`].
pub fn mlm(
    encoder: &Encoder,
    params: Vec<Param>,
    tokenizer: &Tokenizer,
    [train, validation]: [&[Example]; 2],
    config: &MlmConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<RunOutcome> {
    if train.is_empty() {
        bail!("there is no text to train on");
    }
    let Some(mask_id) = ["[MASK]", "<mask>"].iter().find_map(|token| tokenizer.token_to_id(token)) else {
        bail!("the tokenizer has no mask token ([MASK] or <mask>): it belongs to no masked language model");
    };
    let vocabulary = encoder.config.vocab_size.min(tokenizer.vocab_size());
    let hide = |examples: &[&Example], stream: u64| -> Result<Vec<MaskedBatch>> {
        let mut rng = ChaCha8Rng::seed_from_u64(config.run.seed);
        rng.set_stream(stream);
        let fixed = |id: i64| tokenizer.is_control(id as u32);
        let masked = batches(examples, config.micro_tokens)?.into_iter().map(|batch| {
            mask_tokens(&batch, fixed, i64::from(mask_id), vocabulary, &config.masking, &mut rng)
        });
        Ok(masked.collect::<Result<_, _>>()?)
    };
    // Stream 0 is the held-out texts'; each step has its own.
    let held = hide(&validation.iter().collect::<Vec<_>>(), 0)?;
    let n_held: usize = held.iter().map(|b| b.places.len()).sum();
    let per_step = config.run.batch.max(1);
    let mut run = Run::over("mlm", params, &config.run, (train.len(), per_step), dir, run_hash)?;

    loop {
        if run.validates() && !held.is_empty() {
            let nll = held.iter().map(|batch| mlm_nll(encoder, batch)).sum::<Result<f64, _>>()?;
            let loss = nll / n_held as f64;
            if !run.validated(&[("eval_loss", loss), ("eval_perplexity", loss.exp())])? {
                break;
            }
        }
        let stream = run.step() as u64 + 1;
        let Some(texts) = run.next_batches(per_step) else { break };
        let masked = hide(&texts.iter().map(|&i| &train[i]).collect::<Vec<_>>(), stream)?;
        let loss = mlm_accumulate(encoder, &masked)?;
        let batches: Vec<_> = masked.iter().map(|b| &b.batch).collect();
        run.update_over(loss, &batches, &[])?;
    }
    Ok(run.finish())
}

/// Documents as texts of at most `window` tokens, each between the tokens that the tokenizer puts around one (`[CLS]`
/// and `[SEP]`); a longer document becomes several.
///
/// # Errors
/// A window that holds no word; a text that cannot be tokenised.
pub fn text_windows(documents: &[String], tokenizer: &Tokenizer, window: usize) -> Result<Vec<Example>> {
    let (before, after) = tokenizer.around();
    let n_around = before.len() + after.len();
    if window <= n_around {
        bail!("the window is {window}; it must hold more than the {n_around} tokens around a text");
    }
    let mut out = Vec::new();
    for (d, document) in documents.iter().enumerate() {
        let ids = tokenizer.encode(document, false)?;
        for (w, words) in ids.chunks(window - n_around).enumerate() {
            let ids = [before, words, after].concat();
            let mask = vec![false; ids.len()];
            out.push(Example::new(format!("{d}-{w}"), ids, mask)?);
        }
    }
    Ok(out)
}
