use ferrotune_model::Decoder;
use ferrotune_types::Batch;
use tch::{Kind, Tensor};

use crate::{Forward, HeadOptions, TrainError, score};

/// What one accumulated SFT step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SftStats {
    /// Mean negative log-likelihood of the targets, in nats: TRL's `loss`.
    pub loss: f64,
    /// Share of targets that were the likeliest token; NaN where metrics were off.
    pub mean_token_accuracy: f64,
    /// Mean entropy of the predictions in nats; NaN where metrics were off.
    pub entropy: f64,
    /// Tokens that went through the model.
    pub n_tokens: usize,
    /// Tokens that were trained on.
    pub n_targets: usize,
}

/// Adds to `.grad` the gradient of the token mean over **all** of `micro_batches`: sixteen batches of one
/// example train as one batch of sixteen does, whatever their lengths.
///
/// # Errors
/// [`TrainError::NothingToTrain`] where a batch has no target; [`TrainError::Model`] where the model refuses one.
pub fn sft_accumulate(
    decoder: &Decoder,
    micro_batches: &[Batch],
    checkpointing: bool,
    head: HeadOptions,
) -> Result<SftStats, TrainError> {
    sft_accumulate_from(decoder, micro_batches, checkpointing, head, &|_, x| x)
}

/// As [`sft_accumulate`], each batch from what `change` makes of its token embeddings, (T, C).
///
/// # Errors
/// As [`sft_accumulate`].
pub fn sft_accumulate_from(
    decoder: &Decoder,
    micro_batches: &[Batch],
    checkpointing: bool,
    head: HeadOptions,
    change: &dyn Fn(&Batch, Tensor) -> Tensor,
) -> Result<SftStats, TrainError> {
    let n_targets: usize = micro_batches.iter().map(Batch::n_targets).sum();
    let (mut nll, mut correct, mut entropy) = (0.0, 0.0, 0.0);
    for batch in micro_batches {
        let forward = Forward::run_from(decoder, batch, checkpointing, &|x| change(batch, x))?;
        let targets = target_ids(batch, decoder);
        let scored = score(decoder, forward.graded(), &targets, head);
        let sum = |t: &Option<Tensor>| t.as_ref().map_or(f64::NAN, |t| t.sum(Kind::Float).double_value(&[]));
        nll -= scored.logps.sum(Kind::Double).double_value(&[]);
        correct += sum(&scored.correct);
        entropy += sum(&scored.entropy);
        let weights = Tensor::full_like(&scored.logps, -1.0 / n_targets as f64);
        forward.backward(&scored, &weights)?;
    }
    let n = n_targets as f64;
    Ok(SftStats {
        loss: nll / n,
        mean_token_accuracy: correct / n,
        entropy: entropy / n,
        n_tokens: micro_batches.iter().map(Batch::n_tokens).sum(),
        n_targets,
    })
}

/// Negative log-likelihood summed over a batch's targets, and how many there are. No gradient.
///
/// # Errors
/// As [`sft_accumulate`].
pub fn evaluate_nll(decoder: &Decoder, batch: &Batch) -> Result<(f64, usize), TrainError> {
    let _guard = tch::no_grad_guard();
    let forward = Forward::run(decoder, batch, false)?;
    let options = HeadOptions::EVALUATE;
    let scored = score(decoder, forward.graded(), &target_ids(batch, decoder), options);
    Ok((-scored.logps.sum(Kind::Double).double_value(&[]), batch.n_targets()))
}

/// Ids of a batch's targets, (N), in the order of [`Batch::targets`].
pub(crate) fn target_ids(batch: &Batch, decoder: &Decoder) -> Tensor {
    let ids: Vec<i64> = batch.targets().map(|(_, target, _)| batch.ids()[target]).collect();
    Tensor::from_slice(&ids).to_device(decoder.device)
}
