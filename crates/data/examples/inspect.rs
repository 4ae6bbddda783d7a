//! Reads a dataset, takes its duplicates out, splits it and says whether one should train on it.
//!
//! `cargo run -p ferrotune-data --example inspect -- [FILE] [FOLDER] [NAME]` reads the demo shop's raw tickets if no
//! file is named, and writes `train.jsonl`, `validation.jsonl`, `card.md` and `page.html` where a folder is. Who has
//! read the rows that the page shows runs it once more with their name, which then stands in the card.

use std::fs;
use std::path::{Path, PathBuf};

use ferrotune_data::chat::{ChatTemplate, RenderOptions};
use ferrotune_data::dedup::{DedupConfig, dedup};
use ferrotune_data::inspect::{Context, InspectConfig, Review, card, html, inspect};
use ferrotune_data::read::{ReadOptions, open};
use ferrotune_data::split::{SplitConfig, split};
use ferrotune_data::{DataError, Item, Record, write};

#[expect(clippy::print_stdout, reason = "an example program")]
fn main() -> Result<(), DataError> {
    let mut arguments = std::env::args().skip(1);
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bluesky/tickets.jsonl");
    let file = arguments.next().map_or(shop, PathBuf::from);

    let (records, unreadable, detection) = open(&file, &ReadOptions::default())?;
    println!("{detection}; {} rows cannot be read", unreadable.len());
    let result = dedup(records, &DedupConfig::default())?;
    println!(
        "{} exact and {} near duplicates",
        result.report.exact_duplicates, result.report.near_duplicates
    );
    for twins in result.report.clusters.iter().take(3) {
        let lost: Vec<String> =
            twins.dropped.iter().map(|t| format!("{} ({:.2})", t.id, t.similarity)).collect();
        println!("  kept {}, dropped {}", twins.kept, lost.join(", "));
    }
    let sets =
        split(result.kept, &SplitConfig { stratify_by: Some("category".into()), ..SplitConfig::default() })?;
    let [train, validation, _] = sets.report.rows;
    println!("{train} rows to train on, {validation} held out, in {} groups", sets.report.groups);

    let template = ChatTemplate::builtin("chatml")?;
    let render = |record: &Record| match &record.item {
        Item::Chat(chat) => {
            template.render(chat, &RenderOptions::default()).map(|_| ()).map_err(|e| e.to_string())
        }
        Item::Pair(pair) => {
            template.render_pair(pair, &RenderOptions::default()).map(|_| ()).map_err(|e| e.to_string())
        }
        Item::Document(_) => Ok(()),
    };
    let mut context =
        Context { validation: Some(&sets.validation), render: Some(Box::new(render)), ..Context::default() };
    let mut config = InspectConfig { banned: vec!["Acme Fashion".to_owned()], ..InspectConfig::default() };
    config.name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = arguments.next().map(PathBuf::from);
    if let Some(folder) = &folder {
        for (name, rows) in [("train.jsonl", &sets.train), ("validation.jsonl", &sets.validation)] {
            write::records(&folder.join(name), rows)?;
            context.files.push(folder.join(name));
        }
    }
    if let Some(name) = arguments.next() {
        config.reviews.push(Review { name, rows: config.sample, date: String::new(), note: String::new() });
    }
    let seen = inspect(&sets.train, &context, &config)?;
    for check in &seen.checklist {
        println!("{:<8} {:<18} {}", format!("{:?}", check.verdict), check.key, check.figures);
    }
    if let Some(folder) = folder {
        for (name, text) in [("card.md", card(&seen, &config)), ("page.html", html(&seen, &config))] {
            let path = folder.join(name);
            fs::write(&path, text).map_err(DataError::io("write", &path))?;
        }
    }
    Ok(())
}
