use tch::Tensor;

/// EXO for pairs (arXiv 2402.00856, eq. 16): KL(q ‖ p) with q = (σ(βd), σ(−βd)) and p = (1−ε, ε), ε > 0.
///
/// Smallest at σ(βd) = 1 − ε.
pub fn exo_pair(margin: &Tensor, beta: f64, label_smoothing: f64) -> Tensor {
    let logits = margin * beta;
    let opposite = logits.neg();
    let win = logits.sigmoid() * (logits.log_sigmoid() - (-label_smoothing).ln_1p());
    let lose = opposite.sigmoid() * (opposite.log_sigmoid() - label_smoothing.ln());
    win + lose
}
