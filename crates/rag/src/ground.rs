use ferrotune_types::{GenerateParams, Message, Role};
use serde::{Deserialize, Serialize};

use crate::{Hit, Language, strip_marks};

/// How an answer is asked for, checked and replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroundConfig {
    /// How many hits the model sees.
    pub sources: usize,
    /// A source is cut after this many characters, at a word.
    pub source_chars: usize,
    /// The system turn. `{unknown}` stands for the next field.
    pub instruction: String,
    /// What to say where the sources hold no answer.
    pub unknown: String,
    /// A sentence stands where a source supports this share of it (see [`crate::support`]).
    pub min_support: f64,
    /// A quote answers where it scores this much (see [`crate::extract`]).
    pub min_quote: f64,
    /// Most sentences in an extracted answer.
    pub quotes: usize,
    /// The language whose stems are compared.
    pub language: Language,
    /// How the model generates.
    pub params: GenerateParams,
}

impl Default for GroundConfig {
    fn default() -> Self {
        GroundConfig {
            sources: 3,
            source_chars: 1200,
            instruction: "Answer the question from the numbered sources only. After each sentence cite the \
                          source that says it, like [1]. Be brief. If the sources do not answer the question, \
                          say exactly: {unknown}"
                .to_owned(),
            unknown: "I do not know: the documents do not say.".to_owned(),
            min_support: 0.6,
            min_quote: 0.4,
            quotes: 2,
            language: Language::English,
            params: GenerateParams { max_new_tokens: 128, ..GenerateParams::default() },
        }
    }
}

/// The turns that ask a model for a grounded answer: the instruction, then numbered sources and the question.
///
/// Source `[n]` is `hits[n - 1]`. Marks that stand in a source itself (an encyclopaedia's footnotes) are taken
/// out, so that a number in the answer can only mean a source.
pub fn ground(question: &str, hits: &[Hit], config: &GroundConfig) -> Vec<Message> {
    let mut user = String::from("Sources:\n");
    for (i, hit) in hits.iter().take(config.sources).enumerate() {
        let text = strip_marks(cut(hit.chunk.text.trim(), config.source_chars));
        let heading = if hit.chunk.heading.is_empty() { &hit.chunk.doc_id } else { &hit.chunk.heading };
        user.extend([&format!("[{}] {heading}\n", i + 1), text.trim(), "\n\n"]);
    }
    user.push_str("Question: ");
    user.push_str(question.trim());
    let system = config.instruction.replace("{unknown}", &config.unknown);
    vec![Message::new(Role::System, system), Message::new(Role::User, user)]
}

/// The text up to `limit` characters, cut before a word where it must be cut.
fn cut(text: &str, limit: usize) -> &str {
    match text.char_indices().nth(limit) {
        None => text,
        Some((at, _)) => {
            let head = &text[..at];
            head.rfind(char::is_whitespace).map_or(head, |space| head[..space].trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chunk;

    fn hit(heading: &str, text: &str) -> Hit {
        let chunk = Chunk {
            id: "d#0".into(),
            doc_id: "d".into(),
            start: 0,
            end: text.len(),
            heading: heading.into(),
            text: text.into(),
            fingerprint: String::new(),
            meta: serde_json::Map::new(),
        };
        Hit { chunk, score: 1.0 }
    }

    #[test]
    fn sources_are_numbered_cut_and_rid_of_marks() {
        let config = GroundConfig { source_chars: 20, sources: 2, ..GroundConfig::default() };
        let hits = [hit("Returns", "Within 30 days [7] of purchase."), hit("", "Free."), hit("No", "Unseen")];
        let turns = ground(" How long? ", &hits, &config);
        assert_eq!(
            turns[1].content,
            "Sources:\n[1] Returns\nWithin 30 days\n\n[2] d\nFree.\n\nQuestion: How long?"
        );
        assert!(turns[0].content.ends_with("say exactly: I do not know: the documents do not say."));
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("ééé ééé", 5), "ééé");
        assert_eq!(cut("ééééé", 3), "ééé");
        assert_eq!(cut("é", 3), "é");
    }
}
