use tch::Tensor;

/// IPO (arXiv 2310.12036, eq. 17): (d̄ − 1/(2β))², d̄ = Δc/|c| − Δr/|r| per token, as its authors advise.
///
/// Smallest at d̄ = 1/(2β); a larger margin is pulled back.
pub fn ipo(normed_margin: &Tensor, beta: f64) -> Tensor {
    (normed_margin - 1.0 / (2.0 * beta)).square()
}
