use std::path::PathBuf;

/// What stops tokenisation. A row that cannot be used does not: it becomes a [`crate::Skipped`].
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file could not be read or written.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `create`.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tokenizer file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A GGUF file's tokenizer metadata are incomplete or of an unknown kind.
    #[error("GGUF metadata {key}: {reason}")]
    Gguf {
        /// The metadata key.
        key: &'static str,
        /// What is wrong, with the kinds that are known.
        reason: String,
    },
    /// A text could not be encoded, or ids could not be decoded.
    #[error("cannot {op}: {reason}")]
    Coding {
        /// `encode` or `decode`.
        op: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A row is longer than allowed and the policy is to stop.
    #[error("{id}: {tokens} tokens, {limit} are allowed; raise max_length, or choose drop, left or right")]
    TooLong {
        /// The row's id.
        id: String,
        /// Its tokens.
        tokens: usize,
        /// Tokens that are allowed.
        limit: usize,
    },
    /// A pair's prompt, tokenised alone, is not how prompt and answer begin when tokenised together.
    #[error("{id}: {reason}")]
    NotAPrefix {
        /// The pair's id.
        id: String,
        /// Where they part and what to do.
        reason: String,
    },
    /// Settings contradict each other or are out of range.
    #[error("{0}")]
    Config(String),
    /// A tokenizer could not be trained.
    #[error("training a tokenizer: {0}")]
    Training(String),
}

impl TokenizerError {
    /// An [`TokenizerError::Io`] for `map_err`.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| TokenizerError::Io { op, path, source }
    }

    /// An [`TokenizerError::File`] for `map_err`.
    pub(crate) fn file<E: ToString>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |reason| TokenizerError::File { path, reason: reason.to_string() }
    }

    /// A [`TokenizerError::Coding`] for `map_err`.
    pub(crate) fn coding<E: ToString>(op: &'static str) -> impl FnOnce(E) -> Self {
        move |reason| TokenizerError::Coding { op, reason: reason.to_string() }
    }
}
