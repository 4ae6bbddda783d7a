//! The runs of a study, a line of `docs/studies/NAME.jsonl` each: a study takes hours, so it may be stopped, gone on with
//! on another machine from what was committed, and read by anyone. Who wants it afresh deletes the file.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Args;
use crate::shell;

/// Where the runs of all studies are kept, from the root.
const FOLDER: &str = "docs/studies";

/// A study's folder, what was run before, and how long it may go on.
pub(super) struct Journal<'a> {
    /// In the cache, for data and what a run leaves.
    pub(super) folder: PathBuf,
    file: PathBuf,
    args: &'a Args,
    started: Instant,
    binary: Option<PathBuf>,
}

impl<'a> Journal<'a> {
    /// Of the study `name`.
    pub(super) fn open(name: &str, args: &'a Args) -> Result<Self> {
        let folder = shell::cache()?.join(format!("study-{name}"));
        let file = shell::root().join(FOLDER).join(format!("{name}.jsonl"));
        for folder in [&folder, &shell::root().join(FOLDER)] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Journal { folder, file, args, started: Instant::now(), binary: None })
    }

    /// What was run: `key`, `seconds` and `outcome` of each.
    pub(super) fn rows(&self) -> Result<Vec<Value>> {
        let Ok(text) = std::fs::read_to_string(&self.file) else { return Ok(Vec::new()) };
        let row = |line: &str| {
            serde_json::from_str(line).with_context(|| format!("{} is broken", self.file.display()))
        };
        text.lines().map(row).collect()
    }

    /// Where a file drawn from the rows goes: beside them, by another ending.
    pub(super) fn beside(&self, ending: &str) -> PathBuf {
        self.file.with_extension(ending)
    }

    /// Whether a run of so many seconds fits into the time.
    pub(super) fn has_time_for(&self, seconds: f64) -> bool {
        let so_far = self.started.elapsed().as_secs_f64();
        self.args.minutes.is_none_or(|minutes| so_far + seconds <= minutes * 60.0)
    }

    /// Says that what is left has to wait.
    pub(super) fn say_stopping(&self) {
        let so_far = self.started.elapsed().as_secs_f64();
        eprintln!("stopping after {:.0} min; the same command goes on from here", so_far / 60.0);
    }

    /// The `ferrotune` command, built at the first run.
    pub(super) fn binary(&mut self) -> Result<PathBuf> {
        if self.binary.is_none() {
            self.binary = Some(super::binary(self.args)?);
        }
        self.binary.clone().context("the build left no program")
    }

    /// Runs one and keeps what it gave; tells that and the seconds.
    pub(super) fn run(&self, key: &Value, run: impl FnOnce() -> Result<Value>) -> Result<(Value, f64)> {
        let begun = Instant::now();
        let outcome = run()?;
        let seconds = begun.elapsed().as_secs_f64();
        let row = json!({"key": key, "seconds": seconds, "outcome": outcome});
        let mut out = std::fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
        // In one piece: others may write beside it.
        out.write_all(format!("{row}\n").as_bytes())?;
        Ok((outcome, seconds))
    }
}
