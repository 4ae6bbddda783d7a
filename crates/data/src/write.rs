//! Writing records: JSON lines, Parquet or CSV, and never half a file under its final name.
//!
//! Every writer fills a temporary file in the same folder, syncs it, and renames it when it is whole. A run that
//! is killed leaves the old file, or none.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use ferrotune_types::Message;
use polars::prelude::{
    Column, CsvWriter, DataFrame, DataType, Field, JsonFormat, JsonReader, ParquetWriter, PolarsResult,
    Schema, SerReader, SerWriter,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{DataError, Item, Record};

/// A file that takes its name only when [`Atomic::commit`] is called; dropped before, it leaves nothing.
#[derive(Debug)]
pub struct Atomic {
    file: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Atomic {
    /// Opens a temporary file beside `path`, making the folder where it is missing.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn create(path: &Path) -> Result<Self, DataError> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(DataError::io("create", folder))?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = File::create(&temporary).map_err(DataError::io("create", &temporary))?;
        Ok(Atomic {
            file: BufWriter::with_capacity(256 << 10, file),
            temporary,
            path: path.to_owned(),
            committed: false,
        })
    }

    /// Syncs the file to disk and gives it its name.
    ///
    /// # Errors
    /// [`DataError::Io`]: a full disk shows here at the latest.
    pub fn commit(mut self) -> Result<(), DataError> {
        self.file.flush().map_err(DataError::io("write", &self.path))?;
        self.file.get_ref().sync_all().map_err(DataError::io("write", &self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(DataError::io("rename to", &self.path))?;
        self.committed = true;
        Ok(())
    }
}

impl Write for Atomic {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl std::ops::Drop for Atomic {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// JSON lines, one at a time, compressed where the name ends in `.gz` or `.zst`.
pub struct JsonLines {
    out: Out,
    path: PathBuf,
    n: usize,
}

enum Out {
    Plain(Atomic),
    Gzip(flate2::write::GzEncoder<Atomic>),
    Zstd(zstd::stream::write::Encoder<'static, Atomic>),
}

impl JsonLines {
    /// Opens the file.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn create(path: &Path) -> Result<Self, DataError> {
        let file = Atomic::create(path)?;
        let out = match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => Out::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default())),
            Some("zst") => {
                Out::Zstd(zstd::stream::write::Encoder::new(file, 3).map_err(DataError::io("create", path))?)
            }
            _ => Out::Plain(file),
        };
        Ok(JsonLines { out, path: path.to_owned(), n: 0 })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::Config`] where the value has no JSON form.
    pub fn push(&mut self, value: &impl Serialize) -> Result<(), DataError> {
        let mut line = serde_json::to_vec(value).map_err(|e| DataError::Config(format!("not JSON: {e}")))?;
        line.push(b'\n');
        let written = match &mut self.out {
            Out::Plain(out) => out.write_all(&line),
            Out::Gzip(out) => out.write_all(&line),
            Out::Zstd(out) => out.write_all(&line),
        };
        self.n += 1;
        written.map_err(DataError::io("write", &self.path))
    }

    /// Gives the file its name; returns the number of lines.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn commit(self) -> Result<usize, DataError> {
        let file = match self.out {
            Out::Plain(out) => out,
            Out::Gzip(out) => out.finish().map_err(DataError::io("write", &self.path))?,
            Out::Zstd(out) => out.finish().map_err(DataError::io("write", &self.path))?,
        };
        file.commit()?;
        Ok(self.n)
    }
}

/// Writes values ([`crate::Dropped`], [`crate::Edit`], [`Item`], …) as JSON lines; returns how many.
///
/// # Errors
/// [`DataError::Io`].
pub fn jsonl<T: Serialize>(path: &Path, values: impl IntoIterator<Item = T>) -> Result<usize, DataError> {
    let mut out = JsonLines::create(path)?;
    for value in values {
        out.push(&value)?;
    }
    out.commit()
}

/// Writes a value as indented JSON.
///
/// # Errors
/// [`DataError::Io`].
pub fn json(path: &Path, value: &impl Serialize) -> Result<(), DataError> {
    let mut file = Atomic::create(path)?;
    let text = serde_json::to_vec_pretty(value).map_err(|e| DataError::Config(format!("not JSON: {e}")))?;
    file.write_all(&text).and_then(|()| file.write_all(b"\n")).map_err(DataError::io("write", path))?;
    file.commit()
}

/// Writes text.
///
/// # Errors
/// [`DataError::Io`].
pub fn text(path: &Path, text: &str) -> Result<(), DataError> {
    let mut file = Atomic::create(path)?;
    file.write_all(text.as_bytes()).map_err(DataError::io("write", path))?;
    file.commit()
}

/// Writes records in the form that the name asks for: `.jsonl` (`.gz`, `.zst`), `.json`, `.parquet` or `.csv`.
/// [`crate::read::open`] reads each of them back to equal records.
///
/// # Errors
/// [`DataError::Io`]; [`DataError::Config`] for another ending, or where a Parquet or CSV file would have to hold
/// records of several kinds.
pub fn records(path: &Path, records: &[Record]) -> Result<(), DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = name.trim_end_matches(".gz").trim_end_matches(".zst");
    let ending = plain.rsplit('.').next().unwrap_or_default();
    let is_csv = match ending {
        "jsonl" | "ndjson" => return jsonl(path, records.iter().map(|r| &r.item)).map(|_| ()),
        "json" if plain == name => return json(path, &records.iter().map(|r| &r.item).collect::<Vec<_>>()),
        "csv" if plain == name => true,
        "parquet" if plain == name => false,
        _ => {
            let reason = format!("cannot write {}: expected .jsonl, .json, .parquet or .csv", path.display());
            return Err(DataError::Config(reason));
        }
    };
    let mut file = Atomic::create(path)?;
    let written = frame(records, is_csv)?.and_then(|mut frame| {
        if is_csv {
            CsvWriter::new(&mut file).finish(&mut frame)
        } else {
            ParquetWriter::new(&mut file).finish(&mut frame).map(|_| ())
        }
    });
    written.map_err(|e| DataError::Io {
        op: "write",
        path: path.to_owned(),
        source: std::io::Error::other(e.to_string()),
    })?;
    file.commit()
}

/// The records as a table: texts and lists of `{role, content, tool_calls, extra}`, everything of free form as
/// JSON texts. A CSV holds the lists as JSON texts too.
fn frame(records: &[Record], flat: bool) -> Result<PolarsResult<DataFrame>, DataError> {
    let names: &[&str] = match records.first().map(|r| &r.item) {
        Some(Item::Chat(_)) => &["id", "messages", "tools", "meta"],
        Some(Item::Pair(_)) => &["id", "prompt", "chosen", "rejected", "meta"],
        Some(Item::Document(_)) => &["id", "text", "meta"],
        None => return Err(DataError::Config("there are no records to write".into())),
    };
    let first = std::mem::discriminant(&records[0].item);
    if records.iter().any(|r| std::mem::discriminant(&r.item) != first) {
        return Err(DataError::Config(
            "chats, pairs and documents cannot share one Parquet or CSV file".into(),
        ));
    }
    if flat {
        let cells =
            |name: &str| -> Vec<Option<String>> { records.iter().map(|r| flat_cell(r, name)).collect() };
        let columns = names.iter().map(|name| Column::new((*name).into(), cells(name))).collect();
        return Ok(DataFrame::new(records.len(), columns));
    }
    let mut rows = Vec::new();
    for record in records {
        let row = names.iter().map(|name| ((*name).to_owned(), nested_cell(record, name))).collect();
        rows.extend_from_slice(Value::Object(row).to_string().as_bytes());
        rows.push(b'\n');
    }
    let text = |name: &str| Field::new(name.into(), DataType::String);
    let turn = DataType::Struct(["role", "content", "tool_calls", "extra"].map(text).to_vec());
    let is_turns = |name: &str| matches!(name, "messages" | "prompt" | "chosen" | "rejected");
    let schema: Schema = names
        .iter()
        .map(|n| {
            if is_turns(n) {
                Field::new((*n).into(), DataType::List(Box::new(turn.clone())))
            } else {
                text(n)
            }
        })
        .collect();
    let reader = JsonReader::new(std::io::Cursor::new(rows));
    Ok(reader.with_schema(schema.into()).with_json_format(JsonFormat::JsonLines).finish())
}

/// Free-form values as a JSON text; nothing where there is nothing.
fn json_text(value: &Value) -> Value {
    let is_empty =
        value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    if is_empty { Value::Null } else { Value::String(value.to_string()) }
}

fn nested_cell(record: &Record, name: &str) -> Value {
    let turns = |messages: &[Message]| -> Value {
        let turn = |m: &Message| {
            json!({
                "role": m.role, "content": m.content,
                "tool_calls": json_text(&json!(m.tool_calls)), "extra": json_text(&json!(m.extra)),
            })
        };
        messages.iter().map(turn).collect()
    };
    match (&record.item, name) {
        (_, "id") => json!(record.id()),
        (_, "meta") => json_text(&json!(record.meta())),
        (Item::Chat(c), "messages") => turns(&c.messages),
        (Item::Chat(c), _) => json_text(&json!(c.tools)),
        (Item::Pair(p), "prompt") => turns(&p.prompt),
        (Item::Pair(p), "chosen") => turns(&p.chosen),
        (Item::Pair(p), _) => turns(&p.rejected),
        (Item::Document(d), _) => json!(d.text),
    }
}

fn flat_cell(record: &Record, name: &str) -> Option<String> {
    let cell = match (&record.item, name) {
        (Item::Chat(c), "messages") => json!(c.messages),
        (Item::Pair(p), "prompt") => json!(p.prompt),
        (Item::Pair(p), "chosen") => json!(p.chosen),
        (Item::Pair(p), "rejected") => json!(p.rejected),
        _ => nested_cell(record, name),
    };
    match cell {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}
