//! Ferrotune in one crate: everything re-exported, the recipes that put it together, and the `ferrotune` command.
//!
//! The crates are parts and know little of each other; this is the only place that wires them:
//!
//! ```text
//! data ─→ chat template ─→ tokenizer ─→ model + adapter ─→ loss ─→ checkpoint      recipes/
//! curate → split → tokenize → sft → dpo → merge → perplexity → judge → rag → report   pipeline/
//! ```
//!
//! Read a recipe to learn how a run goes: [`recipes::sft`] and [`recipes::dpo`] are one loop each, top to bottom.
//! The key type of the main job is [`pipeline::PipelineConfig`], the key result [`pipeline::Report`].
//!
//! **Invariants.** Nothing half-written ever stands under a final name. A run that was killed and resumed ends
//! with the bytes of one that was not. Every random choice comes from the configuration's seed. Above the
//! feature `torch` nothing reaches libtorch.
//!
//! ```
//! use ferrotune::data::curate::{self, Recipe};
//! use ferrotune::eval::{Case, ReferenceJudge, judge};
//!
//! let recipe = Recipe::builtin("tickets").unwrap();
//! assert!(recipe.kinds().any(|step| step == "pii"));
//!
//! let case = Case {
//!     id: "1".into(),
//!     question: "How long may I return things?".into(),
//!     before: Vec::new(),
//!     reference: Some("Within 30 days, with a receipt.".into()),
//!     base: "I am not sure.".into(),
//!     tuned: "You have 30 days; bring the receipt.".into(),
//! };
//! assert_eq!(judge(&ReferenceJudge::default(), &[case], 0).unwrap().tuned, 1);
//! # let _ = curate::run;
//! ```
//!
//! **Features.** `torch` (on by default): models, adapters, training, the pipeline and the commands that run
//! them. Without it: data, tokenizer, evaluation, retrieval, the HTTP client, and their commands.

pub use ferrotune_data as data;
pub use ferrotune_eval as eval;
pub use ferrotune_llm as llm;
#[cfg(feature = "torch")]
pub use ferrotune_model as model;
#[cfg(feature = "torch")]
pub use ferrotune_peft as peft;
#[cfg(feature = "torch")]
pub use ferrotune_preference as preference;
pub use ferrotune_rag as rag;
pub use ferrotune_tokenizer as tokenizer;
#[cfg(feature = "torch")]
pub use ferrotune_train as train;
pub use ferrotune_types as types;

#[cfg(feature = "torch")]
pub mod pipeline;
#[cfg(feature = "torch")]
pub mod recipes;

#[cfg(feature = "torch")]
pub mod completions;
#[cfg(feature = "torch")]
pub mod local_embedder;
#[cfg(feature = "torch")]
pub mod local_model;
#[cfg(feature = "torch")]
pub mod local_t5;
#[cfg(feature = "torch")]
pub mod model_store;

#[cfg(feature = "torch")]
pub mod commands;
#[cfg(feature = "torch")]
mod generate_command;
#[cfg(feature = "torch")]
mod pair_commands;
#[cfg(feature = "torch")]
mod sentence;
#[cfg(feature = "torch")]
mod show_tokens;
#[cfg(feature = "torch")]
mod tune_commands;

pub mod cli;
pub mod documents;
pub mod files;
pub mod progress;
pub mod settings;
pub mod template;
