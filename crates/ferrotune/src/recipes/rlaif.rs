//! Preferences from a judge (RLAIF), top to bottom: a model answers each prompt several times, a judge compares the
//! answers two by two, and what it decides becomes pairs.
//!
//! A judge that sees answers side by side is asked in both orders, and a pair is made only where it names the same
//! answer both times: one that follows the place would teach the place. Ties, replies that cannot be read and refused
//! comparisons teach nothing and give no pair; each is counted.

use std::fmt;

use anyhow::{Result, bail};
use ferrotune_eval::{Basis, Case, Decision, Judge, Winner, is_degenerate_beside};
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
    /// Two different answers of a prompt. Each is a pair, set aside, or counted by one of the four that follow.
    pub comparisons: usize,
    /// Comparisons in which the judge found neither answer better, or both are empty or loop.
    pub ties: usize,
    /// Comparisons in which the judge contradicted itself when the answers changed places.
    pub inconsistent: usize,
    /// Comparisons in which the judge's reply could not be read.
    #[serde(default)]
    pub unreadable: usize,
    /// Comparisons that the judge's model refused.
    #[serde(default)]
    pub refused: usize,
    /// Pairs set aside because the judge's preferences on a prompt run in a circle.
    pub cycles: usize,
    /// Pairs made.
    pub pairs: usize,
    /// What a reader of the pairs should know of them, in a line.
    pub check: String,
}

/// `3 pairs of 12 comparisons; without a pair: 4 ties, 5 in which …`: the parts add up to the comparisons.
impl fmt::Display for RlaifReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pairs of {} comparisons", self.pairs, self.comparisons)?;
        let parts = [
            (self.ties, "ties"),
            (self.inconsistent, "in which the judge changed its mind with the order"),
            (self.unreadable, "in which the judge's reply could not be read"),
            (self.refused, "that the judge's model refused"),
            (self.cycles, "set aside because the judge's preferences contradict each other"),
        ];
        let said = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
        let said: Vec<String> = said.collect();
        if said.is_empty() { Ok(()) } else { write!(f, "; without a pair: {}", said.join(", ")) }
    }
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
    // What the judge lacks is told before the answers have cost anything.
    judge.check(&prompts.iter().map(|prompt| prompt.case("", "", "")).collect::<Vec<_>>())?;

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
        degenerate: prompts.iter().zip(&answers).map(|(prompt, answers)| prompt.n_degenerate(answers)).sum(),
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
                cases.push(prompt.case(&format!("#{first}-{second}"), &answers[first], &answers[second]));
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
            Winner::Tuned if decision.consistent => (first, second),
            Winner::Base if decision.consistent => (second, first),
            _ => {
                *report.without_pair(&decision) += 1;
                continue;
            }
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

impl RlaifPrompt {
    /// A comparison as the judge sees it; a blank reference is none.
    fn case(&self, number: &str, tuned: &str, base: &str) -> Case {
        let (last, before) = self.messages.split_last().map_or((None, &[][..]), |(q, b)| (Some(q), b));
        Case {
            id: format!("{}{number}", self.id),
            question: last.map_or_else(String::new, |m| m.content.clone()),
            before: before.to_vec(),
            reference: self.reference.clone().filter(|reference| !reference.trim().is_empty()),
            tuned: tuned.to_owned(),
            base: base.to_owned(),
        }
    }

    fn n_degenerate(&self, answers: &[String]) -> usize {
        answers.iter().filter(|answer| is_degenerate_beside(answer, self.reference.as_deref())).count()
    }
}

impl RlaifReport {
    /// The count of comparisons that gave no pair for the reason of this one.
    fn without_pair(&mut self, decision: &Decision) -> &mut usize {
        match decision.basis {
            Basis::Unreadable => &mut self.unreadable,
            Basis::Refused => &mut self.refused,
            Basis::Judged if !decision.consistent => &mut self.inconsistent,
            Basis::Judged | Basis::NotShown => &mut self.ties,
        }
    }
}

#[cfg(test)]
mod tests {
    use ferrotune_eval::{EvalError, ReferenceJudge};
    use ferrotune_types::{Completion, Finish, ModelError};

    use super::*;

    /// Answers with the seed, so that no two samples are the same, or not at all.
    struct Numbers {
        is_silent: bool,
    }

    impl LanguageModel for Numbers {
        fn name(&self) -> &'static str {
            "numbers"
        }

        fn chat(&self, _: &[Message], params: &GenerateParams) -> Result<Completion, ModelError> {
            assert!(!self.is_silent, "asked before the prompts were checked");
            let (text, ids, logprobs) = (format!("answer number {}", params.seed), vec![], vec![]);
            let finish = Finish::Stop;
            Ok(Completion { text, ids, finish, prompt_tokens: 0, completion_tokens: 0, logprobs })
        }
    }

    /// Decides the comparisons one after another as it was told.
    struct Told(Vec<(Winner, Basis, bool)>);

    impl Judge for Told {
        fn kind(&self) -> String {
            "told".to_owned()
        }

        fn decide(&self, cases: &[Case]) -> Result<Vec<Decision>, EvalError> {
            let decision = |(winner, basis, consistent): &(Winner, Basis, bool)| Decision {
                winner: *winner,
                tuned_score: None,
                base_score: None,
                reason: String::new(),
                consistent: *consistent,
                basis: *basis,
            };
            assert_eq!(cases.len(), self.0.len());
            Ok(self.0.iter().map(decision).collect())
        }
    }

    fn prompt(id: usize, reference: Option<&str>) -> RlaifPrompt {
        let messages = vec![Message::new(Role::User, format!("question {id}?"))];
        RlaifPrompt { id: format!("p{id}"), messages, reference: reference.map(str::to_owned) }
    }

    #[test]
    fn the_summary_adds_up() {
        let judge = Told(vec![
            (Winner::Tuned, Basis::Judged, true),
            (Winner::Tie, Basis::Judged, true),
            (Winner::Tie, Basis::NotShown, true),
            (Winner::Tie, Basis::Judged, false),
            (Winner::Tie, Basis::Unreadable, true),
            (Winner::Tie, Basis::Refused, true),
        ]);
        let prompts: Vec<RlaifPrompt> = (0..6).map(|id| prompt(id, None)).collect();
        let model = Numbers { is_silent: false };
        let (pairs, report) = rlaif(&model, &judge, &prompts, &RlaifConfig::default()).unwrap();
        assert_eq!(pairs.len(), 1);
        let counts = (report.ties, report.inconsistent, report.unreadable, report.refused, report.cycles);
        assert_eq!(counts, (2, 1, 1, 1, 0));
        assert_eq!(
            report.to_string(),
            "1 pairs of 6 comparisons; without a pair: 2 ties, 1 in which the judge changed its mind with the order, \
             1 in which the judge's reply could not be read, 1 that the judge's model refused"
        );
    }

    #[test]
    fn a_blank_reference_is_told_before_a_word_is_sampled() {
        for reference in [Some(""), Some(" "), None] {
            let prompts = [prompt(0, Some("30 days.")), prompt(1, reference)];
            let (model, judge) = (Numbers { is_silent: true }, ReferenceJudge::default());
            let error = rlaif(&model, &judge, &prompts, &RlaifConfig::default()).unwrap_err().to_string();
            assert!(error.contains("question p1 has no reference answer"), "{error}");
        }
    }
}
