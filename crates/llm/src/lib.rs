//! A client for language models behind the OpenAI-compatible HTTP API: hosted ones, and your own servers.
//!
//! The key type is the [`Client`]: it implements `LanguageModel`, so that judges, benchmarks and retrieval use a
//! model over HTTP as they use one in this process. [`EmbedClient`] does the same for `Embed`, [`Fallback`] puts
//! several models in a row.
//!
//! **Invariants.**
//! - The API key is read from the environment, sent in one header, and never shown: `Debug` hides it, error texts
//!   have it taken out, and the cache does not hold it.
//! - Nothing is sent once the budget cannot pay for it: a request reserves its worst case first, so that threads
//!   side by side do not overdraw together.
//! - Whatever may pass is tried again (429, 408, 5xx, broken connections, replies cut short), after a wait that
//!   doubles, is jittered, and obeys `Retry-After`; whatever cannot pass (a bad key, a bad request) is not.
//! - A batch's replies come in the order of its requests, however many threads fetched them.
//! - A reply read from the cache is the reply that was sent to exactly this request.
//!
//! ```no_run
//! use ferrotune_llm::{Client, ClientConfig, Provider};
//! use ferrotune_types::{GenerateParams, LanguageModel, Message, Role};
//!
//! let config = ClientConfig { cache: Some("replies".into()), ..ClientConfig::new(Provider::Ollama, "qwen3:4b") };
//! let model = Client::new(config)?;
//! let reply = model.chat(&[Message::new(Role::User, "Hello")], &GenerateParams::default())?;
//! println!("{} ({} tokens)", reply.text, reply.completion_tokens);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod budget;
mod cache;
mod client;
mod config;
mod embed;
mod error;
mod fallback;
mod provider;
mod send;
mod stream;
mod wire;

pub use budget::{Budget, Ledger, Prices, Spent};
pub use cache::Cache;
pub use client::Client;
pub use config::{ClientConfig, RetryConfig};
pub use embed::EmbedClient;
pub use error::LlmError;
pub use fallback::Fallback;
pub use provider::{Provider, Traits};
