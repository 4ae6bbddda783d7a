//! Turns any checkpoint that Ferrotune reads (a folder, a GGUF file, a hub id) into safetensors, in shards of so many bytes.
//!
//! ```text
//! cargo run -p ferrotune-model --example convert -- fixtures/tiny/llama copy bf16 50000
//! ```

use std::path::Path;

use ferrotune_model::checkpoint::{
    HubOptions, SaveOptions, Source, load_config, load_decoder, load_encoder, load_t5, save_decoder,
    save_encoder, save_t5,
};
use ferrotune_model::families::encoder_types;
use ferrotune_model::parse_dtype;
use tch::Device;

#[expect(clippy::print_stdout, reason = "an example talks to the terminal")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, rest @ ..] = args.as_slice() else {
        return Err("usage: convert FROM TO [fp32|bf16|fp16 [BYTES A SHARD]]".into());
    };
    let kind = parse_dtype(rest.first().map_or("fp32", String::as_str), Device::Cpu)?;
    let (source, to) = (Source::resolve(from, &HubOptions::default())?, Path::new(to));
    let mut options = SaveOptions::default();
    if let Some(bytes) = rest.get(1) {
        options.max_shard_bytes = bytes.parse()?;
    }
    let config = load_config(&source)?;
    let model_type = config["model_type"].as_str().unwrap_or_default().to_owned();
    let tensors = if encoder_types().contains(&model_type.as_str()) {
        // An encoder keeps the dtype of what it was loaded from, in one file.
        let encoder = load_encoder(&source, kind, Device::Cpu)?.encoder;
        save_encoder(&encoder, &source, &config, to)?;
        encoder.named_tensors()
    } else if model_type == "t5" {
        let t5 = load_t5(&source, kind, Device::Cpu)?;
        save_t5(&t5, &config, None, to, options)?;
        t5.named_tensors()
    } else {
        let loaded = load_decoder(&source, kind, Device::Cpu)?;
        let generation = loaded.generation_config.as_ref();
        save_decoder(&loaded.decoder, &loaded.config_json, generation, to, options)?;
        loaded.decoder.named_tensors()
    };
    let n: usize = tensors.iter().map(|(_, t)| t.numel()).sum();
    println!("{model_type}: {n} parameters → {}", to.display());
    Ok(())
}
