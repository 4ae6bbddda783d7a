use tch::Tensor;

/// APO-zero (arXiv 2408.06266, eq. 7): 1 − σ(βΔc) + σ(βΔr), for answers better than the model's own: it
/// raises the chosen one and lowers the rejected one.
pub fn apo_zero(chosen_ratio: &Tensor, rejected_ratio: &Tensor, beta: f64) -> Tensor {
    1.0 - (chosen_ratio * beta).sigmoid() + (rejected_ratio * beta).sigmoid()
}

/// APO-down (arXiv 2408.06266, eq. 8): σ(βΔc) + 1 − σ(β(Δc − Δr)), for answers worse than the model's own: it
/// lowers both, the rejected one more. It need not fall with Δc.
pub fn apo_down(chosen_ratio: &Tensor, rejected_ratio: &Tensor, beta: f64) -> Tensor {
    (chosen_ratio * beta).sigmoid() + 1.0 - ((chosen_ratio - rejected_ratio) * beta).sigmoid()
}
