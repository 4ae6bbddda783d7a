//! The few types and traits that every Ferrotune crate shares.
//!
//! Data flows one way, and these are the shapes it takes:
//!
//! ```text
//! Conversation | PreferencePair | Document     what a person wrote        (chat.rs)
//! Rendered { text, assistant spans }           what the model reads       (chat.rs)
//! Example { ids, loss_mask } | PairExample     what the tokenizer made    (example.rs)
//! Batch { ids, positions, segments }           what one step trains on    (batch.rs)
//! ```
//!
//! The two traits, [`LanguageModel`] and [`Embed`], let evaluation and retrieval use a model without
//! knowing whether it runs on libtorch in this process or behind an HTTP API.
//!
//! **Invariants**, checked when a value is made: an [`Example`]'s mask is as long as its ids and never set
//! on its first token (nothing predicts it); a [`Batch`]'s segments tile its tokens; a [`Rendered`]'s spans
//! are ordered, disjoint and lie on character boundaries. There is no padding anywhere.
//!
//! ```
//! use ferrotune_types::{Batch, Example};
//! let hello = Example::new("row-1", vec![1, 15, 16, 2], vec![false, false, true, true]).unwrap();
//! let batch = Batch::from_examples(&[&hello, &hello]).unwrap();
//! assert_eq!(batch.n_tokens(), 8);
//! assert_eq!(batch.n_targets(), 4);
//! assert_eq!(batch.positions(), [0, 1, 2, 3, 0, 1, 2, 3]);
//! ```

mod batch;
mod chat;
mod ends;
mod example;
mod model;

pub use batch::{Batch, Segment};
pub use chat::{Conversation, Document, Message, PreferencePair, Rendered, Role, SpecialTokens};
pub use ends::ends_of_answers;
pub use example::{Example, PairExample};
pub use model::{
    Completion, Embed, Finish, GenerateParams, LanguageModel, LogLikelihood, ModelError, TokenLogprob,
};

/// A value that would break one of this crate's invariants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// An example's parts disagree, or it trains on its first token.
    #[error("example {id}: {reason}")]
    Example {
        /// The example's id.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// A rendered conversation's spans are unordered, overlap, or cut a character.
    #[error("rendered text: span {start}..{end} {reason}")]
    Span {
        /// First byte of the span.
        start: usize,
        /// One past its last byte.
        end: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A batch's segments do not tile its tokens, or a prefix does not come before its user.
    #[error("batch: {0}")]
    Batch(String),
}
