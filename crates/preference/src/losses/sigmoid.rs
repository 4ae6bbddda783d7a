use tch::Tensor;

/// DPO (arXiv 2305.18290): −log σ(βd).
///
/// d of (B). Gradient by d: −β σ(−βd), never positive. With lengths-normed d it is TRL's `sigmoid_norm`.
pub fn sigmoid(margin: &Tensor, beta: f64) -> Tensor {
    (margin * beta).log_sigmoid().neg()
}

/// Conservative DPO: −(1−ε) log σ(βd) − ε log σ(−βd), for labels wrong with probability ε.
///
/// Smallest at σ(βd) = 1 − ε, so a margin beyond that is pulled back. With ε = 0 it is [`sigmoid`].
pub fn cdpo(margin: &Tensor, beta: f64, label_smoothing: f64) -> Tensor {
    let logits = margin * beta;
    logits.log_sigmoid() * (label_smoothing - 1.0) - logits.neg().log_sigmoid() * label_smoothing
}
