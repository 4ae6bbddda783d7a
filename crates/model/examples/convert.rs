//! Turns any checkpoint that Ferrotune reads (a folder, a GGUF file, a hub id) into safetensors, in shards of so many bytes.
//!
//! ```text
//! cargo run -p ferrotune-model --example convert -- fixtures/tiny/llama copy bf16 50000
//! ```

use std::path::Path;

use ferrotune_model::checkpoint::{HubOptions, SaveOptions, Source, load_decoder, save_decoder};
use ferrotune_model::parse_dtype;
use tch::Device;

#[expect(clippy::print_stdout, reason = "an example talks to the terminal")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, rest @ ..] = args.as_slice() else {
        return Err("usage: convert FROM TO [fp32|bf16|fp16 [BYTES A SHARD]]".into());
    };
    let kind = parse_dtype(rest.first().map_or("fp32", String::as_str), Device::Cpu)?;
    let loaded = load_decoder(&Source::resolve(from, &HubOptions::default())?, kind, Device::Cpu)?;
    let decoder = &loaded.decoder;
    let generation = loaded.generation_config.as_ref();
    let mut options = SaveOptions::default();
    if let Some(bytes) = rest.get(1) {
        options.max_shard_bytes = bytes.parse()?;
    }
    save_decoder(decoder, &loaded.config_json, generation, Path::new(to), options)?;
    let n: usize = decoder.named_tensors().iter().map(|(_, t)| t.numel()).sum();
    println!("{}: {n} parameters in {} blocks → {to}", decoder.config.model_type, decoder.blocks.len());
    Ok(())
}
