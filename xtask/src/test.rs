//! `cargo xtask test`: what the README names. Every test, the doctests, and the pipeline on a tiny model.

use anyhow::{Context, Result, bail};

use crate::{pipeline, setup, shell};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this; skips doctests and the smoke run.
    filter: Option<String>,
    /// Leave the smoke run of the pipeline out.
    #[arg(long)]
    no_smoke: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&setup::Args::default())?;
    let features = ["--workspace", "--features", "ferrotune-data/sqlite,ferrotune-data/postgres"];
    if shell::works("cargo", &["nextest", "--version"]) {
        let mut command = shell::cargo(["nextest", "run"]);
        command.args(features).args([
            "--no-fail-fast",
            "--status-level",
            "fail",
            "--final-status-level",
            "slow",
        ]);
        shell::run(command.args(&args.filter))?;
    } else {
        let mut command =
            shell::cargo(["test", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"]);
        shell::run(command.args(features).args(&args.filter))?;
    }
    if args.filter.is_some() {
        return Ok(());
    }
    shell::run(shell::cargo(["test", "--doc", "--no-fail-fast"]).args(features))?;
    if args.no_smoke { Ok(()) } else { smoke() }
}

/// The whole pipeline on a random model of a few thousand weights: every stage runs, nothing is learnt.
fn smoke() -> Result<()> {
    let binary = pipeline::build("debug")?;
    let out = std::env::temp_dir().join(format!("ferrotune-smoke-{}", std::process::id()));
    let mut command = std::process::Command::new(&binary);
    command
        .current_dir(shell::root())
        .args(["pipeline", "--config", "fixtures/tiny/pipeline.toml", "--out"])
        .arg(&out);
    let result = shell::run(&mut command).and_then(|()| {
        let report =
            std::fs::read_to_string(out.join("report.json")).context("the smoke run left no report.json")?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        let stages = report["stages"].as_array().map_or(0, Vec::len);
        if stages < 10 || !out.join("report.html").is_file() || !out.join("model/model.safetensors").is_file()
        {
            bail!("the smoke run of the pipeline left an incomplete folder ({stages} stages)");
        }
        eprintln!("smoke pipeline: {stages} stages");
        Ok(())
    });
    let _ = std::fs::remove_dir_all(&out);
    result
}
