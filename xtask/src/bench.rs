//! `cargo xtask bench`: criterion benches, or (`--peer`) the same job by a Python peer and by Ferrotune, taking
//! turns in one run, so that a noisy machine is noisy for both. Prints medians and their ratio. Or (`--study`) many
//! runs of Ferrotune alone, and a table of what came of them.

mod data;
mod journal;
mod models;
mod study;
mod tuning;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{golden, pipeline, setup, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only benches of this crate (`data`, `tokenizer`, …).
    crate_name: Option<String>,
    /// Against Python peers: `trl` (sft and dpo), `transformers` (generation, prefill, perplexity), `llama-cpp`,
    /// `sentence-transformers`, `chats` (transformers' chat templates), `dedup` (rensa and datasketch), `presidio` or
    /// `datatrove`.
    #[arg(long)]
    peer: Option<String>,
    /// A study instead, which may be stopped and goes on: `preference` (losses, seeds and two datasets; hours in
    /// all) or `tuning` (methods, ranks and learning rates on three datasets; about 25 minutes).
    #[arg(long, conflicts_with = "peer")]
    study: Option<String>,
    /// Of a study: begin no run that would last longer than this in all.
    #[arg(long, requires = "study")]
    minutes: Option<f64>,
    /// Of the study `preference`: runs at a time, which share the cores.
    #[arg(long, default_value_t = 1, requires = "study")]
    side_by_side: usize,
    /// Of the study `preference`: runs of these losses only, such as `sigmoid,reward`.
    #[arg(long, value_delimiter = ',', requires = "study")]
    losses: Vec<String>,
    /// What a tuning step costs as rank, batch and length grow, and by which method; Ferrotune alone.
    #[arg(long, conflicts_with_all = ["peer", "study"])]
    cost: bool,
    /// What runs say that they will take, beside what they take.
    #[arg(long, conflicts_with_all = ["peer", "study", "cost"])]
    estimates: bool,
    /// Of `--peer trl`: which jobs, with commas.
    #[arg(long, default_value = "sft,sft-full,qlora,dpo")]
    jobs: String,
    /// A release build of `ferrotune` to measure, its `examples/` beside it, instead of one built from this checkout.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A Python that has the peers; without it, a virtual environment in the cache is made.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Folder with `llama_factory/` and `wikitext2/`, as the peers' data.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Times that each side runs.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// `fp32`, `bf16` or both.
    #[arg(long, default_value = "fp32,bf16")]
    dtypes: String,
}

/// glibc settings that keep freed memory; Ferrotune sets them itself, TRL does not.
const TUNED: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=67108864",
);

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.study.as_deref() {
        Some("preference") => return study::preference(args),
        Some("tuning") => return tuning::study(args),
        Some(other) => bail!("unknown study {other}; known: preference, tuning"),
        None if args.cost => return tuning::cost(args),
        None if args.estimates => return tuning::estimates(args),
        None => {}
    }
    if !matches!(args.peer.as_deref(), Some("dedup" | "presidio" | "datatrove")) {
        setup::ensure(&setup::Args::default())?;
    }
    match args.peer.as_deref() {
        Some("dedup") => data::dedup(args),
        Some("presidio") => data::pii(args),
        Some("datatrove") => data::quality(args),
        None => {
            let mut command = shell::cargo(["bench"]);
            match &args.crate_name {
                Some(name) => command.args(["--package", &format!("ferrotune-{name}")]),
                None => command.arg("--workspace"),
            };
            shell::run(&mut command)
        }
        Some("trl") => peer(args, &args.jobs.split(',').collect::<Vec<_>>()),
        Some(peer @ ("transformers" | "llama-cpp" | "sentence-transformers" | "chats")) => {
            models::run(args, peer)
        }
        Some(other) => bail!(
            "unknown peer {other}; known: trl, transformers, llama-cpp, sentence-transformers, chats, dedup, presidio, \
             datatrove"
        ),
    }
}

fn python(args: &Args) -> Result<PathBuf> {
    args.python.clone().map_or_else(golden::peers, Ok)
}

/// A program of the peers' side.
fn script(name: &str) -> PathBuf {
    shell::root().join("xtask/peers").join(name)
}

/// Lays out what a peers' script reads.
fn prepare(python: &Path, name: &str, work: &Path, data: &Path) -> Result<()> {
    shell::run(Command::new(python).arg(script(name)).arg("prepare").arg(work).arg(data))
}

fn binary(args: &Args) -> Result<PathBuf> {
    args.binary.clone().map_or_else(|| pipeline::build("release"), Ok)
}

/// The last JSON line that a command prints.
fn json_of(command: &mut Command) -> Result<Value> {
    let printed = shell::output(command)?;
    let json = printed.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    json.with_context(|| format!("{} printed no JSON", command.get_program().display()))
}

struct Side {
    name: &'static str,
    rates: Vec<f64>,
    memory: Vec<f64>,
}

fn peer(args: &Args, jobs: &[&str]) -> Result<()> {
    let python = python(args)?;
    let binary = binary(args)?;
    let work = shell::cache()?.join("bench");
    let script = script("baseline.py");
    prepare(&python, "baseline.py", &work, &args.data)?;
    for job in jobs {
        for dtype in args.dtypes.split(',') {
            let mut sides = [
                Side { name: "peer", rates: vec![], memory: vec![] },
                Side { name: "peer, tuned allocator", rates: vec![], memory: vec![] },
                Side { name: "ferrotune", rates: vec![], memory: vec![] },
            ];
            for _ in 0..args.rounds.max(1) {
                for side in &mut sides {
                    let mut command = if side.name == "ferrotune" {
                        ours(&binary, &work, job, dtype)
                    } else {
                        let mut command = Command::new(&python);
                        command.arg(&script).args([job, dtype]).arg(&work);
                        if side.name != "peer" {
                            command.env(TUNED.0, TUNED.1);
                        }
                        command
                    };
                    let json = json_of(&mut command).with_context(|| format!("{job} by {}", side.name))?;
                    let rate = ["real_tokens_per_s", "pairs_per_s", "tokens_per_s"]
                        .iter()
                        .find_map(|key| json[*key].as_f64())
                        .with_context(|| format!("{} printed no rate for {job}", side.name))?;
                    side.rates.push(rate);
                    side.memory.push(json["peak_rss_mib"].as_f64().unwrap_or(f64::NAN));
                }
            }
            show(job, dtype, &sides);
        }
    }
    Ok(())
}

fn ours(binary: &Path, work: &Path, job: &str, dtype: &str) -> Command {
    let mut command = Command::new(binary);
    let lora = "--lora-r 16 --lora-alpha 32 --targets all-linear --schedule constant --seed 0 --steps 10";
    match job {
        "sft" | "qlora" => command
            .args(["sft", "--batch", "4", "--max-length", "512", "--lr", "2e-4", "--data"])
            .arg(work.join("sft.jsonl"))
            .args(lora.split(' '))
            .args(if job == "qlora" { ["--quantize", "nf4"].as_slice() } else { &[] }),
        "sft-full" => command
            .args(["sft", "--full", "--batch", "4", "--max-length", "512", "--lr", "2e-5", "--data"])
            .arg(work.join("sft.jsonl"))
            .args(["--schedule", "constant", "--seed", "0", "--steps", "10"]),
        _ => command
            .args(["dpo", "--batch", "2", "--max-length", "512", "--lr", "1e-5", "--beta", "0.1", "--data"])
            .arg(work.join("dpo.jsonl"))
            .args(lora.split(' ')),
    };
    command.args(["--model", "smollm2-135m-instruct", "--out"]).arg(work.join(format!("out-{job}")));
    command.args(["--dtype", dtype, "--json"]);
    command
}

fn show(job: &str, dtype: &str, sides: &[Side; 3]) {
    let base = median(&sides[0].rates);
    for side in sides {
        let (low, high) =
            side.rates.iter().fold((f64::MAX, f64::MIN), |(low, high), &r| (low.min(r), high.max(r)));
        eprintln!(
            "{job:<11} {dtype:<5} {:<23} {:>9.3}/s [{low:.3} .. {high:.3}]  x{:<5.2} {:>7.0} MiB",
            side.name,
            median(&side.rates),
            median(&side.rates) / base,
            median(&side.memory)
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
