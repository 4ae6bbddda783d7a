//! JSON: one object a line, an array of objects, or a text file taken as one row.

use std::io::{self, BufRead, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::lines::Lines;
use super::source::Source;
use super::{Columns, Raw, RawRows, SHOWN_BYTES, Shape};
use crate::DataError;

/// One row a line. Blank lines hold nothing and are passed over.
pub(super) fn lines(
    source: Source,
    path: &Path,
    max: usize,
) -> impl Iterator<Item = Result<Raw, DataError>> + Send + use<> {
    let path = path.to_owned();
    Lines::new(source, max).filter_map(move |line| {
        let line = match line {
            Ok(line) => line,
            Err(e) => return Some(Err(DataError::io("read", &path)(e))),
        };
        if line.is_cut() {
            let detail = format!("{} bytes, {max} are allowed", line.len);
            return Some(Ok(Raw::refused(line.number, "line_too_long", detail, &line.bytes)));
        }
        (!line.bytes.trim_ascii().is_empty()).then(|| Ok(parse(line.number, &line.bytes)))
    })
}

/// Parses the bytes of one row.
fn parse(line: usize, bytes: &[u8]) -> Raw {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Raw::refused(line, "not_utf8", not_utf8(bytes), bytes);
    };
    match serde_json::from_str(text).or_else(|e| without_nan(text).ok_or(e)) {
        Ok(value) => Raw::value(line, value),
        Err(e) => Raw::refused(line, "malformed_json", e.to_string(), bytes),
    }
}

/// Python writes `NaN` and `Infinity` where JSON knows no such number: they are null here.
fn without_nan(text: &str) -> Option<Value> {
    const NAMES: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    if !NAMES.iter().any(|name| text.contains(name)) {
        return None;
    }
    let (mut plain, mut rest, mut in_string) = (String::with_capacity(text.len()), text, false);
    while let Some(c) = rest.chars().next() {
        if !in_string && let Some(name) = NAMES.iter().find(|name| rest.starts_with(**name)) {
            plain.push_str("null");
            rest = &rest[name.len()..];
            continue;
        }
        let n = if c == '\\' && in_string { 2.min(rest.len()) } else { c.len_utf8() };
        in_string ^= c == '"';
        let n = (n..=rest.len()).find(|&n| rest.is_char_boundary(n)).unwrap_or(rest.len());
        plain.push_str(&rest[..n]);
        rest = &rest[n..];
    }
    serde_json::from_str(&plain).ok()
}

/// Where the first byte that is not UTF-8 stands, and what to do.
pub(super) fn not_utf8(bytes: &[u8]) -> String {
    let at = std::str::from_utf8(bytes).err().map_or(0, |e| e.valid_up_to());
    format!(
        "byte {:#04x} at offset {at}; if all of the file has another encoding, name it: `[read] encoding = \"…\"`",
        bytes.get(at).copied().unwrap_or_default()
    )
}

/// The rows of arrays, one after another, element by element, or the rows inside an object.
pub(super) fn document(
    mut source: Source,
    path: &Path,
    max: usize,
    names: &Columns,
) -> Result<RawRows, DataError> {
    let io = |e| DataError::io("read", path)(e);
    let mut line = 1;
    match next_significant(&mut source, &mut line).map_err(io)? {
        Some(b'[') => {
            source.consume(1);
            Ok(Box::new(Elements { source, path: path.to_owned(), line, n: 0, max, done: false }))
        }
        Some(_) => {
            let mut text = Vec::new();
            source.read_to_end(&mut text).map_err(io)?;
            inside_object(&text, path, names)
        }
        None => Ok(Box::new(std::iter::empty())),
    }
}

/// The rows of an object: its longest list of objects (`{"data": [..]}`), unless it is a row that has lists, its
/// values where all are objects (`{"0": {..}, "1": {..}}`), its columns where all are lists or objects of one length,
/// as pandas writes them, several objects one after another, or itself.
fn inside_object(text: &[u8], path: &Path, names: &Columns) -> Result<RawRows, DataError> {
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_slice(text).into_iter::<Value>() {
        let value = value.map_err(|e| DataError::Format {
            path: path.to_owned(),
            line: Some(e.line()),
            reason: format!("is not JSON: {e}"),
        })?;
        values.push(value);
    }
    if values.len() == 1
        && let Some(columns) = values[0].as_object()
    {
        let lists = columns.iter().filter(|(name, _)| !["tools", "functions"].contains(&name.as_str()));
        let lists = lists.filter_map(|(_, column)| column.as_array());
        let rows = lists.filter(|l| l.iter().all(Value::is_object)).max_by_key(|l| l.len());
        if let Some(rows) = rows.filter(|r| !r.is_empty() && !is_row(columns, names)).cloned() {
            // Hugging Face's viewer wraps each row.
            let inner = |row: &Value| row.get("row").filter(|inner| inner.is_object()).cloned();
            values = rows.iter().map(inner).collect::<Option<_>>().unwrap_or(rows);
        } else if let Some(rows) = by_columns(columns) {
            values = rows;
        } else if columns.len() > 1 && columns.values().all(Value::is_object) {
            values = columns.values().cloned().collect();
        }
    }
    Ok(Box::new(values.into_iter().enumerate().map(|(i, value)| Ok(Raw::value(i + 1, value)))))
}

/// Whether an object is a row and its lists are its own: turns, tools, ranked answers.
fn is_row(columns: &Map<String, Value>, names: &Columns) -> bool {
    let has_turns =
        ["messages", "conversations", "conversation", "chosen"].iter().any(|k| columns.contains_key(*k));
    let shape = Shape::of(columns, names);
    let is_around =
        matches!(shape, None | Some(Shape::ShareGpt | Shape::Messages | Shape::Questions | Shape::Document));
    has_turns || !is_around
}

/// The rows of `{"question": ["a", "b"], "answer": ["c", "d"]}` or `{"question": {"0": "a", "1": "b"}, …}`.
fn by_columns(columns: &Map<String, Value>) -> Option<Vec<Value>> {
    let cells = |column: &Value| -> Option<Vec<Value>> {
        match column {
            Value::Array(cells) => Some(cells.clone()),
            Value::Object(cells) if cells.keys().enumerate().all(|(i, key)| *key == i.to_string()) => {
                Some(cells.values().cloned().collect())
            }
            _ => None,
        }
    };
    let cells: Vec<(&String, Vec<Value>)> =
        columns.iter().map(|(name, column)| Some((name, cells(column)?))).collect::<Option<_>>()?;
    let n = cells.first()?.1.len();
    if n == 0 || cells.len() < 2 || cells.iter().any(|(_, column)| column.len() != n) {
        return None;
    }
    let row =
        |i: usize| Value::Object(cells.iter().map(|(name, c)| ((*name).clone(), c[i].clone())).collect());
    Some((0..n).map(row).collect())
}

/// A text file as one row.
pub(super) fn text(mut source: Source, path: &Path) -> Result<RawRows, DataError> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).map_err(DataError::io("read", path))?;
    let raw = match String::from_utf8(bytes) {
        Ok(text) => {
            let mut columns = Map::new();
            columns.insert("text".to_owned(), Value::String(text));
            Raw { line: 1, row: Ok(columns) }
        }
        Err(e) => Raw::refused(1, "not_utf8", not_utf8(e.as_bytes()), e.as_bytes()),
    };
    Ok(Box::new(std::iter::once(Ok(raw))))
}

/// Skips white space and tells the next byte without taking it.
fn next_significant(source: &mut impl BufRead, line: &mut usize) -> io::Result<Option<u8>> {
    loop {
        let buffer = source.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let blank = buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
        *line += newlines(&buffer[..blank]);
        let next = buffer.get(blank).copied();
        source.consume(blank);
        if next.is_some() {
            return Ok(next);
        }
    }
}

/// How many lines end in some bytes.
pub(super) fn newlines(bytes: &[u8]) -> usize {
    bytes.split(|&b| b == b'\n').count() - 1
}

/// The elements of one array or of several, one behind the other, cut out by counting brackets outside strings, so that
/// one bad element does not spoil the others and only one is held at a time. Rows are told apart by their number: an
/// array may stand on one line.
struct Elements {
    source: Source,
    path: std::path::PathBuf,
    line: usize,
    n: usize,
    max: usize,
    done: bool,
}

impl Elements {
    fn cut(&mut self) -> io::Result<Option<Raw>> {
        loop {
            match next_significant(&mut self.source, &mut self.line)? {
                None => {
                    self.done = true;
                    return Ok(Some(Raw::refused(
                        self.line,
                        "malformed_json",
                        "the array is never closed",
                        b"",
                    )));
                }
                Some(b']') => {
                    self.source.consume(1);
                    match next_significant(&mut self.source, &mut self.line)? {
                        Some(b'[') => self.source.consume(1),
                        next => {
                            self.done = true;
                            return next.map(|_| self.after_the_array()).transpose();
                        }
                    }
                }
                Some(b',') => self.source.consume(1),
                Some(_) => break,
            }
        }
        self.n += 1;
        let (first_line, mut depth, mut in_string, mut escaped) = (self.line, 0usize, false, false);
        let (mut element, mut len) = (Vec::new(), 0usize);
        'element: loop {
            let buffer = self.source.fill_buf()?;
            if buffer.is_empty() {
                self.done = true;
                break;
            }
            let mut used = buffer.len();
            let mut ended = false;
            for (i, &byte) in buffer.iter().enumerate() {
                self.line += usize::from(byte == b'\n');
                if in_string {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_string = false,
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b',' | b']' if depth == 0 => {
                        (used, ended) = (i, true);
                        break;
                    }
                    b'}' | b']' => {
                        depth = depth.saturating_sub(1);
                        if depth == 0 {
                            (used, ended) = (i + 1, true);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            let room = self.max.saturating_sub(element.len());
            element.extend_from_slice(&buffer[..used.min(room)]);
            len += used;
            self.source.consume(used);
            if ended {
                break 'element;
            }
        }
        if len > element.len() {
            let detail = format!("line {first_line}: {len} bytes, {} are allowed", self.max);
            return Ok(Some(Raw::refused(self.n, "line_too_long", detail, &element)));
        }
        let mut raw = parse(self.n, &element);
        if let Err(refused) = &mut raw.row {
            refused.drop.detail = format!("line {first_line}: {}", refused.drop.detail);
        }
        Ok(Some(raw))
    }

    /// What stands behind the last array and is no array itself.
    fn after_the_array(&mut self) -> io::Result<Raw> {
        let mut bytes = Vec::new();
        self.source.by_ref().take(SHOWN_BYTES as u64).read_to_end(&mut bytes)?;
        let detail = format!(
            "line {}: from here on nothing is read, the array was closed before; write one array, or one object a line",
            self.line
        );
        Ok(Raw::refused(self.n + 1, "malformed_json", detail, &bytes))
    }
}

impl Iterator for Elements {
    type Item = Result<Raw, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        self.cut().map_err(DataError::io("read", &self.path)).transpose()
    }
}
