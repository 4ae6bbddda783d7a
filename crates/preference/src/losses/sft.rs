use tch::{Kind, Tensor};

/// Plain cross entropy of the chosen answers, for mixtures (arXiv 2404.19733): minus the mean over all chosen
/// tokens of the batch, the same number for every pair. No reference, and no gradient on rejected answers.
///
/// policy_chosen of (B) summed, chosen_len of (B). Not for sums weighted by LD-DPO's α: TRL takes the unweighted ones
/// here, and [`crate::Objective::check`] refuses the two together.
pub fn sft(policy_chosen: &Tensor, chosen_len: &Tensor) -> Tensor {
    let kind = policy_chosen.kind();
    let mean = policy_chosen.sum(kind).neg() / chosen_len.sum(Kind::Float).to_kind(kind);
    mean.expand_as(policy_chosen)
}
