//! Where rows go: into memory or onto disk, the audit without the personal data that a step takes out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

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

    /// Gives all files their names, the kept rows last: where they stand, the others do too.
    pub(super) fn commit(self, report: &Report) -> Result<(), DataError> {
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
}
