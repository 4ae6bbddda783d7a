use ferrotune_types::{Batch, Segment};

use super::score::target_logprobs;
use crate::{Decoder, ModelError};

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Sum of −ln p over the predicted tokens.
    pub nll: f64,
    /// How many were predicted.
    pub n_tokens: usize,
}

impl Perplexity {
    /// exp(nll / tokens).
    pub fn value(&self) -> f64 {
        (self.nll / self.n_tokens.max(1) as f64).exp()
    }
}

/// Perplexity over windows of `window` tokens that do not overlap; the first token of each is not predicted. This
/// is what transformers gives for windows fed with themselves as labels.
///
/// # Errors
/// [`ModelError::Input`] where `window` is under 2 or beyond the context, or an id beyond the vocabulary.
pub fn perplexity(decoder: &Decoder, ids: &[u32], window: usize) -> Result<Perplexity, ModelError> {
    if window < 2 {
        return Err(ModelError::Input(format!("a window of {window} predicts nothing")));
    }
    let mut out = Perplexity { nll: 0.0, n_tokens: 0 };
    for chunk in ids.chunks(window).filter(|chunk| chunk.len() > 1) {
        for logprob in logprobs(decoder, chunk)? {
            out.nll -= f64::from(logprob);
            out.n_tokens += 1;
        }
    }
    Ok(out)
}

/// ln p of every token of a text, each predicted once: windows of `window` tokens, of which the first is the last
/// of the window before it, or `first` (a beginning-of-text token). This is what lm-eval's rolling
/// log-likelihood does.
///
/// # Errors
/// As [`perplexity`].
pub fn rolling_loglikelihood(
    decoder: &Decoder,
    first: u32,
    ids: &[u32],
    window: usize,
) -> Result<Vec<f32>, ModelError> {
    if window < 2 {
        return Err(ModelError::Input(format!("a window of {window} predicts nothing")));
    }
    let (mut out, mut last) = (Vec::with_capacity(ids.len()), first);
    for chunk in ids.chunks(window - 1) {
        let mut with_last = vec![last];
        with_last.extend_from_slice(chunk);
        out.extend(logprobs(decoder, &with_last)?);
        last = chunk.last().copied().unwrap_or(last);
    }
    Ok(out)
}

/// ln p of all tokens but the first.
fn logprobs(decoder: &Decoder, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
    let mut mask = vec![true; ids.len()];
    mask[0] = false;
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let segments = vec![Segment { range: 0..ids.len(), prefix: None }];
    let batch = Batch::new(ids, mask, segments).map_err(|e| ModelError::Input(e.to_string()))?;
    tch::no_grad(|| {
        let hidden = decoder.hidden(&batch)?;
        Ok(target_logprobs(decoder, &hidden, &batch)?.into_iter().map(|(logprob, _)| logprob).collect())
    })
}
