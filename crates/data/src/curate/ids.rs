//! Ids: unique in a run, and without personal data where a step takes that out.

use std::collections::HashSet;
use std::path::Path;

use super::report::Report;
use super::sink::Sink;
use super::step::Step;
use crate::record::TakenIds;
use crate::{DataError, Edit, Item, Origin, Record};

/// Ids of a run.
#[derive(Default)]
pub(super) struct Ids {
    taken: TakenIds,
    /// Ids of the rows at hand that gave way because they show personal data.
    pub(super) hidden: HashSet<String>,
}

impl Ids {
    /// Takes an id that a later row shall not have.
    pub(super) fn take(&mut self, id: &str) -> bool {
        self.taken.take(id)
    }

    /// Two files may use the same ids: the later row's is told apart by its file's name.
    pub(super) fn make_unique(&mut self, record: &mut Record, input: &Path, edits: &mut Vec<Edit>) {
        if self.take(record.id()) {
            return;
        }
        let before = record.id().to_owned();
        let name = super::file_name(input);
        let stem = name.split('.').next().unwrap_or_default();
        let id = self.taken.fresh(&format!("{stem}:{before}"));
        edits.push(Edit::of_id("read", before, &id));
        *id_mut(record) = id;
    }

    /// Puts the file and line of its row in the place of an id in which a `pii` step finds something.
    pub(super) fn hide(&mut self, id: &mut String, origin: &Origin, steps: &[Step]) -> Option<Edit> {
        let before = steps.iter().find_map(|step| match step {
            Step::Pii(step) => step.told_of_id(id),
            _ => None,
        })?;
        let stem = origin.file.split('.').next().filter(|stem| !stem.is_empty()).unwrap_or("row");
        let fresh = self.taken.fresh(&format!("{stem}-{}", origin.line));
        let old = std::mem::replace(id, fresh.clone());
        let end = old.chars().count();
        self.hidden.insert(old);
        // What is told of the id conceals it; the end is the id's own.
        Some(Edit { end, ..Edit::of_id("pii", before, &fresh) })
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
