//! Stages with a memory: each leaves its result in `stages/NAME.json`, whole or not at all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{RunOptions, STAGES, StageTime};
use crate::files::{lies_in, write_atomic};
use crate::progress::{Interrupted, interrupted};

/// By stage, the hash of all that its result is made of.
pub(super) type Keys = BTreeMap<&'static str, String>;

pub(super) struct Stages {
    folder: PathBuf,
    keys: Keys,
    resume: bool,
    only: Vec<String>,
    times: RefCell<Vec<StageTime>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageFile {
    version: u32,
    /// What the result is made of; a run before this program named all stages by one hash.
    #[serde(alias = "config_hash")]
    key: String,
    seconds: f64,
    result: Value,
}

/// `stages/run.json`: that the folder is a run's, even one that finished no stage, and what its stages are made of.
const BEGUN: &str = "run";

/// What a run leaves in its folder; a fresh run starts by removing it where an earlier run left it, and nothing else.
const LEFT: [&str; 13] = [
    "stages",
    "sft",
    "dpo",
    "adapter",
    "model",
    "judge",
    "rag",
    "data",
    "dropped.jsonl",
    "loss.svg",
    "report.json",
    "report.html",
    "metrics.jsonl",
];

/// The stages that this one's result is made from. `tokenize` counts what the later ones make again for themselves.
pub(super) fn made_from(stage: &str) -> &'static [&'static str] {
    match stage {
        "split" => &["curate"],
        "tokenize" | "sft" => &["split"],
        "dpo" => &["sft"],
        "merge" | "perplexity" => &["dpo"],
        "judge" | "rag" => &["merge"],
        "report" => &STAGES[..STAGES.len() - 1],
        _ => &[],
    }
}

/// The stages whose results are made from that of this one, in order.
fn feeds(name: &str) -> Vec<&'static str> {
    let mut fed = vec![];
    for stage in STAGES {
        if made_from(stage).iter().any(|before| *before == name || fed.contains(before)) {
            fed.push(stage);
        }
    }
    fed
}

/// A run with other settings of these is another run: nothing that took long is left of the earlier one.
const UP_TO_SFT: [&str; 4] = ["curate", "split", "tokenize", "sft"];

impl Stages {
    /// Takes up what an earlier run finished, or clears it away; `inputs` are the files and folders that the run reads.
    ///
    /// # Errors
    /// A folder that holds what a run would remove and no run left, or that an input lies in or leads to.
    pub(super) fn open(options: &RunOptions, keys: &Keys, inputs: &[PathBuf]) -> Result<Self> {
        let folder = options.out.join("stages");
        let resume = options.resume || !options.only.is_empty();
        check_folder(&options.out, inputs)?;
        if !resume {
            LEFT.iter().try_for_each(|name| remove(&options.out.join(name)))?;
        }
        let stages = Stages {
            folder,
            keys: keys.clone(),
            resume,
            only: options.only.clone(),
            times: RefCell::default(),
        };
        // Steps of an interrupted DPO under other settings are no beginning of this one; a finished one has its file.
        let mut made_of = serde_json::to_value(keys)?;
        if let Some(begun) = stages.read(BEGUN)?
            && begun.result["dpo"] != made_of["dpo"]
            && stages.read("dpo")?.is_none()
        {
            let steps = options.out.join("dpo");
            if !stages.runs("dpo") {
                made_of["dpo"] = begun.result["dpo"].clone();
            } else if is_there(&steps) {
                eprintln!(
                    "{:>12}: its settings are not those that it was interrupted with: it begins anew",
                    "dpo"
                );
                remove(&steps)?;
            }
        }
        stages.write(BEGUN, keys["report"].clone(), 0.0, made_of)?;
        Ok(stages)
    }

    /// The stage's result: from an earlier run, if it was made of the same, or by running it. Either way it is what the
    /// file says, so that a resumed run reports the very figures of an uninterrupted one.
    pub(super) fn run<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<Option<T>> {
        let asked = self.runs(name);
        let redo = !self.only.is_empty() && asked;
        let before = if self.resume && !redo { self.read(name)? } else { None };
        let stale = before.as_ref().is_some_and(|file| file.key != self.keys[name]);
        if let Some(file) = before
            && !stale
        {
            eprintln!("{name:>12}: done before");
            self.times.borrow_mut().push(StageTime { name: name.to_owned(), seconds: file.seconds });
            let path = self.path(name);
            return Ok(Some(
                serde_json::from_value(file.result).with_context(|| format!("{}", path.display()))?,
            ));
        }
        if stale {
            let what =
                format!("{} is of a run with other settings, data or model", self.path(name).display());
            if UP_TO_SFT.contains(&name) {
                bail!("{what}; run without --resume and --only, or choose another --out");
            }
            if !asked {
                bail!("{what}: add {name} to --only, or run with --resume, which makes it again");
            }
            eprintln!(
                "{name:>12}: its settings or what it is made of are not those of before: it is made again"
            );
        }
        if !asked {
            return Ok(None);
        }
        if redo || stale {
            // Its own checkpoints are of the run that is to be done again. A judge's replies are to what was asked.
            if name != "judge" && LEFT.contains(&name) {
                let _ = fs::remove_dir_all(self.folder.with_file_name(name));
            }
            self.forget_after(name)?;
        }
        let number = STAGES.iter().position(|s| *s == name).map_or(0, |i| i + 1);
        let (bold, plain) = if std::io::stderr().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        eprintln!("{bold}{name:>12}{plain}: stage {number} of {}", STAGES.len());
        let started = Instant::now();
        let result = run().with_context(|| format!("stage {name}"))?;
        let seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        self.write(name, self.keys[name].clone(), seconds, serde_json::to_value(&result)?)?;
        self.times.borrow_mut().push(StageTime { name: name.to_owned(), seconds });
        if interrupted() && name != "report" {
            return Err(
                Interrupted("the same command with --resume goes on after this stage".to_owned()).into()
            );
        }
        let file = self.read(name)?.context("the stage's file vanished")?;
        Ok(Some(serde_json::from_value(file.result)?))
    }

    /// Whether the stage runs where nothing of it is there.
    fn runs(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|n| n == name)
    }

    pub(super) fn skip<T>(name: &str, why: &str) -> Option<T> {
        eprintln!("{name:>12}: skipped, {why}");
        None
    }

    pub(super) fn times(&self) -> Vec<StageTime> {
        self.times.borrow().clone()
    }

    /// Removes the results that were made from this stage's, so that none stands beside another's data.
    fn forget_after(&self, name: &str) -> Result<()> {
        let forgotten: Vec<&str> = feeds(name)
            .iter()
            .filter(|stage| fs::remove_file(self.folder.join(format!("{stage}.json"))).is_ok())
            .filter(|stage| !self.only.iter().any(|n| n == *stage))
            .copied()
            .collect();
        // Without --only they are made again now.
        if !forgotten.is_empty() && !self.only.is_empty() {
            eprintln!(
                "{name:>12}: what was made from it is stale now ({}); --resume makes it again",
                forgotten.join(", ")
            );
        }
        for stage in ["sft", "dpo"].into_iter().filter(|stage| feeds(name).contains(stage)) {
            let folder = self.folder.with_file_name(stage);
            if folder.is_dir() {
                fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn write(&self, name: &str, key: String, seconds: f64, result: Value) -> Result<()> {
        let file = StageFile { version: 1, key, seconds, result };
        write_atomic(&self.path(name), &serde_json::to_vec_pretty(&file)?)
    }

    fn read(&self, name: &str) -> Result<Option<StageFile>> {
        let path = self.path(name);
        let Ok(bytes) = fs::read(&path) else { return Ok(None) };
        let file: StageFile =
            serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))?;
        if file.version != 1 {
            bail!("{}: version {} is unknown; this program reads 1", path.display(), file.version);
        }
        Ok(Some(file))
    }
}

/// Refuses a folder in which a run would harm what is not its own.
fn check_folder(out: &Path, inputs: &[PathBuf]) -> Result<()> {
    let left: Vec<PathBuf> = LEFT.iter().map(|name| out.join(name)).filter(|path| is_there(path)).collect();
    if !left.is_empty() && !holds_a_run(out) {
        let names: Vec<String> = left.iter().map(|path| path.display().to_string()).collect();
        bail!(
            "{}: nothing says that an earlier run left this, but a run removes it: take another --out",
            names.join(", ")
        );
    }
    for input in inputs {
        if let Some(path) = left.iter().find(|path| lies_in(input, path)) {
            bail!(
                "{} lies in {}, which a run removes and writes anew: take another --out",
                input.display(),
                path.display()
            );
        }
        if input.is_dir() && lies_in(out, input) {
            bail!(
                "--out {} lies in {}, which the run reads, results and all: take another --out",
                out.display(),
                input.display()
            );
        }
    }
    Ok(())
}

/// Whether an earlier run left its mark: that it began, or a stage's result.
fn holds_a_run(out: &Path) -> bool {
    let mark = |name: &str| {
        let bytes = fs::read(out.join("stages").join(format!("{name}.json"))).ok()?;
        serde_json::from_slice::<StageFile>(&bytes).ok()
    };
    STAGES.iter().chain(&[BEGUN]).any(|name| mark(name).is_some())
}

/// Whether something of that name is there, if only a link that leads nowhere.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if every stage read a file of this content.
    fn keys(content: &str) -> Keys {
        STAGES.iter().map(|stage| (*stage, content.to_owned())).collect()
    }

    /// Without inputs.
    fn open(options: &RunOptions, content: &str) -> Result<Stages> {
        Stages::open(options, &keys(content), &[])
    }

    fn options(out: &std::path::Path, resume: bool) -> RunOptions {
        RunOptions { out: out.to_owned(), resume, only: Vec::new() }
    }

    #[test]
    fn a_finished_stage_is_not_run_again_and_a_failed_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let stages = open(&options(dir.path(), false), "h").unwrap();
        assert_eq!(stages.run("sft", || Ok(0.1f64 + 0.2)).unwrap(), Some(0.1 + 0.2));
        assert!(stages.run::<u8>("dpo", || bail!("the disk is full")).is_err());
        let again = open(&options(dir.path(), true), "h").unwrap();
        assert_eq!(again.run::<f64>("sft", || bail!("run twice")).unwrap(), Some(0.1 + 0.2));
        assert_eq!(again.run("dpo", || Ok(7u8)).unwrap(), Some(7));
    }

    #[test]
    fn what_was_made_from_a_stage_that_runs_again_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let all = open(&options(dir.path(), false), "h").unwrap();
        for name in STAGES {
            all.run(name, || Ok(1u8)).unwrap();
        }
        let only = |names: &[&str]| RunOptions {
            only: names.iter().map(|&n| n.to_owned()).collect(),
            ..options(dir.path(), false)
        };
        let again = open(&only(&["dpo", "merge"]), "h").unwrap();
        let found: Vec<Option<u8>> = STAGES.iter().map(|name| again.run(name, || Ok(2u8)).unwrap()).collect();
        let (old, new) = (Some(1), Some(2));
        assert_eq!(found, [old, old, old, old, new, new, None, None, None, None]);
        let resumed = open(&options(dir.path(), true), "h").unwrap();
        assert_eq!(resumed.run("rag", || Ok(3u8)).unwrap(), Some(3));
    }

    #[test]
    fn another_configuration_is_refused_and_a_fresh_run_starts_clean() {
        let dir = tempfile::tempdir().unwrap();
        open(&options(dir.path(), false), "h").unwrap().run("sft", || Ok(1u8)).unwrap();
        std::fs::write(dir.path().join("mine.txt"), "kept").unwrap();
        let other = open(&options(dir.path(), true), "other").unwrap();
        let error = other.run("sft", || Ok(2u8)).unwrap_err().to_string();
        assert!(error.contains("other settings"), "{error}");
        let fresh = open(&options(dir.path(), false), "other").unwrap();
        assert_eq!(fresh.run("sft", || Ok(2u8)).unwrap(), Some(2));
        assert!(dir.path().join("mine.txt").exists());
    }

    #[test]
    fn what_changed_after_the_tuning_is_made_again_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let all = open(&options(dir.path(), false), "h").unwrap();
        for name in STAGES {
            all.run(name, || Ok(1u8)).unwrap();
        }
        let mut other = keys("h");
        for stage in ["dpo", "merge", "perplexity", "judge", "rag", "report"] {
            *other.get_mut(stage).unwrap() = "another [dpo]".to_owned();
        }
        let only = RunOptions { only: vec!["judge".to_owned()], ..options(dir.path(), false) };
        let error = Stages::open(&only, &other, &[]).unwrap().run("dpo", || Ok(2u8)).unwrap_err().to_string();
        assert!(error.contains("dpo.json is of a run") && error.contains("add dpo to --only"), "{error}");
        let resumed = Stages::open(&options(dir.path(), true), &other, &[]).unwrap();
        let found: Vec<Option<u8>> =
            STAGES.iter().map(|name| resumed.run(name, || Ok(2u8)).unwrap()).collect();
        let (old, new) = (Some(1), Some(2));
        assert_eq!(found, [old, old, old, old, new, new, new, new, new, new]);
    }

    #[test]
    fn an_interrupted_dpo_goes_on_with_its_own_settings_only() {
        let dir = tempfile::tempdir().unwrap();
        open(&options(dir.path(), false), "h").unwrap();
        let step = dir.path().join("dpo/checkpoints/step-10");
        std::fs::create_dir_all(&step).unwrap();
        let mut other = keys("h");
        *other.get_mut("judge").unwrap() = "another".to_owned();
        Stages::open(&options(dir.path(), true), &other, &[]).unwrap();
        assert!(step.is_dir());
        *other.get_mut("dpo").unwrap() = "another".to_owned();
        let only = RunOptions { only: vec!["judge".to_owned()], ..options(dir.path(), false) };
        Stages::open(&only, &other, &[]).unwrap();
        assert!(step.is_dir(), "nobody asked for DPO");
        Stages::open(&options(dir.path(), true), &other, &[]).unwrap();
        assert!(!step.exists());
    }

    #[test]
    fn what_no_run_left_is_neither_removed_nor_written_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/mine.jsonl"), "kept").unwrap();
        std::fs::create_dir(dir.path().join("stages")).unwrap();
        std::fs::write(dir.path().join("stages/report.json"), "{\"act\": 1}").unwrap();
        for resume in [false, true] {
            let error = open(&options(dir.path(), resume), "h").err().unwrap().to_string();
            assert!(
                error.contains("stages, ") && error.contains("nothing says that an earlier run left this"),
                "{error}"
            );
        }
        std::fs::remove_dir_all(dir.path().join("stages")).unwrap();
        let error = open(&options(dir.path(), false), "h").err().unwrap().to_string();
        assert!(error.contains("data: nothing says") && error.contains("another --out"), "{error}");
        assert!(dir.path().join("data/mine.jsonl").is_file());
    }

    #[test]
    fn a_run_that_finished_no_stage_is_an_earlier_run_too() {
        let dir = tempfile::tempdir().unwrap();
        open(&options(dir.path(), false), "h").unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        open(&options(dir.path(), false), "h").unwrap();
        assert!(!dir.path().join("data").exists());
        // An older program left the results of stages alone.
        open(&options(dir.path(), false), "h").unwrap().run("curate", || Ok(1u8)).unwrap();
        std::fs::remove_file(dir.path().join("stages/run.json")).unwrap();
        open(&options(dir.path(), false), "h").unwrap();
        assert!(!dir.path().join("stages/curate.json").exists());
    }

    #[test]
    fn an_input_that_a_run_would_remove_or_read_back_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        open(&options(&out, false), "h").unwrap();
        std::fs::create_dir_all(out.join("data")).unwrap();
        let input = out.join("data/train.jsonl");
        std::fs::write(&input, "kept").unwrap();
        for resume in [false, true] {
            let error =
                Stages::open(&options(&out, resume), &keys("h"), std::slice::from_ref(&input)).err().unwrap();
            assert!(error.to_string().contains("train.jsonl lies in"), "{error}");
        }
        assert!(input.is_file());
        let around = [dir.path().to_owned()];
        for out in [out, dir.path().join("new/out")] {
            let error = Stages::open(&options(&out, false), &keys("h"), &around).err().unwrap();
            assert!(error.to_string().contains("which the run reads"), "{error}");
        }
        assert!(input.is_file() && !dir.path().join("new").exists());
    }

    #[test]
    fn a_stage_that_runs_again_leaves_a_folder_of_its_name_alone_unless_it_is_the_runs() {
        let dir = tempfile::tempdir().unwrap();
        open(&options(dir.path(), false), "h").unwrap();
        for name in ["merge", "judge", "sft"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let only = RunOptions { only: vec![name.to_owned()], ..options(dir.path(), false) };
            open(&only, "h").unwrap().run(name, || Ok(1u8)).unwrap();
        }
        let left = |name: &str| dir.path().join(name).is_dir();
        assert!(left("merge") && left("judge") && !left("sft"));
    }
}
