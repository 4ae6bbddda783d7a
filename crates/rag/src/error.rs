use std::path::PathBuf;

use ferrotune_types::ModelError;

/// What can go wrong in this crate. A question that nothing answers is no error: it is an empty result.
#[derive(Debug, thiserror::Error)]
pub enum RagError {
    /// SQLite failed: a full disk, a locked file.
    #[error("{op} the index {}", path.display())]
    Sqlite {
        /// What was tried.
        op: &'static str,
        /// The index file; `:memory:` where there is none.
        path: PathBuf,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },
    /// The file was an index, and was cut short or overwritten.
    #[error("the index {} is damaged: delete it and index the documents again", path.display())]
    Damaged {
        /// The index file.
        path: PathBuf,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is a database, or none at all, but not one of ours.
    #[error("{} is not a Ferrotune index: {reason}", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        reason: String,
    },
    /// Vectors of one model would be mixed with, or searched by, those of another.
    #[error(
        "the index holds vectors of {held} ({held_dim} numbers each) and was asked with {asked} ({asked_dim}): use \
         that model, or delete the index and make it anew"
    )]
    OtherEmbedder {
        /// The model the index was made with.
        held: String,
        /// Its vectors' length.
        held_dim: usize,
        /// The model it was asked with.
        asked: String,
        /// Its vectors' length.
        asked_dim: usize,
    },
    /// A vector search on an index that holds none.
    #[error("the index holds no vectors: make it with an embedder, or search by text")]
    NoVectors,
    /// A vector search or hybrid search was asked for without an embedder.
    #[error("a {mode} search needs an embedder")]
    NoEmbedder {
        /// The mode asked for.
        mode: &'static str,
    },
    /// Vectors and chunks differ in number, or a vector has the wrong length or no direction.
    #[error("{op}: expected {expected}, found {found}")]
    Shape {
        /// What was tried.
        op: &'static str,
        /// What should have come.
        expected: String,
        /// What came.
        found: String,
    },
    /// A setting is out of range or contradicts another.
    #[error("{setting}: {reason}")]
    Config {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The language model or the embedder failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}
