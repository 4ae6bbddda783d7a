//! Chunk, index, retrieve, rerank, ground and cite: answers from your own documents, each with its source.
//!
//! The key type is the [`Store`]: chunks of documents, searched by words, by meaning, or both.
//! [`SqliteStore`] keeps them in one SQLite file with its own BM25 postings and exact nearest neighbours.
//!
//! ```text
//! Document ─chunk→ Chunk ─index→ Store ─retrieve→ Hit ─rerank→ Hit ─ground→ Message ─answer→ Answer
//! ```
//!
//! **Invariants.**
//! - A chunk's text is a slice of its document: `document.text[chunk.start..chunk.end] == chunk.text`.
//! - A search under a [`Filter`] returns `k` hits whenever `k` chunks pass the filter, be it one chunk in a
//!   thousand: the filter runs before the ranking, never after.
//! - An index made with one embedder is not searched with another's vectors: that is an error. Which embedder it was
//!   is what [`ferrotune_types::Embed::name`] says.
//! - Every citation of an [`Answer`] points to a source that was compared with the sentence: it has its words, its
//!   figures with their units, and its negation. An answer that no source supports is replaced by a quote, and the
//!   struct says so.
//! - Equal scores are ordered by insertion, so results do not depend on threads or hash seeds.
//!
//! This crate reaches no model itself; it sees only the traits of `ferrotune-types`.
//!
//! ```
//! use ferrotune_rag::{ChunkConfig, RetrieveConfig, SqliteStore, extract, index, retrieve, GroundConfig};
//! use ferrotune_types::Document;
//!
//! let document = |id: &str, text: &str| Document { id: id.into(), text: text.into(), meta: Default::default() };
//! let documents = [
//!     document("returns", "Items may be returned within 30 days. A receipt is needed."),
//!     document("shipping", "Orders over $75 ship free. Others pay $6.95."),
//! ];
//! let mut store = SqliteStore::in_memory()?;
//! index(&mut store, &documents, &ChunkConfig::default(), None)?;
//!
//! let question = "How many days do I have to return an item?";
//! let hits = retrieve(&store, None, question, &RetrieveConfig::default())?;
//! assert_eq!(hits[0].chunk.doc_id, "returns");
//!
//! let quotes = extract(question, &hits, None, &GroundConfig::default())?;
//! assert_eq!(quotes[0].text, "Items may be returned within 30 days.");
//! # Ok::<(), ferrotune_rag::RagError>(())
//! ```

mod analyze;
mod answer;
mod bm25;
mod cached_embed;
mod chunk;
mod cite;
mod error;
mod evaluate;
mod extract;
mod figures;
mod filter;
mod fuse;
mod ground;
mod hash_embed;
mod index;
mod metrics;
mod rerank;
mod retrieve;
mod sentence;
mod sqlite;
mod store;
mod support;

pub use analyze::{Analyzer, Language};
pub use answer::{Answer, Attributed, Citation, Origin, answer, check_answer};
pub use bm25::{B, K1, idf, term_weight};
pub use cached_embed::CachedEmbed;
pub use chunk::{Chunk, ChunkConfig, Splitter, chunk, chunk_by};
pub use cite::{Mark, attribute, marks, strip_marks};
pub use error::RagError;
pub use evaluate::{AnswerRow, RagQuestion, RagReport, evaluate, unknown_documents};
pub use extract::{Quote, extract};
pub use filter::{Filter, MetaValue};
pub use fuse::{Fusion, fuse};
pub use ground::{GroundConfig, ground};
pub use hash_embed::HashEmbed;
pub use index::{IndexReport, index, index_by, remove_others};
pub use metrics::{average_precision, hit_at, ndcg_at, precision_at, recall_at, reciprocal_rank};
pub use rerank::{OverlapRerank, Rerank, mmr};
pub use retrieve::{Mode, RetrieveConfig, documents_of, retrieve};
pub use sentence::sentences;
pub use sqlite::SqliteStore;
pub use store::{EmbedderId, Hit, Store, Vectors};
pub use support::support;
