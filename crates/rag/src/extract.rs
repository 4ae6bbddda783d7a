use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use ferrotune_types::Embed;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::analyze::carries_meaning;
use crate::bm25::idf;
use crate::cite::cosine;
use crate::figures::figures;
use crate::{Analyzer, GroundConfig, Hit, RagError, sentences};

/// A sentence of a source that answers a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quote {
    /// The source's number, from 1.
    pub source: usize,
    /// The chunk it stands in.
    pub chunk_id: String,
    /// The document it stands in.
    pub doc_id: String,
    /// First byte in the document.
    pub start: usize,
    /// One past the last byte in the document.
    pub end: usize,
    /// The sentence, word for word.
    pub text: String,
    /// From 0 to about 1.3; see [`GroundConfig::min_quote`].
    pub score: f64,
}

static WANTS_FIGURE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)\b(?:how (?:many|much|long|often|far|big|old|late|soon|tall|large)|when|what (?:time|year|date|day|percent\w*|number|size)|(?:price|cost|fee|limit|deadline|hours|minimum|maximum)\b)",
    )
    .expect("a constant pattern")
});
static WANTS_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)\b(?:who|whom|whose|where|which)\b").expect("a constant pattern"));

/// An answer with fewer terms than this wants a second sentence.
const TERSE: usize = 6;

struct Candidate {
    hit: usize,
    start: usize,
    end: usize,
    terms: BTreeSet<String>,
    /// Terms of the question or the introduction that the sentence answers or completes: they count in full.
    lead: BTreeSet<String>,
    /// Terms of the heading and the sentence before it: they count half.
    near: BTreeSet<String>,
    /// The sentence after what leads up to it: what an embedder compares with the question.
    in_context: String,
}

/// The sentences of the sources that answer a question, best first; none where nothing scores `min_quote`.
///
/// A sentence's score is the share of the question's terms that it holds, rare terms weighing more, plus 0.15
/// where the question wants a figure or a name and the sentence has one, plus up to 0.1 for its source's rank. With
/// an embedder, its cosine with the question counts as much as the terms.
///
/// Terms of a question or an introduction in the document that the sentence follows (`**Do you ship?** Yes.`) count
/// as its own; those of its heading and of the sentence before it count half. A list is quoted with the line that
/// introduces it.
///
/// # Errors
/// The embedder's own.
pub fn extract(
    question: &str,
    hits: &[Hit],
    embedder: Option<&dyn Embed>,
    config: &GroundConfig,
) -> Result<Vec<Quote>, RagError> {
    let analyzer = Analyzer::new(config.language);
    let hits = &hits[..hits.len().min(config.sources)];
    let candidates: Vec<Candidate> =
        hits.iter().enumerate().flat_map(|(i, hit)| candidates(i, hit, &analyzer)).collect();
    let cosines = match embedder {
        Some(embedder) if !candidates.is_empty() => {
            let texts = candidates.iter().map(|c| c.in_context.as_str());
            let vectors = embedder.embed(&std::iter::once(question).chain(texts).collect::<Vec<_>>())?;
            let (query, rest) = vectors.split_first().map_or((&[][..], &[][..]), |(q, r)| (q.as_slice(), r));
            Some(rest.iter().map(|v| cosine(query, v)).collect::<Vec<_>>())
        }
        _ => None,
    };
    let weights = weights(question, &candidates, &analyzer);
    let mut scored: Vec<(f64, &Candidate)> = Vec::new();
    for (i, candidate) in candidates.iter().enumerate() {
        let text = &hits[candidate.hit].chunk.text[candidate.start..candidate.end];
        let words = coverage(&weights, candidate);
        let meaning = cosines.as_ref().and_then(|c| c.get(i)).map_or(words, |c| c.max(0.0));
        let bonus = kind_bonus(question, text) + 0.1 / (1 + candidate.hit) as f64;
        // Without one word in common a sentence of the right kind is still no answer.
        let score = f64::midpoint(words, meaning) + if words > 0.0 { bonus } else { 0.0 };
        if score >= config.min_quote {
            scored.push((score, candidate));
        }
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let Some(&(best_score, best)) = scored.first() else { return Ok(Vec::new()) };
    // Further sentences only complete the best one: what follows it at once, where that is nearly as fitting, and
    // where it is as short as "Yes, on a leash." the next best. An answer that rambles is worse than a short one.
    let mut chosen = vec![(best_score, best)];
    while chosen.len() < config.quotes {
        let so_far: BTreeSet<&String> = chosen.iter().flat_map(|(_, c)| &c.terms).collect();
        let last = chosen[chosen.len() - 1].1;
        let next = scored.iter().find(|(score, candidate)| {
            let between = hits[last.hit].chunk.text.get(last.end..candidate.start);
            let follows = candidate.hit == last.hit
                && between.is_some_and(|b| b.trim().is_empty() && !b.contains('\n'));
            let adds = candidate.terms.iter().filter(|term| !so_far.contains(term)).count() >= 3;
            (follows && *score >= 0.75 * best_score)
                || (so_far.len() < TERSE && adds && *score >= 0.6 * best_score)
        });
        let Some(&next) = next else { break };
        chosen.push(next);
    }
    Ok(chosen.into_iter().map(|(score, c)| quote(&hits[c.hit], c, score)).collect())
}

/// How well a text answers a question, taken alone: the share of the question's terms that it holds, with an
/// embedder averaged with its cosine. For comparing two answers to the same question.
pub(crate) fn relevance(
    question: &str,
    texts: &[&str],
    embedder: Option<&dyn Embed>,
    analyzer: &Analyzer,
) -> Result<Vec<f64>, RagError> {
    let asked = asked_terms(question, analyzer);
    let words = |text: &str| {
        let said: BTreeSet<String> = analyzer.terms(text).into_iter().collect();
        if asked.is_empty() { 0.0 } else { asked.intersection(&said).count() as f64 / asked.len() as f64 }
    };
    let Some(embedder) = embedder else { return Ok(texts.iter().map(|text| words(text)).collect()) };
    let vectors =
        embedder.embed(&std::iter::once(question).chain(texts.iter().copied()).collect::<Vec<_>>())?;
    let (query, rest) = vectors.split_first().map_or((&[][..], &[][..]), |(q, r)| (q.as_slice(), r));
    Ok(texts
        .iter()
        .zip(rest)
        .map(|(text, v)| f64::midpoint(words(text), cosine(query, v).max(0.0)))
        .collect())
}

/// What a question is about: its terms without those it asks with, unless it has no others.
fn asked_terms(question: &str, analyzer: &Analyzer) -> BTreeSet<String> {
    let terms: BTreeSet<String> = analyzer.terms(question).into_iter().collect();
    let about: BTreeSet<String> = terms.iter().filter(|t| carries_meaning(t)).cloned().collect();
    if about.is_empty() { terms } else { about }
}

fn candidates(index: usize, hit: &Hit, analyzer: &Analyzer) -> Vec<Candidate> {
    let text = hit.chunk.text.as_str();
    let terms_of = |text: &str| -> BTreeSet<String> { analyzer.terms(text).into_iter().collect() };
    let mut heading = terms_of(&hit.chunk.heading);
    let (mut lead, mut previous) = ("", "");
    let mut bold_from = None;
    let mut found: Vec<Candidate> = Vec::new();
    let mut last_end = 0;
    for range in sentences(text) {
        let sentence = &text[range.clone()];
        let gap = &text[last_end..range.start];
        last_end = range.end;
        let bare = sentence.trim_start_matches(['-', '*', '•', '>', ' ']);
        let is_item = bare.len() < sentence.len() && !sentence.starts_with("**");
        // A list goes on under the line that introduces it; everything else starts afresh with its paragraph.
        if is_item && lead.ends_with(':') {
            if let Some(list) =
                found.last_mut().filter(|c| c.start == offset(text, lead) && range.end - c.start < 400)
            {
                list.end = range.end;
                list.terms.extend(terms_of(sentence));
                text[list.start..list.end].clone_into(&mut list.in_context);
                continue;
            }
        } else if gap.contains('\n') {
            (lead, previous) = ("", "");
        }
        // Bold type that opens a line is a question or a case, over one sentence or several; what follows answers it.
        let is_closed = bare.trim_end_matches("**").contains("**");
        if sentence.trim_start_matches(['-', '•', ' ']).starts_with("**") && !is_closed {
            bold_from = Some(offset(text, bare));
        }
        if sentence.starts_with('#') {
            heading = terms_of(sentence);
        } else if bold_from.is_some() || sentence.trim_end_matches(['_', '"']).ends_with('?') {
            lead = &text[bold_from.unwrap_or(range.start)..range.end];
            bold_from = bold_from.filter(|_| !sentence.ends_with("**"));
        } else {
            let context = if lead.is_empty() { previous } else { lead };
            found.push(Candidate {
                hit: index,
                start: range.start,
                end: range.end,
                terms: terms_of(sentence),
                lead: terms_of(lead),
                near: heading.union(&terms_of(previous)).cloned().collect(),
                in_context: if lead.is_empty() { bare.to_owned() } else { format!("{context} {bare}") },
            });
            previous = sentence;
            if sentence.ends_with(':') {
                lead = sentence;
            }
        }
    }
    found
}

/// Where a slice of `text` begins in it.
fn offset(text: &str, slice: &str) -> usize {
    slice.as_ptr() as usize - text.as_ptr() as usize
}

/// The question's terms with their rarity among the candidates.
fn weights(question: &str, candidates: &[Candidate], analyzer: &Analyzer) -> BTreeMap<String, f64> {
    let terms = asked_terms(question, analyzer);
    let weigh = |term: &String| {
        let df = candidates.iter().filter(|c| c.holds(term) > 0.0).count();
        // A term that no candidate has weighs as if one had: nobody can tell how rare it is.
        idf(candidates.len().max(1), df.max(1))
    };
    terms.iter().map(|term| (term.clone(), weigh(term))).collect()
}

impl Candidate {
    /// How far it holds a term: fully, half or not.
    fn holds(&self, term: &str) -> f64 {
        if self.terms.contains(term) || self.lead.contains(term) {
            1.0
        } else if self.near.contains(term) {
            0.5
        } else {
            0.0
        }
    }
}

fn coverage(weights: &BTreeMap<String, f64>, candidate: &Candidate) -> f64 {
    let total: f64 = weights.values().sum();
    let found: f64 = weights.iter().map(|(term, weight)| weight * candidate.holds(term)).sum();
    if total > 0.0 { found / total } else { 0.0 }
}

fn kind_bonus(question: &str, text: &str) -> f64 {
    let has_name =
        || text.split_whitespace().skip(1).any(|word| word.starts_with(char::is_uppercase) && word.len() > 1);
    let asked = figures(question);
    let is_new = |value: &String| !asked.iter().any(|figure| figure.value == *value);
    let has_figure = || figures(text).iter().any(|figure| is_new(&figure.value));
    let fits =
        (WANTS_FIGURE.is_match(question) && has_figure()) || (WANTS_NAME.is_match(question) && has_name());
    if fits { 0.15 } else { 0.0 }
}

fn quote(hit: &Hit, candidate: &Candidate, score: f64) -> Quote {
    let (start, end) = (candidate.start, candidate.end);
    Quote {
        source: candidate.hit + 1,
        chunk_id: hit.chunk.id.clone(),
        doc_id: hit.chunk.doc_id.clone(),
        start: hit.chunk.start + start,
        end: hit.chunk.start + end,
        text: hit.chunk.text[start..end].to_owned(),
        score,
    }
}
