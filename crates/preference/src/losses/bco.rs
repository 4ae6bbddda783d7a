use tch::Tensor;

/// BCO for pairs (arXiv 2404.04656): −log σ(βΔc) − log σ(−βΔr), a classifier of good and bad answers. As in
/// TRL's paired form, its reward shift δ is 0.
pub fn bco_pair(chosen_ratio: &Tensor, rejected_ratio: &Tensor, beta: f64) -> Tensor {
    (chosen_ratio * beta).log_sigmoid().neg() - (rejected_ratio * -beta).log_sigmoid()
}
