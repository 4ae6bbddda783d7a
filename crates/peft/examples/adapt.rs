//! A tiny random Llama learns one sequence through LoRA; the adapter is saved, loaded, and merged.
//!
//! `cargo run -p ferrotune-peft --example adapt`

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::collections::BTreeMap;

use ferrotune_model::{Decoder, WeightMap, families};
use ferrotune_peft::{LoadOptions, LoraConfig, inject, load, merge_checked, save};
use ferrotune_types::{Batch, Example};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut decoder = tiny_llama()?;
    let adapter = inject(&mut decoder, &LoraConfig::all_linear(4, 8.0), 42)?;
    println!("{}\n", adapter.parameter_table(&decoder));

    let ids: Vec<u32> = (0..12).map(|i| (i * 7 + 3) % 32).collect();
    let mask: Vec<bool> = (0..ids.len()).map(|i| i > 0).collect();
    let batch = Batch::from_examples(&[&Example::new("sequence", ids, mask)?])?;
    for step in 0..=60 {
        let loss = loss(&decoder, &batch)?;
        if step % 20 == 0 {
            println!("step {step:>2}  loss {:.4}", loss.double_value(&[]));
        }
        loss.backward();
        for (_, mut parameter) in adapter.parameters() {
            let gradient = parameter.grad();
            let _ = tch::no_grad(|| parameter.g_sub_(&(gradient * 0.5)));
            parameter.zero_grad();
        }
    }

    let folder = std::env::temp_dir().join(format!("ferrotune-adapt-{}", std::process::id()));
    save(&adapter, &folder)?;
    let mut base = tiny_llama()?;
    let loaded = load(&mut base, &folder, &LoadOptions::default())?;
    println!("loaded    loss {:.4}", tch::no_grad(|| loss(&base, &batch))?.double_value(&[]));
    let (_merged, report) = merge_checked(&mut base, loaded, &batch)?;
    println!("merged    loss {:.4}   {report:?}", tch::no_grad(|| loss(&base, &batch))?.double_value(&[]));
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn loss(decoder: &Decoder, batch: &Batch) -> Result<Tensor, Box<dyn std::error::Error>> {
    let (predictors, targets): (Vec<i64>, Vec<i64>) =
        batch.targets().map(|(predictor, target, _)| (predictor as i64, batch.ids()[target])).unzip();
    let hidden = decoder.hidden(batch)?.index_select(0, &Tensor::from_slice(&predictors));
    Ok(decoder.logits(&hidden).cross_entropy_for_logits(&Tensor::from_slice(&targets)))
}

/// 2 blocks of 32 features over 32 tokens, with random weights.
fn tiny_llama() -> Result<Decoder, Box<dyn std::error::Error>> {
    let json = serde_json::json!({
        "model_type": "llama", "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 48, "tie_word_embeddings": true
    });
    tch::manual_seed(1);
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, size: &[i64]| {
        let tensor = match size {
            [n] => Tensor::ones([*n], (Kind::Float, Device::Cpu)),
            _ => Tensor::randn(size, (Kind::Float, Device::Cpu)) * 0.2,
        };
        tensors.insert(name, tensor);
    };
    add("model.embed_tokens.weight".into(), &[32, 32]);
    add("model.norm.weight".into(), &[32]);
    for i in 0..2 {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{i}.{name}.weight"), &[32]);
        }
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(format!("model.layers.{i}.self_attn.{name}.weight"), &[32, 32]);
        }
        for (name, size) in [("gate_proj", [48, 32]), ("up_proj", [48, 32]), ("down_proj", [32, 48])] {
            add(format!("model.layers.{i}.mlp.{name}.weight"), &size);
        }
    }
    let config = families::decoder_config(&json)?;
    let mut weights = WeightMap::new(&tensors, Kind::Float, Device::Cpu);
    Ok(Decoder::load(config, &mut weights, Kind::Float, Device::Cpu)?)
}
