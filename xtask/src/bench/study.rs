//! `cargo xtask bench --study preference`: does preference tuning align? One run for each seed, dataset and loss, each a
//! line of the study's journal, so that it may be stopped and gone on with; then the table and the picture of what is there.
//!
//! The order is by seed, then dataset, then loss: whatever has been run is a whole table with fewer seeds.

mod plot;
mod results;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::journal::Journal;
use super::{Args, json_of};
use crate::{setup, shell};

/// A set of pairs, how many of them are trained on and held out, and how long a prompt with an answer may be.
struct Dataset {
    name: &'static str,
    file: &'static str,
    train: usize,
    held: usize,
    /// Prompts that fill it are left out by the run: nearly half of dpo_en_demo's would fill 384.
    max_length: usize,
}

const DATASETS: [Dataset; 2] = [
    Dataset {
        name: "dpo_en_demo",
        file: "llama_factory/dpo_en_demo.json",
        train: 240,
        held: 60,
        max_length: 768,
    },
    Dataset {
        name: "hh_harmless",
        file: "hh_rlhf/harmless_base_first1200.jsonl",
        train: 1000,
        held: 200,
        max_length: 512,
    },
];
/// What is compared; the last is the reward model, which has an accuracy and no drift.
const LOSSES: [&str; 6] = ["sigmoid", "ipo", "orpo", "simpo", "kto", "reward"];
const SEEDS: u64 = 3;
const BATCH: usize = 4;
/// The same for all, so that the losses differ in nothing else; each has its own β (`ferrotune`'s defaults).
const SETTINGS: &[&str] = &[
    "--model",
    "smollm2-135m-instruct",
    "--dtype",
    "bf16",
    "--batch",
    "4",
    "--lr",
    "1e-4",
    "--schedule",
    "linear",
    "--warmup-steps",
    "5",
    "--lora-r",
    "16",
    "--lora-alpha",
    "32",
    "--targets",
    "all-linear",
];
/// Greedy answers to held-out prompts before and after, and their longest.
const ANSWERS: &[&str] = &["--answers", "16", "--answer-tokens", "128"];

/// A run of the study.
struct Cell {
    seed: u64,
    dataset: &'static Dataset,
    loss: &'static str,
}

impl Cell {
    fn key(&self) -> Value {
        let Cell { seed, dataset, loss } = self;
        json!({"data": dataset.name, "loss": loss, "seed": seed, "settings": settings(dataset)})
    }

    /// Whether a row of the journal is this run with any seed.
    fn is_like(&self, row: &Value) -> bool {
        row["key"]["data"] == self.dataset.name && row["key"]["loss"] == self.loss
    }
}

pub(super) fn preference(args: &Args) -> Result<()> {
    setup::ensure(&setup::Args::default())?;
    let mut journal = Journal::open("preference", args)?;
    let done = journal.rows()?;
    if let Some(unknown) = args.losses.iter().find(|loss| !LOSSES.contains(&loss.as_str())) {
        bail!("unknown loss {unknown:?}; the study has {}", LOSSES.join(", "));
    }
    let is_wanted = |loss: &str| args.losses.is_empty() || args.losses.iter().any(|wanted| wanted == loss);
    let cells: Vec<Cell> = (0..SEEDS)
        .flat_map(|seed| DATASETS.iter().map(move |dataset| (seed, dataset)))
        .flat_map(|(seed, dataset)| LOSSES.map(|loss| Cell { seed, dataset, loss }))
        .filter(|cell| is_wanted(cell.loss) && done.iter().all(|row| row["key"] != cell.key()))
        .collect();
    if !cells.is_empty() {
        let binary = journal.binary()?;
        for dataset in &DATASETS {
            prepare(&binary, &journal.folder, &args.data, dataset)?;
        }
        // One run on one core makes better use of it than of half of two.
        let workers = args.side_by_side.clamp(1, cells.len());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(workers);
        let (journal, binary, left) = (&journal, &binary, &Mutex::new(cells));
        std::thread::scope(|scope| {
            let work = |worker| scope.spawn(move || work(journal, binary, left, worker, threads));
            let at_work: Vec<_> = (0..workers).map(work).collect();
            at_work
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a run of the study panicked")))
        })?;
    }
    let rows = journal.rows()?;
    let picture = journal.beside("svg");
    plot::draw(&picture, &rows)?;
    eprintln!("drawn: {}", picture.display());
    // The table is the command's result: people redirect it into docs/preference.md.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", results::table(&rows))?;
    Ok(())
}

/// Runs one after another of what is left and fits into the time.
fn work(
    journal: &Journal<'_>,
    binary: &Path,
    left: &Mutex<Vec<Cell>>,
    worker: usize,
    threads: usize,
) -> Result<()> {
    let scratch = journal.folder.join(format!("worker-{worker}"));
    std::fs::create_dir_all(&scratch)?;
    loop {
        let before = journal.rows()?;
        // As long as the fastest of its kind took: the others shared the machine with something else.
        let expected = |cell: &Cell| {
            let alike =
                before.iter().filter(|row| cell.is_like(row)).filter_map(|row| row["seconds"].as_f64());
            alike.reduce(f64::min).unwrap_or(0.0)
        };
        let mut cells = left.lock().unwrap_or_else(PoisonError::into_inner);
        // A run is not cut short: it is not begun where it would not fit any more.
        let Some(next) = cells.iter().position(|cell| journal.has_time_for(expected(cell))) else {
            if !cells.is_empty() {
                journal.say_stopping();
            }
            return Ok(());
        };
        let cell = cells.remove(next);
        drop(cells);
        let (_, seconds) =
            journal.run(&cell.key(), || run(binary, &journal.folder, &scratch, &cell, threads))?;
        eprintln!("{} {}, seed {}: {seconds:.0} s", cell.dataset.name, cell.loss, cell.seed);
    }
}

/// By which two runs are the same one.
fn settings(dataset: &Dataset) -> String {
    let Dataset { train, held, max_length, .. } = dataset;
    format!("{} {} {train} {held} {max_length}", SETTINGS.join(" "), ANSWERS.join(" "))
}

/// A dataset's pairs to train on and those held out.
fn parts(folder: &Path, dataset: &Dataset) -> [PathBuf; 2] {
    let file = |name, n| folder.join(dataset.name).join(format!("{name}-{n}.jsonl"));
    [file("train", dataset.train), file("held", dataset.held)]
}

/// The dataset split by prompt, and cut to its sizes.
fn prepare(binary: &Path, folder: &Path, data: &Path, dataset: &Dataset) -> Result<()> {
    let out = folder.join(dataset.name);
    let [train, held] = parts(folder, dataset);
    if train.is_file() && held.is_file() {
        return Ok(());
    }
    let cut = |name: &str, n: usize, path: &Path| -> Result<()> {
        let text = std::fs::read_to_string(out.join(format!("{name}.jsonl")))?;
        let kept: Vec<&str> = text.lines().take(n).collect();
        if kept.len() < n {
            bail!("{} gave {} pairs for {name}, {n} are wanted", dataset.file, kept.len());
        }
        std::fs::write(path, kept.join("\n") + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let share = dataset.held as f64 / (dataset.train + dataset.held) as f64;
    let mut command = Command::new(binary);
    command
        .arg("pairs")
        .arg(data.join(dataset.file))
        .args(["--held-out", &share.to_string(), "--out"])
        .arg(&out);
    shell::output(&mut command)?;
    cut("train", dataset.train, &train)?;
    cut("held", dataset.held, &held)
}

/// Runs one: data from `folder`, what it leaves into `scratch`.
fn run(binary: &Path, folder: &Path, scratch: &Path, cell: &Cell, threads: usize) -> Result<Value> {
    let Cell { seed, dataset, loss } = cell;
    let [train, held] = parts(folder, dataset);
    let out = scratch.join("run");
    let config = scratch.join("recipe.toml");
    std::fs::write(&config, format!("eval_every = {}\n", (dataset.train / BATCH).div_ceil(2)))?;
    let mut command = Command::new(binary);
    command.env("OMP_NUM_THREADS", threads.to_string());
    match *loss {
        "reward" => command.arg("reward"),
        loss => command.args(["dpo", "--loss", loss]).args(ANSWERS),
    };
    command
        .args(SETTINGS)
        .args(["--max-length", &dataset.max_length.to_string()])
        .args(["--seed", &seed.to_string(), "--config"])
        .arg(&config);
    command.arg("--data").arg(train).arg("--validation").arg(held).arg("--out").arg(&out).arg("--json");
    let json = json_of(&mut command)?;
    // What the table reads, and how far training came; not every step's seconds.
    let keep = ["steps", "best_step", "validations", "answer_tokens", "peak_rss_mib"];
    Ok(keep
        .into_iter()
        .map(|name| (name.to_owned(), json[name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into())
}
