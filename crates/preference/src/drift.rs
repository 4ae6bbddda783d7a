use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{PairLogps, PreferenceError};

/// How far a policy has gone from its reference, and which way, on held-out pairs. No loss and no β enters, so runs
/// of different losses are compared by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Pairs looked at.
    pub n_pairs: usize,
    /// Share of pairs whose chosen answer gained more on the reference than the rejected one; a tie counts half, so
    /// an unmoved policy has 0.5.
    pub accuracy: f64,
    /// Mean of Δc − Δr in nats: how much further apart the answers of a pair are than under the reference.
    pub margin: f64,
    /// Mean of Δc = log π(chosen) − log π_ref(chosen) in nats an answer. Below 0 the policy says even the better
    /// answers less often than before, which DPO is known for (arXiv 2402.13228).
    pub chosen: f64,
    /// Mean of Δr, likewise.
    pub rejected: f64,
    /// KL(π ‖ π_ref) of the next token, in nats, exact over the vocabulary and averaged over positions of the
    /// held-out answers ([`token_kl`]). `None` where no position was compared.
    pub kl: Option<f64>,
}

impl Drift {
    /// Its figures with the names under which a run logs them.
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        let mut out = vec![
            ("eval_drift/accuracy", self.accuracy),
            ("eval_drift/margin", self.margin),
            ("eval_drift/chosen", self.chosen),
            ("eval_drift/rejected", self.rejected),
        ];
        out.extend(self.kl.map(|kl| ("eval_drift/kl", kl)));
        out
    }
}

/// Gathers a [`Drift`] batch by batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct DriftSum {
    n_pairs: usize,
    hits: f64,
    margin: f64,
    chosen: f64,
    rejected: f64,
    kl: (f64, usize),
}

impl DriftSum {
    /// Adds a batch of pairs.
    pub fn add(&mut self, logps: &PairLogps) {
        let _guard = tch::no_grad_guard();
        let (chosen, rejected) = (logps.chosen_ratio(), logps.rejected_ratio());
        let margin = &chosen - &rejected;
        let sum = |t: &Tensor| t.sum(Kind::Double).double_value(&[]);
        self.n_pairs += logps.n_pairs() as usize;
        self.hits += sum(&margin.gt(0.0)) + 0.5 * sum(&margin.eq(0.0));
        self.margin += sum(&margin);
        self.chosen += sum(&chosen);
        self.rejected += sum(&rejected);
    }

    /// Adds positions whose KL is `kl`, (n).
    pub fn add_kl(&mut self, kl: &Tensor) {
        self.kl.0 += kl.sum(Kind::Double).double_value(&[]);
        self.kl.1 += kl.numel();
    }

    /// The means; all zero where nothing was added.
    pub fn finish(self) -> Drift {
        let n = self.n_pairs.max(1) as f64;
        Drift {
            n_pairs: self.n_pairs,
            accuracy: self.hits / n,
            margin: self.margin / n,
            chosen: self.chosen / n,
            rejected: self.rejected / n,
            kl: (self.kl.1 > 0).then(|| self.kl.0 / self.kl.1 as f64),
        }
    }
}

/// KL(π ‖ π_ref) = Σ_v π(v)·(log π(v) − log π_ref(v)) at n positions, from logits of (n, V) each → (n) in fp32.
///
/// It is the whole sum over the vocabulary, not an estimate from sampled tokens: held-out answers were not sampled
/// from the policy, so the log-ratio of their tokens alone would say nothing of the KL.
///
/// # Errors
/// [`PreferenceError::Shape`].
pub fn token_kl(policy: &Tensor, reference: &Tensor) -> Result<Tensor, PreferenceError> {
    if policy.size() != reference.size() {
        let (found, expected) = (reference.size(), policy.size());
        return Err(PreferenceError::Shape { what: "reference logits", found, expected });
    }
    let _guard = tch::no_grad_guard();
    let (policy, reference) = (policy.log_softmax(-1, Kind::Float), reference.log_softmax(-1, Kind::Float));
    Ok((policy.exp() * (policy - reference)).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn logps(policy: [f32; 2], reference: [f32; 2]) -> PairLogps {
        let one = |x: f32| Tensor::from_slice(&[x]);
        let sides = |x: [f32; 2]| (one(x[0]), one(x[1]));
        PairLogps::new(sides(policy), sides(reference), &[(3, 4)]).unwrap()
    }

    #[test]
    fn figures_are_means_over_pairs() {
        let mut sum = DriftSum::default();
        sum.add(&logps([-10.0, -20.0], [-12.0, -19.0])); // Δc 2, Δr −1
        sum.add(&logps([-10.0, -20.0], [-9.0, -21.0])); // Δc −1, Δr 1
        sum.add(&logps([-5.0, -6.0], [-5.0, -6.0])); // unmoved: half a hit
        sum.add_kl(&Tensor::from_slice(&[0.5f32, 0.1]));
        let drift = sum.finish();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert_eq!((drift.n_pairs, drift.accuracy), (3, 0.5));
        assert!(
            close(drift.margin, 1.0 / 3.0) && close(drift.chosen, 1.0 / 3.0) && close(drift.rejected, 0.0)
        );
        assert!(close(drift.kl.unwrap(), 0.3));
        assert_eq!(DriftSum::default().finish(), Drift::default());
    }

    #[test]
    fn kl_is_that_of_the_definition() {
        // p = (0.5, 0.5), q = (0.9, 0.1).
        let logits = |p: [f64; 2]| Tensor::from_slice(&p.map(f64::ln)).unsqueeze(0);
        let found = token_kl(&logits([0.5, 0.5]), &logits([0.9, 0.1])).unwrap().double_value(&[0]);
        let expected = 0.5 * (0.5f64 / 0.9).ln() + 0.5 * (0.5f64 / 0.1).ln();
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        assert!(token_kl(&Tensor::zeros([1, 2], tch::kind::FLOAT_CPU), &Tensor::new()).is_err());
    }

    proptest! {
        #[test]
        fn kl_is_never_negative_and_zero_for_the_same(
            a in prop::collection::vec(-9.0..9.0f32, 6), b in prop::collection::vec(-9.0..9.0f32, 6)
        ) {
            let (a, b) = (Tensor::from_slice(&a).unsqueeze(0), Tensor::from_slice(&b).unsqueeze(0));
            prop_assert!(token_kl(&a, &b).unwrap().double_value(&[0]) >= -1e-6);
            prop_assert!(token_kl(&a, &a).unwrap().double_value(&[0]).abs() < 1e-6);
        }
    }
}
