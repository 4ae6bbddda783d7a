//! How fast a decoder generates and scores on this machine, with the dtypes that it has; the last line is JSON.
//!
//! ```text
//! cargo run --release -p ferrotune-model --example speed -- MODEL [fp32|bf16|int8] [generate|decode|batch|prefill|perplexity]
//! ```

use std::time::Instant;

use ferrotune_model::checkpoint::{HubOptions, Source, load_decoder};
use ferrotune_model::generate::{Flow, Sampling, generate, perplexity};
use ferrotune_model::{Decoder, ModelError, keep_freed_memory, parse_dtype, quantize_int8};
use tch::Device;

/// Prompts of `batch`, and their tokens.
const ROWS: usize = 16;
const PROMPT: usize = 32;

#[expect(clippy::print_stdout, reason = "an example talks to the terminal")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).map_or(default, String::as_str).to_owned();
    let (model, dtype, what) = (arg(0, "fixtures/tiny/llama"), arg(1, "fp32"), arg(2, "generate"));
    let kind = parse_dtype(if dtype == "int8" { "bf16" } else { &dtype }, Device::Cpu)?;
    let start = Instant::now();
    let mut decoder =
        load_decoder(&Source::resolve(&model, &HubOptions::default())?, kind, Device::Cpu)?.decoder;
    if dtype == "int8" {
        quantize_int8(&mut decoder);
    }
    println!("loaded in {:.2} s", start.elapsed().as_secs_f64());
    let vocabulary = decoder.config.vocab_size as u32;
    let ids: Vec<u32> =
        (0..1024).map(|i: u32| 3 + i.wrapping_mul(2_654_435_761) % (vocabulary - 3)).collect();
    let rate = match what.as_str() {
        "perplexity" => best(|| Ok(perplexity(&decoder, &ids, 1024)?.n_tokens))?,
        "prefill" => best(|| continued(&decoder, std::slice::from_ref(&ids), 1).map(|_| ids.len()))?,
        "batch" => {
            let rows: Vec<Vec<u32>> = ids.chunks(PROMPT).take(ROWS).map(<[u32]>::to_vec).collect();
            let one = decoding(&decoder, &rows[..1], 64)?;
            let all = decoding(&decoder, &rows, 64)?;
            println!("one row: {one:.1} tokens/s, {ROWS} rows: {:.2} times as many", all / one);
            all
        }
        "decode" => decoding(&decoder, &[ids[..PROMPT].to_vec()], 128)?,
        _ => best(|| continued(&decoder, &[ids[..PROMPT].to_vec()], 128))?,
    };
    println!("{{\"what\": \"{what}\", \"dtype\": \"{dtype}\", \"tokens_per_s\": {rate:.1}}}");
    Ok(())
}

/// The number of new tokens.
fn continued(decoder: &Decoder, prompts: &[Vec<u32>], n: usize) -> Result<usize, ModelError> {
    let sampling = Sampling { max_new_tokens: n, ..Sampling::default() };
    let out = generate(decoder, prompts, &sampling, &mut |_, _| Flow::Continue)?;
    Ok(out.iter().map(|row| row.ids.len()).sum())
}

/// Tokens a second from each prompt's first new token to its last: the prompts' own reading is left out. The best
/// of three.
fn decoding(decoder: &Decoder, prompts: &[Vec<u32>], n: usize) -> Result<f64, ModelError> {
    let sampling = Sampling { max_new_tokens: n, ..Sampling::default() };
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let mut first = None;
        generate(decoder, prompts, &sampling, &mut |_, _| {
            first.get_or_insert_with(Instant::now);
            Flow::Continue
        })?;
        let seconds = first.map_or(f64::INFINITY, |first| first.elapsed().as_secs_f64());
        best = best.max((prompts.len() * (n - 1)) as f64 / seconds);
    }
    Ok(best)
}

/// Tokens a second, the best of three.
fn best(mut job: impl FnMut() -> Result<usize, ModelError>) -> Result<f64, ModelError> {
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let start = Instant::now();
        let tokens = job()?;
        best = best.max(tokens as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}
