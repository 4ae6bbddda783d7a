//! Trains the toxicity classifier on a labelled file and tells how well it does on texts it has not seen.
//!
//! ```text
//! cargo run -p ferrotune-data --example toxicity                                   a few inline texts
//! cargo run -p ferrotune-data --example toxicity -- FILE TEXT_COLUMN LABEL_COLUMN HARMLESS_LABEL[,..] [ONLY_LABELS]
//! ```
//!
//! Rows whose label is none of ONLY_LABELS (where given) are left out; every label but HARMLESS_LABEL is toxic.

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use ferrotune_data::filter::toxicity::{TrainConfig, cross_validate};
use ferrotune_data::read::{ReadOptions, open};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let mut out = io::stdout().lock();
    let examples: Vec<(String, bool)> = match &args[..] {
        [file, text, label, harmless, only @ ..] => {
            let mut options = ReadOptions::default();
            options.columns.text = Some(text.clone());
            let (records, dropped, detection) = open(Path::new(file), &options)?;
            writeln!(out, "{detection}; {} rows cannot be used", dropped.len())?;
            let label_of =
                |r: &ferrotune_data::Record| r.meta().get(label).map(|v| v.to_string().replace('"', ""));
            let is_in = |list: &str, label: &str| list.split(',').any(|l| l == label);
            records
                .iter()
                .filter_map(|r| label_of(r).map(|label| (r.texts()[0].1.to_owned(), label)))
                .filter(|(_, label)| only.first().is_none_or(|only| is_in(only, label)))
                .map(|(text, label)| (text, !is_in(harmless, &label)))
                .collect()
        }
        _ => [
            "you vile fool",
            "what a lovely day",
            "vile people, all of them",
            "a lovely shop",
            "a vile, vile man",
        ]
        .iter()
        .chain(&["the lovely weather", "vile idiots", "lovely, thanks"])
        .map(|text| ((*text).to_owned(), text.contains("vile")))
        .collect(),
    };
    let folds = 5.min(examples.len() / 3);
    let result = cross_validate(&examples, folds, &TrainConfig::default())?;
    writeln!(out, "{folds} folds over {} texts", result.n)?;
    writeln!(
        out,
        "toxic: precision {:.4}, recall {:.4}, F1 {:.4}",
        result.precision, result.recall, result.f1
    )?;
    writeln!(out, "harmless: F1 {:.4}; macro F1 {:.4}", result.harmless_f1, result.macro_f1)?;
    Ok(())
}
