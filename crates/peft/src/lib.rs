//! Adapters: LoRA and its relatives on a [`Decoder`](ferrotune_model::Decoder), in PEFT's file format.
//!
//! The key type is [`Adapter`]: a [`LoraConfig`] and the trained tensors, which hang on the model's linear
//! layers. [`inject`] makes a new one, [`load`] and [`save`] speak PEFT's `adapter_config.json` and
//! `adapter_model.safetensors`, [`merge`] writes one into the base, [`combine`] makes one of several, and
//! [`Nf4Weight`] is a 4-bit base to hang one on (QLoRA).
//!
//! **Invariants.** A new adapter changes nothing: B is zero (PiSSA and OLoRA subtract their own beginning).
//! The base is frozen and never written: without the adapter it is what it was, bit by bit. The same seed gives the
//! same A on every machine, because its numbers do not come from libtorch. A file is loaded whole or not at
//! all: every tensor finds its layer and every layer its tensor, shapes agree, and an adapter whose updates
//! are all zero is refused. A file is replaced by rename, so a full disk loses nothing.
//!
//! Not here: training (`ferrotune-train`), the model, and the choice of what to adapt.
//!
//! ```
//! use ferrotune_peft::{LoraConfig, Targets};
//! let config: LoraConfig = serde_json::from_str(
//!     r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}"#,
//! )?;
//! config.check()?;
//! assert_eq!(config.scale(config.r, config.lora_alpha), 2.0);
//! assert_eq!(config.target_modules, Some(Targets::Pattern("all-linear".into())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adapter;
mod base;
mod blocks;
mod combine;
mod config;
mod error;
mod file;
mod init;
mod layer;
mod merge;
mod neftune;
mod nf4;
mod nf4_state;
mod plus;
mod set;
mod target;
mod whole;

pub use adapter::{Adapter, ParameterRow, ParameterTable, freeze, inject};
pub use base::base_doubt;
pub use combine::{Combination, combine};
pub use config::{BiasMode, Init, LoraConfig, OneOrMany, Pattern, Targets};
pub use error::PeftError;
pub use file::{LoadOptions, load, read_config, save};
pub use layer::LoraLayer;
pub use merge::{MergeReport, Merged, check_merge, merge, merge_checked, unmerge};
pub use neftune::Neftune;
pub use nf4::Nf4Weight;
pub use nf4_state::{nf4_tensors, plain_tensors, quantize_base, restore_nf4};
pub use plus::{LoraPlus, ParameterGroup, ParameterKind};
pub use set::AdapterSet;
