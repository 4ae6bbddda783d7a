//! Parquet, by polars: one row group in memory at a time.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use polars::prelude::{
    ArrowDataType, ArrowField, Column, DataFrame, DataType, JsonWriter, ParquetReader, PolarsResult,
    SerReader, SerWriter, TimeZone,
};
use serde_json::Value;

use super::{Raw, Refused};
use crate::{DataError, Drop};

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
    Ok(Rows { path: path.to_owned(), groups, columns, left_out, next_group: 0, loaded })
}

/// The columns that polars can read and write as JSON, where those are not all, and the others. Columns of bytes are
/// read where they hold UTF-8: some programs write their texts so.
fn readable(path: &Path) -> Result<(Option<Vec<String>>, Vec<String>), DataError> {
    let columns: Vec<(String, Kind)> = guarded(path, || {
        let schema = ParquetReader::new(File::open(path)?).schema()?;
        Ok(schema.iter().map(|(name, field)| (name.to_string(), kind(field.dtype()))).collect())
    })?;
    let (mut names, mut left_out) = (Vec::new(), Vec::new());
    for (name, kind) in columns {
        let is_read = match kind {
            Kind::Plain => true,
            Kind::Bytes => holds_texts(path, &name),
            Kind::Unwritable => false,
        };
        if is_read { names.push(name) } else { left_out.push(name) }
    }
    if names.is_empty() && !left_out.is_empty() {
        let reason = format!("every column is of a type that cannot be read: {}", left_out.join(", "));
        return Err(format_error(path, reason));
    }
    let wanted = (!left_out.is_empty()).then(|| names.clone());
    let first_row = |columns| guarded(path, || to_json(with_texts(head(path, columns, 1)?)?.0));
    let Err(error) = first_row(wanted.clone()) else { return Ok((wanted, left_out)) };
    let (good, bad): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| first_row(Some(vec![name.clone()])).is_ok());
    left_out.extend(bad);
    if good.is_empty() { Err(error) } else { Ok((Some(good), left_out)) }
}

fn head(path: &Path, columns: Option<Vec<String>>, n: usize) -> PolarsResult<DataFrame> {
    ParquetReader::new(File::open(path)?).with_columns(columns).with_slice(Some((0, n))).finish()
}

/// What can be done with a column of a type.
enum Kind {
    Plain,
    /// Texts, perhaps.
    Bytes,
    /// Polars would panic over it, and be heard.
    Unwritable,
}

fn kind(dtype: &ArrowDataType) -> Kind {
    use ArrowDataType as Type;
    let of_inner = |inner: &ArrowDataType| match (inner, kind(inner)) {
        (Type::Timestamp(_, Some(zone)), _) if has_name(zone) => Kind::Unwritable,
        (_, Kind::Plain) => Kind::Plain,
        (_, Kind::Bytes | Kind::Unwritable) => Kind::Unwritable,
    };
    match dtype {
        Type::Binary | Type::LargeBinary | Type::BinaryView | Type::FixedSizeBinary(_) => Kind::Bytes,
        Type::Float16
        | Type::Decimal(..)
        | Type::Decimal32(..)
        | Type::Decimal64(..)
        | Type::Decimal256(..) => Kind::Unwritable,
        Type::List(inner) | Type::LargeList(inner) | Type::FixedSizeList(inner, _) | Type::Map(inner, _) => {
            of_inner(inner.dtype())
        }
        Type::Struct(fields) => {
            let is_plain = |field: &ArrowField| matches!(of_inner(field.dtype()), Kind::Plain);
            if fields.iter().all(is_plain) { Kind::Plain } else { Kind::Unwritable }
        }
        _ => Kind::Plain,
    }
}

/// Whether a zone is a place and not an offset.
fn has_name(zone: &str) -> bool {
    zone != "UTC" && zone.contains(char::is_alphabetic)
}

/// Cells of a column of bytes that decide whether it holds texts.
const SAMPLED_CELLS: usize = 200;

fn holds_texts(path: &Path, name: &str) -> bool {
    // The texts among the first cells, if all are.
    let texts = |n: usize| {
        let frame = guarded(path, || with_texts(head(path, Some(vec![name.to_owned()]), n)?));
        let (frame, bad) = frame.ok()?;
        bad.is_empty().then(|| frame.columns().iter().map(|c| c.len() - c.null_count()).sum::<usize>())
    };
    // One cell first: pictures are long.
    texts(1).is_some() && texts(SAMPLED_CELLS).is_some_and(|n| n > 0)
}

/// Bytes as texts, and the rows where they are not UTF-8, with the column.
fn with_texts(mut frame: DataFrame) -> PolarsResult<(DataFrame, BTreeMap<usize, String>)> {
    let mut bad = BTreeMap::new();
    let is_bytes = |c: &&Column| matches!(c.dtype(), DataType::Binary | DataType::BinaryOffset);
    for column in frame.columns().iter().filter(is_bytes).cloned().collect::<Vec<_>>() {
        let bytes = column.cast(&DataType::Binary)?;
        let mut texts: Vec<Option<&str>> = Vec::with_capacity(bytes.len());
        for (row, cell) in bytes.binary()?.iter().enumerate() {
            let text = cell.map(str::from_utf8).transpose();
            texts.push(text.unwrap_or_else(|_| {
                bad.entry(row).or_insert_with(|| column.name().to_string());
                None
            }));
        }
        frame.with_column(Column::new(column.name().clone(), texts))?;
    }
    Ok((frame, bad))
}

pub(super) struct Rows {
    path: PathBuf,
    /// Rows of each row group.
    groups: Vec<usize>,
    /// What to read; all columns if unset.
    columns: Option<Vec<String>>,
    /// Columns of types that cannot be read here (decimals, pictures).
    pub(super) left_out: Vec<String>,
    next_group: usize,
    loaded: std::vec::IntoIter<Raw>,
}

impl Rows {
    /// Reads the next row group; false after the last.
    fn load(&mut self) -> Result<bool, DataError> {
        let Some(&len) = self.groups.get(self.next_group) else { return Ok(false) };
        let start: usize = self.groups[..self.next_group].iter().sum();
        self.next_group += 1;
        let (json, bad) = guarded(&self.path, || {
            let file = File::open(&self.path)?;
            let reader = ParquetReader::new(file).with_columns(self.columns.clone());
            let (frame, bad) = with_texts(reader.with_slice(Some((start, len))).finish()?)?;
            Ok((to_json(frame)?, bad))
        })?;
        let rows = serde_json::Deserializer::from_slice(&json).into_iter().collect::<Result<Vec<Value>, _>>();
        let rows = rows.map_err(|e| format_error(&self.path, e))?;
        let raw = |(i, row)| {
            let line = start + i + 1;
            let Some(column) = bad.get(&i) else { return Raw::value(line, row) };
            Raw { line, row: Err(Refused { drop: Drop::new("not_utf8", format!("column `{column}`")), row }) }
        };
        self.loaded = rows.into_iter().enumerate().map(raw).collect::<Vec<_>>().into_iter();
        Ok(true)
    }
}

impl Iterator for Rows {
    type Item = Result<Raw, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(raw) = self.loaded.next() {
                return Some(Ok(raw));
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

/// One JSON object a row. Times of a place are written as those of UTC: polars would have to know the places.
fn to_json(mut frame: DataFrame) -> PolarsResult<Vec<u8>> {
    for column in frame.columns().to_vec() {
        if let DataType::Datetime(unit, Some(zone)) = column.dtype()
            && has_name(zone)
        {
            let times = column.as_materialized_series().clone();
            frame.with_column(times.into_datetime(*unit, Some(TimeZone::UTC)).into())?;
        }
    }
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
