//! Parquet, by polars: one row group in memory at a time.

use std::fmt::Display;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use polars::prelude::{DataFrame, DataType, JsonWriter, ParquetReader, PolarsResult, SerReader, SerWriter};
use serde_json::Value;

use super::Raw;
use crate::DataError;

/// The rows of every row group, nested columns as JSON. The line is the row's number, counted from 1.
pub(super) fn rows(path: &Path) -> Result<Rows, DataError> {
    let groups = guarded(path, || {
        let mut reader = ParquetReader::new(File::open(path)?);
        let groups = &reader.get_metadata()?.row_groups;
        // The type of a group cannot be named here.
        Ok(groups
            .iter()
            .map(|group| {
                let n: usize = group.num_rows();
                n
            })
            .collect())
    })?;
    let (columns, left_out) = readable(path)?;
    let loaded = Vec::new().into_iter();
    Ok(Rows { path: path.to_owned(), groups, columns, left_out, next_group: 0, n_read: 0, loaded })
}

/// The columns that polars can read and write as JSON, where those are not all, and the others.
fn readable(path: &Path) -> Result<(Option<Vec<String>>, Vec<String>), DataError> {
    let first_row = |columns: Option<Vec<String>>| {
        guarded(path, || {
            let reader = ParquetReader::new(File::open(path)?).with_columns(columns).with_slice(Some((0, 1)));
            to_json(&reader.finish()?)
        })
    };
    // Polars would panic over decimals, and be heard.
    let columns: Vec<(String, bool)> = guarded(path, || {
        let schema = ParquetReader::new(File::open(path)?).schema()?;
        let is_decimal = |dtype: String| dtype.starts_with("Decimal");
        Ok(schema
            .iter()
            .map(|(name, field)| (name.to_string(), is_decimal(format!("{:?}", field.dtype()))))
            .collect())
    })?;
    let (names, decimals): (Vec<_>, Vec<_>) = columns.into_iter().partition(|(_, is_decimal)| !is_decimal);
    let names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
    let mut left_out: Vec<String> = decimals.into_iter().map(|(name, _)| name).collect();
    let wanted = (!left_out.is_empty()).then(|| names.clone());
    let Err(error) = first_row(wanted.clone()) else { return Ok((wanted, left_out)) };
    let (good, bad): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| first_row(Some(vec![name.clone()])).is_ok());
    left_out.extend(bad);
    if good.is_empty() { Err(error) } else { Ok((Some(good), left_out)) }
}

pub(super) struct Rows {
    path: PathBuf,
    /// Rows of each row group.
    groups: Vec<usize>,
    /// What to read; all columns if unset.
    columns: Option<Vec<String>>,
    /// Columns of types that cannot be read here (decimals, durations).
    pub(super) left_out: Vec<String>,
    next_group: usize,
    n_read: usize,
    loaded: std::vec::IntoIter<Value>,
}

impl Rows {
    /// Reads the next row group; false after the last.
    fn load(&mut self) -> Result<bool, DataError> {
        let Some(&len) = self.groups.get(self.next_group) else { return Ok(false) };
        let start: usize = self.groups[..self.next_group].iter().sum();
        self.next_group += 1;
        let json = guarded(&self.path, || {
            let file = File::open(&self.path)?;
            let reader = ParquetReader::new(file).with_columns(self.columns.clone());
            to_json(&reader.with_slice(Some((start, len))).finish()?)
        })?;
        let rows = serde_json::Deserializer::from_slice(&json).into_iter().collect::<Result<Vec<Value>, _>>();
        self.loaded = rows.map_err(|e| format_error(&self.path, e))?.into_iter();
        Ok(true)
    }
}

impl Iterator for Rows {
    type Item = Result<Raw, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.loaded.next() {
                self.n_read += 1;
                return Some(Ok(Raw::value(self.n_read, row)));
            }
            match self.load() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.next_group = self.groups.len();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// One JSON object a row. Columns of bytes (pictures) are left out: nothing here reads them.
fn to_json(frame: &DataFrame) -> PolarsResult<Vec<u8>> {
    let named: Vec<String> = frame
        .columns()
        .iter()
        .filter(|c| !matches!(c.dtype(), DataType::Binary | DataType::BinaryOffset | DataType::Null))
        .map(|c| c.name().to_string())
        .collect();
    let mut frame = frame.select(named)?;
    let mut json = Vec::new();
    JsonWriter::new(&mut json).finish(&mut frame)?;
    Ok(json)
}

/// Runs polars on a file. It panics on some damaged files and on column types it cannot write as JSON; for the
/// caller that is a bad file like any other.
fn guarded<T>(path: &Path, f: impl FnOnce() -> PolarsResult<T>) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| format_error(path, e)),
        Err(_) => Err(format_error(path, "the file is damaged or has a column of an unsupported type")),
    }
}

fn format_error(path: &Path, error: impl Display) -> DataError {
    DataError::Format { path: path.to_owned(), line: None, reason: format!("as Parquet: {error}") }
}
