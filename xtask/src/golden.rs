//! `cargo xtask golden`: runs the scripts that made the golden values, in a virtual environment with the
//! versions that they were made with, and shows by `git diff --stat` what changed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{download, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only scripts whose path contains this.
    filter: Option<String>,
    /// List them and stop.
    #[arg(long)]
    list: bool,
}

/// What the peers' versions are, everywhere in this repository.
pub(crate) const PEERS: [&str; 14] = [
    "torch==2.13.0",
    "transformers==5.23.0",
    "peft==0.21.2",
    "trl==1.16.0",
    "datasets==5.2.0",
    "accelerate",
    "bitsandbytes",
    "sentence-transformers",
    "gguf",
    "jinja2",
    "numpy",
    "datasketch",
    "rensa",
    "presidio-analyzer",
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let listed = shell::output(Command::new("git").args(["ls-files", "*.py"]).current_dir(shell::root()))?;
    let scripts: Vec<&str> = listed
        .lines()
        .filter(|path| path.contains("golden/") || path.starts_with("fixtures/tiny"))
        .filter(|path| args.filter.as_ref().is_none_or(|f| path.contains(f)))
        .collect();
    if scripts.is_empty() {
        bail!("no golden script matches");
    }
    if args.list {
        for script in scripts {
            eprintln!("{script}");
        }
        return Ok(());
    }
    let python = peers()?;
    for script in scripts {
        shell::run(Command::new(&python).arg(script).current_dir(shell::root()))?;
    }
    shell::run(Command::new("git").args(["diff", "--stat"]).current_dir(shell::root()))
}

/// The interpreter of a virtual environment in the cache that has the peers installed.
pub(crate) fn peers() -> Result<PathBuf> {
    if let Some(missing) = download::missing() {
        bail!("missing: {missing}");
    }
    let venv = shell::cache()?.join("peers");
    let python = venv.join("bin/python");
    let stamp = venv.join("installed");
    let wanted = PEERS.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    if !python.is_file() {
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    shell::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PEERS))?;
    std::fs::write(&stamp, wanted).context("cannot mark the peers as installed")?;
    Ok(python)
}
