use std::collections::BTreeMap;

use ferrotune_types::{Message, PreferencePair};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Which pairs a ranking of k answers gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Every better answer against every worse one: k(k−1)/2, as InstructGPT.
    All,
    /// The best against each other: k − 1.
    BestAgainstRest,
    /// The best against the worst: 1, the clearest.
    BestAgainstWorst,
    /// Neighbours: k − 1, the hardest.
    Neighbours,
}

/// Answers to one prompt, best first → pairs. Ids are `{id}#0`, `{id}#1`, …
pub fn from_ranking(
    id: &str,
    prompt: &[Message],
    best_first: &[Vec<Message>],
    pairing: Pairing,
) -> Vec<PreferencePair> {
    let ranks: Vec<(&[Message], f64)> =
        best_first.iter().enumerate().map(|(i, a)| (a.as_slice(), -(i as f64))).collect();
    pairs_of(id, prompt, &ranks, pairing, 0.0, false)
}

/// Answers to one prompt with scores (higher is better) → pairs that differ by at least `min_gap` and by more
/// than zero. The difference stands as `margin` in each pair's meta, where a reward model can read it. Answers
/// with a score that is not a number are left out.
pub fn from_scores(
    id: &str,
    prompt: &[Message],
    scored: &[(Vec<Message>, f64)],
    min_gap: f64,
    pairing: Pairing,
) -> Vec<PreferencePair> {
    let mut ranks: Vec<(&[Message], f64)> =
        scored.iter().filter(|(_, s)| s.is_finite()).map(|(a, s)| (a.as_slice(), *s)).collect();
    ranks.sort_by(|a, b| b.1.total_cmp(&a.1)); // stable: equal scores keep their order
    pairs_of(id, prompt, &ranks, pairing, min_gap, true)
}

fn pairs_of(
    id: &str,
    prompt: &[Message],
    ranks: &[(&[Message], f64)],
    pairing: Pairing,
    min_gap: f64,
    with_margin: bool,
) -> Vec<PreferencePair> {
    let k = ranks.len();
    let wanted = |i: usize, j: usize| match pairing {
        Pairing::All => true,
        Pairing::BestAgainstRest => i == 0,
        Pairing::BestAgainstWorst => i == 0 && j == k - 1,
        Pairing::Neighbours => j == i + 1,
    };
    let mut out = Vec::new();
    for i in 0..k {
        for j in i + 1..k {
            let gap = ranks[i].1 - ranks[j].1;
            if wanted(i, j) && gap > 0.0 && gap >= min_gap {
                let mut meta = Map::new();
                if with_margin {
                    meta.insert("margin".to_owned(), json!(gap));
                }
                let id = format!("{id}#{}", out.len());
                out.push(pair(id, prompt, ranks[i].0, ranks[j].0, meta));
            }
        }
    }
    out
}

fn pair(
    id: String,
    prompt: &[Message],
    chosen: &[Message],
    rejected: &[Message],
    meta: Map<String, Value>,
) -> PreferencePair {
    PreferencePair { id, prompt: prompt.to_vec(), chosen: chosen.to_vec(), rejected: rejected.to_vec(), meta }
}

/// An answer with a thumb up or down: KTO's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thumb {
    /// Unique within its dataset.
    #[serde(default)]
    pub id: String,
    /// The turns before the answer.
    pub prompt: Vec<Message>,
    /// The answer.
    pub completion: Vec<Message>,
    /// Up or down; TRL's `label`.
    pub label: bool,
}

/// A pair as two thumbs, `{id}#up` and `{id}#down`.
pub fn to_thumbs(pair: &PreferencePair) -> [Thumb; 2] {
    let thumb = |side: &str, completion: &[Message], label| Thumb {
        id: format!("{}#{side}", pair.id),
        prompt: pair.prompt.clone(),
        completion: completion.to_vec(),
        label,
    };
    [thumb("up", &pair.chosen, true), thumb("down", &pair.rejected, false)]
}

/// Thumbs on the same prompt → pairs of every answer with a thumb up against every one with a thumb down.
/// Prompts with one kind of thumb only give no pair (KTO can use them as they are).
pub fn from_thumbs(thumbs: &[Thumb]) -> Vec<PreferencePair> {
    let mut of_prompt: BTreeMap<String, Vec<&Thumb>> = BTreeMap::new();
    let mut order = Vec::new();
    for thumb in thumbs {
        let key = text_key(&thumb.prompt);
        let group = of_prompt.entry(key.clone()).or_default();
        if group.is_empty() {
            order.push(key);
        }
        group.push(thumb);
    }
    let mut out = Vec::new();
    for key in order {
        let group = &of_prompt[&key];
        for up in group.iter().filter(|t| t.label) {
            for down in group.iter().filter(|t| !t.label) {
                let id = format!("{}>{}", up.id, down.id);
                out.push(pair(id, &up.prompt, &up.completion, &down.completion, Map::new()));
            }
        }
    }
    out
}

/// What a judge said of two answers shown in some order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The one shown first.
    First,
    /// The one shown second.
    Second,
    /// Neither.
    Tie,
}

/// A judge's two verdicts on answers A and B, shown as (A, B) and as (B, A) → whether A won. `None` where the
/// judge tied or went with the place rather than the answer: such a pair teaches the judge's bias.
pub fn agreed(a_then_b: Verdict, b_then_a: Verdict) -> Option<bool> {
    match (a_then_b, b_then_a) {
        (Verdict::First, Verdict::Second) => Some(true),
        (Verdict::Second, Verdict::First) => Some(false),
        _ => None,
    }
}

/// What a user did with an answer: a preference that nobody was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Took it: copied it, sent it, went on.
    Accepted,
    /// Asked for another one.
    Regenerated,
    /// Rewrote it to this.
    Edited(Vec<Message>),
    /// Nothing that says anything.
    Unknown,
}

/// The answers shown for one prompt, in time order, with what the user did → pairs.
///
/// An edit is preferred to the answer it was made from; an accepted (or edited) answer to every one that was
/// regenerated before it. Anything else says nothing.
pub fn from_log(id: &str, prompt: &[Message], shown: &[(Vec<Message>, Outcome)]) -> Vec<PreferencePair> {
    let mut out = Vec::new();
    let mut refused: Vec<&[Message]> = Vec::new();
    for (answer, outcome) in shown {
        let mut push = |chosen: &[Message], rejected: &[Message], signal: &str| {
            let meta = Map::from_iter([("signal".to_owned(), json!(signal))]);
            out.push(pair(format!("{id}#{}", out.len()), prompt, chosen, rejected, meta));
        };
        let taken = match outcome {
            Outcome::Accepted => Some(answer),
            Outcome::Edited(edited) => {
                push(edited, answer, "edited");
                Some(edited)
            }
            Outcome::Regenerated => {
                refused.push(answer);
                None
            }
            Outcome::Unknown => None,
        };
        if let Some(taken) = taken {
            for rejected in refused.drain(..) {
                push(taken, rejected, "regenerated");
            }
        }
    }
    out
}

/// What makes two prompts or answers the same: roles and words, but not white space.
pub(crate) fn text_key(messages: &[Message]) -> String {
    let mut key = String::new();
    for message in messages {
        key.push_str(message.role.as_str());
        for word in message.content.split_whitespace() {
            key.push(' ');
            key.push_str(word);
        }
        for call in &message.tool_calls {
            key.push_str(&call.to_string());
        }
        key.push('\n');
    }
    key
}
