use std::collections::BTreeSet;

use ferrotune_types::Embed;

use crate::bm25::idf;
use crate::cite::cosine;
use crate::{Analyzer, Hit, Language, RagError, sentences};

/// Puts a search's hits in a better order; a cross-encoder's place.
pub trait Rerank {
    /// The same hits, best first, with new scores.
    ///
    /// # Errors
    /// The model's own.
    fn rerank(&self, question: &str, hits: Vec<Hit>) -> Result<Vec<Hit>, RagError>;
}

/// Reranks by the densest passage: how much of the question two neighbouring sentences hold between them.
///
/// Half of the score is that, half is the hit's reciprocal rank from the search; with an embedder the
/// passage's cosine is a third part. It costs no model call without one.
#[derive(Clone, Copy)]
pub struct OverlapRerank<'a> {
    /// Compares meaning too.
    pub embedder: Option<&'a dyn Embed>,
}

impl Rerank for OverlapRerank<'_> {
    fn rerank(&self, question: &str, hits: Vec<Hit>) -> Result<Vec<Hit>, RagError> {
        let analyzer = Analyzer::new(Language::English);
        let asked: BTreeSet<String> = analyzer.terms(question).into_iter().collect();
        let texts: Vec<String> = hits.iter().map(|hit| hit.chunk.search_text()).collect();
        let of_texts: Vec<BTreeSet<String>> =
            texts.iter().map(|text| analyzer.terms(text).into_iter().collect()).collect();
        let weigh =
            |term: &String| idf(hits.len(), of_texts.iter().filter(|terms| terms.contains(term)).count());
        let total: f64 = asked.iter().map(weigh).sum();
        let densest = |text: &str| -> f64 {
            let of_sentences: Vec<BTreeSet<String>> = sentences(text)
                .into_iter()
                .map(|range| analyzer.terms(&text[range]).into_iter().collect())
                .collect();
            let held = |window: &[BTreeSet<String>]| -> f64 {
                asked.iter().filter(|term| window.iter().any(|s| s.contains(*term))).map(weigh).sum()
            };
            of_sentences.windows(2.min(of_sentences.len()).max(1)).map(held).fold(0.0, f64::max)
        };
        let vectors = match self.embedder {
            Some(embedder) => {
                let texts: Vec<&str> =
                    std::iter::once(question).chain(texts.iter().map(String::as_str)).collect();
                Some(embedder.embed(&texts)?)
            }
            None => None,
        };
        let mut ranked: Vec<Hit> = Vec::with_capacity(hits.len());
        for (i, (hit, text)) in hits.iter().zip(&texts).enumerate() {
            let words = if total > 0.0 { densest(text) / total } else { 0.0 };
            let rank = 1.0 / (i + 1) as f64;
            let meaning = vectors.as_ref().and_then(|v| Some(cosine(v.first()?, v.get(i + 1)?)));
            let score = match meaning {
                Some(meaning) => (words + rank + meaning) / 3.0,
                None => f64::midpoint(words, rank),
            };
            ranked.push(Hit { chunk: hit.chunk.clone(), score });
        }
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(ranked)
    }
}

/// Chooses `k` hits by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each next one has the
/// greatest `lambda` * cosine with the question - (1 - `lambda`) * greatest cosine with those chosen.
///
/// # Errors
/// [`RagError::Config`] where `lambda` is not in 0..=1; the embedder's own.
pub fn mmr(
    embedder: &dyn Embed,
    question: &str,
    hits: Vec<Hit>,
    lambda: f64,
    k: usize,
) -> Result<Vec<Hit>, RagError> {
    if !(0.0..=1.0).contains(&lambda) {
        return Err(RagError::Config { setting: "mmr_lambda", reason: format!("{lambda} is not in 0..=1") });
    }
    let texts: Vec<String> = hits.iter().map(|hit| hit.chunk.search_text()).collect();
    let texts: Vec<&str> = std::iter::once(question).chain(texts.iter().map(String::as_str)).collect();
    let vectors = embedder.embed(&texts)?;
    let Some((query, vectors)) = vectors.split_first() else { return Ok(hits) };
    let mut left: Vec<usize> = (0..hits.len().min(vectors.len())).collect();
    let mut chosen: Vec<(usize, f64)> = Vec::new();
    while chosen.len() < k {
        let gain = |i: usize| {
            let repeats = chosen.iter().map(|(j, _)| cosine(&vectors[i], &vectors[*j])).fold(0.0, f64::max);
            lambda * cosine(query, &vectors[i]) - (1.0 - lambda) * repeats
        };
        let best = left.iter().map(|&i| (i, gain(i))).reduce(|a, b| if b.1 > a.1 { b } else { a });
        let Some(best) = best else { break };
        left.retain(|&i| i != best.0);
        chosen.push(best);
    }
    Ok(chosen.into_iter().map(|(i, score)| Hit { chunk: hits[i].chunk.clone(), score }).collect())
}
