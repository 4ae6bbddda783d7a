use tch::{Kind, Tensor};

use crate::PreferenceError;

/// What a paired loss reads: for every pair the summed log-probability of each answer, under the policy (with
/// gradient) and under the reference, and the answers' lengths.
#[derive(Debug)]
pub struct PairLogps {
    /// (B), log π(chosen), summed over the answer's tokens.
    pub policy_chosen: Tensor,
    /// (B), log π(rejected).
    pub policy_rejected: Tensor,
    /// (B), log π_ref(chosen), no gradient.
    pub reference_chosen: Tensor,
    /// (B), log π_ref(rejected), no gradient.
    pub reference_rejected: Tensor,
    /// (B), fp32: tokens in the chosen answer, at least 1.
    pub chosen_len: Tensor,
    /// (B), fp32: tokens in the rejected answer, at least 1.
    pub rejected_len: Tensor,
}

impl PairLogps {
    /// Policy and reference as (chosen, rejected), each (B); lengths as (chosen, rejected) tokens. Sums in half
    /// precision are widened to fp32.
    ///
    /// # Errors
    /// [`PreferenceError::Shape`], [`PreferenceError::Empty`].
    pub fn new(
        policy: (Tensor, Tensor),
        reference: (Tensor, Tensor),
        lengths: &[(usize, usize)],
    ) -> Result<Self, PreferenceError> {
        let expected = vec![lengths.len() as i64];
        let check = |what, t: Tensor| {
            if t.size() == expected {
                let half = matches!(t.kind(), Kind::Half | Kind::BFloat16);
                Ok(if half { t.to_kind(Kind::Float) } else { t })
            } else {
                Err(PreferenceError::Shape { what, found: t.size(), expected: expected.clone() })
            }
        };
        for (pair, &(chosen, rejected)) in lengths.iter().enumerate() {
            if chosen == 0 || rejected == 0 {
                let side = if chosen == 0 { "chosen" } else { "rejected" };
                return Err(PreferenceError::Empty { pair, side });
            }
        }
        let policy_chosen = check("policy chosen", policy.0)?;
        let place = (policy_chosen.kind(), policy_chosen.device());
        let count = |pick: fn(&(usize, usize)) -> usize| {
            let counts: Vec<i64> = lengths.iter().map(|l| pick(l) as i64).collect();
            Tensor::from_slice(&counts).to_device(place.1).to_kind(place.0)
        };
        Ok(PairLogps {
            policy_chosen,
            policy_rejected: check("policy rejected", policy.1)?,
            reference_chosen: check("reference chosen", reference.0)?.detach(),
            reference_rejected: check("reference rejected", reference.1)?.detach(),
            chosen_len: count(|l| l.0),
            rejected_len: count(|l| l.1),
        })
    }

    /// B.
    pub fn n_pairs(&self) -> i64 {
        self.chosen_len.size()[0]
    }

    /// (B), Δc = log π(chosen) − log π_ref(chosen).
    pub fn chosen_ratio(&self) -> Tensor {
        &self.policy_chosen - &self.reference_chosen
    }

    /// (B), Δr, likewise.
    pub fn rejected_ratio(&self) -> Tensor {
        &self.policy_rejected - &self.reference_rejected
    }
}

/// Sums token log-probabilities into answers: (N) → two of (B).
///
/// `token_logps` holds the answers' tokens pair after pair, the chosen answer before the rejected one, as the
/// targets of `Batch::from_pairs` lie. With `ld_alpha` (LD-DPO, arXiv 2409.06411) the tokens of the longer
/// answer beyond the length of the shorter count only that much, which takes length out of the preference.
///
/// # Errors
/// [`PreferenceError::Shape`] where the lengths do not add up to N.
pub fn sum_answers(
    token_logps: &Tensor,
    lengths: &[(usize, usize)],
    ld_alpha: Option<f64>,
) -> Result<(Tensor, Tensor), PreferenceError> {
    let n: usize = lengths.iter().map(|(c, r)| c + r).sum();
    if token_logps.size() != [n as i64] {
        let found = token_logps.size();
        return Err(PreferenceError::Shape {
            what: "token log-probabilities",
            found,
            expected: vec![n as i64],
        });
    }
    let (mut owner, mut weight) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for (pair, &(chosen, rejected)) in lengths.iter().enumerate() {
        let shared = chosen.min(rejected);
        for (side, len) in [chosen, rejected].into_iter().enumerate() {
            owner.extend(std::iter::repeat_n((2 * pair + side) as i64, len));
            weight.extend((0..len).map(|t| if t < shared { 1.0 } else { ld_alpha.unwrap_or(1.0) }));
        }
    }
    let device = token_logps.device();
    let logps = match ld_alpha {
        Some(_) => token_logps * Tensor::from_slice(&weight).to_device(device).to_kind(token_logps.kind()),
        None => token_logps.shallow_clone(),
    };
    let zeros = Tensor::zeros([2 * lengths.len() as i64], (logps.kind(), device));
    let sums = zeros.index_add(0, &Tensor::from_slice(&owner).to_device(device), &logps).view([-1, 2]);
    Ok((sums.select(1, 0), sums.select(1, 1)))
}
