//! Preferences from a judge (RLAIF), top to bottom: a model answers each prompt several times, a judge compares the
//! answers two by two, and what it decides becomes pairs.
//!
//! A judge that sees answers side by side is asked in both orders, and a pair is made only where it names the same
//! answer both times: one that follows the place would teach the place. Ties teach nothing and give no pair.

use anyhow::{Result, bail};
use ferrotune_eval::{Case, Judge, Winner, is_degenerate};
use ferrotune_preference::pairs::{PairCheck, check_pairs, set_aside};
use ferrotune_types::{GenerateParams, LanguageModel, Message, PreferencePair, Role};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlaifConfig {
    /// Answers to each prompt; every two of them are compared.
    pub samples: usize,
    /// Of sampling; 0 would give the same answer each time.
    pub temperature: f64,
    /// Keep the smallest set of tokens whose probability reaches this.
    pub top_p: Option<f64>,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// Of sampling.
    pub seed: u64,
}

impl Default for RlaifConfig {
    fn default() -> Self {
        RlaifConfig { samples: 2, temperature: 1.0, top_p: Some(0.95), max_new_tokens: 256, seed: 0 }
    }
}

/// What is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct RlaifPrompt {
    /// Unique among the prompts.
    pub id: String,
    /// The turns before the answer.
    pub messages: Vec<Message>,
    /// A right answer, where one is known.
    pub reference: Option<String>,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RlaifReport {
    /// The model that answered.
    pub model: String,
    /// The judge.
    pub judge: String,
    /// Prompts.
    pub prompts: usize,
    /// Answers sampled.
    pub answers: usize,
    /// Answers that are empty or loop; they lose against any other.
    pub degenerate: usize,
    /// Two answers of a prompt that are the same, word for word: nothing to compare.
    pub identical: usize,
    /// Comparisons that the judge was asked for.
    pub comparisons: usize,
    /// Comparisons without a winner.
    pub ties: usize,
    /// Comparisons in which the judge contradicted itself when the answers changed places.
    pub inconsistent: usize,
    /// Pairs set aside because the judge's preferences on a prompt run in a circle.
    pub cycles: usize,
    /// Pairs made.
    pub pairs: usize,
    /// What a reader of the pairs should know of them, in a line.
    pub check: String,
}

/// Samples, judges, and gives the pairs with where each came from in its `meta`: model, judge, samples, the judge's
/// words and scores, settings.
///
/// # Errors
/// No prompt; fewer than two samples; sampling without randomness; what the model or the judge says is wrong, such as
/// a judge that needs references where a prompt has none.
pub fn rlaif(
    model: &dyn LanguageModel,
    judge: &dyn Judge,
    prompts: &[RlaifPrompt],
    config: &RlaifConfig,
) -> Result<(Vec<PreferencePair>, RlaifReport)> {
    if prompts.is_empty() {
        bail!("there is no prompt to answer");
    }
    if config.samples < 2 {
        bail!("samples is {}: it takes two answers to prefer one", config.samples);
    }
    if config.temperature <= 0.0 {
        bail!(
            "the temperature is {}: without randomness all answers to a prompt are the same",
            config.temperature
        );
    }

    // One round of answers after another, each with a seed of its own.
    let asked: Vec<Vec<Message>> = prompts.iter().map(|p| p.messages.clone()).collect();
    let mut answers: Vec<Vec<String>> = vec![Vec::new(); prompts.len()];
    for sample in 0..config.samples {
        let params = GenerateParams {
            max_new_tokens: config.max_new_tokens,
            temperature: config.temperature,
            top_p: config.top_p,
            seed: config.seed.wrapping_add(sample as u64),
            ..GenerateParams::default()
        };
        let round = model.chat_batch(&asked, &params)?;
        if round.len() != prompts.len() {
            bail!("{} gave {} answers to {} prompts", model.name(), round.len(), prompts.len());
        }
        for (answers, answer) in answers.iter_mut().zip(round) {
            answers.push(answer.text.trim().to_owned());
        }
    }

    // Every two answers of a prompt that differ.
    let mut report = RlaifReport {
        model: model.name().to_owned(),
        judge: judge.kind(),
        prompts: prompts.len(),
        answers: prompts.len() * config.samples,
        degenerate: answers.iter().flatten().filter(|a| is_degenerate(a)).count(),
        ..RlaifReport::default()
    };
    let (mut cases, mut places) = (Vec::new(), Vec::new());
    for (p, (prompt, answers)) in prompts.iter().zip(&answers).enumerate() {
        for second in 1..answers.len() {
            for first in 0..second {
                if answers[first] == answers[second] {
                    report.identical += 1;
                    continue;
                }
                cases.push(Case {
                    id: format!("{}#{first}-{second}", prompt.id),
                    question: question(&prompt.messages),
                    reference: prompt.reference.clone(),
                    tuned: answers[first].clone(),
                    base: answers[second].clone(),
                });
                places.push((p, first, second));
            }
        }
    }
    report.comparisons = cases.len();
    let decisions = if cases.is_empty() { Vec::new() } else { judge.decide(&cases)? };
    if decisions.len() != cases.len() {
        bail!("{} decided {} of {} comparisons", report.judge, decisions.len(), cases.len());
    }

    // Agreed verdicts become pairs.
    let mut pairs = Vec::new();
    for ((case, decision), (p, first, second)) in cases.iter().zip(decisions).zip(places) {
        let (chosen, rejected) = match decision.winner {
            _ if !decision.consistent => {
                report.inconsistent += 1;
                continue;
            }
            Winner::Tie => {
                report.ties += 1;
                continue;
            }
            Winner::Tuned => (first, second),
            Winner::Base => (second, first),
        };
        let of_first = chosen == first;
        let (mine, other) = (decision.tuned_score, decision.base_score);
        let (chosen_score, rejected_score) = if of_first { (mine, other) } else { (other, mine) };
        let meta = [
            ("source", json!("rlaif")),
            ("model", json!(report.model)),
            ("judge", json!(report.judge)),
            ("judge_reason", json!(decision.reason)),
            ("chosen_sample", json!(chosen)),
            ("rejected_sample", json!(rejected)),
            ("chosen_score", json!(chosen_score)),
            ("rejected_score", json!(rejected_score)),
            ("temperature", json!(config.temperature)),
            ("top_p", json!(config.top_p)),
            ("seed", json!(config.seed)),
        ];
        let meta = meta.into_iter().filter(|(_, v)| !v.is_null());
        let answer = |sample: usize| vec![Message::new(Role::Assistant, answers[p][sample].as_str())];
        pairs.push(PreferencePair {
            id: case.id.clone(),
            prompt: prompts[p].messages.clone(),
            chosen: answer(chosen),
            rejected: answer(rejected),
            meta: meta.map(|(key, value)| (key.to_owned(), value)).collect(),
        });
    }
    let found = check_pairs(&pairs, None, &PairCheck::default());
    let (pairs, aside) = set_aside(pairs, &found, &["cycle", "conflict", "empty"]);
    report.cycles = aside.len();
    report.pairs = pairs.len();
    report.check = check_pairs(&pairs, None, &PairCheck::default()).to_string();
    Ok((pairs, report))
}

/// What the judge reads: the question alone, or the whole talk where there was one before it.
fn question(messages: &[Message]) -> String {
    match messages {
        [only] => only.content.clone(),
        many => {
            many.iter().map(|m| format!("{}: {}", m.role.as_str(), m.content)).collect::<Vec<_>>().join("\n")
        }
    }
}
