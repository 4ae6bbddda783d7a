//! `cargo xtask bench --study tuning`: when do LoRA, DoRA, full tuning and reading on each win, and at which rank and
//! learning rate? One short run a cell, each a line of a file in the cache, so that the study may be stopped and gone
//! on with; then the tables of what is there. And `--cost` and `--estimates`: what a step costs, and what was foretold.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::journal::Journal;
use super::{Args, json_of};
use crate::{setup, shell};

const MODEL: &str = "smollm2-135m-instruct";
/// Every cell: so many steps of so many examples, no step cut short, in bf16.
const STEPS: usize = 24;
const BATCH: usize = 6;
const MAX_LENGTH: usize = 384;
const HELD: usize = 40;

/// What a cell does to the model.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    Lora,
    RsLora,
    Dora,
    Qlora,
    Full,
    /// Reading on in documents alone, and then tuning as LoRA does.
    Cpt,
    CptThenLora,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Lora => "LoRA",
            Method::RsLora => "rsLoRA",
            Method::Dora => "DoRA",
            Method::Qlora => "QLoRA (NF4)",
            Method::Full => "full",
            Method::Cpt => "CPT alone",
            Method::CptThenLora => "CPT, then LoRA",
        }
    }
}

struct Cell {
    data: &'static str,
    method: Method,
    rank: usize,
    lr: &'static str,
}

impl Cell {
    fn key(&self) -> Value {
        let settings =
            format!("{STEPS} steps of {BATCH}, {MAX_LENGTH} tokens at most, {HELD} held out, bf16");
        json!({"data": self.data, "method": self.method.name(), "rank": self.rank, "lr": self.lr, "settings": settings})
    }
}

const DATA: [&str; 3] = ["alpaca_en_demo", "self_instruct", "bluesky"];

/// The comparison of methods first, then the table of ranks and rates.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for data in DATA {
        let of = |method, rank, lr| Cell { data, method, rank, lr };
        cells.push(of(Method::Lora, 16, "5e-4"));
        cells.push(of(Method::Dora, 16, "5e-4"));
        cells.push(of(Method::Full, 0, "2e-5"));
        cells.push(of(Method::Full, 0, "1e-4"));
    }
    cells.push(Cell { data: "bluesky", method: Method::Cpt, rank: 16, lr: "5e-4" });
    cells.push(Cell { data: "bluesky", method: Method::CptThenLora, rank: 16, lr: "5e-4" });
    cells.push(Cell { data: "alpaca_en_demo", method: Method::Qlora, rank: 16, lr: "5e-4" });
    cells.push(Cell { data: "alpaca_en_demo", method: Method::RsLora, rank: 64, lr: "5e-4" });
    for rank in [4, 16, 64] {
        for lr in ["1e-4", "5e-4", "2e-3"] {
            if (rank, lr) != (16, "5e-4") {
                cells.push(Cell { data: "alpaca_en_demo", method: Method::Lora, rank, lr });
            }
        }
    }
    cells
}

pub(super) fn study(args: &Args) -> Result<()> {
    setup::ensure(&setup::Args::default())?;
    let mut journal = Journal::open("tuning", args)?;
    for cell in cells() {
        let rows = journal.rows()?;
        if rows.iter().any(|row| row["key"] == cell.key()) {
            continue;
        }
        let longest = rows.iter().filter_map(|row| row["seconds"].as_f64()).fold(0.0, f64::max);
        if !journal.has_time_for(longest) {
            journal.say_stopping();
            break;
        }
        let binary = journal.binary()?;
        prepare(&binary, &journal.folder, &args.data)?;
        let (outcome, seconds) = journal.run(&cell.key(), || run(&binary, &journal.folder, &cell))?;
        eprintln!(
            "{} {} r {} lr {}: held-out loss {} to {} ({seconds:.0} s)",
            cell.data,
            cell.method.name(),
            cell.rank,
            cell.lr,
            number(&outcome["held_before"], 4),
            number(&outcome["held_after"], 4)
        );
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", tables(&journal.rows()?))?;
    Ok(())
}

/// Each dataset's rows as conversations, every so many held out; the documents to read on in; general text.
fn prepare(binary: &Path, folder: &Path, data: &Path) -> Result<()> {
    if folder.join("general.txt").is_file() {
        return Ok(());
    }
    let curated = folder.join("curated");
    let tickets = shell::root().join("fixtures/bluesky/tickets.jsonl");
    shell::output(
        Command::new(binary).arg("curate").arg(&tickets).args(["--recipe", "tickets", "--out"]).arg(&curated),
    )?;
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let alpaca: Vec<Value> = serde_json::from_str(&read(&data.join("llama_factory/alpaca_en_demo.json"))?)?;
    let lines = |text: String| -> Result<Vec<Value>> {
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    };
    let seeds = lines(read(&data.join("self_instruct/seed_tasks.jsonl"))?)?;
    let seeds = seeds.iter().flat_map(|task| {
        let instances = task["instances"].as_array().cloned().unwrap_or_default();
        instances.into_iter().map(
            |one| json!({"instruction": task["instruction"], "input": one["input"], "output": one["output"]}),
        )
    });
    split(folder, "alpaca_en_demo", &alpaca)?;
    split(folder, "self_instruct", &seeds.collect::<Vec<_>>())?;
    split(folder, "bluesky", &lines(read(&curated.join("kept.jsonl"))?)?)?;
    let mut documents = String::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(shell::root().join("fixtures/bluesky/documents"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    for file in files {
        // A document is one paragraph of the file to read: blank lines part documents.
        documents += &read(&file)?.lines().filter(|l| !l.trim().is_empty()).collect::<Vec<_>>().join("\n");
        documents += "\n\n";
    }
    std::fs::write(folder.join("documents.txt"), documents)?;
    let wiki = read(&data.join("wikitext2/valid.txt"))?;
    std::fs::write(folder.join("general.txt"), wiki.lines().take(400).collect::<Vec<_>>().join("\n"))?;
    Ok(())
}

fn split(folder: &Path, name: &str, rows: &[Value]) -> Result<()> {
    let every = (rows.len() / HELD).max(2);
    let (mut train, mut held) = (String::new(), String::new());
    for (i, row) in rows.iter().enumerate() {
        let into = if i % every == every - 1 && held.lines().count() < HELD { &mut held } else { &mut train };
        into.push_str(&row.to_string());
        into.push('\n');
    }
    std::fs::write(folder.join(format!("{name}-train.jsonl")), train)?;
    Ok(std::fs::write(folder.join(format!("{name}-held.jsonl")), held)?)
}

fn run(binary: &Path, folder: &Path, cell: &Cell) -> Result<Value> {
    let out = folder.join("run");
    let _ = std::fs::remove_dir_all(&out);
    let file = |part: &str| folder.join(format!("{}-{part}.jsonl", cell.data));
    let common = |command: &mut Command, out: &Path, steps: usize| {
        let numbers = [steps, BATCH, MAX_LENGTH].map(|n| n.to_string());
        command.args(["--model", MODEL, "--dtype", "bf16", "--schedule", "cosine", "--warmup-steps", "2"]);
        command.args(["--steps", &numbers[0], "--batch", &numbers[1], "--max-length", &numbers[2]]);
        command.args(["--lr", cell.lr, "--json", "--out"]).arg(out);
    };
    let rank = [cell.rank.to_string(), (2 * cell.rank).to_string()];
    let lora = |command: &mut Command| {
        command.args(["--lora-r", &rank[0], "--lora-alpha", &rank[1]]);
    };
    let mut adapter = None;
    if matches!(cell.method, Method::Cpt | Method::CptThenLora) {
        let mut command = Command::new(binary);
        command.arg("cpt").arg("--data").arg(folder.join("documents.txt"));
        command.arg("--general").arg(folder.join("general.txt"));
        common(&mut command, &out.join("cpt"), STEPS);
        lora(&mut command);
        json_of(&mut command)?;
        adapter = Some(out.join("cpt/adapter"));
    }
    let mut command = Command::new(binary);
    command.arg("sft").arg("--data").arg(file("train")).arg("--validation").arg(file("held"));
    // Reading alone is measured by a run that moves nothing.
    let steps = if cell.method == Method::Cpt { 1 } else { STEPS };
    common(&mut command, &out.join("sft"), steps);
    match cell.method {
        Method::Full => {
            command.arg("--full");
        }
        Method::Dora => {
            lora(&mut command);
            command.arg("--dora");
        }
        Method::RsLora => {
            lora(&mut command);
            command.arg("--rslora");
        }
        Method::Qlora => {
            lora(&mut command);
            command.args(["--quantize", "nf4"]);
        }
        Method::Lora | Method::Cpt | Method::CptThenLora => lora(&mut command),
    }
    if let Some(adapter) = &adapter {
        command.arg("--adapter").arg(adapter);
    }
    let tuned = json_of(&mut command)?;
    let validation = |pick: fn(&[Value]) -> Option<&Value>| {
        tuned["validations"].as_array().and_then(|v| pick(v)).map_or(Value::Null, |v| v[1].clone())
    };
    let mut command = Command::new(binary);
    command.arg("perplexity");
    match cell.method {
        // Where no step was better than none, the adapter that was kept adds nothing, and loading refuses it.
        _ if tuned["best_step"] == 0 && adapter.is_none() => command.arg(MODEL),
        Method::Full => command.arg(out.join("sft/model")),
        Method::Cpt => command.arg(MODEL).arg("--adapter").arg(out.join("cpt/adapter")),
        _ => command.arg(MODEL).arg("--adapter").arg(out.join("sft/adapter")),
    };
    command.arg(folder.join("general.txt")).args([
        "--window",
        "512",
        "--max-tokens",
        "4096",
        "--dtype",
        "bf16",
        "--json",
    ]);
    let general = json_of(&mut command)?["perplexity"].clone();
    let after =
        if cell.method == Method::Cpt { validation(<[Value]>::first) } else { validation(<[Value]>::last) };
    let _ = std::fs::remove_dir_all(&out);
    Ok(json!({
        "held_before": validation(<[Value]>::first),
        "held_after": after,
        "general_perplexity": general,
        "tokens_per_s": tuned["real_tokens_per_s"],
        "peak_rss_mib": tuned["peak_rss_mib"],
        "trainable_params": tuned["trainable_params"],
    }))
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), |x| format!("{x:.digits$}"))
}

fn tables(rows: &[Value]) -> String {
    let settings = cells()[0].key()["settings"].clone();
    let rows: Vec<&Value> = rows.iter().filter(|row| row["key"]["settings"] == settings).collect();
    let mut text = String::new();
    for data in DATA {
        let _ = write!(
            text,
            "{data}\n\n| method | rank | learning rate | held-out loss | before | perplexity of general text | tokens/s | MiB |\n\
             |---|---|---|---|---|---|---|---|\n"
        );
        for row in rows.iter().filter(|row| row["key"]["data"] == data) {
            let (key, found) = (&row["key"], &row["outcome"]);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                key["method"].as_str().unwrap_or_default(),
                key["rank"],
                key["lr"].as_str().unwrap_or_default(),
                number(&found["held_after"], 4),
                number(&found["held_before"], 4),
                number(&found["general_perplexity"], 2),
                number(&found["tokens_per_s"], 0),
                number(&found["peak_rss_mib"], 0),
            );
        }
        text += "\n";
    }
    let of_lora =
        || rows.iter().filter(|r| r["key"]["data"] == DATA[0] && r["key"]["method"] == Method::Lora.name());
    let ranks: BTreeSet<u64> = of_lora().filter_map(|row| row["key"]["rank"].as_u64()).collect();
    let rates = ["1e-4", "5e-4", "2e-3"];
    let _ = write!(
        text,
        "{}, LoRA: held-out loss by rank and learning rate\n\n| rank | {} |\n|---|---|---|---|\n",
        DATA[0],
        rates.join(" | ")
    );
    for rank in ranks {
        let at = |lr: &str| of_lora().find(|row| row["key"]["rank"] == rank && row["key"]["lr"] == lr);
        let cells = rates
            .map(|lr| at(lr).map_or_else(|| "–".to_owned(), |row| number(&row["outcome"]["held_after"], 4)));
        let _ = writeln!(text, "| {rank} | {} |", cells.join(" | "));
    }
    text
}

/// A configuration of `sft` whose cost is measured.
struct Config {
    name: String,
    options: Vec<String>,
}

impl Config {
    fn new(name: impl Into<String>, options: &str) -> Self {
        Config { name: name.into(), options: options.split_whitespace().map(str::to_owned).collect() }
    }
}

/// Models of other sizes, which `peers/sizes.py` makes of random weights.
const SIZES: [&str; 3] = ["smollm2-360m", "qwen2.5-0.5b", "smollm2-1.7b"];

/// What a step costs as model, rank, batch and length grow: packed rows, so that every step has the same tokens.
pub(super) fn cost(args: &Args) -> Result<()> {
    setup::ensure(&setup::Args::default())?;
    let (python, work) = (super::python(args)?, shell::cache()?.join("bench"));
    super::prepare(&python, "baseline.py", &work, &args.data)?;
    shell::run(Command::new(&python).arg(super::script("sizes.py")).arg(&work).arg(work.join("hf")))?;
    let base = "--lora-r 16 --lora-alpha 32 --batch 2 --max-length 512";
    let mut configs = vec![Config::new("rank 16, 2 × 512 tokens", base)];
    for rank in [4, 64, 192] {
        configs.push(Config::new(format!("rank {rank}"), &format!("{base} --lora-r {rank}")));
    }
    for batch in [1, 4, 8] {
        configs.push(Config::new(format!("rows: {batch}"), &format!("{base} --batch {batch}")));
    }
    for (length, batch) in [(128, 8), (256, 4), (1024, 1), (2048, 1)] {
        let name = format!("{batch} × {length} tokens");
        configs.push(Config::new(name, &format!("{base} --max-length {length} --batch {batch}")));
    }
    configs.push(Config::new("activation checkpointing", &format!("{base} --activation-checkpointing")));
    configs.push(Config::new("DoRA", &format!("{base} --dora")));
    configs.push(Config::new("full", "--full --batch 2 --max-length 512"));
    configs.push(Config::new("full, 8-bit AdamW", "--full --optimizer adamw8bit --batch 2 --max-length 512"));
    configs.push(Config::new("QLoRA", &format!("{base} --quantize nf4")));
    for size in SIZES {
        let model = format!("{base} --model {}", work.join(size).display());
        configs.push(Config::new(format!("{size}'s size"), &model));
        configs.push(Config::new(format!("{size}'s size, QLoRA"), &format!("{model} --quantize nf4")));
    }
    measure(args, &configs, true)
}

/// What a run says it will take, and what it then takes.
pub(super) fn estimates(args: &Args) -> Result<()> {
    setup::ensure(&setup::Args::default())?;
    let lora = "--lora-r 16 --lora-alpha 32 --batch 4 --max-length 512";
    let configs = [
        Config::new("LoRA", lora),
        Config::new("QLoRA", &format!("{lora} --quantize nf4")),
        Config::new("full", "--full --batch 4 --max-length 512"),
        Config::new("full, 8-bit AdamW", "--full --optimizer adamw8bit --batch 4 --max-length 512"),
        Config::new("LoRA, activation checkpointing", &format!("{lora} --activation-checkpointing")),
        Config::new("DoRA", &format!("{lora} --dora")),
    ];
    measure(args, &configs, false)
}

fn measure(args: &Args, configs: &[Config], packing: bool) -> Result<()> {
    let binary = super::binary(args)?;
    let work = shell::cache()?.join("bench-cost");
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let data = args.data.join("llama_factory/alpaca_en_demo.json");
    if !data.is_file() {
        bail!("{} is not there: --data names the folder", data.display());
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "| dtype | what | tokens/s | s a step | said | ratio | peak MiB | said | ratio | run, s | said |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for dtype in args.dtypes.split(',') {
        for config in configs {
            let mut command = Command::new(&binary);
            command.arg("sft").arg("--data").arg(&data).args(["--dtype", dtype, "--json"]);
            command
                .args(["--steps", "5", "--lr", "1e-4", "--schedule", "constant", "--out"])
                .arg(work.join("out"));
            // A later option wins, so a configuration may change its base.
            let options = [&["--model".to_owned(), MODEL.to_owned()], config.options.as_slice()].concat();
            command.args(last_of_each(&options));
            if packing {
                command.arg("--packing");
            }
            let found = json_of(&mut command)?;
            let of = |key: &str| found["estimate"][key].as_f64().unwrap_or(f64::NAN);
            let steps: Vec<f64> =
                found["step_seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            let step = steps.iter().sum::<f64>() / steps.len().max(1) as f64;
            let (peak, seconds) = (
                found["peak_rss_mib"].as_f64().unwrap_or(f64::NAN),
                found["seconds"].as_f64().unwrap_or(f64::NAN),
            );
            writeln!(
                stdout,
                "| {dtype} | {} | {} | {step:.3} | {:.3} | {:.2} | {peak:.0} | {:.0} | {:.2} | {seconds:.1} | {:.1} |",
                config.name,
                number(&found["real_tokens_per_s"], 1),
                of("step_seconds"),
                of("step_seconds") / step,
                of("peak_mib"),
                of("peak_mib") / peak,
                of("seconds"),
            )?;
        }
    }
    let _ = std::fs::remove_dir_all(work.join("out"));
    Ok(())
}

/// Options and their values, of each the last.
fn last_of_each(options: &[String]) -> Vec<String> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    for word in options {
        match groups.last_mut() {
            Some(group) if !word.starts_with("--") => group.push(word.clone()),
            _ => groups.push(vec![word.clone()]),
        }
    }
    let later = |i: usize| groups[i + 1..].iter().any(|group| group[0] == groups[i][0]);
    let kept: Vec<usize> = (0..groups.len()).filter(|&i| !later(i)).collect();
    kept.into_iter().flat_map(|i| groups[i].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_differ_and_their_tables_hold_them() {
        let cells = cells();
        let keys: BTreeSet<String> = cells.iter().map(|cell| cell.key().to_string()).collect();
        assert_eq!(keys.len(), cells.len(), "a cell is run twice");
        let row =
            |cell: &Cell| json!({"key": cell.key(), "outcome": {"held_after": 1.25, "held_before": 1.5}});
        let text = tables(&cells.iter().map(row).collect::<Vec<_>>());
        assert_eq!(text.matches("| 1.2500 | 1.5000 |").count(), cells.len());
        assert!(text.ends_with("| 64 | 1.2500 | 1.2500 | 1.2500 |\n"), "{text}");
    }

    #[test]
    fn a_later_option_wins() {
        let options = Config::new("x", "--lora-r 16 --dora --batch 2 --lora-r 4").options;
        assert_eq!(last_of_each(&options), ["--dora", "--batch", "2", "--lora-r", "4"]);
    }
}
