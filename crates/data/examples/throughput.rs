//! How fast this crate deduplicates, finds personal data and judges pages, from texts in memory to the answer; one JSON line.
//!
//! ```text
//! cargo run --release -p ferrotune-data --example throughput -- dedup FILE [PERMUTATIONS]
//! cargo run --release -p ferrotune-data --example throughput -- pii FILE
//! cargo run --release -p ferrotune-data --example throughput -- quality FILE
//! ```
//!
//! FILE is JSON lines with `text`; without arguments a few texts are made up. `RAYON_NUM_THREADS` sets the threads.
//! `cargo xtask bench --peer dedup`, `--peer presidio` and `--peer datatrove` run this in turns with Python's tools.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use ferrotune_data::dedup::{MinHashConfig, Shingling, clusters};
use ferrotune_data::filter::{C4Quality, FineWebQuality, GopherQuality, GopherRepetition};
use ferrotune_data::pii::{Kind, PiiConfig, find};
use ferrotune_data::read::{ReadOptions, open};
use rayon::prelude::*;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let texts: Vec<String> = match args.get(1) {
        Some(file) => {
            let (records, dropped, _) = open(Path::new(file), &ReadOptions::default())?;
            if !dropped.is_empty() {
                return Err(format!("{} rows of {file} cannot be used", dropped.len()).into());
            }
            records.iter().map(|r| r.texts()[0].1.to_owned()).collect()
        }
        None => (0..200).map(|i| format!("Ticket {}: write to a{i}@example.org about it.", i / 2)).collect(),
    };
    let permutations = args.get(2).map_or(Ok(128), |n| n.parse())?;
    let mut start = Instant::now();
    let job = args.first().map_or("dedup", String::as_str);
    let found = if job == "quality" {
        // Word lists are loaded at the first use, as the peer's cutter of words was before its clock started.
        let _ = texts.first().map(|text| kept(text));
        start = Instant::now();
        texts.par_iter().map(|text| kept(text)).sum()
    } else if job == "pii" {
        // Presidio's recognizers without a language model know no names and no addresses either.
        let mut config = PiiConfig::everything();
        config.kinds.retain(|k| !matches!(k, Kind::Person | Kind::Address));
        // Word lists and phone formats are loaded at the first use, as the peer's were before its clock started.
        texts.iter().take(200).for_each(|text| drop(find(text, &config)));
        start = Instant::now();
        texts.par_iter().map(|text| find(text, &config).len()).sum()
    } else {
        // Word 5-grams whatever the length, as the peers cut them.
        let shingling = Shingling { ngram: 5, short_words: 0, ..Shingling::default() };
        let config = MinHashConfig { permutations, shingling, ..MinHashConfig::default() };
        clusters(&texts, &config)?.groups().iter().map(Vec::len).sum::<usize>()
    };
    let seconds = start.elapsed().as_secs_f64();
    let mb = texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let figures = json!({
        "docs": texts.len(), "mb": mb, "seconds": seconds, "found": found,
        "docs_per_s": texts.len() as f64 / seconds, "mb_per_s": mb / seconds,
    });
    writeln!(io::stdout(), "{figures}")?;
    Ok(())
}

/// By how many of the four sets of rules a page is kept.
fn kept(text: &str) -> usize {
    let verdicts = [
        GopherQuality::default().judge(text).is_ok(),
        GopherRepetition::default().judge(text).is_ok(),
        C4Quality::default().judge(text).is_ok(),
        FineWebQuality::default().judge(text).is_ok(),
    ];
    verdicts.into_iter().filter(|&is_kept| is_kept).count()
}
