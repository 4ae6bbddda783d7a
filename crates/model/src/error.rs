use std::path::PathBuf;

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `map`, …
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint file is broken or of an unknown kind.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// `config.json` asks for something unknown or contradicts itself.
    #[error("config: {0}")]
    Config(String),
    /// Tensors are missing, left over or misshapen.
    #[error("checkpoint does not fit the model: {0}")]
    Tensors(String),
    /// A device or dtype that this machine or build lacks.
    #[error("device: {0}")]
    Device(String),
    /// An input that the model cannot take: an id beyond the vocabulary, a sequence beyond the context.
    #[error("input: {0}")]
    Input(String),
    /// What the model computed is no number: its weights are broken, or too large for the dtype.
    #[error(
        "what the model computes is no number: its weights are broken, or too large for the dtype (fp16 ends at 65,504: take \
         bf16 or fp32)"
    )]
    NotANumber,
    /// There is not enough memory.
    #[error("out of memory: {0}")]
    Memory(String),
    /// The model hub answered badly or could not be reached.
    #[error("hub: {0}")]
    Hub(String),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}
