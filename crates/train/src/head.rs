use ferrotune_model::Decoder;
use ferrotune_model::kernels::{self, HeadRow, head_rows, wide};
use ferrotune_model::lean::accumulate;
use tch::{Device, Kind, Tensor};

/// What the LM head says of N graded tokens, and how each would change with its hidden state.
#[derive(Debug)]
pub struct Scored {
    /// What was to be predicted, (N).
    pub targets: Tensor,
    /// ln p of each target, (N), fp32.
    pub logps: Tensor,
    /// d ln p / d hidden, (N, C), in the model's dtype. Row by row independent of any loss: a loss weighs rows.
    pub hidden_gradient: Tensor,
    /// Entropy of each prediction in nats, (N), fp32, where asked for.
    pub entropy: Option<Tensor>,
    /// Whether the likeliest token was the target, (N), where asked for.
    pub correct: Option<Tensor>,
    /// Mean logit over the vocabulary, (N), fp32, where asked for.
    pub mean_logit: Option<Tensor>,
}

/// What [`score`] computes beside log-probabilities.
#[derive(Debug, Clone, Copy)]
pub struct HeadOptions {
    /// Rows of logits held at a time.
    pub chunk: i64,
    /// Compute [`Scored::hidden_gradient`]; without it, a pass for evaluation.
    pub gradient: bool,
    /// Compute entropy, accuracy and mean logit, as TRL logs them. Costs about a tenth of the head.
    pub metrics: bool,
}

impl HeadOptions {
    /// For a step of training; the default.
    pub const TRAIN: Self = HeadOptions { chunk: 256, gradient: true, metrics: false };
    /// For a pass that only looks.
    pub const EVALUATE: Self = HeadOptions { gradient: false, ..Self::TRAIN };
}

impl Default for HeadOptions {
    fn default() -> Self {
        Self::TRAIN
    }
}

/// Sends graded hidden states (N, C) through the LM head, a chunk of rows at a time, against their targets (N).
///
/// For logits z = W h and target y: ln p = z_y − logsumexp(z), and d ln p / d h = W_y − softmax(z) W. The second
/// is one more matrix product with the probabilities at hand, so the logits of a chunk are never needed again
/// and never more than `chunk` rows of them exist. With a soft cap z = cap · tanh(u / cap) the probabilities
/// are multiplied by 1 − (z / cap)² on the way.
///
/// Logits are computed in the model's dtype, or in fp32 where the CPU multiplies that faster, and reduced in fp32.
pub fn score(decoder: &Decoder, graded: &Tensor, targets: &Tensor, options: HeadOptions) -> Scored {
    let _guard = tch::no_grad_guard();
    let weight = wide(&decoder.head_weight());
    let plain = decoder.plain_head().is_some();
    let graded = graded.detach();
    let n = graded.size()[0];
    // One pass over the logits instead of a dozen, where the kernels run.
    let by_rows = decoder.device == Device::Cpu
        && kernels::computes(decoder.kind)
        && decoder.config.logits_softcap.is_none();
    let (mut logps, mut gradients) = (Vec::new(), Vec::new());
    let (mut entropies, mut correct, mut means) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..n).step_by(options.chunk.max(1) as usize) {
        let length = options.chunk.max(1).min(n - start);
        let hidden = graded.narrow(0, start, length);
        let target = targets.narrow(0, start, length).unsqueeze(-1);
        let logits = if plain { decoder.logits_by(&wide(&hidden), &weight) } else { decoder.logits(&hidden) };
        if by_rows {
            let ids = Vec::<i64>::try_from(targets.narrow(0, start, length)).unwrap_or_default();
            let said = head_rows(&logits, &ids, options.gradient, options.metrics);
            let column = |f: fn(&HeadRow) -> f32| Tensor::from_slice(&said.iter().map(f).collect::<Vec<_>>());
            logps.push(column(|row| row.logp));
            if options.metrics {
                entropies.push(column(|row| row.entropy));
                means.push(column(|row| row.mean));
                correct.push(column(|row| f32::from(u8::from(row.correct))).to_kind(Kind::Bool));
            }
            if options.gradient {
                gradients.push(logits.to_kind(weight.kind()).matmul(&weight).to_kind(decoder.kind));
            }
            continue;
        }
        let target_logit = logits.gather(-1, &target, false).to_kind(Kind::Float);
        if options.metrics {
            correct.push(logits.argmax(-1, false).unsqueeze(-1).eq_tensor(&target).squeeze_dim(-1));
            means.push(logits.mean_dim([-1i64].as_slice(), false, Kind::Float));
        }
        let slope = decoder.config.logits_softcap.map(|cap| 1.0 - (&logits / cap).square());
        let logits = logits.to_kind(Kind::Float);
        let total = logits.logsumexp([-1i64].as_slice(), true);
        logps.push((target_logit - &total).squeeze_dim(-1));
        if !options.gradient && !options.metrics {
            continue;
        }
        let mut shifted = logits - &total;
        if options.metrics {
            entropies.push(-(shifted.exp() * &shifted).sum_dim_intlist(
                [-1i64].as_slice(),
                false,
                Kind::Float,
            ));
        }
        if !options.gradient {
            continue;
        }
        // softmax(z) less one at the target, negated: the gradient of ln p with respect to z.
        let mut slope_z = shifted.exp_().to_kind(weight.kind()).neg_();
        let one = Tensor::ones_like(&target).to_kind(weight.kind());
        slope_z = slope_z.scatter_add_(-1, &target, &one);
        if let Some(slope) = slope {
            slope_z *= slope;
        }
        gradients.push(slope_z.matmul(&weight).to_kind(decoder.kind));
    }
    let join = |parts: Vec<Tensor>| (!parts.is_empty()).then(|| Tensor::cat(&parts, 0));
    Scored {
        targets: targets.shallow_clone(),
        logps: Tensor::cat(&logps, 0),
        hidden_gradient: join(gradients)
            .unwrap_or_else(|| Tensor::zeros([0], (decoder.kind, weight.device()))),
        entropy: join(entropies),
        correct: join(correct),
        mean_logit: join(means),
    }
}

/// Adds to the head weight's `.grad` its share of the gradient of a loss with d loss / d ln p = `weights` (N).
///
/// Only full fine-tuning needs it: the head's gradient, (V, C), mixes rows with their weights, so it cannot be
/// made before the loss is known, and a chunk's logits are computed once more.
pub(crate) fn backward_head_weight(
    decoder: &Decoder,
    graded: &Tensor,
    scored: &Scored,
    weights: &Tensor,
    chunk: i64,
) {
    let _guard = tch::no_grad_guard();
    let weight = decoder.head_weight();
    let (widened, plain) = (wide(&weight), decoder.plain_head().is_some());
    let graded = graded.detach();
    let n = graded.size()[0];
    for start in (0..n).step_by(chunk.max(1) as usize) {
        let length = chunk.max(1).min(n - start);
        let rows = |t: &Tensor| t.narrow(0, start, length);
        let hidden = wide(&rows(&graded));
        let logits =
            if plain { decoder.logits_by(&hidden, &widened) } else { decoder.logits(&rows(&graded)) };
        let target = rows(&scored.targets).unsqueeze(-1);
        // (n, V): d ln p / d z, one at the target less softmax, each row times its weight.
        let mut slope = logits.softmax(-1, Kind::Float).neg_();
        slope = slope.scatter_add_(-1, &target, &target.ones_like().to_kind(Kind::Float));
        if let Some(cap) = decoder.config.logits_softcap {
            slope *= 1.0 - (logits / cap).square();
        }
        slope *= rows(weights).unsqueeze(-1);
        accumulate(&weight, &slope.to_kind(hidden.kind()).tr().matmul(&hidden));
    }
}
