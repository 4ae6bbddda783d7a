//! How surprised a model is: by held-out answers, or by a text in windows.

use std::time::Instant;

use anyhow::{Result, bail};
use ferrotune_model::{Decoder, ModelError};
use ferrotune_train::evaluate_nll;
use ferrotune_types::{Batch, Example, Segment};
use serde::{Deserialize, Serialize};

use super::sft::batches;
use crate::progress::{Progress, peak_rss_mib};

/// A measured perplexity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PerplexityOutcome {
    /// exp of the mean negative log-likelihood a token.
    pub perplexity: f64,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Tokens a second.
    pub tokens_per_s: f64,
    /// The most memory held.
    pub peak_rss_mib: f64,
}

/// On the trained tokens of held-out examples.
///
/// # Errors
/// No examples.
pub fn held_out_perplexity(
    decoder: &Decoder,
    examples: &[Example],
    micro_tokens: usize,
) -> Result<PerplexityOutcome> {
    let batches = batches(&examples.iter().collect::<Vec<_>>(), micro_tokens)?;
    over(decoder, &batches, "perplexity")
}

/// On a text's ids in windows of `window` tokens without overlap, as `exp` of the mean over all predicted
/// tokens: each window's first token is predicted by nothing. Only the first `max_tokens` ids count.
///
/// # Errors
/// A text of fewer than two tokens.
pub fn text_perplexity(
    decoder: &Decoder,
    ids: &[u32],
    window: usize,
    max_tokens: Option<usize>,
) -> Result<PerplexityOutcome> {
    if window < 2 {
        bail!("the window is {window}; it must hold at least 2 tokens");
    }
    let ids = &ids[..ids.len().min(max_tokens.unwrap_or(usize::MAX))];
    let windows = ids.chunks(window).filter(|w| w.len() > 1);
    let batches: Result<Vec<Batch>> = windows
        .map(|w| {
            let mask = (0..w.len()).map(|t| t > 0).collect();
            let segment = Segment { range: 0..w.len(), prefix: None };
            Ok(Batch::new(w.iter().map(|&id| i64::from(id)).collect(), mask, vec![segment])?)
        })
        .collect();
    over(decoder, &batches?, "perplexity")
}

fn over(decoder: &Decoder, batches: &[Batch], name: &str) -> Result<PerplexityOutcome> {
    if batches.is_empty() {
        bail!("there is no token to measure perplexity on");
    }
    let mut progress = Progress::new(name, batches.iter().map(Batch::n_tokens).sum());
    let started = Instant::now();
    let (mut nll, mut tokens) = (0.0, 0);
    for batch in batches {
        let (batch_nll, n) = evaluate_nll(decoder, batch)?;
        nll += batch_nll;
        tokens += n;
        progress.step(batch.n_tokens(), || format!("{:.3} so far", (nll / tokens as f64).exp()));
    }
    let seconds = started.elapsed().as_secs_f64();
    if nll.is_nan() {
        bail!(ModelError::NotANumber);
    }
    let perplexity = (nll / tokens as f64).exp();
    progress.finish(&format!("{perplexity:.4} over {tokens} tokens"));
    Ok(PerplexityOutcome {
        perplexity,
        tokens,
        tokens_per_s: tokens as f64 / seconds,
        peak_rss_mib: peak_rss_mib(),
    })
}
