use serde::{Deserialize, Serialize};

use crate::Message;

/// How to continue a prompt. The default is greedy, 256 tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateParams {
    /// Upper bound on generated tokens.
    pub max_new_tokens: usize,
    /// 0 is greedy.
    pub temperature: f64,
    /// Keep the smallest set of tokens whose probability reaches this.
    pub top_p: Option<f64>,
    /// Keep the k likeliest tokens.
    pub top_k: Option<usize>,
    /// Above 1 makes tokens already seen less likely (CTRL, arXiv 1909.05858).
    pub repetition_penalty: f64,
    /// Stop before any of these.
    pub stop: Vec<String>,
    /// Same seed, same text.
    pub seed: u64,
}

impl Default for GenerateParams {
    fn default() -> Self {
        GenerateParams {
            max_new_tokens: 256,
            temperature: 0.0,
            top_p: None,
            top_k: None,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            seed: 0,
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_new_tokens` was reached.
    Length,
}

/// A token with its natural-log probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's id; absent where an API does not tell.
    pub id: Option<u32>,
    /// The token's text.
    pub text: String,
    /// ln p.
    pub logprob: f64,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The text, without the end-of-turn token.
    pub text: String,
    /// Generated ids; empty over HTTP.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Log-probabilities where they were asked for and are known.
    pub logprobs: Vec<TokenLogprob>,
}

/// How likely a continuation is after a context.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogLikelihood {
    /// Sum of ln p over the continuation's tokens.
    pub sum: f64,
    /// How many tokens it has.
    pub n_tokens: usize,
    /// Whether greedy decoding would have said exactly it.
    pub is_greedy: bool,
}

/// What can go wrong when a model is asked.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The model cannot do this at all (an API that gives no log-probabilities).
    #[error("{model} cannot {what}")]
    Unsupported {
        /// The model's name.
        model: String,
        /// What was asked.
        what: &'static str,
    },
    /// The prompt does not fit.
    #[error("the prompt has {tokens} tokens, which leaves no room in the context of {limit}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// The settings contradict each other or are out of range.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The budget set by the user is spent.
    #[error("the budget is spent: {0}")]
    Budget(String),
    /// Anything else: network, device, template.
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ModelError {
    /// Wraps another error.
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        ModelError::Failed(error.into())
    }
}

/// A model that continues text. Implemented over libtorch by `ferrotune` and over HTTP by `ferrotune-llm`.
pub trait LanguageModel {
    /// A name for logs and reports.
    fn name(&self) -> &str;

    /// Answers a conversation.
    ///
    /// # Errors
    /// [`ModelError`].
    fn chat(&self, messages: &[Message], params: &GenerateParams) -> Result<Completion, ModelError>;

    /// Answers several conversations, in order; an implementation may batch them.
    ///
    /// # Errors
    /// [`ModelError`], at the first that fails.
    fn chat_batch(
        &self,
        conversations: &[Vec<Message>],
        params: &GenerateParams,
    ) -> Result<Vec<Completion>, ModelError> {
        conversations.iter().map(|messages| self.chat(messages, params)).collect()
    }

    /// For each `(context, continuation)`: how likely the continuation is. Plain text, no template.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] unless overridden.
    fn loglikelihood(&self, requests: &[(String, String)]) -> Result<Vec<LogLikelihood>, ModelError> {
        let _ = requests;
        Err(ModelError::Unsupported { model: self.name().to_owned(), what: "give log-likelihoods" })
    }

    /// For each text: the log-likelihood of all of it, in windows of the model's context, each token counted
    /// once (what perplexity needs).
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] unless overridden.
    fn loglikelihood_rolling(&self, texts: &[String]) -> Result<Vec<LogLikelihood>, ModelError> {
        let _ = texts;
        Err(ModelError::Unsupported { model: self.name().to_owned(), what: "give log-likelihoods" })
    }
}

/// A model that turns texts into vectors of unit length.
pub trait Embed {
    /// A name for logs and index files: an index made by one model is not searched by another.
    fn name(&self) -> &str;

    /// Length of a vector.
    fn dim(&self) -> usize;

    /// One vector a text, in order, each of unit length.
    ///
    /// # Errors
    /// [`ModelError`].
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError>;
}
