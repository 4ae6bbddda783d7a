//! Refusals, "as an AI", and answers that say nothing.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::shown;
use crate::{Drop, Edit, Record, RecordStep};

/// Refuses rows by what their answers decline.
///
/// An honest "I don't have that information" teaches a model not to invent; a dataset wants a share of them. They
/// stay unless asked for. What goes by default is talk about being a language model, blanket refusals, and
/// answers that only send the person elsewhere or shrug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Refusal {
    /// "As an AI language model, I …" (`refusal`).
    pub as_an_ai: bool,
    /// "I'm sorry, but I can't help with that" as the whole answer (`refusal`).
    pub refusals: bool,
    /// Answers of at most a few words such as "no idea", "see website", "please contact us" (`says_nothing`).
    pub says_nothing: bool,
    /// "I don't have that information" (`no_information`).
    pub no_information: bool,
    /// Look at documents too. Off by default: what a person asks or a page tells declines nothing.
    pub documents: bool,
}

impl Default for Refusal {
    fn default() -> Self {
        Refusal {
            as_an_ai: true,
            refusals: true,
            says_nothing: true,
            no_information: false,
            documents: false,
        }
    }
}

fn regex(pattern: &str) -> Regex {
    // The patterns are constants of this file, covered by its tests.
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"))
}

static AS_AN_AI: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) \bas\s(?:an?\s)(?:ai\b|artificial\sintelligence|(?:large\s)?language\smodel|chat\s?bot)
        | \bi(?:['’]m|\sam)\s(?:just\s|only\s|merely\s)?an?\s(?:ai\b|ai[\s-]|artificial\sintelligence|(?:large\s)?language\smodel)
        | \bmy\s(?:knowledge\scut-?off|training\sdata)\b
        | \b(?:openai|anthropic)['’]s\s(?:polic|guidelines|use\scase)",
    )
});

static REFUSES: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) ^\W*(?:(?:i['’]?m|i\sam|we['’]?re|we\sare)\s(?:(?:very|so|really|truly)\s)?(?:sorry|afraid)|sorry|unfortunately|apologies|i\sapologi[sz]e|no)?[\s,.:;!-]*(?:but\s|that\s)*
          (?:i|we)(?:\s(?:really|simply|just))?\s?(?:cannot|can['’]?t|can\snot|(?:am|are|['’]m|['’]re)\s(?:not\sable|unable)\sto|(?:will\snot|won['’]?t)|(?:must|have\sto)\s(?:decline|refuse)|do(?:n['’]t|\snot)\sfeel\scomfortable)
          \s?(?:to\s)?(?:be\sable\sto\s)?(?:help|assist|fulfil|fulfill|comply|answer|provide|do|discuss|support|process|continue|generate|create|engage|with|$)",
    )
});

static NO_INFORMATION: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) \b(?:i|we)\s(?:do\snot|don['’]?t|did\snot|didn['’]?t)\s(?:actually\s|currently\s)?(?:have|know|hold|keep)\b.{0,60}\b(?:information|details?|data|answer|know|that|this)
        | \b(?:i|we)\s(?:can\s?not|can['’]?t)\s(?:say|tell|see|find|look|confirm|check)\b
        | \bnot\s(?:something|information)\s(?:i|we)\s(?:have|know)",
    )
});

/// Whole answers that help nobody, without punctuation and case.
static SAYS_NOTHING: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?xi) ^(?:(?:hi|hello|hey|dear\s\w+|thanks?(?:\syou)?|sorry|unfortunately|well|um+|hmm+)\s)*
        (?: (?:i\s|we\s)?(?:have\s)?(?:do\snot|don\s?t|dunno|no)\s?(?:know|idea|clue|comment)?(?:\ssorry)?
        | (?:i\s?m|i\sam|we\s?re|we\sare)?\s?not\s(?:really\s)?sure(?:\ssorry)?
        | (?:please\s|pls\s|just\s)?(?:see|check|read|visit|look\sat|refer\sto|go\sto)\s(?:the\s|our\s|your\s)?(?:web\s?(?:site|page)|site|faqs?|help\s(?:page|center|centre)|manual|docs?|documentation|terms|link|above|below|attachment|email)
        | (?:please\s|pls\s)?(?:contact|call|email|ask|write\sto|speak\sto)\s(?:us|me|support|customer\s(?:service|support|care)|the\s\w+|our\s\w+)(?:\s(?:team|desk|again|directly))?
        | (?:ok(?:ay)?|sure|yes|no|yep|nope|maybe|fine|great|good|thanks?(?:\syou)?|done|fixed|noted|understood|will\sdo|got\sit|it\sdepends|depends|same|ditto|idk|lol|you\s?re\swelcome|welcome|hi|hello)
          (?:\s(?:ok(?:ay)?|sure|yes|no|thanks?(?:\syou)?|done|fixed|noted|sorry|please|sir|maam|madam|lol|then|that))*
        ) $",
    )
});

impl Refusal {
    fn judge(&self, answer: &str) -> Option<&'static str> {
        let head_end = answer.char_indices().nth(300).map_or(answer.len(), |(at, _)| at);
        let n_words = answer.split_whitespace().count();
        if self.as_an_ai && AS_AN_AI.is_match(&answer[..head_end]) {
            return Some("refusal");
        }
        if self.says_nothing && n_words <= 10 {
            let plain: String = answer.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
            let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
            if SAYS_NOTHING.is_match(&plain) {
                return Some("says_nothing");
            }
        }
        let lacks = NO_INFORMATION.is_match(answer);
        if self.no_information && lacks {
            return Some("no_information");
        }
        // A refusal that goes on to explain or offer something is an answer.
        (self.refusals && !lacks && n_words <= 30 && REFUSES.is_match(answer)).then_some("refusal")
    }
}

impl RecordStep for Refusal {
    fn name(&self) -> &'static str {
        "refusal"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        // Of a pair only the better answer must help; in a chat the last answer counts, since "You're welcome!"
        // in the middle is how people talk.
        let answers = record.answers();
        let judged = match &record.item {
            crate::Item::Pair(_) => answers.iter().rfind(|a| a.field.starts_with("chosen")),
            crate::Item::Document(_) if !self.documents => None,
            _ if answers.len() > 1 => return self.judge_many(&answers),
            _ => answers.first(),
        };
        match judged.and_then(|a| self.judge(a.text).map(|reason| (a, reason))) {
            Some((answer, reason)) => {
                Err(Drop::new(reason, format!("{}: {}", answer.field, shown(answer.text))))
            }
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// A chat of several answers goes where any refuses, or where all of them say nothing.
    fn judge_many(&self, answers: &[crate::Spoken<'_>]) -> Result<(), Drop> {
        let verdicts: Vec<_> = answers.iter().map(|a| self.judge(a.text)).collect();
        let nothing = |v: Option<&str>| v == Some("says_nothing");
        let all_nothing = verdicts.iter().all(|v| nothing(*v));
        for (answer, verdict) in answers.iter().zip(&verdicts) {
            if let Some(reason) = verdict.filter(|_| all_nothing || !nothing(*verdict)) {
                return Err(Drop::new(reason, format!("{}: {}", answer.field, shown(answer.text))));
            }
        }
        Ok(())
    }
}
