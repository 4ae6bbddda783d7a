//! How fast a decoder generates and scores on this machine, with the dtypes that it has.
//!
//! ```text
//! cargo run --release -p ferrotune-model --example speed -- MODEL [fp32|bf16|int8] [generate|batch|perplexity] [TOKENS]
//! ```

use std::time::Instant;

use ferrotune_model::checkpoint::{HubOptions, Source, load_decoder};
use ferrotune_model::generate::{Flow, Sampling, generate, perplexity};
use ferrotune_model::{keep_freed_memory, parse_dtype, quantize_int8};
use tch::Device;

#[expect(clippy::print_stdout, reason = "an example talks to the terminal")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).map_or(default, String::as_str).to_owned();
    let (model, dtype, what) = (arg(0, "fixtures/tiny/llama"), arg(1, "fp32"), arg(2, "generate"));
    let n: usize = arg(3, "128").parse()?;
    let kind = parse_dtype(if dtype == "int8" { "bf16" } else { &dtype }, Device::Cpu)?;
    let start = Instant::now();
    let mut decoder =
        load_decoder(&Source::resolve(&model, &HubOptions::default())?, kind, Device::Cpu)?.decoder;
    if dtype == "int8" {
        quantize_int8(&mut decoder);
    }
    println!("loaded in {:.2} s", start.elapsed().as_secs_f64());
    let vocabulary = decoder.config.vocab_size as u32;
    let ids: Vec<u32> = (0..n as u32).map(|i| 3 + i.wrapping_mul(2_654_435_761) % (vocabulary - 3)).collect();
    let sampling = Sampling { max_new_tokens: n, ..Sampling::default() };
    let seconds = |start: Instant| start.elapsed().as_secs_f64();
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            let tokens = match what.as_str() {
                "perplexity" => perplexity(&decoder, &ids, 512)?.n_tokens,
                _ => {
                    let rows = if what == "batch" { 16 } else { 1 };
                    let prompts: Vec<Vec<u32>> =
                        (0..rows).map(|r| ids[..32.min(n) - r % 8].to_vec()).collect();
                    let out = generate(&decoder, &prompts, &sampling, &mut |_, _| Flow::Continue)?;
                    out.iter().map(|g| g.ids.len()).sum()
                }
            };
            Ok::<_, Box<dyn std::error::Error>>(tokens as f64 / seconds(start))
        })
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .fold(0.0, f64::max);
    println!("{what} {dtype}: {best:.1} tokens/s (best of 3)");
    Ok(())
}
