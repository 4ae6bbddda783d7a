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
    /// The prompt does not fit into the model's context.
    #[error("{url} answers {status}: {message} ({TOO_LONG})")]
    TooLong {
        /// The address.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
        /// Tokens of the prompt (with the reply, where the server counts so) and tokens that fit, where it tells both.
        sizes: Option<(usize, usize)>,
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

/// By this a too long prompt is known where the server tells no sizes, which [`ModelError::TooLong`] must have.
const TOO_LONG: &str = "the prompt is longer than the model's context";

/// Characters of a server's words that an error keeps.
const MAX_SAID: usize = 500;

impl LlmError {
    /// Takes what must not be shown out of the server's words, and then cuts them: cut first, they could end within
    /// the key. Every error that holds such words leaves the crate through here.
    pub(crate) fn hiding(mut self, hide: impl Fn(&str) -> String) -> Self {
        match &mut self {
            LlmError::Denied { message: said, .. }
            | LlmError::Refused { message: said, .. }
            | LlmError::TooLong { message: said, .. }
            | LlmError::GaveUp { last: said, .. }
            | LlmError::Reply { reply: said, .. } => *said = hide(said).chars().take(MAX_SAID).collect(),
            LlmError::Config { .. }
            | LlmError::WaitTooLong { .. }
            | LlmError::Budget(_)
            | LlmError::Cache { .. } => {}
        }
        self
    }
}

/// Whether another model with a longer context might answer.
pub(crate) fn is_too_long(error: &ModelError) -> bool {
    match error {
        ModelError::TooLong { .. } => true,
        ModelError::BadRequest(reason) => reason.contains(TOO_LONG),
        _ => false,
    }
}

impl From<LlmError> for ModelError {
    fn from(error: LlmError) -> Self {
        match error {
            LlmError::Budget(reason) => ModelError::Budget(reason),
            LlmError::Config { setting, reason } => ModelError::BadRequest(format!("{setting}: {reason}")),
            LlmError::TooLong { sizes: Some((tokens, limit)), .. } => ModelError::TooLong { tokens, limit },
            LlmError::TooLong { sizes: None, .. } | LlmError::Refused { status: 400 | 413 | 422, .. } => {
                ModelError::BadRequest(error.to_string())
            }
            other => ModelError::failed(other),
        }
    }
}
