//! Running a model beside transformers, llama-cpp-python and sentence-transformers.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::{Args, json_of, median, python};
use crate::shell;

/// A job that a peer and Ferrotune do in turns.
struct Job {
    /// As `xtask/peers/models.py` calls it.
    name: &'static str,
    /// The peer's dtype and ours.
    dtypes: (&'static str, &'static str),
    /// The figure of both sides' JSON.
    rate: &'static str,
}

/// The jobs of one peer.
pub(super) fn run(args: &Args, peer: &str) -> Result<()> {
    let same =
        |name, rate| ["fp32", "bf16"].map(|dtype| Job { name, dtypes: (dtype, dtype), rate }).into_iter();
    let jobs: Vec<Job> = match peer {
        "transformers" => ["generate", "batch", "prefill", "perplexity"]
            .into_iter()
            .flat_map(|name| same(name, "tokens_per_s"))
            .filter(|job| args.dtypes.split(',').any(|dtype| dtype == job.dtypes.0))
            .collect(),
        "llama-cpp" => vec![Job { name: "llama", dtypes: ("q4_1", "int8"), rate: "tokens_per_s" }],
        "sentence-transformers" => same("embed", "docs_per_s").collect(),
        _ => vec![Job { name: "chats", dtypes: ("fp32", "fp32"), rate: "chats_per_s" }],
    };
    let (python, binary) = (python(args)?, super::binary(args)?);
    if peer == "llama-cpp" && !shell::works(&python.display().to_string(), &["-c", "import llama_cpp"]) {
        // Not among the others' peers: it is compiled on the spot, for minutes.
        shell::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "llama-cpp-python"]))?;
    }
    let examples = [("ferrotune-model", "speed"), ("ferrotune", "chat_speed")];
    for (package, example) in examples.into_iter().filter(|_| args.binary.is_none()) {
        shell::run(&mut shell::cargo([
            "build",
            "--quiet",
            "--release",
            "-p",
            package,
            "--example",
            example,
        ]))?;
    }
    let work = shell::cache()?.join("bench");
    let script = super::script("models.py");
    super::prepare(&python, "models.py", &work, &args.data)?;
    for job in jobs {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds.max(1) {
            let mut command = Command::new(&python);
            theirs.push(json_of(command.arg(&script).args([job.name, job.dtypes.0]).arg(&work))?);
            ours.push(json_of(&mut our_command(&job, &binary, &work))?);
        }
        let rates = |runs: &[Value]| runs.iter().filter_map(|run| run[job.rate].as_f64()).collect::<Vec<_>>();
        let (base, rate) = (median(&rates(&theirs)), median(&rates(&ours)));
        for (side, runs) in [(peer, &theirs), ("ferrotune", &ours)] {
            let dtype = if side == peer { job.dtypes.0 } else { job.dtypes.1 };
            let all: Vec<String> = rates(runs).iter().map(|rate| format!("{rate:.1}")).collect();
            eprintln!("{:<11} {dtype:<5} {side:<22} {}  {}", job.name, all.join(" "), runs[0]);
        }
        eprintln!("{:<11} ferrotune {rate:.1}/s, {peer} {base:.1}/s: x{:.2}", job.name, rate / base);
    }
    Ok(())
}

fn our_command(job: &Job, binary: &std::path::Path, work: &std::path::Path) -> Command {
    const LM: &str = "smollm2-135m-instruct";
    let example = |name: &str| Command::new(binary.with_file_name("examples").join(name));
    let dtype = match job.dtypes.1 {
        "int8" => vec!["--dtype", "bf16", "--int8"],
        other => vec!["--dtype", other],
    };
    let mut command = match job.name {
        "batch" | "prefill" => {
            let mut command = example("speed");
            command.arg(gguf(LM)).args([job.dtypes.1, job.name]);
            return command;
        }
        "chats" => {
            let mut command = example("chat_speed");
            command.arg(LM).arg(work.join("sft.jsonl"));
            return command;
        }
        _ => Command::new(binary),
    };
    match job.name {
        "perplexity" => command
            .args(["perplexity", LM, "--window", "1024", "--max-tokens", "5120"])
            .arg(work.join("ppl.txt")),
        "embed" => command
            .args(["embed", "all-minilm-l6-v2"])
            .arg(work.join("abstracts.jsonl"))
            .arg("--out")
            .arg(work.join("abstracts.safetensors")),
        _ => command
            .args(["generate", LM, "--max-new-tokens", "128", "--min-new-tokens", "128", "--chat"])
            .arg("Explain how to return an item bought online, step by step."),
    };
    command.args(dtype).arg("--json");
    command
}

/// The model file that `setup` fetched.
fn gguf(name: &str) -> PathBuf {
    let folder = shell::cache().unwrap_or_default().join("models").join(name);
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf")).unwrap_or(folder)
}
