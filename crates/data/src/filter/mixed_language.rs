//! Texts in more than one language.

use serde::{Deserialize, Serialize};

use super::language::{Engine, identify};
use super::shown;
use crate::{Drop, Edit, Record, RecordStep};

/// Refuses rows with a text of which too much is in another language than the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixedLanguage {
    /// Largest share of letters in other languages than the text's first, 0 to 1.
    pub max_share: f64,
    /// Sentences with fewer letters are not judged.
    pub min_letters: usize,
    /// Which identifier to ask.
    pub engine: Engine,
}

impl Default for MixedLanguage {
    fn default() -> Self {
        MixedLanguage { max_share: 0.2, min_letters: 30, engine: Engine::Fast }
    }
}

impl RecordStep for MixedLanguage {
    fn name(&self) -> &'static str {
        "mixed_language"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        for spoken in record.spoken() {
            let mut letters: Vec<(&'static str, usize, &str)> = Vec::new();
            for sentence in sentences(spoken.text) {
                let found = identify(sentence, self.engine);
                let Some(code) = found.code.filter(|_| found.is_sure && found.letters >= self.min_letters)
                else {
                    continue;
                };
                match letters.iter_mut().find(|(c, ..)| *c == code) {
                    Some((_, n, _)) => *n += found.letters,
                    None => letters.push((code, found.letters, sentence)),
                }
            }
            letters.sort_by_key(|&(code, n, _)| (std::cmp::Reverse(n), code));
            let total: usize = letters.iter().map(|&(_, n, _)| n).sum();
            let Some(&(first, n_first, _)) = letters.first() else { continue };
            let share = (total - n_first) as f64 / total as f64;
            if share > self.max_share {
                let (code, _, sentence) = letters[1];
                let percent = (100.0 * share).round();
                let detail = format!(
                    "{} is {first} with {percent}% of others, {code}: {}",
                    spoken.field,
                    shown(sentence)
                );
                return Err(Drop::new("mixed_language", detail));
            }
        }
        Ok(())
    }
}

/// Lines, cut after their full stops.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| {
        let mut rest = line;
        std::iter::from_fn(move || {
            if rest.trim().is_empty() {
                return None;
            }
            let stop = |(at, c): (usize, char)| {
                let after = at + c.len_utf8();
                let is_dense = matches!(c, '。' | '！' | '？' | '।');
                let is_stop =
                    matches!(c, '.' | '!' | '?' | '؟') && rest[after..].starts_with(char::is_whitespace);
                (is_dense || is_stop).then_some(after)
            };
            let end = rest.char_indices().find_map(stop).unwrap_or(rest.len());
            let (sentence, tail) = rest.split_at(end);
            rest = tail;
            Some(sentence)
        })
    })
}
