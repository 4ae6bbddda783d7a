use std::path::PathBuf;

use ferrotune_types::ModelError;

/// What can go wrong between here and a model's server. No variant ever holds the API key.
#[derive(Debug, thiserror::Error)]
pub enum LlmError {
    /// The configuration contradicts itself or lacks something.
    #[error("{setting}: {reason}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The server refuses the key, or there is none.
    #[error("{url} refuses the API key ({status}): {message}; the key is read from {key_from}")]
    Denied {
        /// The address.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
        /// The environment variable, or `nowhere`.
        key_from: String,
    },
    /// The server will not do this, and will not do it later either.
    #[error("{url} answers {status}: {message}")]
    Refused {
        /// The address.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// Every attempt failed in a way that might have passed.
    #[error("{url} failed {attempts} times, last: {last}")]
    GaveUp {
        /// The address.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// What happened last.
        last: String,
    },
    /// The server asks for a longer wait than is allowed.
    #[error("{url} asks to wait {asked_s} s, longer than the limit of {limit_s} s")]
    WaitTooLong {
        /// The address.
        url: String,
        /// Seconds asked for.
        asked_s: u64,
        /// Seconds allowed.
        limit_s: u64,
    },
    /// The reply is well-formed JSON and not what the API promises.
    #[error("{url} replied without {what}: {reply}")]
    Reply {
        /// The address.
        url: String,
        /// What is missing.
        what: &'static str,
        /// The beginning of the reply.
        reply: String,
    },
    /// The budget cannot pay for the next request.
    #[error("{0}")]
    Budget(String),
    /// The cache folder cannot be written.
    #[error("cannot {op} {}", path.display())]
    Cache {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl From<LlmError> for ModelError {
    fn from(error: LlmError) -> Self {
        match error {
            LlmError::Budget(reason) => ModelError::Budget(reason),
            LlmError::Config { setting, reason } => ModelError::BadRequest(format!("{setting}: {reason}")),
            LlmError::Refused { status: 400 | 413 | 422, .. } => ModelError::BadRequest(error.to_string()),
            other => ModelError::failed(other),
        }
    }
}
