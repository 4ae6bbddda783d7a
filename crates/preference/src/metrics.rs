use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::kto::KtoOutput;
use crate::{PairLogps, PairLoss};

/// Names (TRL's) and values.
pub type Metrics = Vec<(&'static str, f64)>;

/// The metrics of a batch of pairs: `rewards/chosen`, `rewards/rejected`, `rewards/accuracies` (a tie counts as
/// wrong), `rewards/margins`, `logps/chosen`, `logps/rejected`.
///
/// `entropy`, `num_tokens`, `mean_token_accuracy` and `logits/…` come from the LM head, not from here.
pub fn pair_metrics(logps: &PairLogps, loss: &PairLoss) -> Metrics {
    pair_metrics_of(&logps.policy_chosen, &logps.policy_rejected, loss)
}

/// As [`pair_metrics`] for the reference-free losses, from the (B) log-probabilities that they read.
pub fn pair_metrics_of(chosen: &Tensor, rejected: &Tensor, loss: &PairLoss) -> Metrics {
    let (c, r) = (&loss.chosen_rewards, &loss.rejected_rewards);
    tch::no_grad(|| {
        vec![
            ("rewards/chosen", mean(c)),
            ("rewards/rejected", mean(r)),
            ("rewards/accuracies", mean(&c.gt_tensor(r))),
            ("rewards/margins", mean(&(c - r))),
            ("logps/chosen", mean(chosen)),
            ("logps/rejected", mean(rejected)),
        ]
    })
}

/// The metrics of a batch of thumbs; those of a thumb that no row shows are left out, as in TRL.
pub fn kto_metrics(policy: &Tensor, desirable: &[bool], output: &KtoOutput) -> Metrics {
    let mut out = vec![("kl", output.kl)];
    let of = |t: &Tensor, wanted: bool| {
        let rows: Vec<i64> = (0i64..).zip(desirable).filter(|&(_, &d)| d == wanted).map(|(i, _)| i).collect();
        let rows = Tensor::from_slice(&rows).to_device(t.device());
        (rows.numel() > 0).then(|| tch::no_grad(|| mean(&t.index_select(0, &rows))))
    };
    let (chosen, rejected) = (of(&output.rewards, true), of(&output.rewards, false));
    let mut push = |name, value: Option<f64>| out.extend(value.map(|v| (name, v)));
    push("rewards/chosen", chosen);
    push("rewards/rejected", rejected);
    push("rewards/margins", chosen.zip(rejected).map(|(c, r)| c - r));
    push("logps/chosen", of(policy, true));
    push("logps/rejected", of(policy, false));
    out
}

fn mean(t: &Tensor) -> f64 {
    t.mean(Kind::Double).double_value(&[])
}

/// Means of metrics over the micro-batches since they were last taken, as TRL logs them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricMeans {
    sums: BTreeMap<String, (f64, u64)>,
}

impl MetricMeans {
    /// Adds one micro-batch's values.
    pub fn add(&mut self, metrics: &Metrics) {
        self.add_many(metrics, 1);
    }

    /// Adds a batch's values with the weight of its `n` pairs, so that the mean is one over pairs.
    pub fn add_many(&mut self, metrics: &Metrics, n: usize) {
        for (name, value) in metrics {
            let (sum, count) = self.sums.entry((*name).to_owned()).or_default();
            *sum += value * n as f64;
            *count += n as u64;
        }
    }

    /// The means by name, `prefix` (`""` or `eval_`) before each, and starts again.
    pub fn take(&mut self, prefix: &str) -> BTreeMap<String, f64> {
        std::mem::take(&mut self.sums)
            .into_iter()
            .map(|(name, (sum, count))| (format!("{prefix}{name}"), sum / count as f64))
            .collect()
    }
}
