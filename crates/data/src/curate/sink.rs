//! Where rows go: into memory or onto disk, the audit without the personal data that a step takes out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Outcome;
use super::report::Report;
use super::step::Step;
use crate::pii::Conceal;
use crate::write::{self, JsonLines};
use crate::{DataError, Dropped, Edit, Record};

pub(super) trait Sink {
    fn kept(&mut self, record: Record) -> Result<(), DataError>;
    fn held_out(&mut self, set: &'static str, record: Record) -> Result<(), DataError>;
    fn dropped(&mut self, dropped: Dropped) -> Result<(), DataError>;
    fn edit(&mut self, edit: Edit) -> Result<(), DataError>;

    /// Hides in what a report tells what the audit hides.
    fn hide(&self, _: &mut Value) {}
}

#[derive(Default)]
pub(super) struct Memory {
    kept: Vec<Record>,
    held_out: BTreeMap<String, Vec<Record>>,
    dropped: Vec<Dropped>,
    edits: Vec<Edit>,
}

impl Memory {
    pub(super) fn outcome(self, report: Report) -> Outcome {
        let Memory { kept, held_out, dropped, edits } = self;
        Outcome { kept, held_out, dropped, edits, report }
    }
}

impl Sink for Memory {
    fn kept(&mut self, record: Record) -> Result<(), DataError> {
        self.kept.push(record);
        Ok(())
    }

    fn held_out(&mut self, set: &'static str, record: Record) -> Result<(), DataError> {
        self.held_out.entry(set.to_owned()).or_default().push(record);
        Ok(())
    }

    fn dropped(&mut self, dropped: Dropped) -> Result<(), DataError> {
        self.dropped.push(dropped);
        Ok(())
    }

    fn edit(&mut self, edit: Edit) -> Result<(), DataError> {
        self.edits.push(edit);
        Ok(())
    }
}

/// The sets that a `split` step holds out.
const SETS: [&str; 2] = ["validation", "test"];

/// Refuses a folder whose files are read: what is written would replace them.
pub(super) fn apart<'a>(folder: &Path, mut read: impl Iterator<Item = &'a Path>) -> Result<(), DataError> {
    let names = ["kept", "dropped", "edits"].into_iter().chain(SETS).map(|name| format!("{name}.jsonl"));
    let written = names.chain(["report.json".to_owned()]).map(|name| folder.join(name));
    let written: Vec<PathBuf> = written.filter_map(|path| fs::canonicalize(path).ok()).collect();
    let is_written = |path: &&Path| fs::canonicalize(path).is_ok_and(|real| written.contains(&real));
    match read.find(is_written) {
        None => Ok(()),
        Some(path) => Err(DataError::Config(format!(
            "{} is read, and what is written into {} would replace it: name another folder for the output",
            path.display(),
            folder.display()
        ))),
    }
}

pub(super) struct Disk {
    folder: PathBuf,
    kept: JsonLines,
    held_out: BTreeMap<&'static str, JsonLines>,
    dropped: JsonLines,
    edits: JsonLines,
}

impl Disk {
    pub(super) fn create(folder: &Path) -> Result<Self, DataError> {
        let open = |name: &str| JsonLines::create(&folder.join(name));
        Ok(Disk {
            folder: folder.to_owned(),
            kept: open("kept.jsonl")?,
            held_out: BTreeMap::new(),
            dropped: open("dropped.jsonl")?,
            edits: open("edits.jsonl")?,
        })
    }

    /// Takes away the sets that an earlier run held out and this one does not: beside other kept rows they would be
    /// evaluated on as if they were its own. A file that no earlier run wrote stays, and that is told.
    fn remove_old_sets(&self, report: &mut Report) -> Result<(), DataError> {
        let earlier = fs::read(self.folder.join("report.json")).ok();
        let earlier: Option<Report> = earlier.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        for set in SETS.into_iter().filter(|set| !self.held_out.contains_key(set)) {
            let path = self.folder.join(format!("{set}.jsonl"));
            if !path.exists() {
                continue;
            }
            if earlier.as_ref().is_some_and(|earlier| earlier.held_out.contains_key(set)) {
                fs::remove_file(&path).map_err(DataError::io("remove", &path))?;
            } else {
                let path = path.display();
                report.warnings.push(format!("{path} is not of this run: move it away before you evaluate"));
            }
        }
        Ok(())
    }

    /// Gives all files their names, the kept rows last: where they stand, the others do too.
    pub(super) fn commit(self, report: &mut Report) -> Result<(), DataError> {
        self.remove_old_sets(report)?;
        self.dropped.commit()?;
        self.edits.commit()?;
        for file in self.held_out.into_values() {
            file.commit()?;
        }
        write::json(&self.folder.join("report.json"), report)?;
        self.kept.commit().map(|_| ())
    }
}

impl Sink for Disk {
    fn kept(&mut self, record: Record) -> Result<(), DataError> {
        self.kept.push(&record.item)
    }

    fn held_out(&mut self, set: &'static str, record: Record) -> Result<(), DataError> {
        let file = match self.held_out.entry(set) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(new) => new.insert(JsonLines::create(&self.folder.join(format!("{set}.jsonl")))?),
        };
        file.push(&record.item)
    }

    fn dropped(&mut self, dropped: Dropped) -> Result<(), DataError> {
        self.dropped.push(&dropped)
    }

    fn edit(&mut self, edit: Edit) -> Result<(), DataError> {
        self.edits.push(&edit)
    }
}

/// Hides in the audit what the recipe's `pii` steps take out of the rows.
pub(super) struct Hiding<'a> {
    inner: &'a mut dyn Sink,
    conceal: Vec<Conceal>,
}

impl<'a> Hiding<'a> {
    pub(super) fn new(inner: &'a mut dyn Sink, steps: &[Step]) -> Self {
        let of = |step: &Step| match step {
            Step::Pii(step) => step.concealment(),
            _ => None,
        };
        Hiding { inner, conceal: steps.iter().filter_map(of).collect() }
    }
}

impl Sink for Hiding<'_> {
    fn kept(&mut self, record: Record) -> Result<(), DataError> {
        self.inner.kept(record)
    }

    fn held_out(&mut self, set: &'static str, record: Record) -> Result<(), DataError> {
        self.inner.held_out(set, record)
    }

    fn dropped(&mut self, mut dropped: Dropped) -> Result<(), DataError> {
        self.conceal.iter().for_each(|c| c.dropped(&mut dropped));
        self.inner.dropped(dropped)
    }

    fn edit(&mut self, mut edit: Edit) -> Result<(), DataError> {
        self.conceal.iter().for_each(|c| c.edit(&mut edit));
        self.inner.edit(edit)
    }

    fn hide(&self, told: &mut Value) {
        self.conceal.iter().for_each(|c| c.told(told));
    }
}
