use std::collections::{BTreeMap, BTreeSet};

use ferrotune_types::{Message, PreferencePair};
use serde::{Deserialize, Serialize};

use super::graph::cycle_sizes;
use super::make::text_key;

/// What [`check_pairs`] calls too much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairCheck {
    /// Answers whose word 2-grams overlap at least this much (Jaccard) are nearly identical.
    pub near_identical: f64,
    /// A prompt of this many tokens or more leaves no room for an answer.
    pub max_length: Option<usize>,
}

impl Default for PairCheck {
    fn default() -> Self {
        PairCheck { near_identical: 0.9, max_length: None }
    }
}

/// How long a pair's parts are, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairTokens {
    /// The prompt.
    pub prompt: usize,
    /// The chosen answer.
    pub chosen: usize,
    /// The rejected answer.
    pub rejected: usize,
}

/// One thing that is wrong with a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "flag")]
pub enum Flag {
    /// An answer says nothing.
    Empty,
    /// Both answers are the same but for white space: there is nothing to learn.
    Identical,
    /// They nearly are.
    NearIdentical {
        /// Jaccard overlap of word 2-grams, 0..=1.
        overlap: f64,
    },
    /// The chosen answer declines to help, the rejected one does not.
    RefusalChosen,
    /// Another pair of this prompt prefers these answers the other way round.
    Conflict {
        /// That pair's id.
        with: String,
    },
    /// Preferences on this prompt run in a circle: a over b over c over a.
    Cycle {
        /// Answers in it.
        answers: usize,
    },
    /// The same pair again.
    Repeated {
        /// The first one's id.
        of: String,
    },
    /// The prompt fills the context: an empty answer would be left.
    NoRoom {
        /// Its tokens.
        prompt_tokens: usize,
    },
}

impl Flag {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Flag::Empty => "empty",
            Flag::Identical => "identical",
            Flag::NearIdentical { .. } => "near_identical",
            Flag::RefusalChosen => "refusal_chosen",
            Flag::Conflict { .. } => "conflict",
            Flag::Cycle { .. } => "cycle",
            Flag::Repeated { .. } => "repeated",
            Flag::NoRoom { .. } => "no_room",
        }
    }
}

/// A pair with what is wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flagged {
    /// Index among the pairs checked.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// What is wrong.
    #[serde(flatten)]
    pub flag: Flag,
}

/// How far length alone tells the chosen answer from the rejected one. A policy trained on biased pairs learns
/// to talk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthBias {
    /// Mean words of chosen answers.
    pub chosen_words: f64,
    /// Mean words of rejected answers.
    pub rejected_words: f64,
    /// Share of pairs whose longer answer is the chosen one; ties count half. 0.5 is no bias.
    pub longer_is_chosen: f64,
    /// How many standard errors that share is from one half.
    pub z: f64,
}

/// What [`check_pairs`] found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// Pairs checked.
    pub n_pairs: usize,
    /// Prompts among them.
    pub n_prompts: usize,
    /// Pairs by flag.
    pub counts: BTreeMap<String, usize>,
    /// Every finding, in order of the pairs.
    pub flagged: Vec<Flagged>,
    /// The figures of length; `None` without pairs.
    pub length: Option<LengthBias>,
}

impl std::fmt::Display for PairReport {
    /// One line for a person.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pairs of {} prompts", self.n_pairs, self.n_prompts)?;
        for (flag, n) in &self.counts {
            write!(f, ", {n} {flag}")?;
        }
        let Some(bias) = &self.length else { return Ok(()) };
        write!(
            f,
            "; the chosen answer is the longer one in {:.0}% (z {:.1}; {:.0} words against {:.0})",
            100.0 * bias.longer_is_chosen,
            bias.z,
            bias.chosen_words,
            bias.rejected_words
        )
    }
}

/// Looks for pairs that teach nothing or the wrong thing. `tokens` (one for each pair) is read only for
/// [`Flag::NoRoom`].
///
/// Nothing is dropped here: [`set_aside`] does that, by flag.
pub fn check_pairs(pairs: &[PreferencePair], tokens: Option<&[PairTokens]>, check: &PairCheck) -> PairReport {
    let mut flagged: Vec<Flagged> = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let mut flag = |flag| flagged.push(Flagged { index, id: pair.id.clone(), flag });
        let (chosen, rejected) = (text_key(&pair.chosen), text_key(&pair.rejected));
        if is_empty(&pair.chosen) || is_empty(&pair.rejected) {
            flag(Flag::Empty);
        } else if chosen == rejected {
            flag(Flag::Identical);
        } else {
            let overlap = overlap(&chosen, &rejected);
            if overlap >= check.near_identical {
                flag(Flag::NearIdentical { overlap });
            }
        }
        if is_refusal(&content(&pair.chosen)) && !is_refusal(&content(&pair.rejected)) {
            flag(Flag::RefusalChosen);
        }
        if let (Some(tokens), Some(limit)) = (tokens.and_then(|t| t.get(index)), check.max_length)
            && tokens.prompt >= limit
        {
            flag(Flag::NoRoom { prompt_tokens: tokens.prompt });
        }
    }
    let n_prompts = flag_contradictions(pairs, &mut flagged);
    flagged.sort_by_key(|f| f.index); // stable: findings of one pair keep their order
    let mut counts = BTreeMap::new();
    for name in flagged.iter().map(|f| (f.index, f.flag.name())).collect::<BTreeSet<_>>() {
        *counts.entry(name.1.to_owned()).or_insert(0) += 1;
    }
    PairReport { n_pairs: pairs.len(), n_prompts, counts, flagged, length: length_bias(pairs) }
}

/// Conflicts, cycles and repeats among the pairs of each prompt; gives the number of prompts.
fn flag_contradictions(pairs: &[PreferencePair], flagged: &mut Vec<Flagged>) -> usize {
    let mut of_prompt: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, pair) in pairs.iter().enumerate() {
        of_prompt.entry(text_key(&pair.prompt)).or_default().push(i);
    }
    for members in of_prompt.values().filter(|m| m.len() > 1) {
        let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
        let mut node = |messages: &[Message]| {
            let n = nodes.len();
            *nodes.entry(text_key(messages)).or_insert(n)
        };
        let edges: Vec<(usize, usize)> =
            members.iter().map(|&i| (node(&pairs[i].chosen), node(&pairs[i].rejected))).collect();
        let mut first: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (&i, &edge) in members.iter().zip(&edges) {
            first.entry(edge).or_insert(i);
        }
        let sizes = cycle_sizes(nodes.len(), &edges);
        for ((&i, &(better, worse)), answers) in members.iter().zip(&edges).zip(sizes) {
            let mut flag = |flag| flagged.push(Flagged { index: i, id: pairs[i].id.clone(), flag });
            if better == worse {
                continue; // identical answers, flagged before
            }
            if first[&(better, worse)] != i {
                flag(Flag::Repeated { of: pairs[first[&(better, worse)]].id.clone() });
            }
            if let Some(&other) = first.get(&(worse, better)) {
                flag(Flag::Conflict { with: pairs[other].id.clone() });
            } else if answers > 2 {
                flag(Flag::Cycle { answers });
            }
        }
    }
    of_prompt.len()
}

/// A pair that was set aside, with the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct SetAside {
    /// The pair.
    pub pair: PreferencePair,
    /// The first of its flags that asked for it.
    pub flag: Flag,
}

/// Splits pairs into those that carry none of the flags named in `flags` and those that do.
pub fn set_aside(
    pairs: Vec<PreferencePair>,
    report: &PairReport,
    flags: &[&str],
) -> (Vec<PreferencePair>, Vec<SetAside>) {
    let mut reasons: BTreeMap<usize, &Flag> = BTreeMap::new();
    for found in report.flagged.iter().filter(|f| flags.contains(&f.flag.name())) {
        reasons.entry(found.index).or_insert(&found.flag);
    }
    let (mut kept, mut aside) = (Vec::new(), Vec::new());
    for (i, pair) in pairs.into_iter().enumerate() {
        match reasons.get(&i) {
            Some(&flag) => aside.push(SetAside { pair, flag: flag.clone() }),
            None => kept.push(pair),
        }
    }
    (kept, aside)
}

/// How refusals begin or what they say in their first sentence, in lower case with plain apostrophes.
const REFUSALS: &[&str] = &[
    "i'm sorry, but",
    "i am sorry, but",
    "sorry, but i can",
    "i'm sorry, i can",
    "i apologize, but",
    "i cannot ",
    "i can't ",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i won't ",
    "i will not ",
    "as an ai",
    "as a language model",
    "i'm just an ai",
    "it is not appropriate",
    "it's not appropriate",
];

/// Whether a text declines to help, by its first 160 characters. It knows English phrases only.
pub fn is_refusal(text: &str) -> bool {
    let head: String = text.trim_start().chars().take(160).flat_map(char::to_lowercase).collect();
    let head = head.replace('\u{2019}', "'");
    REFUSALS.iter().any(|phrase| head.starts_with(phrase) || head.contains(&format!(". {phrase}")))
}

fn content(messages: &[Message]) -> String {
    messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n")
}

fn is_empty(messages: &[Message]) -> bool {
    messages.iter().all(|m| m.content.trim().is_empty() && m.tool_calls.is_empty())
}

/// Jaccard overlap of the sets of word 2-grams, each text fenced so that one word has two.
fn overlap(a: &str, b: &str) -> f64 {
    fn grams(text: &str) -> BTreeSet<(&str, &str)> {
        let words: Vec<&str> = std::iter::once("").chain(text.split_whitespace()).chain([""]).collect();
        words.windows(2).map(|w| (w[0], w[1])).collect()
    }
    let (a, b) = (grams(a), grams(b));
    let both = a.intersection(&b).count();
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

fn length_bias(pairs: &[PreferencePair]) -> Option<LengthBias> {
    let n = pairs.len() as f64;
    let words = |messages: &[Message]| content(messages).split_whitespace().count() as f64;
    let (mut chosen_sum, mut rejected_sum, mut longer) = (0.0, 0.0, 0.0);
    for pair in pairs {
        let (chosen, rejected) = (words(&pair.chosen), words(&pair.rejected));
        chosen_sum += chosen;
        rejected_sum += rejected;
        longer += if chosen > rejected {
            1.0
        } else if chosen < rejected {
            0.0
        } else {
            0.5
        };
    }
    (!pairs.is_empty()).then(|| LengthBias {
        chosen_words: chosen_sum / n,
        rejected_words: rejected_sum / n,
        longer_is_chosen: longer / n,
        z: (longer / n - 0.5) / (0.25 / n).sqrt(),
    })
}
