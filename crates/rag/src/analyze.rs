use std::sync::LazyLock;

use regex::Regex;
use rust_stemmers::{Algorithm, Stemmer};
use serde::{Deserialize, Serialize};

/// The language whose word endings are cut off before words are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Snowball English (Porter 2), and Lucene's 33 stop words left out.
    #[default]
    English,
    /// Snowball German.
    German,
    /// Snowball French.
    French,
    /// Snowball Spanish.
    Spanish,
    /// Snowball Italian.
    Italian,
    /// Snowball Portuguese.
    Portuguese,
    /// Snowball Dutch.
    Dutch,
    /// Snowball Swedish.
    Swedish,
    /// Snowball Russian.
    Russian,
    /// Words as they stand, in lower case.
    None,
}

impl Language {
    fn algorithm(self) -> Option<Algorithm> {
        Some(match self {
            Language::English => Algorithm::English,
            Language::German => Algorithm::German,
            Language::French => Algorithm::French,
            Language::Spanish => Algorithm::Spanish,
            Language::Italian => Algorithm::Italian,
            Language::Portuguese => Algorithm::Portuguese,
            Language::Dutch => Algorithm::Dutch,
            Language::Swedish => Algorithm::Swedish,
            Language::Russian => Algorithm::Russian,
            Language::None => return None,
        })
    }
}

/// Lucene's English stop words (`EnglishAnalyzer.ENGLISH_STOP_WORDS_SET`).
const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no",
    "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to",
    "was", "will", "with",
];

/// Runs of word characters; a single letter is no word, but a single digit is a figure someone may ask for.
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").expect("a constant pattern"));

/// Turns a text into the terms that are indexed and searched.
///
/// Lower case, words of two letters and more, no stop words, Snowball stems. Chinese, Japanese and Thai write
/// without spaces, so that a word there is a run of characters: those are cut into overlapping pairs.
///
/// ```
/// use ferrotune_rag::{Analyzer, Language};
/// let analyzer = Analyzer::new(Language::English);
/// assert_eq!(analyzer.terms("The returned items, and a return"), ["return", "item", "return"]);
/// ```
pub struct Analyzer {
    language: Language,
    stemmer: Option<Stemmer>,
}

impl Analyzer {
    /// An analyzer of this language.
    pub fn new(language: Language) -> Self {
        Analyzer { language, stemmer: language.algorithm().map(Stemmer::create) }
    }

    /// Its language.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The terms of a text in order, repetitions kept.
    pub fn terms(&self, text: &str) -> Vec<String> {
        let lower = text.to_lowercase();
        let mut terms = Vec::new();
        for word in WORD.find_iter(&lower) {
            let word = word.as_str();
            if word.chars().any(is_unspaced) {
                push_pairs(word, &mut terms);
            } else if let Some(term) = self.term(word) {
                terms.push(term);
            }
        }
        terms
    }

    /// One lower-case word's stem, or nothing where the word is not indexed.
    fn term(&self, word: &str) -> Option<String> {
        let is_letter = word.len() == word.chars().next().map_or(0, char::len_utf8)
            && !word.starts_with(|c: char| c.is_ascii_digit());
        if is_letter || (self.language == Language::English && STOP_WORDS.contains(&word)) {
            return None;
        }
        Some(match &self.stemmer {
            Some(stemmer) => stemmer.stem(word).into_owned(),
            None => word.to_owned(),
        })
    }
}

/// English words, as stems, that are searched for but say nothing by themselves: they neither make a question what it
/// is nor show that a source supports a sentence.
const FUNCTION_STEMS: [&str; 52] = [
    "what", "which", "who", "whom", "whose", "when", "where", "whi", "how", "mani", "much", "do", "doe",
    "did", "i", "you", "your", "my", "me", "we", "our", "us", "he", "she", "them", "can", "could", "would",
    "should", "may", "must", "have", "has", "had", "am", "were", "been", "ani", "some", "all", "get", "just",
    "also", "so", "than", "here", "yes", "pleas", "let", "from", "now", "too",
];

/// Whether a term says something by itself.
pub(crate) fn carries_meaning(term: &str) -> bool {
    !FUNCTION_STEMS.contains(&term)
}

impl std::fmt::Debug for Analyzer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Analyzer").field("language", &self.language).finish_non_exhaustive()
    }
}

/// Scripts that put no spaces between words: Thai, Lao, kana, Han.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0E00}'..='\u{0EFF}' | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}

fn push_pairs(word: &str, terms: &mut Vec<String>) {
    let chars: Vec<char> = word.chars().collect();
    if chars.len() == 1 {
        terms.push(word.to_owned());
    }
    terms.extend(chars.windows(2).map(|pair| pair.iter().collect::<String>()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(language: Language, text: &str, expect: &[&str]) {
        assert_eq!(Analyzer::new(language).terms(text), expect, "{text}");
    }

    #[test]
    fn words_become_terms() {
        check(
            Language::English,
            "Returns within 30 days, with a receipt!",
            &["return", "within", "30", "day", "receipt"],
        );
        check(Language::English, "I'm on floor 5 of the T-shirt shop", &["floor", "5", "shirt", "shop"]);
        check(Language::English, "", &[]);
        check(Language::None, "The Returns", &["the", "returns"]);
        check(Language::German, "Rückgaben", &["ruckgab"]);
        check(Language::English, "退货政策 ok", &["退货", "货政", "政策", "ok"]);
    }
}
