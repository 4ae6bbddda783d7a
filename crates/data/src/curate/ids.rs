//! Ids: unique in a run, and without personal data where a step takes that out.

use std::collections::HashSet;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::report::Report;
use super::sink::Sink;
use super::step::Step;
use crate::{DataError, Edit, Item, Origin, Record};

/// Ids of a run, held as 64-bit hashes: a collision only renames a row that need not be.
#[derive(Default)]
pub(super) struct Ids {
    seen: HashSet<u64>,
    /// Ids of the rows at hand that gave way because they show personal data.
    pub(super) hidden: HashSet<String>,
}

impl Ids {
    /// Whether the id is new.
    pub(super) fn take(&mut self, id: &str) -> bool {
        self.seen.insert(xxh3_64(id.as_bytes()))
    }

    /// Two files may use the same ids: the later row's is told apart by its file's name.
    pub(super) fn make_unique(&mut self, record: &mut Record, input: &Path, edits: &mut Vec<Edit>) {
        if self.take(record.id()) {
            return;
        }
        let before = record.id().to_owned();
        let name = super::file_name(input);
        let stem = name.split('.').next().unwrap_or_default();
        let mut id = format!("{stem}:{before}");
        let mut n = 2;
        while !self.take(&id) {
            id = format!("{stem}:{before}~{n}");
            n += 1;
        }
        edits.push(Edit {
            id: id.clone(),
            step: "read".to_owned(),
            field: "id".to_owned(),
            start: 0,
            end: before.chars().count(),
            before,
            after: id.clone(),
        });
        *id_mut(record) = id;
    }

    /// Puts the file and line of its row in the place of an id in which a `pii` step finds something.
    pub(super) fn hide(&mut self, id: &mut String, origin: &Origin, steps: &[Step]) -> Option<Edit> {
        let before = steps.iter().find_map(|step| match step {
            Step::Pii(step) => step.told_of_id(id),
            _ => None,
        })?;
        let stem = origin.file.split('.').next().filter(|stem| !stem.is_empty()).unwrap_or("row");
        let mut fresh = format!("{stem}-{}", origin.line);
        let mut n = 2;
        while !self.take(&fresh) {
            fresh = format!("{stem}-{}~{n}", origin.line);
            n += 1;
        }
        let old = std::mem::replace(id, fresh.clone());
        let end = old.chars().count();
        self.hidden.insert(old);
        let (step, field) = ("pii".to_owned(), "id".to_owned());
        Some(Edit { id: fresh.clone(), step, field, start: 0, end, before, after: fresh })
    }
}

/// Tells and counts an id that gave way, as a change of the first `pii` step.
pub(super) fn told_id(
    edit: Edit,
    steps: &[Step],
    sink: &mut dyn Sink,
    report: &mut Report,
) -> Result<(), DataError> {
    report.count_edit(steps.iter().position(|step| matches!(step, Step::Pii(_))), &edit.step);
    sink.edit(edit)
}

pub(super) fn id_mut(record: &mut Record) -> &mut String {
    match &mut record.item {
        Item::Chat(c) => &mut c.id,
        Item::Pair(p) => &mut p.id,
        Item::Document(d) => &mut d.id,
    }
}
