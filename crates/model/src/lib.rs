//! Decoder and encoder families on libtorch: checkpoints in, the numbers of transformers out.

mod attention;
mod block;
mod config;
mod decoder;
mod device;
mod encoder;
mod encoder_config;
mod encoder_head;
mod encoder_layer;
mod error;
mod int8;
mod linear;
mod mlp;
mod names;
mod norm;
mod rope;
mod t5;
mod weights;

pub mod checkpoint;
pub mod families;
pub mod generate;

pub use attention::{Attention, JoinedQkv, Qkv};
pub use block::Block;
pub use config::{Activation, DecoderConfig, Mlp as MlpKind, Moe, NormKind, QkNorm, RopeConfig, RopeScaling};
pub use decoder::{Decoder, Pass};
pub use device::{keep_freed_memory, native_bf16, parse_device, parse_dtype};
pub use encoder::{Encoder, Pooling};
pub use encoder_config::{EncoderConfig, EncoderNames, HeadKind};
pub use encoder_head::{Head, HeadActivation};
pub use encoder_layer::{EncoderLayer, EncoderMlp};
pub use error::ModelError;
pub use int8::{Int8Weight, quantize_int8};
pub use linear::{Linear, LinearAdapter, PackedWeight, Weight};
pub use mlp::{GateUp, JoinedGateUp, Mlp};
pub use names::Names;
pub use norm::Norm;
pub use t5::{T5, T5Config};
pub use weights::{Tensors, WeightMap};
