//! Ids: kept from the row, else made from the file's name and the line; always unique within a file.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::Columns;
use super::shape::column;
use crate::Edit;

/// The id that a row gives itself: a text or a number under `id`.
pub(super) fn given(row: &Map<String, Value>, columns: &Columns) -> Option<String> {
    let key = column(row, columns.id.as_deref(), &["id", "ticket_id", "row_id", "uuid"])?;
    match row.get(key)? {
        Value::String(id) if !id.trim().is_empty() => Some(id.trim().to_owned()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// The ids given so far, held as 64-bit hashes: a collision only renames a row that need not be.
pub(super) struct Ids {
    stem: String,
    seen: HashSet<u64>,
}

impl Ids {
    pub(super) fn new(file: &str) -> Self {
        let stem = file.split('.').next().filter(|s| !s.is_empty()).unwrap_or(file);
        Ids { stem: stem.to_owned(), seen: HashSet::new() }
    }

    /// `given` or `<stem>-<line>`; where that is taken, `<id>~<line>`.
    pub(super) fn unique(&mut self, given: Option<String>, line: usize, renamed: &mut Vec<Edit>) -> String {
        let wanted = given.unwrap_or_else(|| format!("{}-{line}", self.stem));
        if self.take(&wanted) {
            return wanted;
        }
        // The line goes in first, so that a file of equal ids does not count up from 2 for each row.
        let mut id = format!("{wanted}~{line}");
        let mut n = 2;
        while !self.take(&id) {
            id = format!("{wanted}~{line}~{n}");
            n += 1;
        }
        renamed.push(Edit {
            id: id.clone(),
            step: "read".to_owned(),
            field: "id".to_owned(),
            start: 0,
            end: wanted.chars().count(),
            before: wanted,
            after: id.clone(),
        });
        id
    }

    fn take(&mut self, id: &str) -> bool {
        self.seen.insert(xxhash_rust::xxh3::xxh3_64(id.as_bytes()))
    }
}
