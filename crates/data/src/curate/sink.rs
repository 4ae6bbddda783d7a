//! Where rows go: into memory or onto disk.

use std::path::{Path, PathBuf};

use super::report::Report;
use crate::write::{self, JsonLines};
use crate::{DataError, Dropped, Edit, Record};

pub(super) trait Sink {
    fn kept(&mut self, record: Record) -> Result<(), DataError>;
    fn dropped(&mut self, dropped: Dropped) -> Result<(), DataError>;
    fn edit(&mut self, edit: Edit) -> Result<(), DataError>;
}

#[derive(Default)]
pub(super) struct Memory {
    pub(super) kept: Vec<Record>,
    pub(super) dropped: Vec<Dropped>,
    pub(super) edits: Vec<Edit>,
}

impl Sink for Memory {
    fn kept(&mut self, record: Record) -> Result<(), DataError> {
        self.kept.push(record);
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
    dropped: JsonLines,
    edits: JsonLines,
}

impl Disk {
    pub(super) fn create(folder: &Path) -> Result<Self, DataError> {
        let open = |name: &str| JsonLines::create(&folder.join(name));
        Ok(Disk {
            folder: folder.to_owned(),
            kept: open("kept.jsonl")?,
            dropped: open("dropped.jsonl")?,
            edits: open("edits.jsonl")?,
        })
    }

    /// Gives all files their names, the kept rows last: where they stand, the others do too.
    pub(super) fn commit(self, report: &Report) -> Result<(), DataError> {
        self.dropped.commit()?;
        self.edits.commit()?;
        write::json(&self.folder.join("report.json"), report)?;
        self.kept.commit().map(|_| ())
    }
}

impl Sink for Disk {
    fn kept(&mut self, record: Record) -> Result<(), DataError> {
        self.kept.push(&record.item)
    }

    fn dropped(&mut self, dropped: Dropped) -> Result<(), DataError> {
        self.dropped.push(&dropped)
    }

    fn edit(&mut self, edit: Edit) -> Result<(), DataError> {
        self.edits.push(&edit)
    }
}
