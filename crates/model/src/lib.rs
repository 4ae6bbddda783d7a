//! Decoder and encoder families on libtorch: checkpoints, KV cache, sampling.
