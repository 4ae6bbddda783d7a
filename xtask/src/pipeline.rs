//! `cargo xtask pipeline` and `cargo xtask run`: setup, a release build, then the `ferrotune` command.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{setup, shell};

#[derive(clap::Args)]
pub(crate) struct Passed {
    /// Options of the `ferrotune` command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(first: &[String], passed: &Passed) -> Result<()> {
    setup::ensure(&setup::Args::default())?;
    let binary = build("release")?;
    // Paths on the command line are the user's, so the command starts where the user stands.
    let status = std::process::Command::new(&binary)
        .args(first)
        .args(&passed.arguments)
        .status()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    std::process::exit(status.code().unwrap_or(1));
}

/// Builds the `ferrotune` command and tells where it lies.
pub(crate) fn build(profile: &str) -> Result<PathBuf> {
    let cargo_profile = if profile == "release" { "release" } else { "dev" };
    shell::run(&mut shell::cargo(["build", "--package", "ferrotune", "--bins", "--profile", cargo_profile]))?;
    let metadata =
        shell::output(shell::cargo(["metadata", "--format-version", "1", "--no-deps"]).arg("--offline"))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target).join(profile).join("ferrotune"))
}
