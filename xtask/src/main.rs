//! Ferrotune's tasks. `cargo xtask --help` lists them; each is one file here.

mod bench;
mod ci;
mod download;
mod golden;
mod pipeline;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Ferrotune's tasks", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch, verify and cache libtorch and the default models (the other tasks do this when needed).
    Setup(setup::Args),
    /// The main job: raw data to a tuned model, a verdict and a report. Takes `ferrotune pipeline`'s options.
    #[command(disable_help_flag = true)]
    Pipeline(pipeline::Passed),
    /// Build and run the `ferrotune` command: `cargo xtask run -- ARGS`.
    #[command(disable_help_flag = true)]
    Run(pipeline::Passed),
    /// Every test, the doctests, and a smoke run of the pipeline on a tiny model.
    Test(test::Args),
    /// The gate: fmt, clippy, doc, tidy, test.
    Ci,
    /// The architecture's invariants, checked.
    Tidy,
    /// Criterion benches, or side by side with a Python peer.
    Bench(Box<bench::Args>),
    /// Make the golden values again with the scripts beside them, and show what changed.
    Golden(golden::Args),
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Pipeline(passed) => pipeline::run(&["pipeline".to_owned()], &passed),
        Task::Run(passed) => pipeline::run(&[], &passed),
        Task::Test(args) => test::run(&args),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(),
        Task::Bench(args) => bench::run(&args),
        Task::Golden(args) => golden::run(&args),
    }
}
