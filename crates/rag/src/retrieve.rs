use ferrotune_types::Embed;
use serde::{Deserialize, Serialize};

use crate::{Filter, Fusion, Hit, OverlapRerank, RagError, Rerank, Store, Vectors, mmr};

/// What a search compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Hybrid where an embedder is given, text where none is.
    Auto,
    /// Words, by BM25.
    Text,
    /// Meaning, by vectors.
    Vector,
    /// Both, fused.
    Hybrid,
}

/// How to find chunks for a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrieveConfig {
    /// What is compared.
    pub mode: Mode,
    /// Hits returned.
    pub k: usize,
    /// Hits that fusion, reranking and diversity choose from.
    pub candidates: usize,
    /// How the two rankings of a hybrid search become one.
    pub fusion: Fusion,
    /// Whether [`OverlapRerank`] reorders the candidates.
    pub rerank: bool,
    /// Maximal marginal relevance: 1 is relevance alone, less avoids hits that say the same. Needs an embedder.
    pub mmr_lambda: Option<f64>,
    /// Which chunks may be found.
    pub filter: Option<Filter>,
}

impl Default for RetrieveConfig {
    /// The best 5 of 50 candidates by words and, with an embedder, meaning; no reranking.
    fn default() -> Self {
        RetrieveConfig {
            mode: Mode::Auto,
            k: 5,
            candidates: 50,
            fusion: Fusion::default(),
            rerank: false,
            mmr_lambda: None,
            filter: None,
        }
    }
}

/// The `k` best chunks for a question, best first.
///
/// # Errors
/// [`RagError::NoEmbedder`] where the mode needs one; the store's and the embedder's own.
pub fn retrieve(
    store: &dyn Store,
    embedder: Option<&dyn Embed>,
    question: &str,
    config: &RetrieveConfig,
) -> Result<Vec<Hit>, RagError> {
    let chooses = config.rerank || config.mmr_lambda.is_some();
    let k = if chooses { config.candidates.max(config.k) } else { config.k };
    let filter = config.filter.as_ref();
    let mode = match config.mode {
        Mode::Auto if embedder.is_some() && store.embedder()?.is_some() => Mode::Hybrid,
        Mode::Auto => Mode::Text,
        asked => asked,
    };
    let needs = |mode| embedder.ok_or(RagError::NoEmbedder { mode });
    let mut hits = match mode {
        Mode::Auto | Mode::Text => store.search_text(question, k, filter)?,
        Mode::Vector => {
            let embedder = needs("vector")?;
            let rows = embedder.embed(&[question])?;
            store.search_vector(Vectors { embedder: embedder.name(), rows: &rows }, k, filter)?
        }
        Mode::Hybrid => {
            let embedder = needs("hybrid")?;
            let rows = embedder.embed(&[question])?;
            let vector = Vectors { embedder: embedder.name(), rows: &rows };
            store.search_hybrid(question, vector, config.fusion, config.candidates, k, filter)?
        }
    };
    if config.rerank {
        hits = OverlapRerank { embedder }.rerank(question, hits)?;
    }
    if let Some(lambda) = config.mmr_lambda {
        hits = mmr(needs("diverse")?, question, hits, lambda, config.k)?;
    }
    hits.truncate(config.k);
    Ok(hits)
}

/// The documents of hits in order, each once: what document-level metrics judge.
pub fn documents_of(hits: &[Hit]) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for hit in hits {
        if !ids.contains(&hit.chunk.doc_id.as_str()) {
            ids.push(&hit.chunk.doc_id);
        }
    }
    ids
}
