use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;
use rust_stemmers::{Algorithm, Stemmer};
use serde::{Deserialize, Serialize};

use super::abstain::{abstains, is_unknown};
use super::facts::{Fact, Kind, facts};
use super::{Basis, Case, Decision, Judge, Winner, is_degenerate_beside};
use crate::text::Prf;
use crate::{EvalError, rouge_l};

/// Scores each answer against the reference answer, without any model.
///
/// ```text
/// agreement     = 0.40 * facts + 0.35 * content F1 + 0.25 * ROUGE-L       where the reference states facts
///                 0.60 * content F1 + 0.40 * ROUGE-L                      where it states none
/// score         = agreement * (1 - 0.9 * contradiction) * length
/// ```
///
/// - *facts*: the share of the reference's amounts, figures, times, days, names and addresses that the answer has.
/// - *content F1*: stems of words that carry meaning; those that the question already holds count half.
/// - *contradiction*, 0 to 1: a figure of the same kind with another value, yes against no, a negation on one
///   side only, an opposite (before and after, free and paid).
/// - *length*: 1, falling to 0.5 for an answer many times as long as the reference.
///
/// An empty or looping answer scores 0. Saying that one does not know scores 0.12 where the reference knows
/// (better than a wrong figure, worse than most of an answer) and 1 where the reference does not know either, which it
/// does where it is short, says so in a main clause, and states no figure.
///
/// It measures agreement with the reference, so an answer that is right in other words scores low: read its
/// verdict as such, and use an LLM judge where answers are open.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReferenceJudge {
    /// Scores that differ by no more than this are a tie.
    pub margin: f64,
}

impl Default for ReferenceJudge {
    fn default() -> Self {
        ReferenceJudge { margin: 0.05 }
    }
}

/// An answer's score and what it is made of, each from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What answers are compared by.
    pub total: f64,
    /// Share of the reference's facts; absent where it states none.
    pub facts: Option<f64>,
    /// F1 of words that carry meaning.
    pub content_f1: f64,
    /// F1 of the longest common run of words.
    pub rouge_l: f64,
    /// How much the answer contradicts the reference.
    pub contradiction: f64,
    /// What is left for the answer's length.
    pub length: f64,
    /// What stands out, for a person.
    pub notes: Vec<String>,
}

const ABSTAINED: f64 = 0.12;

static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:not|no|never|none|cannot|unable|nor|neither|unfortunately)\b|n['’]t\b")
        .expect("a constant pattern")
});
static YES_NO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:^|[.!?,;]\s+)(?:and |but |so |hi |hello )?(?:is|are|am|was|were|do|does|did|can|could|will|would|may|must|should|has|have|had)\b[^.!?]*\?")
        .expect("a constant pattern")
});
static SAYS_YES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\W*(?:yes|yeah|yep|sure|certainly|absolutely|of course|definitely)\b")
        .expect("a constant pattern")
});
static SAYS_NO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^\W*(?:no|nope|unfortunately|sorry,? (?:but )?(?:no|we (?:do not|don['’]t|cannot|can['’]t)))\b",
    )
    .expect("a constant pattern")
});

const OPPOSITES: [(&str, &str); 22] = [
    ("before", "after"),
    ("over", "under"),
    ("above", "below"),
    ("more", "less"),
    ("minimum", "maximum"),
    ("include", "exclude"),
    ("included", "excluded"),
    ("open", "closed"),
    ("opens", "closes"),
    ("free", "paid"),
    ("with", "without"),
    ("increase", "decrease"),
    ("online", "in-store"),
    ("always", "never"),
    ("allowed", "forbidden"),
    ("accept", "refuse"),
    ("buyer", "seller"),
    ("refundable", "non-refundable"),
    ("hot", "cold"),
    ("earliest", "latest"),
    ("possible", "impossible"),
    ("required", "optional"),
];

/// Words without meaning of their own; not counted when content is compared.
const FUNCTION_WORDS: [&str; 90] = [
    "a", "about", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by",
    "can", "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "hello", "her", "hi",
    "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "may", "me", "might", "my", "of", "on",
    "or", "our", "please", "she", "should", "so", "some", "than", "thank", "thanks", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "those", "to", "us", "very", "was", "we", "were",
    "what", "when", "where", "which", "who", "why", "will", "with", "would", "you", "your", "yours", "sure",
    "glad", "help", "happy", "hope", "here", "yes",
];

impl ReferenceJudge {
    /// Scores one answer.
    pub fn score(&self, question: &str, reference: &str, answer: &str) -> Score {
        let mut score = Score {
            total: 0.0,
            facts: None,
            content_f1: content_f1(question, reference, answer).f1,
            rouge_l: rouge_l(answer, reference).f1,
            contradiction: 0.0,
            length: length(reference, answer),
            notes: Vec::new(),
        };
        if is_degenerate_beside(answer, Some(reference)) {
            score.notes.push("empty or looping".to_owned());
            return score;
        }
        let abstains = abstains(answer);
        match (is_unknown(reference), abstains) {
            (true, true) => {
                score.total = 1.0;
                score.notes.push("rightly says that it does not know".to_owned());
                return score;
            }
            (true, false) => {
                score.total = 0.1 * score.content_f1;
                score.notes.push("answers what cannot be known".to_owned());
                return score;
            }
            (false, true) => score.notes.push("says that it does not know".to_owned()),
            (false, false) => {}
        }
        let known = facts(question);
        let expected: BTreeSet<Fact> = facts(reference).difference(&known).cloned().collect();
        let stated: BTreeSet<Fact> = facts(answer).difference(&known).cloned().collect();
        score.facts = (!expected.is_empty()).then(|| share_stated(&expected, &stated, answer));
        score.contradiction =
            contradiction(question, reference, answer, &expected, &stated, &mut score.notes);
        let agreement = match score.facts {
            Some(facts) => 0.40 * facts + 0.35 * score.content_f1 + 0.25 * score.rouge_l,
            None => 0.60 * score.content_f1 + 0.40 * score.rouge_l,
        };
        score.total = agreement * (1.0 - 0.9 * score.contradiction) * score.length;
        if abstains && score.facts.unwrap_or(0.0) < 0.5 {
            score.total = score.total.min(ABSTAINED);
            // A plain "I do not know" shares no words with the reference, and is still no wrong answer.
            if stated.is_empty() {
                score.total = ABSTAINED;
            }
        }
        score
    }
}

const KIND: &str = "reference";

fn needed_reference(case: &Case) -> Result<&str, EvalError> {
    let missing = || EvalError::NoReference { id: case.id.clone(), judge: KIND.to_owned() };
    case.known_reference().ok_or_else(missing)
}

impl Judge for ReferenceJudge {
    fn kind(&self) -> String {
        KIND.to_owned()
    }

    fn check(&self, cases: &[Case]) -> Result<(), EvalError> {
        cases.iter().try_for_each(|case| needed_reference(case).map(|_| ()))
    }

    fn decide(&self, cases: &[Case]) -> Result<Vec<Decision>, EvalError> {
        cases
            .iter()
            .map(|case| {
                let reference = needed_reference(case)?;
                let tuned = self.score(&case.question, reference, &case.tuned);
                let base = self.score(&case.question, reference, &case.base);
                let ahead = tuned.total - base.total;
                let winner = match ahead {
                    _ if ahead > self.margin => Winner::Tuned,
                    _ if ahead < -self.margin => Winner::Base,
                    _ => Winner::Tie,
                };
                let reason = format!("tuned {}; base {}", told(&tuned), told(&base));
                let (tuned_score, base_score) = (Some(tuned.total), Some(base.total));
                Ok(Decision {
                    winner,
                    tuned_score,
                    base_score,
                    reason,
                    consistent: true,
                    basis: Basis::Judged,
                })
            })
            .collect()
    }
}

fn told(score: &Score) -> String {
    let facts = score.facts.map(|facts| format!("{:.0}% of the facts", 100.0 * facts));
    let parts =
        std::iter::once(format!("{:.2}", score.total)).chain(facts).chain(score.notes.iter().cloned());
    parts.collect::<Vec<_>>().join(", ")
}

/// Names also count as stated where the answer writes them in small letters or opens a sentence with them.
fn share_stated(expected: &BTreeSet<Fact>, stated: &BTreeSet<Fact>, answer: &str) -> f64 {
    let lower = answer.to_lowercase();
    let has = |fact: &Fact| {
        stated.contains(fact)
            || (matches!(fact.kind, Kind::Name | Kind::Month) && lower.contains(&fact.value))
            // "It takes 5" answers "5 days".
            || (matches!(fact.kind, Kind::Figure(_))
                && stated.iter().any(|f| f.value == fact.value && f.kind == Kind::Figure(String::new())))
    };
    expected.iter().filter(|fact| has(fact)).count() as f64 / expected.len() as f64
}

fn contradiction(
    question: &str,
    reference: &str,
    answer: &str,
    expected: &BTreeSet<Fact>,
    stated: &BTreeSet<Fact>,
    notes: &mut Vec<String>,
) -> f64 {
    let mut worst = 0f64;
    let mut note = |amount: f64, text: String| {
        worst = worst.max(amount);
        notes.push(text);
    };
    for (kind, right) in by_kind(expected) {
        if matches!(kind, Kind::Name | Kind::Address) {
            continue;
        }
        let said: BTreeSet<&str> =
            stated.iter().filter(|f| f.kind == *kind).map(|f| f.value.as_str()).collect();
        let wrong: Vec<&str> = said.difference(&right).copied().collect();
        let missed = right.difference(&said).count();
        if !wrong.is_empty() && missed > 0 {
            // Nothing right of this kind is a plain contradiction; some right and some wrong is half of one.
            let amount = if missed == right.len() { 1.0 } else { 0.5 };
            let shown = right.iter().copied().collect::<Vec<_>>().join(", ");
            note(amount, format!("{} instead of {shown} ({})", wrong.join(", "), named(kind)));
        }
    }
    if YES_NO.is_match(question)
        && let (Some(right), Some(said)) = (stance(reference), stance(answer))
        && right.is_yes != said.is_yes
    {
        // "At 16." to "Is he old enough?" says neither: where a side only seems to say yes, it is half a contradiction.
        let amount = if right.is_plain && said.is_plain { 1.0 } else { 0.5 };
        note(amount, "yes and no changed places".to_owned());
    } else if NEGATION.is_match(reference) != NEGATION.is_match(answer)
        && content_f1("", reference, answer).f1 > 0.5
    {
        note(0.6, "a negation on one side only".to_owned());
    }
    let (in_reference, in_answer) = (word_set(reference), word_set(answer));
    for (a, b) in OPPOSITES {
        for (one, other) in [(a, b), (b, a)] {
            let swapped = in_reference.contains(one)
                && !in_reference.contains(other)
                && in_answer.contains(other)
                && !in_answer.contains(one);
            if swapped {
                note(0.4, format!("{other} instead of {one}"));
            }
        }
    }
    worst
}

fn by_kind(facts: &BTreeSet<Fact>) -> BTreeMap<&Kind, BTreeSet<&str>> {
    let mut kinds: BTreeMap<&Kind, BTreeSet<&str>> = BTreeMap::new();
    for fact in facts {
        kinds.entry(&fact.kind).or_default().insert(&fact.value);
    }
    kinds
}

fn named(kind: &Kind) -> String {
    match kind {
        Kind::Money => "amount".to_owned(),
        Kind::Percent => "percent".to_owned(),
        Kind::Time => "minutes after midnight".to_owned(),
        Kind::Figure(unit) if unit.is_empty() => "figure".to_owned(),
        Kind::Figure(unit) => unit.clone(),
        Kind::Weekday => "weekday".to_owned(),
        Kind::Month => "month".to_owned(),
        Kind::Address => "address".to_owned(),
        Kind::Name => "name".to_owned(),
    }
}

/// An answer to a yes-or-no question.
struct Stance {
    is_yes: bool,
    /// Whether it says yes, no or not; else it seems to say yes because nothing negates it.
    is_plain: bool,
}

/// By the first word, else by a negation in the first sentence.
fn stance(text: &str) -> Option<Stance> {
    if SAYS_YES.is_match(text) {
        return Some(Stance { is_yes: true, is_plain: true });
    }
    if SAYS_NO.is_match(text) {
        return Some(Stance { is_yes: false, is_plain: true });
    }
    let first = text.split_inclusive(['.', '!', '?']).find(|s| s.split_whitespace().count() >= 3)?;
    let negated = NEGATION.is_match(first);
    Some(Stance { is_yes: !negated, is_plain: negated })
}

fn word_set(text: &str) -> BTreeSet<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric() && c != '-')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Stems of the words that carry meaning, with their counts.
fn content(text: &str) -> BTreeMap<String, usize> {
    let stemmer = Stemmer::create(Algorithm::English);
    let mut counts = BTreeMap::new();
    let lower = text.to_lowercase().replace(',', "");
    for word in lower.split(|c: char| !c.is_alphanumeric() && c != '.').map(|w| w.trim_matches('.')) {
        if !word.is_empty() && !FUNCTION_WORDS.contains(&word) {
            *counts.entry(stemmer.stem(word).into_owned()).or_insert(0) += 1;
        }
    }
    counts
}

fn content_f1(question: &str, reference: &str, answer: &str) -> Prf {
    let (asked, reference, answer) = (content(question), content(reference), content(answer));
    let weight = |stem: &String| if asked.contains_key(stem) { 0.5 } else { 1.0 };
    let whole =
        |counts: &BTreeMap<String, usize>| counts.iter().map(|(s, n)| weight(s) * *n as f64).sum::<f64>();
    let both: f64 = answer
        .iter()
        .map(|(stem, n)| weight(stem) * reference.get(stem).map_or(0, |m| *m.min(n)) as f64)
        .sum();
    Prf::of(both, whole(&answer), whole(&reference))
}

/// 1 up to four times the reference's length and 30 words, then falling to 0.5.
fn length(reference: &str, answer: &str) -> f64 {
    let words = |text: &str| text.split_whitespace().count() as f64;
    let room = 4.0 * words(reference) + 30.0;
    (room / words(answer).max(1.0)).clamp(0.5, 1.0)
}
