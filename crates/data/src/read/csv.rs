//! Delimited text after RFC 4180, split here rather than by polars so that a bad row has a line number.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value};

use super::Raw;
use super::json::not_utf8;
use super::lines::{Line, Lines};
use super::source::Source;
use crate::DataError;

/// A quoted cell may run over this many lines; beyond it the quote counts as never closed.
const MAX_LINES_A_ROW: usize = 10_000;
const DELIMITERS: [u8; 4] = [b',', b'\t', b';', b'|'];

/// Rows under the header's names. The delimiter is the one that cuts the header into most cells.
pub(super) fn rows(source: Source, path: &Path, max: usize) -> Result<Rows, DataError> {
    let mut rows = Rows {
        lines: Lines::new(source, max),
        waiting: VecDeque::new(),
        header: Vec::new(),
        delimiter: b',',
        path: path.to_owned(),
        max,
    };
    let error = |reason: String| DataError::Format { path: path.to_owned(), line: Some(1), reason };
    // Excel may name the delimiter in a line of its own: `sep=;`.
    let mut named = None;
    let header = loop {
        let line = rows.line().map_err(DataError::io("read", path))?;
        let line = line.ok_or_else(|| error("the file is empty".into()))?;
        match line.bytes.trim_ascii() {
            [] => {}
            [b's', b'e', b'p', b'=', delimiter] => named = Some(*delimiter),
            _ => break line,
        }
    };
    let n_cells = |d| split(&header.bytes, d).map_or(0, |cells| cells.len());
    let likeliest = DELIMITERS.into_iter().rev().max_by_key(|&d| n_cells(d)).unwrap_or(b',');
    rows.delimiter = named.unwrap_or(likeliest);
    let cells =
        split(&header.bytes, rows.delimiter).ok_or_else(|| error("the header leaves a quote open".into()))?;
    let mut taken = HashSet::new();
    for (i, cell) in cells.into_iter().enumerate() {
        let cell = String::from_utf8(cell.text).map_err(|_| error("the header is not UTF-8".into()))?;
        let mut name = cell.trim().to_owned();
        if name.is_empty() || !taken.insert(name.clone()) {
            name = format!("{name}_{}", i + 1);
            taken.insert(name.clone());
        }
        rows.header.push(name);
    }
    Ok(rows)
}

pub(super) struct Rows {
    lines: Lines<Source>,
    /// Lines read ahead for a quote that was never closed.
    waiting: VecDeque<Line>,
    header: Vec<String>,
    delimiter: u8,
    path: PathBuf,
    max: usize,
}

impl Rows {
    fn line(&mut self) -> io::Result<Option<Line>> {
        match self.waiting.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.lines.next().transpose(),
        }
    }

    fn row(&mut self) -> io::Result<Option<Raw>> {
        let first = loop {
            let Some(line) = self.line()? else { return Ok(None) };
            if !line.bytes.trim_ascii().is_empty() {
                break line;
            }
        };
        let number = first.number;
        let mut bytes = first.bytes.clone();
        let mut len = first.len;
        let mut taken = Vec::new();
        let mut cutter = Cutter::new(self.delimiter);
        cutter.take(&first.bytes);
        let is_whole = loop {
            if len > bytes.len() || bytes.len() > self.max {
                let detail = format!("{len} bytes, {} are allowed", self.max);
                return Ok(Some(Raw::refused(number, "line_too_long", detail, &bytes)));
            }
            if !cutter.is_open() {
                break true;
            }
            // A quote is open: the row goes on in the next line.
            let next = if taken.len() < MAX_LINES_A_ROW { self.line()? } else { None };
            let Some(next) = next else { break false };
            for piece in [&b"\n"[..], &next.bytes] {
                cutter.take(piece);
                bytes.extend_from_slice(piece);
            }
            len += next.len + 1;
            taken.push(next);
        };
        if !is_whole {
            for line in taken.into_iter().rev() {
                self.waiting.push_front(line);
            }
            return Ok(Some(Raw::refused(number, "malformed_csv", "a quote is never closed", &first.bytes)));
        }
        let cells = cutter.into_cells();
        if cells.len() != self.header.len() {
            let detail = format!("{} cells, the header has {}", cells.len(), self.header.len());
            return Ok(Some(Raw::refused(number, "malformed_csv", detail, &bytes)));
        }
        let mut columns = Map::new();
        for (name, Cell { text, quoted }) in self.header.iter().zip(cells) {
            let Ok(cell) = String::from_utf8(text) else {
                return Ok(Some(Raw::refused(number, "not_utf8", not_utf8(&bytes), &bytes)));
            };
            columns.insert(name.clone(), if quoted { Value::String(cell) } else { typed(cell) });
        }
        Ok(Some(Raw { line: number, row: Ok(columns) }))
    }
}

impl Iterator for Rows {
    type Item = Result<Raw, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.row().map_err(DataError::io("read", &self.path)).transpose()
    }
}

/// What stands between two delimiters.
#[derive(Debug, Default, PartialEq)]
struct Cell {
    /// Without its quotes.
    text: Vec<u8>,
    /// A quoted cell is a text, whatever it looks like: `""` is empty, and no cell at all is null.
    quoted: bool,
}

/// Where in a cell the cut stands.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Outside quotes.
    Plain,
    /// Between quotes.
    Quoted,
    /// Behind a quote between quotes: it ends them, unless another one follows.
    Quote,
}

/// Cuts a row into cells, piece by piece, so that a cell of many lines is gone through once.
struct Cutter {
    delimiter: u8,
    cells: Vec<Cell>,
    cell: Cell,
    at: At,
}

impl Cutter {
    fn new(delimiter: u8) -> Self {
        Cutter { delimiter, cells: Vec::new(), cell: Cell::default(), at: At::Plain }
    }

    fn take(&mut self, piece: &[u8]) {
        for &byte in piece {
            match (self.at, byte) {
                (At::Quoted, b'"') => self.at = At::Quote,
                (At::Quoted, _) => self.cell.text.push(byte),
                (At::Quote, b'"') => {
                    self.at = At::Quoted;
                    self.cell.text.push(b'"');
                }
                _ => self.take_plain(byte),
            }
        }
    }

    fn take_plain(&mut self, byte: u8) {
        self.at = At::Plain;
        if byte == self.delimiter {
            self.cells.push(std::mem::take(&mut self.cell));
        } else if byte == b'"' && self.cell.text.is_empty() && !self.cell.quoted {
            (self.at, self.cell.quoted) = (At::Quoted, true);
        } else {
            self.cell.text.push(byte);
        }
    }

    /// Whether a quote waits for the next line to be closed.
    fn is_open(&self) -> bool {
        self.at == At::Quoted
    }

    fn into_cells(mut self) -> Vec<Cell> {
        self.cells.push(self.cell);
        self.cells
    }
}

/// The cells of a row; `None` while a quote is open.
fn split(row: &[u8], delimiter: u8) -> Option<Vec<Cell>> {
    let mut cutter = Cutter::new(delimiter);
    cutter.take(row);
    (!cutter.is_open()).then(|| cutter.into_cells())
}

/// An unquoted cell as JSON: null for nothing, numbers and booleans where they print the same again, else text.
fn typed(cell: String) -> Value {
    match cell.as_str() {
        "" => return Value::Null,
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    let whole = cell.parse::<i64>().ok().map(Number::from);
    let number = whole.or_else(|| cell.parse::<f64>().ok().and_then(Number::from_f64));
    match number {
        Some(number) if number.to_string() == cell => Value::Number(number),
        _ => Value::String(cell),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts a text as a whole, looking one byte ahead.
    fn split_whole(row: &[u8], delimiter: u8) -> Option<Vec<Cell>> {
        let mut cells = vec![Cell::default()];
        let (mut open, mut i) = (false, 0);
        while i < row.len() {
            let (byte, cell) = (row[i], cells.last_mut()?);
            if open && byte == b'"' && row.get(i + 1) == Some(&b'"') {
                cell.text.push(b'"');
                i += 1;
            } else if open && byte == b'"' {
                open = false;
            } else if open {
                cell.text.push(byte);
            } else if byte == delimiter {
                cells.push(Cell::default());
            } else if byte == b'"' && cell.text.is_empty() && !cell.quoted {
                (open, cell.quoted) = (true, true);
            } else {
                cell.text.push(byte);
            }
            i += 1;
        }
        (!open).then_some(cells)
    }

    proptest! {
        #[test]
        fn pieces_are_cut_as_the_whole(pieces in prop::collection::vec("[a,\"\n]{0,6}", 0..6)) {
            let mut cutter = Cutter::new(b',');
            for piece in &pieces {
                cutter.take(piece.as_bytes());
            }
            let cells = (!cutter.is_open()).then(|| cutter.into_cells());
            prop_assert_eq!(cells, split_whole(pieces.concat().as_bytes(), b','));
        }
    }
}
