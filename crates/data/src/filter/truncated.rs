//! Answers that stop in the middle of a sentence.

use ferrotune_types::Role;
use serde::{Deserialize, Serialize};

use crate::{Drop, Edit, Record, RecordStep};

/// Refuses rows with an answer that [`is_truncated`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Truncated {
    /// Look at documents too. Off by default: web pages often end with a heading or a menu.
    pub documents: bool,
}

impl RecordStep for Truncated {
    fn name(&self) -> &'static str {
        "truncated"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        for answer in record.answers() {
            if (answer.role == Some(Role::Assistant) || self.documents) && is_truncated(answer.text) {
                let start = answer.text.char_indices().rev().nth(50).map_or(0, |(at, _)| at);
                return Err(Drop::new(
                    "truncated",
                    format!("{} ends with {:?}", answer.field, &answer.text[start..]),
                ));
            }
        }
        Ok(())
    }
}

/// Words that no sentence ends with. Verbs and prepositions are not among them: "Yes, it is", "the one I came with".
const NEVER_LAST: [&str; 24] = [
    "a",
    "although",
    "an",
    "and",
    "because",
    "but",
    "der",
    "during",
    "für",
    "if",
    "including",
    "its",
    "my",
    "nor",
    "or",
    "our",
    "than",
    "the",
    "their",
    "und",
    "unless",
    "until",
    "whether",
    "your",
];

/// Words before a full stop that ends no sentence.
const ABBREVIATED: [&str; 10] = ["dr", "jr", "mr", "mrs", "ms", "mt", "prof", "sr", "st", "vs"];

/// Whether a text stops in the middle of a sentence.
///
/// It does where it ends with a comma or an opening bracket, with a word that needs another (`and`, `the`), with an
/// open code fence, in a long list before its `and`, or with a plain word although it otherwise ends its sentences. A
/// text that never uses full stops, an item of a list, a heading, a link, a hashtag and a name under a greeting
/// do not count.
///
/// ```
/// use ferrotune_data::filter::is_truncated;
/// assert!(is_truncated("We repair them for free. Bring the"));
/// assert!(!is_truncated("Yes, you can"));
/// assert!(!is_truncated("Sizes:\n- small\n- large"));
/// ```
pub fn is_truncated(text: &str) -> bool {
    let text = text.trim();
    let n_fences = text.lines().filter(|l| l.trim_start().starts_with("```")).count();
    if n_fences % 2 == 1 {
        return true;
    }
    let line = text.lines().last().unwrap_or_default().trim();
    let Some(last) = text.chars().next_back() else { return false };
    if line.starts_with("```") || line.starts_with('|') {
        return false;
    }
    if matches!(last, ',' | '(' | '[' | '{' | '，' | '、' | '（' | '“' | '«') {
        return true;
    }
    // `$4`, `10%` and `§` end as well in the middle as at the end; a letter or a digit is what tells.
    if !last.is_alphanumeric() && last != '$' && last != '-' {
        return opens_quote(line);
    }
    let word = line.rsplit(char::is_whitespace).next().unwrap_or_default();
    let is_link =
        word.contains("://") || word.starts_with("www.") || word.contains('@') || word.starts_with('#');
    if is_link || !uses_case_and_blanks(text) {
        return false;
    }
    let plain = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let n_words = line.split_whitespace().count();
    if n_words >= 3 && NEVER_LAST.contains(&&*plain) && !word.chars().all(char::is_uppercase) {
        return true;
    }
    if last == '$' || last == '-' {
        return n_words >= 3;
    }
    let is_item = line.starts_with(['-', '*', '•', '#', '>', '+'])
        || line.split(['.', ')', ':']).next().is_some_and(|n| n.len() <= 3 && n.parse::<usize>().is_ok())
        // `Total: $12`, `Order 4711`: a label with its value.
        || n_words <= 6 && line.contains(": ");
    let before = text[..text.len() - line.len()].trim_end();
    let is_name = n_words <= 5 && !before.is_empty() && before.ends_with(|c: char| !c.is_alphanumeric());
    if is_item || is_name {
        return false;
    }
    // A sentence that ended earlier in the text shows that its writer ends sentences.
    let ends_sentences = sentence_ends(text) > 0;
    ends_sentences && n_words >= 2 || n_words >= 12 && is_open_list(line)
}

/// Full stops, exclamation and question marks that are followed by a blank and a capital or quote; those of initials
/// and abbreviations ("J. B. Rhine", "St. John's") do not count.
fn sentence_ends(text: &str) -> usize {
    let mut words = text.split_whitespace().peekable();
    let mut n = 0;
    while let (Some(word), Some(next)) = (words.next(), words.peek()) {
        let said = word.trim_end_matches(['.', '!', '?']);
        let is_end = word.len() - said.len() == 1
            && said.ends_with(char::is_alphanumeric)
            && !next.starts_with(char::is_lowercase);
        n += usize::from(is_end && !(word.ends_with('.') && is_abbreviated(said)));
    }
    n
}

fn is_abbreviated(word: &str) -> bool {
    let is_initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    is_initial || ABBREVIATED.contains(&&*word.to_lowercase())
}

/// "cards, PayPal, Apple Pay and Google Pay, plus our own gift": parts between commas, and the last one is short and
/// not the one that an `and` would bring.
fn is_open_list(line: &str) -> bool {
    let mut parts = line.rsplit(", ");
    let last = parts.next().unwrap_or_default();
    let closes = |word: &str| ["and", "or", "und", "oder", "et", "ou", "y", "e", "o"].contains(&word);
    parts.count() >= 3 && last.split_whitespace().count() <= 4 && !last.split_whitespace().any(closes)
}

/// Whether the line ends inside a quotation that it opened, as `Choose "Delete my data" or "Send me.` does not.
fn opens_quote(line: &str) -> bool {
    line.ends_with('"') && line.matches('"').count() % 2 == 1 && line.ends_with(" \"")
}

/// Latin, Greek or Cyrillic text with words; others are judged by their last mark only.
fn uses_case_and_blanks(text: &str) -> bool {
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let cased = text.chars().filter(|c| c.is_lowercase() || c.is_uppercase()).count();
    letters > 0 && 2 * cased >= letters
}
