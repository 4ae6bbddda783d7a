//! Rows of an SQL query on a PostgreSQL server.

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use postgres::{Client, NoTls};

use super::{Raw, RawRows};
use crate::DataError;

/// Rows fetched at a time.
const FETCH: usize = 1000;

/// Runs the query through a cursor inside a read-only transaction. The server turns each row into JSON, so that
/// every column type arrives as PostgreSQL itself writes it. The line is the row's number, counted from 1.
pub(super) fn rows(url: &str, query: &str) -> Result<RawRows, DataError> {
    let mut client = Client::connect(url, NoTls).map_err(|e| error(&e))?;
    let query = query.trim().trim_end_matches(';');
    let declare = format!(
        "BEGIN READ ONLY; DECLARE ferrotune NO SCROLL CURSOR FOR SELECT row_to_json(q)::text FROM ({query}) AS q"
    );
    // A bad query is told now, not with the first row.
    client.batch_execute(&declare).map_err(|e| error(&e))?;
    let (send, receive) = sync_channel(256);
    thread::spawn(move || {
        if let Err(e) = each_row(&mut client, &send) {
            // The reader may be gone: then nobody wants the error either.
            let _ = send.send(Err(error(&e)));
        }
    });
    Ok(Box::new(receive.into_iter()))
}

fn each_row(client: &mut Client, send: &SyncSender<Result<Raw, DataError>>) -> Result<(), postgres::Error> {
    let mut line = 0;
    loop {
        let rows = client.query(&format!("FETCH {FETCH} FROM ferrotune"), &[])?;
        let is_last = rows.len() < FETCH;
        for row in rows {
            line += 1;
            let json: String = row.try_get(0)?;
            let raw = match serde_json::from_str(&json) {
                Ok(value) => Raw::value(line, value),
                Err(e) => Raw::refused(line, "malformed_json", e.to_string(), json.as_bytes()),
            };
            if send.send(Ok(raw)).is_err() {
                return Ok(());
            }
        }
        if is_last {
            return client.batch_execute("COMMIT");
        }
    }
}

/// The server's own words, which `Display` of the client's error leaves out.
fn error(e: &postgres::Error) -> DataError {
    let words = e.as_db_error().map_or_else(|| e.to_string(), |db| format!("{e}: {}", db.message()));
    DataError::Format { path: PathBuf::from("postgres"), line: None, reason: words }
}
