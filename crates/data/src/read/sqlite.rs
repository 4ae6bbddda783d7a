//! Rows of an SQL query on an SQLite file.

use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Number, Value};

use super::{Raw, RawRows};
use crate::DataError;

/// Runs the query on a thread of its own (its cursor cannot leave the stack it stands on) and hands rows over a
/// bounded channel. The line is the row's number, counted from 1.
pub(super) fn rows(path: &Path, query: &str) -> Result<RawRows, DataError> {
    let error = {
        let path = path.to_owned();
        move |e: rusqlite::Error| DataError::Format {
            path: path.clone(),
            line: None,
            reason: format!("SQLite: {e}"),
        }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&error)?;
    // A bad query is told now, not with the first row.
    connection.prepare(query).map_err(&error)?;
    let query = query.to_owned();
    let (send, receive) = sync_channel(256);
    thread::spawn(move || {
        if let Err(e) = each_row(&connection, &query, &send) {
            // The reader may be gone: then nobody wants the error either.
            let _ = send.send(Err(error(e)));
        }
    });
    Ok(Box::new(receive.into_iter()))
}

fn each_row(
    connection: &Connection,
    query: &str,
    send: &SyncSender<Result<Raw, DataError>>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(query)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([])?;
    let mut line = 0;
    while let Some(row) = rows.next()? {
        line += 1;
        let mut columns = Map::new();
        let mut refused = None;
        for (i, name) in names.iter().enumerate() {
            let value = match row.get_ref(i)? {
                ValueRef::Null | ValueRef::Blob(_) => Value::Null,
                ValueRef::Integer(n) => Value::Number(n.into()),
                ValueRef::Real(x) => Number::from_f64(x).map_or(Value::Null, Value::Number),
                ValueRef::Text(bytes) => {
                    let Ok(text) = std::str::from_utf8(bytes) else {
                        refused = Some(Raw::refused(line, "not_utf8", format!("column `{name}`"), bytes));
                        break;
                    };
                    Value::String(text.to_owned())
                }
            };
            columns.insert(name.clone(), value);
        }
        let raw = refused.unwrap_or_else(|| Raw::value(line, Value::Object(columns)));
        if send.send(Ok(raw)).is_err() {
            break;
        }
    }
    Ok(())
}
