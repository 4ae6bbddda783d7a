use tch::Tensor;

/// SLiC's hinge (arXiv 2305.10425) on DPO's margin: max(0, 1 − βd). Pairs with βd ≥ 1 have no gradient.
pub fn hinge(margin: &Tensor, beta: f64) -> Tensor {
    (margin * -beta + 1.0).relu()
}
