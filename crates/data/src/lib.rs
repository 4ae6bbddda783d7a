//! Curation of training data: read, clean, filter, strip PII, deduplicate, split, inspect, render chat templates.

mod error;
mod record;

pub mod chat;
pub mod clean;
pub mod curate;
pub mod decontaminate;
pub mod dedup;
pub mod filter;
pub mod inspect;
pub mod mix;
pub mod pii;
pub mod read;
pub mod split;
pub mod write;

pub use error::DataError;
pub use record::{Drop, Dropped, Edit, Item, Origin, Record, RecordStep, Spoken};
