use std::path::PathBuf;

/// What stops a curation run. A bad *row* does not: it becomes a [`crate::Dropped`].
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file could not be read or written.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `create`, …
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file's format could not be told or does not hold what it should.
    #[error("{}{}: {reason}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1, where one is to blame.
        line: Option<usize>,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A recipe or setting is unusable.
    #[error("{0}")]
    Config(String),
    /// A chat template does not parse, raises, runs out of fuel, or gives no exact spans.
    #[error("chat template: {0}")]
    Template(String),
    /// The vault's key is missing or wrong, or the vault was changed.
    #[error("vault: {0}")]
    Vault(String),
}

impl DataError {
    /// An [`DataError::Io`] for `map_err`.
    pub fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> DataError {
        let path = path.into();
        move |source| DataError::Io { op, path, source }
    }
}
