//! `cargo xtask bench --study preference`: does preference tuning align? One run for each seed, dataset and loss, each a
//! line of the study's journal, so that it may be stopped and gone on with; then the table of what is there.
//!
//! The order is by seed, then dataset, then loss: whatever has been run is a whole table with fewer seeds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
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
    // The table is the command's result: people redirect it into docs/preference.md.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", table(&journal.rows()?))?;
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

/// A figure of a validation, whichever recipe wrote it.
fn figure(validation: &Value, name: &str) -> Option<f64> {
    let figures = &validation[1];
    figures["drift"][name].as_f64().or_else(|| figures[format!("eval_drift/{name}")].as_f64())
}

/// Mean and range over seeds.
fn spread(values: &[f64], digits: usize) -> String {
    if values.is_empty() {
        return "–".to_owned();
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    match values.len() {
        1 => format!("{mean:.digits$}"),
        _ => format!("{mean:.digits$} ({low:.digits$} to {high:.digits$})"),
    }
}

/// Which of a run's validations.
type Pick = fn(&[Value]) -> Option<&Value>;

fn table(rows: &[Value]) -> String {
    let mut text = String::new();
    for dataset in &DATASETS {
        let mut of_loss: BTreeMap<usize, Vec<&Value>> = BTreeMap::new();
        for row in rows
            .iter()
            .filter(|row| row["key"]["data"] == dataset.name && row["key"]["settings"] == settings(dataset))
        {
            let place = LOSSES.iter().position(|loss| row["key"]["loss"] == *loss);
            of_loss.entry(place.unwrap_or(LOSSES.len())).or_default().push(&row["outcome"]);
        }
        let _ = write!(
            text,
            "{}: {} pairs to train on, {} held out\n\n| loss | seeds | accuracy on the way | accuracy, end | margin, nats | KL, nats a token | \
             chosen, nats an answer | rejected | answer tokens before | after |\n|---|---|---|---|---|---|---|---|---|---|\n",
            dataset.name, dataset.train, dataset.held
        );
        for (place, runs) in of_loss {
            let at = |pick: Pick, name: &str| -> Vec<f64> {
                runs.iter().filter_map(|run| figure(pick(run["validations"].as_array()?)?, name)).collect()
            };
            let reward = |pick: Pick| -> Vec<f64> {
                runs.iter()
                    .filter_map(|run| pick(run["validations"].as_array()?)?[1]["eval_accuracy"].as_f64())
                    .collect()
            };
            let (midway, end): (Pick, Pick) = (|v| v.get(v.len() / 2), |v| v.last());
            let accuracy = |pick| match LOSSES.get(place) {
                Some(&"reward") => reward(pick),
                _ => at(pick, "accuracy"),
            };
            let answers = |when: &str| -> Vec<f64> {
                runs.iter().filter_map(|run| run["answer_tokens"][when]["mean"].as_f64()).collect()
            };
            let cells = [
                LOSSES.get(place).copied().unwrap_or("?").to_owned(),
                runs.len().to_string(),
                spread(&accuracy(midway), 3),
                spread(&accuracy(end), 3),
                spread(&at(end, "margin"), 1),
                spread(&at(end, "kl"), 3),
                spread(&at(end, "chosen"), 1),
                spread(&at(end, "rejected"), 1),
                spread(&answers("before"), 0),
                spread(&answers("after"), 0),
            ];
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text += "\n";
    }
    text
}
