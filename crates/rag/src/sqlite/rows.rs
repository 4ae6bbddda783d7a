//! Reading and writing of chunks; a write is part of its caller's transaction.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::{ToSqlOutput, Value as SqlValue};
use rusqlite::{Connection, OptionalExtension, Row, ToSql};

use crate::filter::meta_rows;
use crate::{Analyzer, Chunk, Filter, MetaValue};

const COLUMNS: &str = "row, id, doc_id, start, end, heading, text, fingerprint, meta";

pub(super) fn upsert(
    tx: &Connection,
    analyzer: &Analyzer,
    chunks: &[Chunk],
    vectors: &[Vec<f32>],
) -> rusqlite::Result<()> {
    // Of an id that comes twice, the last wins, as if they had come one after the other.
    let last: BTreeMap<&str, usize> = chunks.iter().enumerate().map(|(i, c)| (c.id.as_str(), i)).collect();
    let mut postings: Vec<(i64, i64, u32)> = Vec::new();
    for (i, chunk) in chunks.iter().enumerate().filter(|(i, c)| last.get(c.id.as_str()) == Some(i)) {
        if let Some(row) = row_of(tx, &chunk.id)? {
            remove(tx, analyzer, row)?;
        }
        let terms = analyzer.terms(&chunk.search_text());
        let row = insert_chunk(tx, chunk, terms.len())?;
        for (key, value) in meta_rows(chunk) {
            tx.prepare_cached("INSERT INTO meta VALUES (?, ?, ?, ?)")?.execute((
                key,
                kind_of(&value),
                &value,
                row,
            ))?;
        }
        if let Some(vector) = vectors.get(i) {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            tx.prepare_cached("INSERT INTO vectors VALUES (?, ?)")?.execute((row, bytes))?;
        }
        for (term, tf) in counted(&terms) {
            postings.push((term_id(tx, term)?, row, tf));
        }
    }
    // In the table's own order, so that pages are written once and not in the order of words.
    postings.sort_unstable();
    let mut insert = tx.prepare("INSERT INTO postings VALUES (?, ?, ?)")?;
    for posting in postings {
        insert.execute(posting)?;
    }
    Ok(())
}

pub(super) fn delete(tx: &Connection, analyzer: &Analyzer, filter: &Filter) -> rusqlite::Result<usize> {
    let rows = passing(tx, filter)?;
    for &row in &rows {
        remove(tx, analyzer, row)?;
    }
    Ok(rows.len())
}

/// Removes every trace of a chunk. Its postings are found by reading its terms again, which spares an index.
fn remove(tx: &Connection, analyzer: &Analyzer, row: i64) -> rusqlite::Result<()> {
    let Some(chunk) = by_row(tx, row)? else { return Ok(()) };
    let terms: BTreeSet<String> = analyzer.terms(&chunk.search_text()).into_iter().collect();
    for term in terms {
        tx.prepare_cached(
            "DELETE FROM postings WHERE term = (SELECT term FROM terms WHERE text = ?) AND chunk = ?",
        )?
        .execute((term, row))?;
    }
    for (key, value) in meta_rows(&chunk) {
        tx.prepare_cached("DELETE FROM meta WHERE key = ? AND kind = ? AND value = ? AND chunk = ?")?
            .execute((key, kind_of(&value), &value, row))?;
    }
    tx.prepare_cached("DELETE FROM vectors WHERE chunk = ?")?.execute([row])?;
    tx.prepare_cached("DELETE FROM chunks WHERE row = ?")?.execute([row])?;
    Ok(())
}

fn insert_chunk(tx: &Connection, chunk: &Chunk, n_terms: usize) -> rusqlite::Result<i64> {
    tx.prepare_cached(
        "INSERT INTO chunks(id, doc_id, start, end, heading, text, fingerprint, meta, n_terms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .insert((
        &chunk.id,
        &chunk.doc_id,
        chunk.start as i64,
        chunk.end as i64,
        &chunk.heading,
        &chunk.text,
        &chunk.fingerprint,
        serde_json::Value::Object(chunk.meta.clone()).to_string(),
        n_terms as i64,
    ))
}

fn term_id(tx: &Connection, term: &str) -> rusqlite::Result<i64> {
    let known = tx
        .prepare_cached("SELECT term FROM terms WHERE text = ?")?
        .query_row([term], |row| row.get(0))
        .optional()?;
    match known {
        Some(id) => Ok(id),
        None => tx.prepare_cached("INSERT INTO terms(text) VALUES (?)")?.insert([term]),
    }
}

/// Each distinct term with its count, in the order of terms.
fn counted(terms: &[String]) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for term in terms {
        *counts.entry(term.as_str()).or_insert(0) += 1;
    }
    counts
}

pub(super) fn by_id(connection: &Connection, id: &str) -> rusqlite::Result<Option<Chunk>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM chunks WHERE id = ?"))?
        .query_row([id], read_chunk)
        .optional()
}

pub(super) fn by_row(connection: &Connection, row: i64) -> rusqlite::Result<Option<Chunk>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM chunks WHERE row = ?"))?
        .query_row([row], read_chunk)
        .optional()
}

fn row_of(connection: &Connection, id: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT row FROM chunks WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()
}

fn read_chunk(row: &Row<'_>) -> rusqlite::Result<Chunk> {
    let meta: String = row.get(8)?;
    let meta = serde_json::from_str(&meta).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(8, rusqlite::types::Type::Text, Box::new(e))
    })?;
    Ok(Chunk {
        id: row.get(1)?,
        doc_id: row.get(2)?,
        start: row.get::<_, i64>(3)? as usize,
        end: row.get::<_, i64>(4)? as usize,
        heading: row.get(5)?,
        text: row.get(6)?,
        fingerprint: row.get(7)?,
        meta,
    })
}

pub(super) fn documents(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    connection
        .prepare_cached("SELECT DISTINCT doc_id, fingerprint FROM chunks ORDER BY doc_id, fingerprint")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// The documents of chunks without a vector, in the order of ids.
pub(super) fn without_vectors(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT DISTINCT doc_id FROM chunks WHERE row NOT IN (SELECT chunk FROM vectors) ORDER BY doc_id",
        )?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// The rows of the chunks that pass a filter, ascending.
pub(super) fn passing(connection: &Connection, filter: &Filter) -> rusqlite::Result<BTreeSet<i64>> {
    let all = || rows(connection, "SELECT row FROM chunks", &[]);
    Ok(match filter {
        Filter::Eq { key, value } => equal(connection, key, value)?,
        Filter::In { key, values } => {
            let mut found = BTreeSet::new();
            for value in values {
                found.append(&mut equal(connection, key, value)?);
            }
            found
        }
        Filter::Range { key, min, max } => range(connection, key, min.as_ref(), max.as_ref())?,
        Filter::And(parts) => {
            let mut found: Option<BTreeSet<i64>> = None;
            for part in parts {
                let next = passing(connection, part)?;
                found = Some(match found {
                    None => next,
                    Some(held) => held.intersection(&next).copied().collect(),
                });
            }
            match found {
                Some(found) => found,
                None => all()?,
            }
        }
        Filter::Or(parts) => {
            let mut found = BTreeSet::new();
            for part in parts {
                found.append(&mut passing(connection, part)?);
            }
            found
        }
        Filter::Not(part) => {
            let left_out = passing(connection, part)?;
            all()?.difference(&left_out).copied().collect()
        }
    })
}

fn equal(connection: &Connection, key: &str, value: &MetaValue) -> rusqlite::Result<BTreeSet<i64>> {
    let sql = "SELECT chunk FROM meta WHERE key = ?1 AND kind = ?2 AND value = ?3";
    rows(connection, sql, &[&key, &kind_of(value), value])
}

fn range(
    connection: &Connection,
    key: &str,
    min: Option<&MetaValue>,
    max: Option<&MetaValue>,
) -> rusqlite::Result<BTreeSet<i64>> {
    match (min, max) {
        (None, None) => rows(connection, "SELECT chunk FROM meta WHERE key = ?1", &[&key]),
        (Some(min), None) => {
            let sql = "SELECT chunk FROM meta WHERE key = ?1 AND kind = ?2 AND value >= ?3";
            rows(connection, sql, &[&key, &kind_of(min), min])
        }
        (None, Some(max)) => {
            let sql = "SELECT chunk FROM meta WHERE key = ?1 AND kind = ?2 AND value <= ?3";
            rows(connection, sql, &[&key, &kind_of(max), max])
        }
        // Bounds of two kinds have nothing between them.
        (Some(min), Some(max)) if kind_of(min) != kind_of(max) => Ok(BTreeSet::new()),
        (Some(min), Some(max)) => {
            let sql = "SELECT chunk FROM meta WHERE key = ?1 AND kind = ?2 AND value >= ?3 AND value <= ?4";
            rows(connection, sql, &[&key, &kind_of(min), min, max])
        }
    }
}

fn rows(connection: &Connection, sql: &str, params: &[&dyn ToSql]) -> rusqlite::Result<BTreeSet<i64>> {
    connection.prepare_cached(sql)?.query_map(params, |row| row.get(0))?.collect()
}

/// Keeps kinds apart, because SQLite would order every number before every text.
fn kind_of(value: &MetaValue) -> i64 {
    match value {
        MetaValue::Bool(_) => 0,
        MetaValue::Number(_) => 1,
        MetaValue::Text(_) => 2,
    }
}

impl ToSql for MetaValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            MetaValue::Bool(flag) => ToSqlOutput::from(*flag),
            MetaValue::Number(number) => ToSqlOutput::Owned(SqlValue::Real(*number)),
            MetaValue::Text(text) => ToSqlOutput::from(text.as_str()),
        })
    }
}
