//! Decoder and encoder families on libtorch: checkpoints in, the numbers of transformers out.

mod attention;
mod config;
mod decoder;
mod device;
mod error;
mod linear;
mod norm;
mod rope;
mod weights;

pub mod families;

pub use attention::Attention;
pub use config::{
    Activation, BlockKind, DecoderConfig, Mlp as MlpKind, NormKind, QkNorm, RopeConfig, RopeScaling,
};
pub use decoder::{Block, Decoder, Pass};
pub use device::{keep_freed_memory, native_bf16, parse_device, parse_dtype};
pub use error::ModelError;
pub use linear::{Linear, LinearAdapter, PackedWeight, Weight};
pub use norm::Norm;
pub use weights::{Tensors, WeightMap};
