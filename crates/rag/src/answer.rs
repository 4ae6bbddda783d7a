use std::sync::LazyLock;

use ferrotune_types::{Embed, LanguageModel};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::extract::relevance;
use crate::{
    Analyzer, GroundConfig, Hit, Quote, RagError, attribute, extract, ground, sentences, strip_marks,
};

/// Where an answer's words come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The model's own sentences, those that no source supports left out.
    Generated,
    /// Quoted from the sources, because nothing that the model said stood up to them.
    Extracted,
    /// Nothing: the sources hold no answer.
    Unknown,
}

/// A sentence of an answer and the source that supports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attributed {
    /// The sentence without marks.
    pub text: String,
    /// The numbers that the text itself cited, as it cited them: they may be wrong or name no source.
    pub claimed: Vec<usize>,
    /// The source that supports it, from 1.
    pub source: Option<usize>,
    /// How well the best source supports it, from 0 to 1.
    pub support: f64,
}

/// An answer whose every sentence names a source that was checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What to show, with marks `[n]`.
    pub text: String,
    /// Where its words come from.
    pub origin: Origin,
    /// Whether every sentence shown has a source; false only where the origin is unknown.
    pub grounded: bool,
    /// The sentences shown.
    pub sentences: Vec<Attributed>,
    /// What the model said and no source supports.
    pub dropped: Vec<Attributed>,
    /// The model's answer before it was checked; empty where it was not asked.
    pub model_text: String,
    /// The sources that are cited: number, chunk and document, each once, in the order of numbers.
    pub citations: Vec<Citation>,
}

/// A source that an answer cites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Citation {
    /// Its number in the answer's marks, from 1.
    pub number: usize,
    /// The chunk.
    pub chunk_id: String,
    /// The document.
    pub doc_id: String,
}

static REFUSAL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)\b(?:do(?:es)? not|don['’]t|doesn['’]t|cannot|can['’]t|could not|couldn['’]t|no|not) (?:\w+ )?(?:know|say|have (?:\w+ )*information|find|answer|mention(?:ed)?|specif(?:y|ied)|provided?|enough information|information)\b",
    )
    .expect("a constant pattern")
});
/// What models wrap around answers; it claims nothing, so it needs no source and is not shown.
static WRAPPING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^(?:(?:sure|hello|hi|dear|thank|thanks|you['’]re welcome|i hope|please let|let (?:me|us) know|feel free|happy to|glad to|if you have (?:any )?(?:other |more |further )?questions|is there anything|sources?:|answer:|best regards|sincerely)\b|here (?:is|are)\b.*:$)",
    )
    .expect("a constant pattern")
});

/// Asks a model for a grounded answer and checks it ([`check_answer`]). Without a model it quotes at once.
///
/// # Errors
/// The model's and the embedder's own.
pub fn answer(
    model: Option<&dyn LanguageModel>,
    embedder: Option<&dyn Embed>,
    question: &str,
    hits: &[Hit],
    config: &GroundConfig,
) -> Result<Answer, RagError> {
    let said = match model {
        Some(model) if !hits.is_empty() => model.chat(&ground(question, hits, config), &config.params)?.text,
        _ => String::new(),
    };
    check_answer(&said, embedder, question, hits, config)
}

/// Checks every sentence that a model said against the sources, and quotes the sources where its answer does not
/// stand up to them.
///
/// A small model grounds poorly: it cites the wrong number, invents figures, or answers beside the question.
/// So its marks are not believed: each sentence is given the source that supports it ([`attribute`]); what none
/// supports is left out; and where what is left is much further from the question than the best quote
/// ([`extract`]), the quote is the answer. [`Answer::origin`] says which of these came to be.
///
/// # Errors
/// The embedder's own.
pub fn check_answer(
    said: &str,
    embedder: Option<&dyn Embed>,
    question: &str,
    hits: &[Hit],
    config: &GroundConfig,
) -> Result<Answer, RagError> {
    let hits = &hits[..hits.len().min(config.sources)];
    let quotes = extract(question, hits, embedder, config)?;
    let model_text = said.to_owned();
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for sentence in attribute(&without_repetitions(said), hits, embedder, config)? {
        match sentence.source {
            Some(_) if !WRAPPING.is_match(&sentence.text) => kept.push(sentence),
            _ => dropped.push(sentence),
        }
    }
    let analyzer = Analyzer::new(config.language);
    let refuses = REFUSAL.is_match(&model_text);
    if is_beside(question, &kept, &quotes, embedder, &analyzer)? {
        dropped.append(&mut kept);
    }
    let origin = match (kept.is_empty(), quotes.is_empty()) {
        (false, _) => Origin::Generated,
        // A model that refuses is believed only where the quotes are not clearly better than chance.
        (true, false) if !refuses || quotes[0].score >= config.min_quote + 0.15 => Origin::Extracted,
        (true, _) => Origin::Unknown,
    };
    let sentences = match origin {
        Origin::Generated => kept,
        Origin::Extracted => quotes.iter().map(quoted).collect(),
        Origin::Unknown => Vec::new(),
    };
    let text = match origin {
        Origin::Unknown => config.unknown.clone(),
        Origin::Generated | Origin::Extracted => {
            sentences.iter().map(with_mark).collect::<Vec<_>>().join(" ")
        }
    };
    let citations = citations(&sentences, hits);
    Ok(Answer {
        text,
        origin,
        grounded: origin != Origin::Unknown,
        sentences,
        dropped,
        model_text,
        citations,
    })
}

/// Whether the kept sentences are much further from the question than the best quote is.
fn is_beside(
    question: &str,
    kept: &[Attributed],
    quotes: &[Quote],
    embedder: Option<&dyn Embed>,
    analyzer: &Analyzer,
) -> Result<bool, RagError> {
    let (Some(quote), false) = (quotes.first(), kept.is_empty()) else { return Ok(false) };
    let said: Vec<&str> = kept.iter().map(|s| s.text.as_str()).collect();
    let found = relevance(question, &[&said.join(" "), &quote.text], embedder, analyzer)?;
    Ok(matches!(found[..], [said, quoted] if said < 0.7 * quoted))
}

fn quoted(quote: &Quote) -> Attributed {
    // Shown without list signs, bold type and the document's own footnotes; `Quote` keeps them.
    let plain = strip_marks(&quote.text);
    let lines = plain.lines().map(|line| line.trim_start_matches(['-', '*', '•', '>', ' ']));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    Attributed {
        text: words.join(" ").replace("**", ""),
        claimed: Vec::new(),
        source: Some(quote.source),
        support: 1.0,
    }
}

/// The text with each sentence's second and later occurrences left out: small models loop.
fn without_repetitions(text: &str) -> String {
    let mut seen = std::collections::BTreeSet::new();
    let mut out = String::new();
    for range in sentences(text) {
        let sentence = &text[range];
        if seen.insert(strip_marks(sentence).to_lowercase()) {
            out.push_str(sentence);
            out.push('\n');
            out.push('\n');
        }
    }
    out
}

/// The sentence with its mark before the closing stop.
fn with_mark(sentence: &Attributed) -> String {
    let Some(number) = sentence.source else { return sentence.text.clone() };
    let body = sentence.text.trim_end_matches(['.', '!', ':', ';', ',']);
    let stop = &sentence.text[body.len()..];
    format!("{body} [{number}]{}", if stop.is_empty() { "." } else { stop })
}

fn citations(sentences: &[Attributed], hits: &[Hit]) -> Vec<Citation> {
    let mut numbers: Vec<usize> = sentences.iter().filter_map(|s| s.source).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let of = |number: usize| {
        hits.get(number - 1).map(|hit| Citation {
            number,
            chunk_id: hit.chunk.id.clone(),
            doc_id: hit.chunk.doc_id.clone(),
        })
    };
    numbers.into_iter().filter_map(of).collect()
}
