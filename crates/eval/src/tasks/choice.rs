use ferrotune_types::{LanguageModel, LogLikelihood};
use serde::{Deserialize, Serialize};

use crate::stats::mean;
use crate::{EvalError, standard_error};

/// Items asked for in one call, so that a model can batch and progress can be seen.
const BATCH: usize = 32;

/// Which choices are right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gold {
    /// One of them, from 0.
    One(usize),
    /// Several: the score is the probability that lies on them (TruthfulQA's MC2).
    Any(Vec<bool>),
}

/// A question as a model sees it: for each choice a context and a continuation, whose likelihoods are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// Unique within its task.
    pub id: String,
    /// For each choice the context and the continuation.
    pub requests: Vec<(String, String)>,
    /// For each choice its length in characters, which `acc_norm` divides by.
    pub lengths: Vec<usize>,
    /// Which choices are right.
    pub gold: Gold,
    /// The question with its right answer: how it stands before others as an example.
    pub shown: String,
}

/// Solved examples before a question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shots {
    /// What opens the prompt, such as MMLU's line on the subject.
    pub description: String,
    /// The examples, in order.
    pub examples: Vec<Choices>,
}

impl Shots {
    /// Description, examples and the blank lines between them.
    pub fn text(&self) -> String {
        let examples = self.examples.iter().map(|shot| format!("{}\n\n", shot.shown));
        std::iter::once(self.description.clone()).chain(examples).collect()
    }
}

/// A task's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: String,
    /// Questions.
    pub n: usize,
    /// Share of questions whose likeliest choice is right; for several right ones the mean probability on them.
    pub acc: f64,
    /// Standard error of `acc`.
    pub acc_stderr: f64,
    /// The same with each log-likelihood divided by the choice's length in characters; absent where several
    /// choices are right.
    pub acc_norm: Option<f64>,
    /// Standard error of `acc_norm`.
    pub acc_norm_stderr: Option<f64>,
    /// Each question.
    pub rows: Vec<McRow>,
}

/// One question's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct McRow {
    /// The question.
    pub id: String,
    /// Each choice's log-likelihood.
    pub loglikelihoods: Vec<f64>,
    /// 1 or 0; a probability where several choices are right.
    pub acc: f64,
    /// 1 or 0, lengths divided out.
    pub acc_norm: Option<f64>,
}

/// Asks a model for every choice's likelihood and scores it as lm-eval does.
///
/// # Errors
/// [`EvalError::Shape`] where there is no question or an item's parts disagree; the model's own.
pub fn run_choices(
    model: &dyn LanguageModel,
    task: &str,
    items: &[Choices],
    shots: &Shots,
) -> Result<TaskReport, EvalError> {
    items.iter().try_for_each(check)?;
    if items.is_empty() {
        return Err(EvalError::Shape { op: "run_choices", reason: format!("{task} has no questions") });
    }
    let before = shots.text();
    let mut rows = Vec::with_capacity(items.len());
    for batch in items.chunks(BATCH) {
        let requests: Vec<(String, String)> = batch
            .iter()
            .flat_map(|item| item.requests.iter().map(|(c, k)| (format!("{before}{c}"), k.clone())))
            .collect();
        let found = model.loglikelihood(&requests)?;
        if found.len() != requests.len() {
            let reason = format!("{} likelihoods for {} requests", found.len(), requests.len());
            return Err(EvalError::Shape { op: "run_choices", reason });
        }
        let mut found = found.as_slice();
        for item in batch {
            let (these, rest) = found.split_at(item.requests.len());
            found = rest;
            rows.push(scored(item, these));
        }
    }
    let acc: Vec<f64> = rows.iter().map(|row| row.acc).collect();
    let norm: Option<Vec<f64>> = rows.iter().map(|row| row.acc_norm).collect();
    Ok(TaskReport {
        task: task.to_owned(),
        n: rows.len(),
        acc: mean(&acc),
        acc_stderr: standard_error(&acc),
        acc_norm: norm.as_deref().map(mean),
        acc_norm_stderr: norm.as_deref().map(standard_error),
        rows,
    })
}

fn check(item: &Choices) -> Result<(), EvalError> {
    let n = item.requests.len();
    let gold_fits = match &item.gold {
        Gold::One(gold) => *gold < n,
        Gold::Any(labels) => labels.len() == n && labels.contains(&true),
    };
    if n < 2 || item.lengths.len() != n || !gold_fits {
        let reason = format!("question {} has {n} choices and does not fit together", item.id);
        return Err(EvalError::Shape { op: "run_choices", reason });
    }
    Ok(())
}

fn scored(item: &Choices, found: &[LogLikelihood]) -> McRow {
    let sums: Vec<f64> = found.iter().map(|l| l.sum).collect();
    let normed: Vec<f64> = sums.iter().zip(&item.lengths).map(|(s, n)| s / (*n).max(1) as f64).collect();
    let (acc, acc_norm) = match &item.gold {
        Gold::One(gold) => {
            let right = |values: &[f64]| f64::from(first_greatest(values) == Some(*gold));
            (right(&sums), Some(right(&normed)))
        }
        Gold::Any(labels) => {
            // Shifted by the greatest, so that long choices do not underflow to 0 / 0.
            let top = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mass: Vec<f64> = sums.iter().map(|s| (s - top).exp()).collect();
            let on_right: f64 = mass.iter().zip(labels).filter(|(_, right)| **right).map(|(m, _)| m).sum();
            (on_right / mass.iter().sum::<f64>(), None)
        }
    };
    McRow { id: item.id.clone(), loglikelihoods: sums, acc, acc_norm }
}

/// NumPy's argmax: the first of equal values.
fn first_greatest(values: &[f64]) -> Option<usize> {
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}
