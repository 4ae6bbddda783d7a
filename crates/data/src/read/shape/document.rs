//! Rows that are a plain text.

use ferrotune_types::Document;

use super::{Columns, Row, column, kind, missing, plain_document, take_text};
use crate::Drop;

/// The row's own name of the column that holds the text.
pub(super) fn column_of<'a>(row: &'a Row, columns: &Columns) -> Option<&'a str> {
    let key = any_column_of(row, columns)?;
    row.get(key).is_some_and(|v| v.is_string() || v.is_null()).then_some(key)
}

fn any_column_of<'a>(row: &'a Row, columns: &Columns) -> Option<&'a str> {
    column(
        row,
        columns.text.as_deref(),
        &[
            "text",
            "content",
            "document",
            "body",
            "raw_content",
            "contents",
            "page_content",
            "article",
            "passage",
        ],
    )
}

pub(super) fn map(id: String, mut row: Row, columns: &Columns) -> Result<Document, Drop> {
    let wanted = columns.text.as_deref().unwrap_or("text");
    let key = any_column_of(&row, columns).ok_or_else(|| missing(&row, wanted))?.to_owned();
    // A number is a text only where its column was named.
    if let Some(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) = row.get(&key)
        && columns.text.is_none()
    {
        return Err(Drop::new("bad_value", format!("`{key}` must be a text, it is {}", kind(value))));
    }
    let text = take_text(&mut row, &key)?;
    Ok(plain_document(id, text, row))
}
