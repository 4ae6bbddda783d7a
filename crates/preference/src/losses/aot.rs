use tch::Tensor;

use super::sigmoid::cdpo;
use crate::PairLogps;

/// AOT, paired (arXiv 2406.05882): the batch's policy margins log π(c) − log π(r) and its reference margins
/// are each sorted, and [`cdpo`] runs on their differences. It asks the policy's margins to dominate as a
/// distribution, so values belong to ranks in the batch, not to pairs.
pub fn aot(logps: &PairLogps, beta: f64, label_smoothing: f64) -> Tensor {
    let policy = (&logps.policy_chosen - &logps.policy_rejected).sort(0, false).0;
    let reference = (&logps.reference_chosen - &logps.reference_rejected).sort(0, false).0;
    cdpo(&(policy - reference), beta, label_smoothing)
}

/// AOT, unpaired: Δc and Δr are each sorted over the batch, and [`cdpo`] runs on their differences.
pub fn aot_unpaired(
    chosen_ratio: &Tensor,
    rejected_ratio: &Tensor,
    beta: f64,
    label_smoothing: f64,
) -> Tensor {
    cdpo(&(chosen_ratio.sort(0, false).0 - rejected_ratio.sort(0, false).0), beta, label_smoothing)
}
