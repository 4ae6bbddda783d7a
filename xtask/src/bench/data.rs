//! Deduplication beside rensa and datasketch, the search for personal data beside Presidio, and quality rules beside
//! datatrove.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Args, json_of, median, python};
use crate::shell;

/// One side's program and what it did in each round.
struct Runner {
    name: &'static str,
    /// What the command adds to the environment.
    threads: Option<&'static str>,
    program: PathBuf,
    args: Vec<String>,
    runs: Vec<Value>,
}

/// Both on the same documents with the same number of permutations, shingling included; one thread and all.
pub(super) fn dedup(args: &Args) -> Result<()> {
    for permutations in ["128", "256"] {
        eprintln!("{permutations} permutations, word 5-grams, Jaccard 0.7");
        side_by_side(args, &["rensa", "datasketch"], "dedup", "texts.jsonl", &[permutations], "docs_per_s")?;
    }
    Ok(())
}

/// Presidio's recognizers that need no language model, on the sentences of presidio-research.
pub(super) fn pii(args: &Args) -> Result<()> {
    side_by_side(args, &["presidio"], "pii", "sentences.jsonl", &[], "mb_per_s")
}

/// The rules of Gopher, C4 and FineWeb on web pages; `found` counts the verdicts "keep", which are the same.
pub(super) fn quality(args: &Args) -> Result<()> {
    side_by_side(args, &["datatrove"], "quality", "pages.jsonl", &[], "docs_per_s")
}

fn side_by_side(
    args: &Args,
    peers: &[&'static str],
    job: &str,
    file: &str,
    settings: &[&str],
    rate: &str,
) -> Result<()> {
    let python = python(args)?;
    let script = super::script("data.py");
    let work = shell::cache()?.join("bench");
    super::prepare(&python, "data.py", &work, &args.data)?;
    let build = ["build", "--quiet", "--release", "--package", "ferrotune-data", "--example", "throughput"];
    shell::run(&mut shell::cargo(build))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from);

    let text = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let folder = work.display().to_string();
    let mut runners: Vec<Runner> = Vec::new();
    for peer in peers {
        let args = [vec![script.display().to_string()], text(&[peer, &folder]), text(settings)].concat();
        runners.push(Runner { name: peer, threads: None, program: python.clone(), args, runs: Vec::new() });
    }
    for (name, threads) in [("ferrotune, one thread", Some("1")), ("ferrotune", None)] {
        let program = target.join("release/examples/throughput");
        let args = [text(&[job, &work.join(file).display().to_string()]), text(settings)].concat();
        runners.push(Runner { name, threads, program, args, runs: Vec::new() });
    }
    for _ in 0..args.rounds.max(1) {
        for runner in &mut runners {
            let mut command = Command::new(&runner.program);
            command.args(&runner.args).envs(runner.threads.map(|n| ("RAYON_NUM_THREADS", n)));
            runner.runs.push(json_of(&mut command).context(runner.name)?);
        }
    }
    let rate_of = |r: &Runner| {
        let rates: Vec<f64> = r.runs.iter().filter_map(|run| run[rate].as_f64()).collect();
        median(&rates)
    };
    let ours = rate_of(&runners[runners.len() - 1]);
    for runner in &runners {
        let (first, rate_of) = (&runner.runs[0], rate_of(runner));
        eprintln!(
            "{:<22} {rate_of:>12.2} {rate}   ferrotune is x{:<7.2} {} docs, {:.2} MB, {} found",
            runner.name,
            ours / rate_of,
            first["docs"],
            first["mb"].as_f64().unwrap_or(f64::NAN),
            first["found"]
        );
    }
    Ok(())
}
