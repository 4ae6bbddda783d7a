use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use ferrotune_types::Embed;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::bm25::idf;
use crate::cite::{cosine, figures};
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

/// Words that a question asks with, as stems: what it is about lies in the others.
const ASKING: [&str; 34] = [
    "what", "which", "who", "whom", "whose", "when", "where", "whi", "how", "mani", "much", "do", "doe",
    "did", "i", "you", "your", "my", "me", "we", "our", "can", "could", "would", "should", "may", "have",
    "has", "had", "am", "were", "been", "ani", "get",
];

struct Candidate {
    hit: usize,
    start: usize,
    end: usize,
    terms: BTreeSet<String>,
    /// Terms of what leads up to the sentence: the heading, a question it answers, the sentence before it.
    before: BTreeSet<String>,
}

/// The sentences of the sources that answer a question, best first; none where nothing scores `min_quote`.
///
/// A sentence's score is the share of the question's terms that it holds, rare terms weighing more (a term that
/// only its heading or the sentence before it holds counts half), plus 0.15 where the question wants a figure
/// or a name and the sentence has one, plus up to 0.1 for its source's rank. With an embedder, its cosine with
/// the question counts as much as the terms.
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
            let texts = candidates.iter().map(|c| &hits[c.hit].chunk.text[c.start..c.end]);
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
    // A second sentence must be nearly as good as the first: an answer that rambles is worse than a short one.
    let best = scored.first().map_or(0.0, |s| s.0);
    scored.retain(|(score, _)| *score >= 0.85 * best);
    scored.truncate(config.quotes);
    Ok(scored.into_iter().map(|(score, c)| quote(&hits[c.hit], c, score)).collect())
}

/// How well one text answers a question by the words alone, without sources to compare with; for checking that
/// an answer is about the question at all.
pub(crate) fn relevance(question: &str, text: &str, analyzer: &Analyzer) -> f64 {
    let asked = asked_terms(question, analyzer);
    let said: BTreeSet<String> = analyzer.terms(text).into_iter().collect();
    if asked.is_empty() { 0.0 } else { asked.intersection(&said).count() as f64 / asked.len() as f64 }
}

/// What a question is about: its terms without those it asks with, unless it has no others.
fn asked_terms(question: &str, analyzer: &Analyzer) -> BTreeSet<String> {
    let terms: BTreeSet<String> = analyzer.terms(question).into_iter().collect();
    let about: BTreeSet<String> = terms.iter().filter(|t| !ASKING.contains(&t.as_str())).cloned().collect();
    if about.is_empty() { terms } else { about }
}

fn candidates(index: usize, hit: &Hit, analyzer: &Analyzer) -> Vec<Candidate> {
    let text = hit.chunk.text.as_str();
    let mut heading: BTreeSet<String> = analyzer.terms(&hit.chunk.heading).into_iter().collect();
    let mut before = BTreeSet::new();
    let mut found = Vec::new();
    for range in sentences(text) {
        let sentence = &text[range.clone()];
        let terms: BTreeSet<String> = analyzer.terms(sentence).into_iter().collect();
        if sentence.starts_with('#') {
            heading = terms;
            before.clear();
        } else if sentence.trim_end_matches(['*', '_', '"']).ends_with('?') {
            // A list of questions and answers: the question leads up to its answer and is none itself.
            before = terms;
        } else {
            let lead = heading.union(&before).cloned().collect();
            found.push(Candidate {
                hit: index,
                start: range.start,
                end: range.end,
                terms: terms.clone(),
                before: lead,
            });
            before = terms;
        }
    }
    found
}

/// The question's terms with their rarity among the candidates.
fn weights(question: &str, candidates: &[Candidate], analyzer: &Analyzer) -> BTreeMap<String, f64> {
    let terms = asked_terms(question, analyzer);
    let weigh = |term: &String| {
        let df = candidates.iter().filter(|c| c.terms.contains(term) || c.before.contains(term)).count();
        // A term that no candidate has weighs as if one had: nobody can tell how rare it is.
        idf(candidates.len().max(1), df.max(1))
    };
    terms.iter().map(|term| (term.clone(), weigh(term))).collect()
}

fn coverage(weights: &BTreeMap<String, f64>, candidate: &Candidate) -> f64 {
    let total: f64 = weights.values().sum();
    let found: f64 = weights
        .iter()
        .map(|(term, weight)| match (candidate.terms.contains(term), candidate.before.contains(term)) {
            (true, _) => *weight,
            (false, true) => weight / 2.0,
            (false, false) => 0.0,
        })
        .sum();
    if total > 0.0 { found / total } else { 0.0 }
}

fn kind_bonus(question: &str, text: &str) -> f64 {
    let has_name =
        || text.split_whitespace().skip(1).any(|word| word.starts_with(char::is_uppercase) && word.len() > 1);
    let asked = figures(question);
    let has_figure = || figures(text).iter().any(|figure| !asked.contains(figure));
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
