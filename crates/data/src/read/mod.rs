//! Reading any usual training file: detected, mapped to [`Record`]s, bad rows set aside.
//!
//! [`open`] reads a whole file; [`stream`] gives its rows one at a time in bounded memory. Both look at the
//! first rows, tell what they saw ([`Detection`], made to be printed), and then map every row. A row that
//! cannot be used becomes a [`Dropped`] with its line and a reason; only a file that cannot be used as a whole
//! is an error.
//!
//! | reason | when |
//! |---|---|
//! | `malformed_json` | a line or array element is not a JSON value, or something else follows an array |
//! | `malformed_csv` | a quote is never closed, or the number of cells is not the header's |
//! | `not_utf8` | bytes that are not UTF-8 |
//! | `line_too_long` | more bytes than [`ReadOptions::max_row_bytes`] |
//! | `not_an_object` | JSON, but not an object |
//! | `missing_field` | a column that the shape needs is absent or null |
//! | `bad_value` | a column is there but holds something else than it should |

mod csv;
mod ids;
mod json;
mod lines;
mod parquet;
#[cfg(feature = "postgres")]
mod postgres;
mod shape;
mod source;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{DataError, Drop, Dropped, Edit, Origin, Record};
use ids::Ids;
pub use shape::{Columns, Shape};
pub use source::{Compression, Format};

/// How to read a file. The default detects everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// Take this format instead of detecting one.
    pub format: Option<Format>,
    /// Take this encoding instead of detecting one, by a name such as `windows-1252`. UTF-8 and UTF-16 are known by
    /// themselves; so is windows-1252 in CSV and text files.
    pub encoding: Option<String>,
    /// Take this shape instead of detecting one; a row of another shape is then a `missing_field`.
    pub shape: Option<Shape>,
    /// Names of columns that differ from the usual ones.
    pub columns: Columns,
    /// Longest line, array element or CSV row, in bytes. Longer ones are skipped without being held.
    pub max_row_bytes: usize,
    /// How many usable rows detection looks at.
    pub sample_rows: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            format: None,
            encoding: None,
            shape: None,
            columns: Columns::default(),
            max_row_bytes: 16 << 20,
            sample_rows: 200,
        }
    }
}

/// What a file was found to be, and why. `Display` is one line for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// How rows are written.
    pub format: Format,
    /// How the file is compressed.
    pub compression: Compression,
    /// What a row holds.
    pub shape: Shape,
    /// The columns that decided and how many of the first rows have them.
    pub evidence: Vec<String>,
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}, {}: {}", self.format, self.compression, self.shape, self.evidence.join("; "))
    }
}

/// One row of a file: usable, or set aside.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A row that was mapped.
    Record(Record),
    /// A row that was not.
    Dropped(Dropped),
}

/// Reads a whole file.
///
/// # Errors
/// [`DataError::Io`] where the file cannot be read; [`DataError::Format`] where no row of it can be used, with
/// the columns seen and the shapes known.
pub fn open(path: &Path, options: &ReadOptions) -> Result<(Vec<Record>, Vec<Dropped>, Detection), DataError> {
    let mut rows = stream(path, options)?;
    let (records, dropped) = rows.gather()?;
    Ok((records, dropped, rows.detection))
}

/// Opens a file and gives its rows one by one: no more than the detection's sample and one row (one row group
/// of a Parquet file) is held at a time.
///
/// # Errors
/// As [`open`]; an error that comes later is an item of the iterator.
pub fn stream(path: &Path, options: &ReadOptions) -> Result<Rows, DataError> {
    let (raw, found) = raw_rows(path, options)?;
    let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into());
    Rows::new(raw, name, path, found, options)
}

/// A row as it stands in its file, or why it has no columns, with what there is to show of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainRow {
    /// Line (text formats) or row number, counted from 1.
    pub line: usize,
    /// Its columns, or what is wrong.
    pub columns: Result<Map<String, Value>, String>,
    /// What stands there, where it has no columns.
    pub shown: Value,
}

/// The rows of a file as they stand, whatever they hold: for those who know what the columns mean.
///
/// # Errors
/// [`DataError::Io`] where the file cannot be read; [`DataError::Format`] where it is broken as a whole.
pub fn plain(path: &Path, options: &ReadOptions) -> Result<Vec<PlainRow>, DataError> {
    let (raw, _) = raw_rows(path, options)?;
    raw.map(|row| {
        let Raw { line, row } = row?;
        Ok(match row {
            Ok(columns) => PlainRow { line, columns: Ok(columns), shown: Value::Null },
            Err(Refused { drop, row }) => {
                PlainRow { line, columns: Err(format!("{} ({})", drop.reason, drop.detail)), shown: row }
            }
        })
    })
    .collect()
}

fn raw_rows(path: &Path, options: &ReadOptions) -> Result<(RawRows, source::Found), DataError> {
    let (source, mut found) = source::open(path, options.format, options.encoding.as_deref())?;
    let raw: RawRows = match found.format {
        Format::Jsonl => Box::new(json::lines(source, path, options.max_row_bytes)),
        Format::Json => json::document(source, path, options.max_row_bytes, &options.columns)?,
        Format::Csv => Box::new(csv::rows(source, path, options.max_row_bytes)?),
        Format::Parquet => {
            let rows = parquet::rows(path)?;
            found.left_out.clone_from(&rows.left_out);
            Box::new(rows)
        }
        Format::Text => json::text(source, path)?,
        Format::Query => {
            return Err(DataError::Config(
                "a query is not a file: use read::sqlite or read::postgres".into(),
            ));
        }
    };
    Ok((raw, found))
}

/// Reads the rows that an SQL query gives from an SQLite file, opened read-only.
///
/// # Errors
/// [`DataError::Format`] where the file or the query is bad.
#[cfg(feature = "sqlite")]
pub fn sqlite(path: &Path, query: &str, options: &ReadOptions) -> Result<Rows, DataError> {
    let raw = sqlite::rows(path, query)?;
    let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into());
    Rows::new(raw, name, path, source::Found::query(), options)
}

/// Reads the rows that an SQL query gives from a PostgreSQL server, through a cursor in a read-only transaction.
/// `url` is libpq's (`host=localhost user=me dbname=desk` or `postgresql://…`); it is never put into records.
///
/// # Errors
/// [`DataError::Format`] where the server cannot be reached or refuses the query.
#[cfg(feature = "postgres")]
pub fn postgres(url: &str, query: &str, options: &ReadOptions) -> Result<Rows, DataError> {
    let raw = postgres::rows(url, query)?;
    Rows::new(raw, "postgres".into(), Path::new("postgres"), source::Found::query(), options)
}

/// A row before it is mapped: its line and its columns, or why it has none.
struct Raw {
    line: usize,
    row: Result<Map<String, Value>, Refused>,
}

/// A row that never became columns, with what there is to show of it.
struct Refused {
    drop: Drop,
    row: Value,
}

/// How the bytes that open a refused row are kept.
const SHOWN_BYTES: usize = 2000;

impl Raw {
    fn refused(line: usize, reason: &'static str, detail: impl Into<String>, bytes: &[u8]) -> Self {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned();
        Raw { line, row: Err(Refused { drop: Drop::new(reason, detail), row: Value::String(shown) }) }
    }

    fn value(line: usize, value: Value) -> Self {
        match value {
            Value::Object(columns) => Raw { line, row: Ok(columns) },
            other => Raw {
                line,
                row: Err(Refused {
                    drop: Drop::new(
                        "not_an_object",
                        format!("a row must be an object, this is {}", kind(&other)),
                    ),
                    row: other,
                }),
            },
        }
    }
}

/// The JSON type of a value, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

type RawRows = Box<dyn Iterator<Item = Result<Raw, DataError>> + Send>;

/// The rows of a file, in order.
pub struct Rows {
    /// What the file was found to be.
    pub detection: Detection,
    raw: RawRows,
    sample: VecDeque<Raw>,
    file: String,
    ids: Ids,
    shapes: Vec<Shape>,
    columns: Columns,
    renamed: Vec<Edit>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("file", &self.file)
            .field("detection", &self.detection)
            .finish_non_exhaustive()
    }
}

impl Rows {
    fn new(
        mut raw: RawRows,
        file: String,
        path: &Path,
        found: source::Found,
        options: &ReadOptions,
    ) -> Result<Self, DataError> {
        let mut sample = VecDeque::new();
        let mut usable = 0;
        while usable < options.sample_rows.max(1) {
            let Some(row) = raw.next().transpose()? else { break };
            usable += usize::from(row.row.is_ok());
            sample.push_back(row);
        }
        let source::Found { format, compression, encoding, left_out } = found;
        let left_out = (!left_out.is_empty())
            .then(|| format!("left out, of a type that cannot be read: {}", left_out.join(", ")));
        let (shape, shapes, mut evidence) = detect(&sample, usable, left_out.as_deref(), path, options)?;
        evidence.extend(encoding.map(|name| format!("read as {name}")));
        evidence.extend(left_out);
        let detection = Detection { format, compression, shape, evidence };
        let ids = Ids::new(&file);
        let columns = options.columns.clone();
        Ok(Rows { detection, raw, sample, file, ids, shapes, columns, renamed: Vec::new() })
    }

    /// All rows that are left.
    ///
    /// # Errors
    /// As [`open`].
    pub fn gather(&mut self) -> Result<(Vec<Record>, Vec<Dropped>), DataError> {
        let (mut records, mut dropped) = (Vec::new(), Vec::new());
        for row in self {
            match row? {
                Row::Record(record) => records.push(record),
                Row::Dropped(row) => dropped.push(row),
            }
        }
        Ok((records, dropped))
    }

    /// Ids that stood twice in the file so far and were made unique, one edit of the field `id` each. Taken: the
    /// next call tells only of later rows.
    pub fn take_renamed(&mut self) -> Vec<Edit> {
        std::mem::take(&mut self.renamed)
    }

    /// The first shape that fits a row: the file's own, then the others that its first rows had. In a file of KTO, a
    /// row whose label is no verdict is not the chat that it would be without one.
    fn shape_of(&self, row: &Map<String, Value>) -> Shape {
        let own = self.detection.shape;
        let found = self.shapes.iter().copied().find(|s| s.fits(row, &self.columns)).unwrap_or(own);
        let is_pair = found == Shape::Preference;
        if own == Shape::Kto && !is_pair && shape::is_labelled(row) { own } else { found }
    }

    /// Maps a row by its shape.
    fn mapped(&mut self, raw: Raw) -> Row {
        let origin = Origin { file: self.file.clone(), line: raw.line };
        let (id, drop, row) = match raw.row {
            Ok(columns) => {
                let shape = self.shape_of(&columns);
                let given = ids::given(&columns, &self.columns);
                let id = self.ids.unique(given, raw.line, &mut self.renamed);
                let shown = columns.clone();
                match shape.map(id.clone(), columns, &self.columns) {
                    Ok(item) => return Row::Record(Record { item, origin }),
                    Err(drop) => (id, drop, Value::Object(shown)),
                }
            }
            Err(Refused { drop, row }) => (self.ids.unique(None, raw.line, &mut self.renamed), drop, row),
        };
        Row::Dropped(Dropped {
            id,
            step: "read".to_owned(),
            reason: drop.reason.to_owned(),
            detail: drop.detail,
            origin,
            row,
        })
    }
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = match self.sample.pop_front() {
            Some(raw) => raw,
            None => match self.raw.next()? {
                Ok(raw) => raw,
                Err(error) => return Some(Err(error)),
            },
        };
        Some(Ok(self.mapped(raw)))
    }
}

/// The shape that most of the first rows have, every shape seen (that one first), and the evidence.
fn detect(
    sample: &VecDeque<Raw>,
    usable: usize,
    left_out: Option<&str>,
    path: &Path,
    options: &ReadOptions,
) -> Result<(Shape, Vec<Shape>, Vec<String>), DataError> {
    let format = |reason: String| DataError::Format { path: path.to_owned(), line: None, reason };
    if sample.is_empty() {
        return Err(format("the file holds no rows".into()));
    }
    if usable == 0 {
        let first = &sample[0];
        let why = first.row.as_ref().err().map(|r| format!("{}: {}", r.drop.reason, r.drop.detail));
        return Err(format(format!(
            "none of its {} rows can be read; line {}: {}",
            sample.len(),
            first.line,
            why.unwrap_or_default()
        )));
    }
    if let Some(shape) = options.shape {
        return Ok((shape, vec![shape], vec!["the shape was given".into()]));
    }
    let mut seen: BTreeMap<Shape, usize> = BTreeMap::new();
    for columns in sample.iter().filter_map(|raw| raw.row.as_ref().ok()) {
        if let Some(shape) = Shape::of(columns, &options.columns) {
            *seen.entry(shape).or_default() += 1;
        }
    }
    // Among rows of another kind a question without an answer is one that lacks it.
    seen.retain(|&shape, n| shape != Shape::Questions || *n == usable);
    let mut shapes: Vec<(Shape, usize)> = seen.into_iter().collect();
    shapes.sort_by_key(|&(shape, n)| (std::cmp::Reverse(n), shape));
    let Some(&(shape, _)) = shapes.first() else {
        let first = sample.iter().find_map(|raw| raw.row.as_ref().ok());
        let columns: Vec<&str> = first.map(|c| c.keys().map(String::as_str).collect()).unwrap_or_default();
        return Err(format(format!(
            "no known shape has the columns [{}]{}. Known shapes:\n{}Rename the columns, or name them in `columns`.",
            columns.join(", "),
            left_out.map(|told| format!(" ({told})")).unwrap_or_default(),
            Shape::ALL.map(|s| format!("  {s}: {}\n", s.needs())).concat(),
        )));
    };
    let mut evidence: Vec<String> = Vec::new();
    for &(shape, n) in &shapes {
        let first = sample.iter().filter_map(|raw| raw.row.as_ref().ok());
        let example = first
            .filter(|c| Shape::of(c, &options.columns) == Some(shape))
            .map(|c| shape.evidence(c, &options.columns));
        let example = example.max_by_key(Vec::len).unwrap_or_default();
        let of = if shapes.len() > 1 { format!(" are {shape}") } else { String::new() };
        evidence.push(format!("{n} of the first {usable} rows{of} ({})", example.join(", ")));
    }
    Ok((shape, shapes.into_iter().map(|(s, _)| s).collect(), evidence))
}
