use tch::Tensor;

/// DiscoPOP (arXiv 2406.08414, eq. 5): (1−g)·(−log σ(βd)) + g·e^{−βd}, gated by g = σ(βd/τ).
///
/// Found by search: it is not convex, and not monotone near d = 0.
pub fn discopop(margin: &Tensor, beta: f64, tau: f64) -> Tensor {
    let logits = margin * beta;
    let gate = (&logits / tau).sigmoid();
    let exponential = logits.neg().exp();
    logits.log_sigmoid().neg() * (1.0 - &gate) + exponential * gate
}
