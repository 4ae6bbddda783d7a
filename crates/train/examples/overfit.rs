//! A random Llama learns one sentence of ids by heart. `cargo run -p ferrotune-train --example overfit`

use std::collections::BTreeMap;
use std::error::Error;

use ferrotune_model::{Decoder, WeightMap, families::decoder_config};
use ferrotune_train::{AdamW, AdamWConfig, HeadOptions, Param, clip_grad_norm, sft_accumulate};
use ferrotune_types::{Batch, Example};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let decoder = random_llama()?;
    let params = decoder.named_tensors().into_iter().filter(|(name, _)| name.contains("proj"));
    let params = params.map(|(name, tensor)| Param::new(name, tensor.set_requires_grad(true))).collect();
    let mut optimizer = AdamW::new(params, AdamWConfig::default())?;

    let example = Example::new(
        "sentence",
        vec![1, 7, 21, 9, 33, 14, 2],
        vec![false, true, true, true, true, true, true],
    )?;
    let batch = Batch::from_examples(&[&example])?;
    for step in 1..=60 {
        let stats = sft_accumulate(&decoder, std::slice::from_ref(&batch), false, HeadOptions::default())?;
        optimizer.gather();
        clip_grad_norm(&mut optimizer.gradients(), 1.0);
        optimizer.step(1e-2);
        if step % 10 == 0 {
            eprintln!("step {step}: loss {:.4}", stats.loss);
        }
    }
    Ok(())
}

fn random_llama() -> Result<Decoder, Box<dyn Error>> {
    let (v, c, i) = (48, 32, 64);
    let config = decoder_config(&serde_json::json!({
        "model_type": "llama", "vocab_size": v, "hidden_size": c, "intermediate_size": i,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": true
    }))?;
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.1;
    let ones = || Tensor::ones([c], (Kind::Float, Device::Cpu));
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), random(&[v, c])),
        ("model.norm.weight".to_owned(), ones()),
    ]);
    for layer in 0..2 {
        let mut put =
            |name: &str, tensor| tensors.insert(format!("model.layers.{layer}.{name}.weight"), tensor);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            put(&format!("self_attn.{name}"), random(&[c, c]));
        }
        put("mlp.gate_proj", random(&[i, c]));
        put("mlp.up_proj", random(&[i, c]));
        put("mlp.down_proj", random(&[c, i]));
        put("input_layernorm", ones());
        put("post_attention_layernorm", ones());
    }
    let mut weights = WeightMap::new(&tensors, Kind::Float, Device::Cpu);
    Ok(Decoder::load(config, &mut weights, Kind::Float, Device::Cpu)?)
}
