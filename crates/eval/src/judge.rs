mod abstain;
mod degenerate;
mod facts;
mod llm;
mod reference;

use ferrotune_types::Message;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use degenerate::{is_degenerate, is_degenerate_beside};
pub use llm::{LlmJudge, parse_verdict};
pub use reference::{ReferenceJudge, Score};

use crate::stats::mean;
use crate::{EvalError, bootstrap_mean, cohen_kappa, sign_test, win_rate};

/// A question and what two models answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Unique within its set. A file may have a whole number here.
    #[serde(deserialize_with = "text_or_number")]
    pub id: String,
    /// The question.
    pub question: String,
    /// The turns before it, where it was asked in a conversation: a model that judges reads them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Message>,
    /// A right answer, where one is known.
    #[serde(default)]
    pub reference: Option<String>,
    /// What the model from which tuning started said.
    pub base: String,
    /// What the tuned model said.
    pub tuned: String,
}

impl Case {
    /// The reference answer, unless it is missing or blank.
    pub fn known_reference(&self) -> Option<&str> {
        self.reference.as_deref().map(str::trim).filter(|reference| !reference.is_empty())
    }
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        other => Err(D::Error::custom(format!("`id` is {other}: it must be a text or a whole number"))),
    }
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

/// How a decision came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The judge compared the answers.
    #[default]
    Judged,
    /// The judge's reply could not be read; a tie.
    Unreadable,
    /// The judge never saw the answers, because one is empty or loops.
    NotShown,
    /// The judge's model refused the case, by a filter or because it is too long; a tie.
    Refused,
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
    /// How it came about.
    pub basis: Basis,
}

/// Compares two answers to a question.
pub trait Judge {
    /// What the report calls it.
    fn kind(&self) -> String;

    /// What is wrong with cases, answered or not yet: a caller that must first generate the answers asks before.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] where the judge needs one.
    fn check(&self, cases: &[Case]) -> Result<(), EvalError> {
        let _ = cases;
        Ok(())
    }

    /// A decision for each case, in order. It must not depend on which model is called which.
    ///
    /// # Errors
    /// Those of [`Judge::check`]; [`EvalError::Unreadable`]; the model's own.
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
    /// Share of the judged cases where the judge said the same with the answers in either order; 1 for judges that
    /// see no order.
    pub consistency: f64,
    /// Cases in which the judge's reply could not be read: ties.
    #[serde(default)]
    pub unreadable: usize,
    /// Cases decided without the judge, because an answer is empty or loops.
    #[serde(default)]
    pub not_shown: usize,
    /// Cases that the judge's model refused: ties.
    #[serde(default)]
    pub refused: usize,
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
    /// How the decision came about.
    #[serde(default)]
    pub basis: Basis,
}

impl JudgeReport {
    /// What a reader should know of how the cases were decided, in sentences: nothing where the judge read all and
    /// never contradicted itself.
    pub fn notes(&self) -> Vec<String> {
        let of = |basis| self.rows.iter().filter(move |row| row.basis == basis).collect::<Vec<_>>();
        let judged = of(Basis::Judged).len();
        let changed = ((1.0 - self.consistency) * judged as f64).round();
        let changed = (changed > 0.0).then(|| {
            format!("with the answers in the other order the judge changed its mind in {changed} of {judged} cases")
        });
        let tied = |rows: Vec<&JudgeRow>, what: &str| {
            let first = rows.first()?;
            let ids: Vec<&str> = rows.iter().take(5).map(|row| row.case.id.as_str()).collect();
            let more = if rows.len() > ids.len() { ", …" } else { "" };
            let listed = ids.join(", ");
            Some(format!(
                "ties because {what}: {} ({listed}{more}); {}: {}",
                rows.len(),
                ids[0],
                first.reason
            ))
        };
        let unreadable = tied(of(Basis::Unreadable), "a reply could not be read");
        let refused = tied(of(Basis::Refused), "the judge's model refused the case");
        let not_shown = (self.not_shown > 0).then(|| {
            format!("not shown to the judge because an answer is empty or loops: {}", self.not_shown)
        });
        [changed, unreadable, refused, not_shown].into_iter().flatten().collect()
    }
}

const RULE: &str = "better or worse where the exact sign test over decided cases gives p < 0.05 and the 95% \
                    bootstrap interval of the win rate (ties half) leaves out 0.5; else no clear difference";

/// Judges every case and sums up. `seed` draws the bootstrap.
///
/// # Errors
/// [`EvalError::Shape`] where there is no case, or the judge decides fewer than it was given; the judge's own.
pub fn judge(judge: &dyn Judge, cases: &[Case], seed: u64) -> Result<JudgeReport, EvalError> {
    if cases.is_empty() {
        let reason = "there is no case: each needs a question and the answers of base and tuned".to_owned();
        return Err(EvalError::Shape { op: "judge", reason });
    }
    let decisions = judge.decide(cases)?;
    if decisions.len() != cases.len() {
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
    let count = |basis| decisions.iter().filter(|d| d.basis == basis).count();
    let judged = count(Basis::Judged);
    let consistent = decisions.iter().filter(|d| d.basis == Basis::Judged && d.consistent).count();
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
        consistency: if judged == 0 { 1.0 } else { consistent as f64 / judged as f64 },
        unreadable: count(Basis::Unreadable),
        not_shown: count(Basis::NotShown),
        refused: count(Basis::Refused),
        rows: cases.iter().zip(decisions).map(|(case, decision)| row(case, decision)).collect(),
    })
}

fn row(case: &Case, decision: Decision) -> JudgeRow {
    let Decision { winner, tuned_score, base_score, reason, basis, .. } = decision;
    JudgeRow { case: case.clone(), winner, tuned_score, base_score, reason, basis }
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
