//! Curates a file by a recipe and tells what became of its rows.
//!
//! ```text
//! cargo run -p ferrotune-data --example curate                                  the demo shop's tickets
//! cargo run -p ferrotune-data --example curate -- FILE RECIPE [OUTPUT_FOLDER]   RECIPE: a built-in name or a file
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ferrotune_data::curate::{self, Recipe};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bluesky/tickets.jsonl");
    let input = args.next().map_or(shop, PathBuf::from);
    let recipe = args.next().unwrap_or_else(|| "tickets".to_owned());
    let is_file = Path::new(&recipe).extension().is_some();
    let recipe = if is_file { Recipe::load(Path::new(&recipe))? } else { Recipe::builtin(&recipe)? };
    let output = args.next().map(PathBuf::from);

    let mut out = io::stdout().lock();
    let report = if let Some(folder) = output {
        curate::run_to(&folder, &[input], &recipe, &mut ())?
    } else {
        let outcome = curate::run(&[input], &recipe, &mut ())?;
        for dropped in outcome.dropped.iter().step_by(outcome.dropped.len() / 8 + 1) {
            writeln!(out, "dropped {}: {} ({})", dropped.id, dropped.reason, dropped.detail)?;
        }
        for edit in outcome.edits.iter().step_by(outcome.edits.len() / 8 + 1) {
            writeln!(out, "{} {}: {:?} -> {:?}", edit.step, edit.id, edit.before, edit.after)?;
        }
        outcome.report
    };
    for (file, detection) in &report.inputs {
        writeln!(out, "{file}: {detection}")?;
    }
    writeln!(out, "read {}, kept {}, dropped {}", report.read, report.kept, report.n_dropped())?;
    for step in &report.per_step {
        writeln!(
            out,
            "  {:<18} {:>6} rows, {:>4} edits, dropped {:?}",
            step.step, step.rows, step.edits, step.dropped
        )?;
    }
    Ok(())
}
