//! Ids: kept from the row, else made from the file's name and the line; always unique within a file.

use serde_json::{Map, Value};

use super::Columns;
use super::shape::column;
use crate::Edit;
use crate::record::TakenIds;

/// The id that a row gives itself: a text or a number under `id`.
pub(super) fn given(row: &Map<String, Value>, columns: &Columns) -> Option<String> {
    let key = column(row, columns.id.as_deref(), &["id", "ticket_id", "row_id", "uuid"])?;
    match row.get(key)? {
        Value::String(id) if !id.trim().is_empty() => Some(id.trim().to_owned()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// The ids given so far.
pub(super) struct Ids {
    stem: String,
    taken: TakenIds,
}

impl Ids {
    pub(super) fn new(file: &str) -> Self {
        let stem = file.split('.').next().filter(|s| !s.is_empty()).unwrap_or(file);
        Ids { stem: stem.to_owned(), taken: TakenIds::default() }
    }

    /// `given` or `<stem>-<line>`; where that is taken, `<id>~<line>`.
    pub(super) fn unique(&mut self, given: Option<String>, line: usize, renamed: &mut Vec<Edit>) -> String {
        let wanted = given.unwrap_or_else(|| format!("{}-{line}", self.stem));
        if self.taken.take(&wanted) {
            return wanted;
        }
        // The line goes in first, so that a file of equal ids does not count up from 2 for each row.
        let id = self.taken.fresh(&format!("{wanted}~{line}"));
        renamed.push(Edit::of_id("read", wanted, &id));
        id
    }
}
