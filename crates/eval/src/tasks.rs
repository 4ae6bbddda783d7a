//! Benchmark tasks with the prompts and scores of lm-eval 0.4, over files as they are published.

mod choice;
mod csv;
mod gsm8k;
mod read;

pub use choice::{Choices, Gold, McRow, Shots, TaskReport, run_choices};
pub use csv::parse_csv;
pub use gsm8k::{GsmReport, GsmRow, gsm8k_answer, run_gsm8k};
pub use read::McTask;
