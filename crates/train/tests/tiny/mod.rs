//! A tiny random Llama.

use std::collections::BTreeMap;

use ferrotune_model::{Decoder, WeightMap, families::decoder_config};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tch::{Device, Kind, Tensor};

pub(crate) const VOCAB: usize = 97;

/// A Llama of 3 layers in `kind`; `trained` names which of its weights learn.
pub(crate) fn tiny(trained: &[&str], kind: Kind) -> Decoder {
    sized(trained, kind, (24, 40))
}

/// As [`tiny`], of other widths: hidden and inner.
pub(crate) fn sized(trained: &[&str], kind: Kind, (c, i): (i64, i64)) -> Decoder {
    let config = decoder_config(&json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": c, "intermediate_size": i,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "tie_word_embeddings": true, "rms_norm_eps": 1e-5,
        "attention_bias": true, "mlp_bias": true
    }))
    .unwrap();
    let kv = c / 2;
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB as i64, c])];
    for l in 0..3 {
        let at = |name: &str| format!("model.layers.{l}.{name}.weight");
        for (name, shape) in [
            ("self_attn.q_proj", vec![c, c]),
            ("self_attn.k_proj", vec![kv, c]),
            ("self_attn.v_proj", vec![kv, c]),
            ("self_attn.o_proj", vec![c, c]),
            ("mlp.gate_proj", vec![i, c]),
            ("mlp.up_proj", vec![i, c]),
            ("mlp.down_proj", vec![c, i]),
            ("input_layernorm", vec![c]),
            ("post_attention_layernorm", vec![c]),
        ] {
            if name.ends_with("proj") {
                shapes.push((format!("model.layers.{l}.{name}.bias"), vec![shape[0]]));
            }
            shapes.push((at(name), shape));
        }
    }
    shapes.push(("model.norm.weight".to_owned(), vec![c]));
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let tensors: BTreeMap<String, Tensor> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let n: i64 = shape.iter().product();
            let one = if name.contains("norm") { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..n).map(|_| one + rng.random_range(-0.3..0.3f32)).collect();
            (name, Tensor::from_slice(&values).reshape(&shape))
        })
        .collect();
    let mut weights = WeightMap::new(&tensors, kind, Device::Cpu);
    let decoder = Decoder::load(config, &mut weights, kind, Device::Cpu).unwrap();
    weights.finish(|_| false).unwrap();
    for (name, tensor) in decoder.named_tensors() {
        if trained.iter().any(|t| name.contains(t)) {
            let _ = tensor.set_requires_grad(true);
        }
    }
    decoder
}
