//! Deduplication: exact, near (MinHash), by bits (SimHash), by meaning (embeddings), by passage (substrings).
//!
//! [`dedup`] is what a pipeline calls: rows in, rows kept and rows dropped out, each dropped row with the id of
//! its kept twin and why that one was kept. [`clusters`] is the engine under it, for any texts.
//!
//! Near duplicates are found in four steps. A text becomes a set of shingles ([`Shingling`]); the set becomes a
//! MinHash sketch; texts that agree in all rows of any band of their sketches are candidates ([`Banding`] tells
//! with what chance); each candidate pair is verified by its true Jaccard similarity. So there are no false
//! pairs, and the share of missed ones is known beforehand.
//!
//! Invariants:
//! - No pair is joined that was not verified, and no row is dropped that is less similar to the row kept in its
//!   place than the threshold: a chain of similar rows cannot swallow a source.
//! - Exactly one row of a set of duplicates is kept.
//! - The result does not depend on the number of threads, nor the clusters on the order of the rows.
//! - Band columns beyond the memory setting go to disk; all else takes about 80 bytes a text.
//!
//! ```
//! use ferrotune_data::{dedup::{dedup, DedupConfig}, Item, Origin, Record};
//! use ferrotune_types::Document;
//! let row = |id: &str, text: &str| Record {
//!     item: Item::Document(Document { id: id.into(), text: text.into(), meta: Default::default() }),
//!     origin: Origin::default(),
//! };
//! let rows = vec![
//!     row("a", "Our shop opens at nine."),
//!     row("b", "We ship to Norway and Iceland, too!"),
//!     row("c", "We ship to Norway and Iceland too."),
//! ];
//! let result = dedup(rows, &DedupConfig::default()).unwrap();
//! assert_eq!(result.kept.len(), 2);
//! assert_eq!(result.dropped[0].reason, "near_duplicate");
//! assert!(result.dropped[0].detail.starts_with("Jaccard 0."), "{}", result.dropped[0].detail);
//! ```

// What a pipeline calls.
mod rows;

// What of a row is compared, and which row is kept.
mod facets;
mod keep;

// The engine: cluster, what is equal, shingle, sketch, band, index, spill, join.
mod lsh;

mod texts;

mod exact;

mod index;

mod shingle;

mod sketch;

mod banding;

mod columns;

mod forest;

// Other notions of alike.
mod embedding;
mod simhash;
mod substring;

pub use banding::Banding;
pub use embedding::{EmbeddingConfig, embedding_clusters, vector_clusters};
pub use facets::{Rows, View, facets};
pub use keep::Keep;
pub use lsh::{ClusterStats, Clusters, MinHashConfig, clusters};
pub use rows::{ClusterReport, DedupConfig, Deduped, KeptTwin, LostTwin, SourceLoss, dedup, dedup_against};
pub use shingle::{Shingling, jaccard};
pub use simhash::{simhash, simhash_clusters};
pub use substring::{Cutout, SubstringConfig, substring_dedup};
pub use texts::{Facet, Texts};

pub(crate) use {
    forest::Forest,
    rows::source_of,
    shingle::{ngrams, word_hashes, word_spans},
    texts::similarity,
};
