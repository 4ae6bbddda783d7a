use ferrotune_types::{Batch, LogLikelihood, Segment};
use tch::{Device, Kind, Tensor};

use crate::kernels::{self, RunningHead, head_part};
use crate::{Decoder, ModelError};

/// How likely a continuation is.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// ln p of each of its tokens.
    pub logprobs: Vec<f32>,
    /// Whether greedy decoding would have said exactly it.
    pub is_greedy: bool,
}

impl Score {
    /// Their sum.
    pub fn total(&self) -> LogLikelihood {
        LogLikelihood {
            sum: self.logprobs.iter().map(|&x| f64::from(x)).sum(),
            n_tokens: self.logprobs.len(),
            is_greedy: self.is_greedy,
        }
    }
}

/// How likely each continuation is after `prefix`, which is computed once: continuations are segments that all
/// see it.
///
/// # Errors
/// [`ModelError::Input`] for an empty prefix (nothing would predict the first token) or continuation, an id beyond
/// the vocabulary, or texts beyond the context.
pub fn score(decoder: &Decoder, prefix: &[u32], continuations: &[&[u32]]) -> Result<Vec<Score>, ModelError> {
    if continuations.is_empty() {
        return Ok(Vec::new());
    }
    let (mut ids, mut mask, mut segments) = (Vec::new(), Vec::new(), Vec::new());
    let shared = 0..prefix.len();
    for (i, part) in std::iter::once(&prefix).chain(continuations).enumerate() {
        let start = ids.len();
        ids.extend(part.iter().map(|&id| i64::from(id)));
        mask.resize(ids.len(), i > 0);
        segments.push(Segment { range: start..ids.len(), prefix: (i > 0).then(|| shared.clone()) });
    }
    let batch = Batch::new(ids, mask, segments).map_err(|e| ModelError::Input(e.to_string()))?;
    tch::no_grad(|| {
        let hidden = decoder.hidden(&batch)?;
        let (predictors, targets): (Vec<i64>, Vec<i64>) =
            batch.targets().map(|(predictor, target, _)| (predictor as i64, batch.ids()[target])).unzip();
        let targets = logprobs_after(decoder, &hidden, &predictors, &targets)?;
        let mut scores: Vec<Score> =
            continuations.iter().map(|_| Score { logprobs: Vec::new(), is_greedy: true }).collect();
        for ((_, _, segment), (logprob, is_best)) in batch.targets().zip(targets) {
            let score = &mut scores[segment - 1];
            score.logprobs.push(logprob);
            score.is_greedy &= is_best;
        }
        Ok(scores)
    })
}

/// Rows of logits that are held at once, of the whole vocabulary or of [`PART`] of it.
const CHUNK: i64 = 256;
/// Of the vocabulary's tokens: their logits for a chunk of rows are reduced before they leave the caches.
const PART: i64 = 4096;

/// For each of `targets`, in order: its ln p after the token in row `predictors` of `hidden`, and whether greedy decoding takes
/// it, which of equals is the first.
pub(super) fn logprobs_after(
    decoder: &Decoder,
    hidden: &Tensor,
    predictors: &[i64],
    targets: &[i64],
) -> Result<Vec<(f32, bool)>, ModelError> {
    let predictors = Tensor::from_slice(predictors).to_device(decoder.device);
    let vocabulary = decoder.config.vocab_size as i64;
    let part = if decoder.plain_head().is_some() { PART } else { vocabulary };
    let by_parts = decoder.device == Device::Cpu && kernels::computes(decoder.kind);
    let mut out = Vec::with_capacity(targets.len());
    for (chunk, targets) in targets.chunks(CHUNK as usize).enumerate() {
        let rows = predictors.narrow(0, chunk as i64 * CHUNK, targets.len() as i64);
        let rows = hidden.index_select(0, &rows);
        if by_parts {
            let mut heads = vec![RunningHead::NOTHING; targets.len()];
            for start in (0..vocabulary).step_by(part as usize) {
                let tokens = start..(start + part).min(vocabulary);
                head_part(&decoder.logits_of(&rows, tokens), targets, start, &mut heads);
            }
            out.extend(heads.into_iter().map(RunningHead::of_target));
        } else {
            let wanted = Tensor::from_slice(targets).to_device(decoder.device).unsqueeze(1);
            let logits = decoder.logits(&rows).to_kind(Kind::Float);
            let logit = logits.gather(1, &wanted, false);
            let logprobs = &logit - logits.logsumexp([-1i64].as_slice(), true);
            let is_best = Vec::<bool>::try_from(logits.argmax(-1, true).eq_tensor(&wanted).view(-1))?;
            out.extend(Vec::<f32>::try_from(logprobs.view(-1))?.into_iter().zip(is_best));
        }
    }
    if out.iter().any(|(logprob, _)| logprob.is_nan()) {
        return Err(ModelError::NotANumber);
    }
    Ok(out)
}
