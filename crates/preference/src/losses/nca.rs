use tch::Tensor;

/// NCA for pairs (arXiv 2402.05369): −log σ(βΔc) − ½ log σ(−βΔc) − ½ log σ(−βΔr).
///
/// It weighs each answer against the reference by itself, which keeps the chosen answer from losing
/// probability. In Δc it is smallest at σ(βΔc) = ⅔; it always falls with Δr.
pub fn nca_pair(chosen_ratio: &Tensor, rejected_ratio: &Tensor, beta: f64) -> Tensor {
    let (chosen, rejected) = (chosen_ratio * beta, rejected_ratio * beta);
    chosen.log_sigmoid().neg() - chosen.neg().log_sigmoid() * 0.5 - rejected.neg().log_sigmoid() * 0.5
}
