//! Counts of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::step::Step;

/// How many rows came, stayed and went, and why. Holds no times, so that equal runs give equal bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Rows read, bad ones included.
    pub read: usize,
    /// Rows kept. `read` and `repeats` together are `kept`, all of `dropped` and all of `held_out`.
    pub kept: usize,
    /// Rows set aside, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Rows that a `split` step held out, by set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_out: BTreeMap<String, usize>,
    /// Kept rows that a `mix` step took once more.
    #[serde(default)]
    pub repeats: usize,
    /// Changes made, by step.
    pub edits: BTreeMap<String, usize>,
    /// Each input and what it was found to be.
    pub inputs: Vec<(String, String)>,
    /// The steps, in their order.
    pub per_step: Vec<StepReport>,
    /// What a person should know before trusting the result: evaluation rows that could not be read, a set that is
    /// far from its share, a cluster that holds too much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What one step did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step's kind.
    pub step: String,
    /// Rows it looked at.
    pub rows: usize,
    /// Rows it set aside, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Changes it made.
    pub edits: usize,
    /// What else it has to say: clusters, alarms, removed lines.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub notes: serde_json::Value,
}

impl Report {
    pub(super) fn new(steps: &[Step]) -> Self {
        let of = |step: &Step| StepReport { step: step.name().to_owned(), ..StepReport::default() };
        Report { per_step: steps.iter().map(of).collect(), ..Report::default() }
    }

    pub(super) fn count_drop(&mut self, step: Option<usize>, reason: &str) {
        *self.dropped.entry(reason.to_owned()).or_default() += 1;
        if let Some(step) = step {
            *self.per_step[step].dropped.entry(reason.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn count_edit(&mut self, step: Option<usize>, name: &str) {
        *self.edits.entry(name.to_owned()).or_default() += 1;
        if let Some(step) = step {
            self.per_step[step].edits += 1;
        }
    }

    /// Rows set aside, for whatever reason.
    pub fn n_dropped(&self) -> usize {
        self.dropped.values().sum()
    }
}
