use ferrotune_types::{Batch, Segment};

use super::score::logprobs_after;
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
        for logprob in logprobs(decoder, &chunk[..chunk.len() - 1], &chunk[1..])? {
            out.nll -= f64::from(logprob);
            out.n_tokens += 1;
        }
    }
    Ok(out)
}

/// ln p of every token of a text, each predicted once, in windows of `window` tokens that are read: the first begins with
/// `first` (a beginning-of-text token), each other one with the last token of the one before it, and the last one reaches
/// back as far as a window goes. This is what lm-eval's rolling log-likelihood does.
///
/// # Errors
/// [`ModelError::Input`] where `window` is 0 or beyond the context, or an id beyond the vocabulary.
pub fn rolling_loglikelihood(
    decoder: &Decoder,
    first: u32,
    ids: &[u32],
    window: usize,
) -> Result<Vec<f32>, ModelError> {
    if window == 0 {
        return Err(ModelError::Input("a window of 0 predicts nothing".to_owned()));
    }
    let whole: Vec<u32> = std::iter::once(first).chain(ids.iter().copied()).collect();
    let mut out = Vec::with_capacity(ids.len());
    while out.len() < ids.len() {
        let n = window.min(ids.len() - out.len());
        let end = out.len() + n;
        // The token before each of those to predict, and what a window holds before that.
        let read = &whole[end.saturating_sub(window)..end];
        out.extend(logprobs(decoder, read, &ids[end - n..end])?);
    }
    Ok(out)
}

/// ln p of `targets`, which follow the last tokens of `read`: one after each.
fn logprobs(decoder: &Decoder, read: &[u32], targets: &[u32]) -> Result<Vec<f32>, ModelError> {
    let ids: Vec<i64> = read.iter().map(|&id| i64::from(id)).collect();
    let (n, mask) = (ids.len(), vec![false; ids.len()]);
    if let Some(id) = targets.iter().find(|&&id| id as usize >= decoder.config.vocab_size) {
        return Err(ModelError::Input(format!("token id {id} is outside the model's vocabulary")));
    }
    let batch = Batch::new(ids, mask, vec![Segment { range: 0..n, prefix: None }]);
    let batch = batch.map_err(|e| ModelError::Input(e.to_string()))?;
    let predictors: Vec<i64> = (n - targets.len()..n).map(|place| place as i64).collect();
    let targets: Vec<i64> = targets.iter().map(|&id| i64::from(id)).collect();
    tch::no_grad(|| {
        let hidden = decoder.hidden(&batch)?;
        let scored = logprobs_after(decoder, &hidden, &predictors, &targets)?;
        Ok(scored.into_iter().map(|(logprob, _)| logprob).collect())
    })
}
