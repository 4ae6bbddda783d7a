mod degenerate;
mod facts;
mod llm;
mod reference;

use serde::{Deserialize, Serialize};

pub use degenerate::is_degenerate;
pub use llm::{LlmJudge, parse_verdict};
pub use reference::{ReferenceJudge, Score};

use crate::stats::mean;
use crate::{EvalError, bootstrap_mean, cohen_kappa, sign_test, win_rate};

/// A question and what two models answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Unique within its set.
    pub id: String,
    /// The question.
    pub question: String,
    /// A right answer, where one is known.
    #[serde(default)]
    pub reference: Option<String>,
    /// What the model from which tuning started said.
    pub base: String,
    /// What the tuned model said.
    pub tuned: String,
}

/// Which answer is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Winner {
    /// The tuned model's.
    Tuned,
    /// The base's.
    Base,
    /// Neither clearly.
    Tie,
}

/// A judge's word on one case.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Which answer is better.
    pub winner: Winner,
    /// The tuned answer's score, where the judge scores answers one by one.
    pub tuned_score: Option<f64>,
    /// The base answer's score.
    pub base_score: Option<f64>,
    /// Why, for a person.
    pub reason: String,
    /// False where the judge contradicted itself when the answers changed places.
    pub consistent: bool,
}

/// Compares two answers to a question.
pub trait Judge {
    /// What the report calls it.
    fn kind(&self) -> String;

    /// A decision for each case, in order. It must not depend on which model is called which.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] where it needs one; the model's own.
    fn decide(&self, cases: &[Case]) -> Result<Vec<Decision>, EvalError>;
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The sign test's p is below 0.05 and the win rate's interval lies above one half.
    #[serde(rename = "better")]
    Better,
    /// The same, below one half.
    #[serde(rename = "worse")]
    Worse,
    /// Anything else: chance explains it well enough.
    #[serde(rename = "no clear difference")]
    NoClearDifference,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::NoClearDifference => "no clear difference",
        })
    }
}

/// Tuned against base, over all cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeReport {
    /// The judge: `reference`, or `llm:` and a model's name.
    pub kind: String,
    /// Cases.
    pub n: usize,
    /// Cases that the tuned model won.
    pub tuned: usize,
    /// Cases that the base won.
    pub base: usize,
    /// Cases without a winner.
    pub tie: usize,
    /// (`tuned` + `tie` / 2) / `n`.
    pub win_rate: f64,
    /// The win rate's 95% bootstrap interval over cases.
    pub ci95: [f64; 2],
    /// The exact two-sided sign test over the cases with a winner.
    pub p_value: f64,
    /// What that comes to.
    pub verdict: Verdict,
    /// The rule by which the verdict was reached, in words.
    pub rule: String,
    /// Mean score of the tuned answers, where the judge gives scores.
    pub tuned_mean: Option<f64>,
    /// Mean score of the base's answers.
    pub base_mean: Option<f64>,
    /// Share of cases where the judge said the same with the answers in either order; 1 for judges that see no
    /// order.
    pub consistency: f64,
    /// Each case.
    pub rows: Vec<JudgeRow>,
}

/// One case with its decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeRow {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// Which answer is better.
    pub winner: Winner,
    /// The tuned answer's score.
    pub tuned_score: Option<f64>,
    /// The base answer's score.
    pub base_score: Option<f64>,
    /// Why.
    pub reason: String,
}

const RULE: &str = "better or worse where the exact sign test over decided cases gives p < 0.05 and the 95% \
                    bootstrap interval of the win rate (ties half) leaves out 0.5; else no clear difference";

/// Judges every case and sums up. `seed` draws the bootstrap.
///
/// # Errors
/// [`EvalError::Shape`] where there is no case, or the judge decides fewer than it was given; the judge's own.
pub fn judge(judge: &dyn Judge, cases: &[Case], seed: u64) -> Result<JudgeReport, EvalError> {
    let decisions = if cases.is_empty() { Vec::new() } else { judge.decide(cases)? };
    if decisions.len() != cases.len() || cases.is_empty() {
        let reason = format!("{} decisions for {} cases", decisions.len(), cases.len());
        return Err(EvalError::Shape { op: "judge", reason });
    }
    let count = |winner| decisions.iter().filter(|d| d.winner == winner).count();
    let (tuned, base, tie) = (count(Winner::Tuned), count(Winner::Base), count(Winner::Tie));
    let points: Vec<f64> = decisions
        .iter()
        .map(|d| match d.winner {
            Winner::Tuned => 1.0,
            Winner::Base => 0.0,
            Winner::Tie => 0.5,
        })
        .collect();
    let (ci95, p_value) = (bootstrap_mean(&points, seed).ci95, sign_test(tuned, base));
    let verdict = match p_value < 0.05 {
        true if ci95[0] > 0.5 => Verdict::Better,
        true if ci95[1] < 0.5 => Verdict::Worse,
        _ => Verdict::NoClearDifference,
    };
    let mean_of = |of: &dyn Fn(&Decision) -> Option<f64>| {
        let scores: Option<Vec<f64>> = decisions.iter().map(of).collect();
        scores.map(|scores| mean(&scores))
    };
    Ok(JudgeReport {
        kind: judge.kind(),
        n: cases.len(),
        tuned,
        base,
        tie,
        win_rate: win_rate(tuned, base, tie),
        ci95,
        p_value,
        verdict,
        rule: RULE.to_owned(),
        tuned_mean: mean_of(&|d| d.tuned_score),
        base_mean: mean_of(&|d| d.base_score),
        consistency: decisions.iter().filter(|d| d.consistent).count() as f64 / cases.len() as f64,
        rows: cases.iter().zip(decisions).map(|(case, decision)| row(case, decision)).collect(),
    })
}

fn row(case: &Case, decision: Decision) -> JudgeRow {
    let Decision { winner, tuned_score, base_score, reason, .. } = decision;
    JudgeRow { case: case.clone(), winner, tuned_score, base_score, reason }
}

/// How far two judges agree on the same cases: Cohen's kappa over tuned, base and tie.
///
/// # Errors
/// [`EvalError::Shape`] where the reports are not of the same cases.
pub fn agreement(a: &JudgeReport, b: &JudgeReport) -> Result<f64, EvalError> {
    let same = a.rows.iter().zip(&b.rows).all(|(x, y)| x.case.id == y.case.id);
    if !same {
        let reason = "the reports judge different cases".to_owned();
        return Err(EvalError::Shape { op: "agreement", reason });
    }
    let winners = |report: &JudgeReport| report.rows.iter().map(|row| row.winner).collect::<Vec<_>>();
    cohen_kappa(&winners(a), &winners(b))
}
