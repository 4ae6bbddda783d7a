//! Curation of training data: from a raw export to a dataset that one would sign.
//!
//! Everything turns around the [`Record`]: a chat, a preference pair or a document, with the file and line it was
//! read from. Rows are read ([`read`]), mended ([`clean`]), judged ([`filter`]), stripped of personal data
//! ([`pii`]), deduplicated ([`dedup`]), kept apart from evaluation sets ([`decontaminate`]), split ([`split`]),
//! mixed ([`mix`]), looked at ([`inspect`]) and rendered by a chat template ([`chat`]). [`curate`] runs the steps
//! that a TOML recipe lists. Each module is usable alone, on records or on plain texts.
//!
//! **Invariants.**
//! - No row is lost without a word: what goes in comes out as a [`Record`] or as a [`Dropped`] with its step, its
//!   reason and its figures.
//! - No text is changed without a word: every change is an [`Edit`] with what stood there before.
//! - A bad row is data; only a file that cannot be used at all is a [`DataError`].
//! - The result does not depend on the number of threads, the time or the machine. What is random has a seed.
//! - Nothing here reaches libtorch or the network (a PostgreSQL server aside, behind a feature).
//!
//! ```
//! use ferrotune_data::{clean::Html, filter::Truncated, Item, Origin, Record, RecordStep};
//! let item: Item = serde_json::from_str(r#"{"id": "7", "messages": [
//!     {"role": "user", "content": "Can I return it?"},
//!     {"role": "assistant", "content": "<p>Of course. You have thirty days to</p>"}]}"#).unwrap();
//! let mut record = Record { item, origin: Origin::default() };
//! let mut edits = Vec::new();
//!
//! Html.apply(&mut record, &mut edits).unwrap();
//! assert_eq!(record.texts()[1].1, "Of course. You have thirty days to");
//! assert_eq!((edits[0].step.as_str(), edits[0].before.as_str()), ("html", "<p>"));
//!
//! let refused = Truncated::default().apply(&mut record, &mut edits).unwrap_err();
//! assert_eq!(refused.reason, "truncated");
//! ```

mod error;
mod record;

pub mod read;

pub mod clean;

pub mod filter;

pub mod pii;

pub mod dedup;

pub mod decontaminate;

pub mod split;

pub mod mix;

pub mod inspect;

pub mod chat;

pub mod curate;

pub mod write;

pub use error::DataError;
pub use record::{Drop, Dropped, Edit, Item, Origin, Record, RecordStep, Spoken};
