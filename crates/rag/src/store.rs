use serde::{Deserialize, Serialize};

use crate::{Chunk, Filter, Fusion, RagError, fuse};

/// A chunk that a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The chunk.
    pub chunk: Chunk,
    /// Larger is better. Comparable within one result only: BM25, a cosine, or a fused score.
    pub score: f64,
}

/// Which model made an index's vectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedderId {
    /// What [`ferrotune_types::Embed::name`] said.
    pub name: String,
    /// Length of a vector.
    pub dim: usize,
}

/// Vectors and the model that made them, so that a store can refuse a stranger's.
#[derive(Debug, Clone, Copy)]
pub struct Vectors<'a> {
    /// The model's name.
    pub embedder: &'a str,
    /// One vector for each chunk or query.
    pub rows: &'a [Vec<f32>],
}

/// Chunks, searchable by words and by vectors.
///
/// Every search returns its `k` best hits *among the chunks that pass the filter*, best first; fewer only where
/// fewer pass (or, by text, share a term with the query).
pub trait Store {
    /// Adds chunks; a chunk whose id is known replaces the old one. All of them or none.
    ///
    /// # Errors
    /// [`RagError::Shape`] where vectors and chunks differ in number, [`RagError::OtherEmbedder`] where the
    /// store holds vectors of another model, or the backend's own.
    fn upsert(&mut self, chunks: &[Chunk], vectors: Option<Vectors<'_>>) -> Result<(), RagError>;

    /// Removes the chunks that pass, and says how many there were.
    ///
    /// # Errors
    /// The backend's own.
    fn delete(&mut self, filter: &Filter) -> Result<usize, RagError>;

    /// The chunks with these ids, in this order; absent where there is none.
    ///
    /// # Errors
    /// The backend's own.
    fn get(&self, ids: &[&str]) -> Result<Vec<Option<Chunk>>, RagError>;

    /// How many chunks pass; without a filter, how many there are.
    ///
    /// # Errors
    /// The backend's own.
    fn count(&self, filter: Option<&Filter>) -> Result<usize, RagError>;

    /// Each document's id and its chunks' fingerprint, in the order of ids.
    ///
    /// # Errors
    /// The backend's own.
    fn documents(&self) -> Result<Vec<(String, String)>, RagError>;

    /// The documents that have chunks without a vector, in the order of ids. A backend in which there can be none
    /// need not say so.
    ///
    /// # Errors
    /// The backend's own.
    fn without_vectors(&self) -> Result<Vec<String>, RagError> {
        Ok(Vec::new())
    }

    /// The model whose vectors it holds.
    ///
    /// # Errors
    /// The backend's own.
    fn embedder(&self) -> Result<Option<EmbedderId>, RagError>;

    /// The `k` best by BM25. A term that the query repeats counts as often as it stands there.
    ///
    /// # Errors
    /// The backend's own.
    fn search_text(&self, query: &str, k: usize, filter: Option<&Filter>) -> Result<Vec<Hit>, RagError>;

    /// The `k` nearest by cosine; `query` holds one vector.
    ///
    /// # Errors
    /// [`RagError::NoVectors`], [`RagError::OtherEmbedder`], [`RagError::Shape`], or the backend's own.
    fn search_vector(
        &self,
        query: Vectors<'_>,
        k: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<Hit>, RagError>;

    /// The `k` best of both searches, each asked for `depth` candidates. A backend with a fusion of its own
    /// overrides this.
    ///
    /// # Errors
    /// As [`Self::search_text`] and [`Self::search_vector`].
    fn search_hybrid(
        &self,
        query: &str,
        vector: Vectors<'_>,
        fusion: Fusion,
        depth: usize,
        k: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<Hit>, RagError> {
        let depth = depth.max(k);
        let text = self.search_text(query, depth, filter)?;
        let vector = self.search_vector(vector, depth, filter)?;
        fuse(text, vector, fusion, k)
    }
}
