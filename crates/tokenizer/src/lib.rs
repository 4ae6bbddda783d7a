//! Rendered conversations to token ids with an exact loss mask; packing and batches.

mod encoded;
mod error;
mod example;
mod fast;
mod gguf;
mod pack;
mod save;
mod stream;
mod tokenizer;

pub use encoded::Encoded;
pub use error::TokenizerError;
pub use example::{Counted, Limits, Made, Notes, SkipReason, Skipped, TokenizeReport, Tokenized, Truncation};
pub use gguf::GgufTokenizer;
pub use pack::{BatchConfig, BatchSize, PackReport, Packing, batches, pack, pair_batches};
pub use stream::DecodeStream;
pub use tokenizer::{SpecialIds, Tokenizer};
