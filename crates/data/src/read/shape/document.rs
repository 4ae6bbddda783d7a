//! Rows that are a plain text.

use ferrotune_types::Document;

use super::{Columns, Row, column, missing, plain_document, take_text};
use crate::Drop;

/// The row's own name of the column that holds the text.
pub(super) fn column_of<'a>(row: &'a Row, columns: &Columns) -> Option<&'a str> {
    let key = column(row, columns.text.as_deref(), &["text", "content", "document", "body", "raw_content"])?;
    row.get(key).is_some_and(|v| v.is_string() || v.is_null()).then_some(key)
}

pub(super) fn map(id: String, mut row: Row, columns: &Columns) -> Result<Document, Drop> {
    let key = column_of(&row, columns).ok_or_else(|| missing(&row, "text"))?.to_owned();
    let text = take_text(&mut row, &key)?;
    Ok(plain_document(id, text, row))
}
