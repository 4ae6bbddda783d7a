use ferrotune_model::Encoder;
use ferrotune_types::Batch;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::TrainError;

/// How tokens are hidden for masked language modelling; the defaults are BERT's (arXiv 1810.04805), as transformers'
/// `DataCollatorForLanguageModeling` has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Masking {
    /// Share of the tokens that are to be guessed.
    pub share: f64,
    /// Of those, the share that the mask token replaces.
    pub replaced: f64,
    /// Of those, the share that any token replaces; the rest stay as they are.
    pub random: f64,
}

impl Default for Masking {
    fn default() -> Self {
        Masking { share: 0.15, replaced: 0.8, random: 0.1 }
    }
}

/// A batch some of whose tokens are hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedBatch {
    /// What the model reads; its loss mask is empty, because an encoder's tokens predict themselves.
    pub batch: Batch,
    /// Which tokens are to be guessed, in order.
    pub places: Vec<i64>,
    /// What stood there.
    pub targets: Vec<i64>,
}

/// Hides tokens of `batch`. `fixed` says which never are: what the tokenizer itself adds (`[CLS]`, `[SEP]`, padding).
/// A batch in which chance hides nothing gets one token hidden, so that it can be learnt from.
///
/// # Errors
/// [`TrainError::Config`] for shares out of range, [`TrainError::NothingToTrain`] where every token is fixed.
pub fn mask_tokens(
    batch: &Batch,
    fixed: impl Fn(i64) -> bool,
    mask_id: i64,
    vocab_size: usize,
    masking: &Masking,
    rng: &mut ChaCha8Rng,
) -> Result<MaskedBatch, TrainError> {
    let Masking { share, replaced, random } = *masking;
    let shares = [share, replaced, random, replaced + random];
    if !shares.iter().all(|s| (0.0..=1.0 + 1e-9).contains(s)) || share == 0.0 {
        return Err(TrainError::Config(format!(
            "{masking:?}: shares lie between 0 and 1, and do not exceed 1 together"
        )));
    }
    let mut ids = batch.ids().to_vec();
    let free: Vec<usize> = (0..ids.len()).filter(|&t| !fixed(ids[t])).collect();
    if free.is_empty() {
        return Err(TrainError::NothingToTrain(format!(
            "a batch of {} tokens has no word to hide",
            ids.len()
        )));
    }
    let mut hidden: Vec<usize> = free.iter().copied().filter(|_| rng.random_bool(share)).collect();
    if hidden.is_empty() {
        hidden.push(free[rng.random_range(0..free.len())]);
    }
    let targets = hidden.iter().map(|&t| ids[t]).collect();
    for &t in &hidden {
        let draw: f64 = rng.random();
        if draw < replaced {
            ids[t] = mask_id;
        } else if draw < replaced + random {
            ids[t] = rng.random_range(0..vocab_size as i64);
        }
    }
    let mask = vec![false; ids.len()];
    let batch = Batch::new(ids, mask, batch.segments().to_vec())
        .map_err(|e| TrainError::Config(format!("a masked batch: {e}")))?;
    Ok(MaskedBatch { batch, places: hidden.iter().map(|&t| t as i64).collect(), targets })
}

/// Rows of logits held at a time.
const CHUNK: i64 = 256;

/// Adds to `.grad` the gradient of the mean over **all** hidden tokens of `batches`; gives that mean, in nats.
///
/// Only the hidden tokens reach the head, in chunks: their states are taken out of the graph, each chunk's gradient
/// goes to the head and to them, and from there back into the graph.
///
/// # Errors
/// [`TrainError::Model`] where the encoder has no masked-LM head or refuses a batch.
pub fn mlm_accumulate(encoder: &Encoder, batches: &[MaskedBatch]) -> Result<f64, TrainError> {
    let n: usize = batches.iter().map(|b| b.places.len()).sum();
    let mut nll = 0.0;
    for batch in batches.iter().filter(|batch| !batch.places.is_empty()) {
        let graded = graded(encoder, batch)?;
        let states = graded.detach().set_requires_grad(true);
        nll += over_chunks(encoder, &states, batch, |loss| (loss / n as f64).f_backward())?;
        let gradient = states.grad();
        (&graded * gradient).sum(Kind::Float).f_backward()?;
    }
    Ok(nll / n as f64)
}

/// Negative log-likelihood summed over a batch's hidden tokens. No gradient.
///
/// # Errors
/// As [`mlm_accumulate`].
pub fn mlm_nll(encoder: &Encoder, batch: &MaskedBatch) -> Result<f64, TrainError> {
    let _guard = tch::no_grad_guard();
    let states = graded(encoder, batch)?;
    over_chunks(encoder, &states, batch, |_| Ok(()))
}

/// The states of the hidden tokens, (N, C).
fn graded(encoder: &Encoder, batch: &MaskedBatch) -> Result<Tensor, TrainError> {
    let places = Tensor::from_slice(&batch.places).to_device(encoder.device);
    Ok(encoder.hidden(&batch.batch)?.index_select(0, &places))
}

/// Sum of the losses, each chunk's given to `each`.
fn over_chunks(
    encoder: &Encoder,
    states: &Tensor,
    batch: &MaskedBatch,
    mut each: impl FnMut(&Tensor) -> Result<(), tch::TchError>,
) -> Result<f64, TrainError> {
    let targets = Tensor::from_slice(&batch.targets).to_device(encoder.device);
    let n = batch.places.len() as i64;
    let mut nll = 0.0;
    for start in (0..n).step_by(CHUNK as usize) {
        let length = CHUNK.min(n - start);
        let logits = encoder.masked_lm(&states.narrow(0, start, length))?.to_kind(Kind::Float);
        let targets = targets.narrow(0, start, length);
        let loss = logits.cross_entropy_loss(&targets, None::<&Tensor>, tch::Reduction::Sum, -100, 0.0);
        nll += loss.double_value(&[]);
        each(&loss)?;
    }
    Ok(nll)
}
