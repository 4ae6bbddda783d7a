//! One job a file, each read top to bottom; the library crates are the parts.

mod dpo;
mod merge;
mod perplexity;
mod sft;
mod words;

pub use dpo::{DpoConfig, DpoOutcome, Held, dpo};
pub use merge::{MergeOutcome, merge};
pub use perplexity::{PerplexityOutcome, held_out_perplexity, text_perplexity};
pub use sft::{SftConfig, SftData, SftOutcome, sft};
pub use words::{examples, lora_config, pair_examples};
