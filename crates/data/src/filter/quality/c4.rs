//! C4's rules (Raffel et al. 2020, arXiv 1910.10683), as datatrove states them: the only filter that also mends,
//! by taking lines out.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{n_chars, python_lines, sentences};
use crate::clean::edits;
use crate::{Drop, Edit, Record, RecordStep};

/// Keeps lines that are sentences, and texts with enough of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct C4Quality {
    /// Fewest sentences in the lines that stay.
    pub min_sentences: usize,
    /// Fewest words of a line.
    pub min_words_per_line: usize,
    /// A line with a longer word goes.
    pub max_word_length: usize,
    /// Lines must end with `.`, `?`, `!` or a quote, and not with `...`.
    pub terminal_punctuation: bool,
    /// Citations such as `[12]` go.
    pub remove_citations: bool,
    /// A text with "lorem ipsum" goes.
    pub lorem_ipsum: bool,
    /// A text with `{` goes.
    pub curly_bracket: bool,
    /// Lines with "javascript" go.
    pub javascript: bool,
    /// Lines about cookies and terms of use go.
    pub policy: bool,
}

impl Default for C4Quality {
    fn default() -> Self {
        C4Quality {
            min_sentences: 5,
            min_words_per_line: 3,
            max_word_length: 1000,
            terminal_punctuation: true,
            remove_citations: true,
            lorem_ipsum: true,
            curly_bracket: true,
            javascript: true,
            policy: true,
        }
    }
}

static CITATION: LazyLock<Regex> = LazyLock::new(|| {
    // A valid pattern.
    Regex::new(r"\[\d*\]|\[edit\]|\[citation needed\]").unwrap_or_else(|e| unreachable!("{e}"))
});
const POLICY: [&str; 6] =
    ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"];

impl C4Quality {
    /// The lines of a text that stay.
    ///
    /// # Errors
    /// Where the text must go as a whole.
    pub fn judge(&self, text: &str) -> Result<String, Drop> {
        let mut kept: Vec<String> = Vec::new();
        let mut n_sentences = 0;
        for line in python_lines(text) {
            let line = line.trim();
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.iter().any(|w| n_chars(w) > self.max_word_length) {
                continue;
            }
            let line = if self.remove_citations { CITATION.replace_all(line, "") } else { line.into() };
            let ends = line.ends_with(['.', '?', '!', '"', '\'']) && !line.ends_with("...");
            if self.terminal_punctuation && !ends || words.len() < self.min_words_per_line {
                continue;
            }
            let lower = line.to_lowercase();
            if self.lorem_ipsum && lower.contains("lorem ipsum") {
                return Err(Drop::new("lorem_ipsum", "a line holds \"lorem ipsum\""));
            }
            if self.javascript && lower.contains("javascript") {
                continue;
            }
            if self.curly_bracket && line.contains('{') {
                return Err(Drop::new("curly_bracket", "a line holds a curly bracket"));
            }
            if self.policy && POLICY.iter().any(|p| lower.contains(p)) {
                continue;
            }
            n_sentences += sentences(&line);
            kept.push(line.into_owned());
        }
        if n_sentences < self.min_sentences {
            let detail = format!("{n_sentences} sentences of at least {}", self.min_sentences);
            return Err(Drop::new("too_few_sentences", detail));
        }
        Ok(kept.join("\n").trim().to_owned())
    }
}

impl RecordStep for C4Quality {
    fn name(&self) -> &'static str {
        "c4_quality"
    }

    fn apply(&self, record: &mut Record, told: &mut Vec<Edit>) -> Result<(), Drop> {
        let fields: Vec<String> = record.answers().into_iter().map(|a| a.field).collect();
        let id = record.id().to_owned();
        for (field, text) in record.texts_mut() {
            if fields.contains(&field) {
                let kept = self.judge(text)?;
                told.extend(edits(&id, "c4_quality", &field, text, &kept));
                *text = kept;
            }
        }
        Ok(())
    }
}
