//! Decoder and encoder families on libtorch: checkpoints in, the numbers of transformers out.
//!
//! The key type is the [`Decoder`]: embedding, blocks, norm, LM head, loaded by
//! [`checkpoint::load_decoder`] from safetensors or GGUF. A family is one file in [`families`] that reads a
//! `config.json` into a [`DecoderConfig`]; the decoder itself never asks for a family's name.
//!
//! ```text
//! Source ─resolve→ folder | .gguf ─Tensors→ WeightMap ─load→ Decoder ─hidden(&Batch)→ (T, C) ─logits→ (N, V)
//!                                                          └─generate→ token ids
//! ```
//!
//! **Invariants.** A pass runs over a flat stream of segments that do not see each other, so there is no padding and
//! an example's numbers do not depend on its neighbours. Missing, extra or misshapen tensors are errors that name
//! them. A checkpoint is hostile until parsed: every length is checked against the file before anything is
//! allocated, and nothing is unpickled. Prefill equals token-by-token decoding with the cache. Every linear layer
//! keeps its name in the checkpoint, so that an adapter can hang on it.
//!
//! ```
//! use ferrotune_model::families::decoder_config;
//!
//! let config = decoder_config(&serde_json::json!({
//!     "model_type": "llama", "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64,
//!     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2
//! })).unwrap();
//! assert_eq!((config.head_dim, config.num_key_value_heads), (8, 2));
//!
//! let unknown = decoder_config(&serde_json::json!({"model_type": "no-such-family"})).unwrap_err();
//! assert!(unknown.to_string().contains("known: "));
//! ```

mod attention;
mod block;
mod config;
mod cpu;
mod decoder;
mod device;
mod encoder;
mod encoder_config;
mod encoder_head;
mod encoder_layer;
mod encoder_tensors;
mod error;
mod int8;
mod linear;
mod memory;
mod mlp;
mod names;
mod norm;
mod rope;
mod t5;
mod weights;

pub mod checkpoint;
pub mod families;
pub mod generate;
pub mod kernels;
pub mod lean;

pub use attention::{Attention, JoinedQkv, Qkv};
pub use block::Block;
pub use config::{Activation, DecoderConfig, Mlp as MlpKind, Moe, NormKind, QkNorm, RopeConfig, RopeScaling};
pub use decoder::{AsRecorded, Decoder, Pass, as_recorded, records_gradients};
pub use device::{keep_freed_memory, native_bf16, parse_device, parse_dtype};
pub use encoder::{Encoder, Pooling};
pub use encoder_config::{EncoderConfig, EncoderNames, HeadKind};
pub use encoder_head::{Head, HeadActivation};
pub use encoder_layer::{EncoderLayer, EncoderMlp};
pub use error::ModelError;
pub use int8::{Int8Weight, quantize_int8};
pub use linear::{Linear, LinearAdapter, PackedWeight, Update, Weight};
pub use memory::{catch_out_of_memory, free_memory, is_out_of_memory};
pub use mlp::{GateUp, JoinedGateUp, Mlp};
pub use names::Names;
pub use norm::Norm;
pub use rope::Rope;
pub use t5::{T5, T5Config, T5State};
pub use weights::{Tensors, WeightMap};
