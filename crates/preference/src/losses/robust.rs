use tch::Tensor;

/// Robust DPO (arXiv 2403.00409): [−(1−ε) log σ(βd) + ε log σ(−βd)] / (1 − 2ε), 0 ≤ ε < ½: unbiased where
/// a share ε of the labels is flipped. May be negative.
pub fn robust(margin: &Tensor, beta: f64, label_smoothing: f64) -> Tensor {
    let logits = margin * beta;
    let clean = logits.log_sigmoid() * (label_smoothing - 1.0);
    let flipped = logits.neg().log_sigmoid() * label_smoothing;
    (clean + flipped) / (1.0 - 2.0 * label_smoothing)
}
