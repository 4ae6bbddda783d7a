//! One job a file, each read top to bottom; the library crates are the parts.

mod classify;
mod cpt;
mod dpo;
mod forecast;
mod held_pairs;
mod kto;
mod lr_find;
mod merge;
mod mlm;
mod orpo;
mod perplexity;
mod reference;
mod relative;
mod reward;
mod rlaif;
mod run;
mod sft;
mod trained;
mod words;

pub use classify::{Labelled, Labels, class_head, classes, classify};
pub use cpt::{CptOutcome, CptTexts, cpt, windows};
pub use dpo::{DpoConfig, DpoOutcome, Held, dpo};
pub use held_pairs::{AnswerTokens, HeldPairs, answer_tokens};
pub use kto::{ThumbData, ThumbExample, kto, thumb_examples};
pub use lr_find::{LrFound, find_lr};
pub use merge::{MergeOutcome, merge};
pub use mlm::{MlmConfig, mlm, text_windows};
pub use orpo::{FreeLoss, orpo};
pub use perplexity::{PerplexityOutcome, held_out_perplexity, text_perplexity};
pub use relative::{RelativeConfig, RelativeLoss};
pub use reward::{reward, reward_head};
pub use rlaif::{RlaifConfig, RlaifPrompt, RlaifReport, rlaif};
pub use run::{Best, RunConfig, RunOutcome};
pub use sft::{SftConfig, SftData, SftOutcome, sft};
pub use trained::{Trained, whole_model};
pub use words::{adapter_on, adapter_to_train, examples, lora_config, pair_examples, pair_tokens};
