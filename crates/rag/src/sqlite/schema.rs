use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::failed;
use crate::{EmbedderId, Language, RagError};

/// `PRAGMA application_id` of our files: "FtRG".
const APPLICATION_ID: i64 = 0x4674_5247;

/// Raised whenever the tables, or how a text becomes terms, change.
const FORMAT: i64 = 1;

/// `postings` and `meta` lie in the order in which searches read them: a term's chunks together, a column's
/// values together.
const TABLES: &str = "
CREATE TABLE about(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE chunks(
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, doc_id TEXT NOT NULL, start INTEGER NOT NULL,
    end INTEGER NOT NULL, heading TEXT NOT NULL, text TEXT NOT NULL, fingerprint TEXT NOT NULL,
    meta TEXT NOT NULL, n_terms INTEGER NOT NULL);
CREATE INDEX chunks_doc ON chunks(doc_id, fingerprint);
CREATE TABLE terms(term INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE postings(
    term INTEGER NOT NULL, chunk INTEGER NOT NULL, tf INTEGER NOT NULL, PRIMARY KEY(term, chunk)
) WITHOUT ROWID;
CREATE TABLE meta(
    key TEXT NOT NULL, kind INTEGER NOT NULL, value NOT NULL, chunk INTEGER NOT NULL,
    PRIMARY KEY(key, kind, value, chunk)
) WITHOUT ROWID;
CREATE TABLE vectors(chunk INTEGER PRIMARY KEY, vector BLOB NOT NULL);
";

/// How long a write waits for those of other processes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks that the file is an index of ours, or makes it one where `create` names a language and the file is
/// empty. Returns the index's language.
pub(super) fn prepare(
    connection: &mut Connection,
    path: &Path,
    create: Option<Language>,
) -> Result<Language, RagError> {
    let sqlite = |source| failed("cannot open", path, source);
    let not_ours = |reason: String| RagError::NotAnIndex { path: path.to_owned(), reason };
    connection.busy_timeout(PATIENCE).map_err(sqlite)?;
    if is_empty(connection).map_err(sqlite)? {
        match create {
            Some(language) => make(connection, language).map_err(sqlite)?,
            None => return Err(not_ours("it is empty: delete it and index again".to_owned())),
        }
    }
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(sqlite);
    if pragma("application_id")? != APPLICATION_ID {
        return Err(not_ours("it is an SQLite file of another program".to_owned()));
    }
    match pragma("user_version")? {
        FORMAT => {}
        other => {
            return Err(not_ours(format!(
                "its format is {other}, this version reads {FORMAT}: make it anew"
            )));
        }
    }
    let name = about(connection, "language").map_err(sqlite)?.unwrap_or_default();
    let language: Language = serde_json::from_value(name.clone().into())
        .map_err(|_| not_ours(format!("it has the unknown language '{name}'")))?;
    match create {
        Some(asked) if asked != language => Err(RagError::Config {
            setting: "language",
            reason: format!("the index has {language:?}, {asked:?} was asked for"),
        }),
        _ => Ok(language),
    }
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).map(|n| n == 0)
}

/// Makes the tables, unless another process has just done so. Killed half-way, the file is still empty and the next
/// run makes it anew.
fn make(connection: &mut Connection, language: Language) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if is_empty(&tx)? {
        let name = name_of(language);
        tx.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};
             {TABLES} INSERT INTO about VALUES ('language', '{name}');"
        ))?;
    }
    tx.commit()
}

/// The model whose vectors the index holds.
pub(super) fn embedder(connection: &Connection) -> rusqlite::Result<Option<EmbedderId>> {
    let Some(name) = about(connection, "embedder")? else { return Ok(None) };
    let dim = about(connection, "dim")?.and_then(|dim| dim.parse().ok()).unwrap_or(0);
    Ok(Some(EmbedderId { name, dim }))
}

/// Notes the model; part of the caller's transaction.
pub(super) fn set_embedder(connection: &Connection, id: &EmbedderId) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO about VALUES (?, ?)")?;
    insert.execute(("embedder", &id.name))?;
    insert.execute(("dim", id.dim.to_string()))?;
    Ok(())
}

fn about(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM about WHERE key = ?", [key], |row| row.get(0)).optional()
}

fn name_of(language: Language) -> String {
    serde_json::to_value(language).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
