//! `cargo xtask ci`: the gate that `.ci/run` calls. It stops at the first thing that fails.

use std::time::Instant;

use anyhow::Result;

use crate::{setup, shell, test, tidy};

pub(crate) fn run() -> Result<()> {
    step("setup", || setup::ensure(&setup::Args::default()))?;
    step("fmt", || shell::run(&mut shell::cargo(["fmt", "--all", "--check"])))?;
    let features = ["--features", "ferrotune-data/sqlite,ferrotune-data/postgres"];
    step("clippy", || {
        let mut command = shell::cargo(["clippy", "--workspace", "--all-targets"]);
        shell::run(command.args(features).args(["--", "-D", "warnings"]))
    })?;
    step("doc", || {
        let mut command = shell::cargo(["doc", "--workspace", "--no-deps", "--keep-going"]);
        shell::run(command.args(features).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("tidy", tidy::run)?;
    step("test", || test::run(&test::Args::default()))
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    run()?;
    eprintln!("\x1b[1m{name}: ok in {} s\x1b[0m", start.elapsed().as_secs());
    Ok(())
}
