use tch::Tensor;

/// SPPO with hard labels (arXiv 2405.00675, eq. 4.7 with P of 1 and 0): (Δc − ½/β)² + (Δr + ½/β)².
///
/// Smallest at Δc = ½/β and Δr = −½/β; beyond, each answer is pulled back.
pub fn sppo_hard(chosen_ratio: &Tensor, rejected_ratio: &Tensor, beta: f64) -> Tensor {
    let goal = 0.5 / beta;
    (chosen_ratio - goal).square() + (rejected_ratio + goal).square()
}
