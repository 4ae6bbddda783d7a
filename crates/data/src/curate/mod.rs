//! A whole curation: inputs, a recipe, and what came of every row.
//!
//! A [`Recipe`] is a literal list of steps, read from TOML and run from top to bottom. [`run`] gives back every
//! row that went in: kept, or [`Dropped`] with the step, the reason and the figures; every change of a text is an
//! [`Edit`]; and a [`Report`] counts them all. [`run_to`] does the same onto disk.
//!
//! Steps that judge one row at a time run in parallel over chunks of rows while the files are read; a step that
//! looks at all rows (`boilerplate`, `dedup`, `decontaminate`, `split`, `mix`, `pii` with a corpus-wide numbering)
//! waits for the last of them. The result is the same for any number of threads.
//!
//! Where the recipe has a `pii` step, what it finds is hidden in `dropped`, `edits` and the report as well, unless its
//! `audit_originals` is set: no file of the run then shows personal data that the kept rows no longer have, as far
//! as the step finds it. An id in which it finds some gives way to the file and line of its row. Without such a step
//! they show whatever the export held. Treat them like the raw export.
//!
//! ```
//! use ferrotune_data::curate::{self, Recipe};
//! # let folder = std::env::temp_dir().join(format!("ferrotune-curate-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder).unwrap();
//! let path = folder.join("tickets.jsonl");
//! std::fs::write(&path, r#"{"id": "1", "question": "Is the cafÃ© open?", "answer": "Yes, until six in the evening."}
//! {"id": "2", "question": "Hello?", "answer": "asdf"}"#).unwrap();
//! let recipe = Recipe::parse(r#"
//!     version = 1
//!     [[step]]
//!     kind = "mojibake"
//!     [[step]]
//!     kind = "placeholder"
//! "#).unwrap();
//! let outcome = curate::run(&[path], &recipe, &mut ()).unwrap();
//! assert_eq!(outcome.kept[0].texts()[0].1, "Is the café open?");
//! assert_eq!(outcome.report.dropped["placeholder"], 1);
//! assert_eq!(outcome.edits[0].before, "cafÃ©");
//! # std::fs::remove_dir_all(&folder).unwrap();
//! ```

mod ids;
mod recipe;
mod report;
mod sets;
mod sink;
mod step;
mod suggest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use crate::read::{self, Row};
use crate::{DataError, Dropped, Edit, Origin, Record, RecordStep};
use ids::{Ids, id_mut, told_id};
pub use recipe::Recipe;
pub use report::{Report, StepReport};
use sink::{Disk, Hiding, Memory, Sink};
use step::Step;

/// Rows that are worked on at a time while files are read.
const CHUNK: usize = 4096;

/// What came of every row.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The rows to go on with, in the order they were read (a `mix` step shuffles them).
    pub kept: Vec<Record>,
    /// What a `split` step held out, by `validation` and `test`.
    pub held_out: BTreeMap<String, Vec<Record>>,
    /// The rows set aside.
    pub dropped: Vec<Dropped>,
    /// The changes made.
    pub edits: Vec<Edit>,
    /// The counts.
    pub report: Report,
}

/// Is told how a run goes on. `()` is told nothing.
pub trait Progress {
    /// A step begins; `rows` is how many it will look at, where that is known.
    fn begin(&mut self, step: &str, rows: Option<usize>);

    /// The step has looked at so many rows more.
    fn advance(&mut self, rows: usize);
}

impl Progress for () {
    fn begin(&mut self, _: &str, _: Option<usize>) {}
    fn advance(&mut self, _: usize) {}
}

/// Curates files in memory.
///
/// # Errors
/// [`DataError::Io`] or [`DataError::Format`] for an input that cannot be read at all, [`DataError::Config`] for a
/// recipe that cannot run.
pub fn run(inputs: &[PathBuf], recipe: &Recipe, progress: &mut dyn Progress) -> Result<Outcome, DataError> {
    let mut sink = Memory::default();
    let report = drive(inputs, recipe, recipe.steps()?, &mut sink, progress)?;
    Ok(sink.outcome(report))
}

/// Curates files onto disk: `kept.jsonl`, `dropped.jsonl`, `edits.jsonl` and `report.json` in `folder`, after a
/// `split` step `validation.jsonl` and `test.jsonl` too, each under its name only when it is whole. Sets that an
/// earlier run held out there, and this one does not, are removed. Where no step needs all rows, only a chunk of them
/// is held at a time.
///
/// # Errors
/// As [`run`]; [`DataError::Config`] where a file that is read would be replaced, and [`DataError::Io`] where the
/// folder cannot be written.
pub fn run_to(
    folder: &Path,
    inputs: &[PathBuf],
    recipe: &Recipe,
    progress: &mut dyn Progress,
) -> Result<Report, DataError> {
    let steps = recipe.steps()?;
    let read = inputs.iter().map(PathBuf::as_path).chain(steps.iter().flat_map(Step::reads));
    sink::apart(folder, read)?;
    let mut sink = Disk::create(folder)?;
    let mut report = drive(inputs, recipe, steps, &mut sink, progress)?;
    sink.commit(&mut report)?;
    Ok(report)
}

/// Curates records that are in memory already.
///
/// # Errors
/// [`DataError::Config`] for a recipe that cannot run.
pub fn run_records(
    mut records: Vec<Record>,
    recipe: &Recipe,
    progress: &mut dyn Progress,
) -> Result<Outcome, DataError> {
    let steps = recipe.steps()?;
    let mut sink = Memory::default();
    let mut report = Report::new(&steps);
    report.read = records.len();
    let mut ids = Ids::default();
    for record in &records {
        ids.take(record.id());
    }
    let mut edits = Vec::new();
    for (row, record) in records.iter_mut().enumerate() {
        let line = if record.origin.line == 0 { row + 1 } else { record.origin.line };
        let origin = Origin { file: record.origin.file.clone(), line };
        edits.extend(ids.hide(id_mut(record), &origin, &steps));
    }
    let mut hiding = Hiding::new(&mut sink, &steps);
    for edit in edits {
        told_id(edit, &steps, &mut hiding, &mut report)?;
    }
    finish(records, steps, 0, &mut hiding, &mut report, progress)?;
    Ok(sink.outcome(report))
}

fn drive(
    inputs: &[PathBuf],
    recipe: &Recipe,
    steps: Vec<Step>,
    sink: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<Report, DataError> {
    if inputs.is_empty() {
        return Err(DataError::Config("no input files were named".into()));
    }
    let sink: &mut dyn Sink = &mut Hiding::new(sink, &steps);
    let mut report = Report::new(&steps);
    let n_leading = steps.iter().take_while(|s| s.row_step().is_some()).count();
    let only_rows = n_leading == steps.len();
    let mut ids = Ids::default();
    let mut waiting = Vec::new();
    progress.begin("read", None);
    for input in inputs {
        let mut rows = read::stream(input, &recipe.read)?;
        report.inputs.push((file_name(input), rows.detection.to_string()));
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            let row = rows.next().transpose()?;
            let is_last = row.is_none();
            match row {
                Some(Row::Record(record)) => chunk.push(record),
                Some(Row::Dropped(mut dropped)) => {
                    report.read += 1;
                    if let Some(edit) = ids.hide(&mut dropped.id, &dropped.origin, &steps) {
                        told_id(edit, &steps, sink, &mut report)?;
                    }
                    report.count_drop(None, &dropped.reason);
                    sink.dropped(dropped)?;
                }
                None => {}
            }
            if chunk.len() < CHUNK && !is_last {
                continue;
            }
            let mut edits = rows.take_renamed();
            let mut hidden = Vec::new();
            for record in &mut chunk {
                ids.make_unique(record, input, &mut edits);
                let origin = record.origin.clone();
                hidden.extend(ids.hide(id_mut(record), &origin, &steps));
            }
            // Of an id that was made unique and then hidden, the second change tells all.
            edits.retain(|edit| !ids.hidden.contains(&edit.after));
            ids.hidden.clear();
            for edit in edits {
                report.count_edit(None, &edit.step);
                sink.edit(edit)?;
            }
            for edit in hidden {
                told_id(edit, &steps, sink, &mut report)?;
            }
            report.read += chunk.len();
            progress.advance(chunk.len());
            let mut kept = std::mem::take(&mut chunk);
            for (i, step) in steps[..n_leading].iter().enumerate() {
                if let Some(step) = step.row_step() {
                    kept = apply(step, i, kept, sink, &mut report)?;
                }
            }
            if only_rows {
                for record in kept {
                    report.kept += 1;
                    sink.kept(record)?;
                }
            } else {
                waiting.append(&mut kept);
            }
            if is_last {
                break;
            }
        }
    }
    if only_rows {
        for step in &steps {
            step.end()?;
        }
    } else {
        finish(waiting, steps, n_leading, sink, &mut report, progress)?;
    }
    Ok(report)
}

/// Runs the steps from `first` on over all rows.
fn finish(
    mut records: Vec<Record>,
    mut steps: Vec<Step>,
    first: usize,
    sink: &mut dyn Sink,
    report: &mut Report,
    progress: &mut dyn Progress,
) -> Result<(), DataError> {
    for (i, step) in steps.iter_mut().enumerate().skip(first) {
        progress.begin(step.name(), Some(records.len()));
        let n = records.len();
        if let Step::Set(step) = step {
            let outcome = step.apply(records)?;
            report.per_step[i].rows += n;
            for edit in outcome.edits {
                report.count_edit(Some(i), &edit.step);
                sink.edit(edit)?;
            }
            for dropped in outcome.dropped {
                report.count_drop(Some(i), &dropped.reason);
                sink.dropped(dropped)?;
            }
            for (set, record) in outcome.held_out {
                *report.held_out.entry(set.to_owned()).or_default() += 1;
                sink.held_out(set, record)?;
            }
            report.repeats += outcome.repeats;
            report.per_step[i].notes = outcome.notes;
            sink.hide(&mut report.per_step[i].notes);
            for warning in outcome.warnings {
                let mut told = Value::String(format!("{}: {warning}", step.name()));
                sink.hide(&mut told);
                report.warnings.extend(told.as_str().map(str::to_owned));
            }
            records = outcome.kept;
        }
        if let Step::Pii(step) = step
            && step.needs_survey()
        {
            step.survey(&records);
            records = apply(&**step, i, records, sink, report)?;
        } else if let Some(step) = step.row_step() {
            records = apply(step, i, records, sink, report)?;
        }
        progress.advance(n);
    }
    for record in records {
        report.kept += 1;
        sink.kept(record)?;
    }
    steps.iter().try_for_each(Step::end)
}

/// One step over many rows, in parallel; what comes out is in the order of what went in.
fn apply(
    step: &dyn RecordStep,
    i: usize,
    records: Vec<Record>,
    sink: &mut dyn Sink,
    report: &mut Report,
) -> Result<Vec<Record>, DataError> {
    report.per_step[i].rows += records.len();
    let judged: Vec<(Result<Record, Dropped>, Vec<Edit>)> = records
        .into_par_iter()
        .map(|mut record| {
            let mut edits = Vec::new();
            match step.apply(&mut record, &mut edits) {
                Ok(()) => (Ok(record), edits),
                Err(drop) => (Err(record.dropped(step.name(), drop)), edits),
            }
        })
        .collect();
    let mut kept = Vec::with_capacity(judged.len());
    for (row, edits) in judged {
        for edit in edits {
            report.count_edit(Some(i), &edit.step);
            sink.edit(edit)?;
        }
        match row {
            Ok(record) => kept.push(record),
            Err(dropped) => {
                report.count_drop(Some(i), &dropped.reason);
                sink.dropped(dropped)?;
            }
        }
    }
    Ok(kept)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
