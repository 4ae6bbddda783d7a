//! Opening a file: its compression, its byte order mark, its format.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use serde::{Deserialize, Serialize};

use crate::DataError;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// One JSON array of objects, or an object that holds one.
    Json,
    /// Cells parted by commas, semicolons, tabs or bars, with a header.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// A text or Markdown file: one document.
    Text,
    /// Rows of an SQL query.
    Query,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Jsonl => "JSON lines",
            Format::Json => "JSON",
            Format::Csv => "CSV",
            Format::Parquet => "Parquet",
            Format::Text => "text",
            Format::Query => "SQL query",
        })
    }
}

/// How the file is compressed, told by its first bytes, not its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Plain bytes.
    None,
    /// gzip, several members allowed.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "",
            Compression::Gzip => " (gzip)",
            Compression::Zstd => " (zstd)",
        })
    }
}

/// Decompressed bytes.
pub(super) type Source = Box<dyn BufRead + Send>;

const BUFFER: usize = 256 << 10;

/// What a file's bytes were found to be.
pub(super) struct Found {
    pub(super) format: Format,
    pub(super) compression: Compression,
    /// The encoding, where it is not UTF-8.
    pub(super) encoding: Option<&'static str>,
    /// Columns that cannot be read.
    pub(super) left_out: Vec<String>,
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl Found {
    /// Rows that come from a database.
    pub(super) fn query() -> Self {
        Found { format: Format::Query, compression: Compression::None, encoding: None, left_out: Vec::new() }
    }
}

/// Opens `path`, undoes its compression, turns it into UTF-8, and tells its format.
///
/// An encoding that is not `given` (by a name of the WHATWG's list) is told by a byte order mark, by the zeros of
/// UTF-16, or, for CSV and text, by bytes that are never UTF-8: those are windows-1252, as spreadsheets write it. Where
/// the beginning is all ASCII, the first bytes that are not decide, however late they come.
pub(super) fn open(
    path: &Path,
    format: Option<Format>,
    given: Option<&str>,
) -> Result<(Source, Found), DataError> {
    let io = |e| DataError::io("read", path)(e);
    let (mut source, compression) = unpacked(path)?;
    let encoding = match given {
        Some(name) => Some(Encoding::for_label(name.as_bytes()).ok_or_else(|| {
            DataError::Config(format!(
                "the encoding {name:?} is not known; try `windows-1252` or `shift_jis`"
            ))
        })?),
        None => encoding_of(source.fill_buf().map_err(io)?),
    };
    let mut encoding = encoding.filter(|e| *e != UTF_8);
    let mut format = format;
    if encoding.is_none() {
        if source.fill_buf().map_err(io)?.starts_with(&[0xef, 0xbb, 0xbf]) {
            source.consume(3);
        }
        let head = source.fill_buf().map_err(io)?;
        let told = format.map_or_else(|| sniff(path, head), Ok)?;
        let is_text = matches!(told, Format::Csv | Format::Text);
        encoding = (is_text && is_windows_1252(path, head)?).then_some(WINDOWS_1252);
        format = Some(told);
    }
    if let Some(encoding) = encoding {
        // Spreadsheets export so; such files are small, so they are held whole.
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).map_err(io)?;
        source = Box::new(Cursor::new(encoding.decode(&bytes).0.into_owned().into_bytes()));
    }
    let head = source.fill_buf().map_err(io)?;
    let format = format.map_or_else(|| sniff(path, head), Ok)?;
    if format == Format::Parquet && compression != Compression::None {
        let reason = "a Parquet file is compressed inside; unpack the outer compression first".to_owned();
        return Err(DataError::Format { path: path.to_owned(), line: None, reason });
    }
    Ok((source, Found { format, compression, encoding: encoding.map(Encoding::name), left_out: Vec::new() }))
}

/// A file's bytes without their compression, and which that was.
fn unpacked(path: &Path) -> Result<(Source, Compression), DataError> {
    let io = |e| DataError::io("read", path)(e);
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(format_error(path, "is a folder; name the files in it"));
    }
    let mut file = BufReader::with_capacity(BUFFER, file);
    let head = file.fill_buf().map_err(io)?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        (buffered(flate2::bufread::MultiGzDecoder::new(file)), Compression::Gzip)
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        (buffered(zstd::stream::read::Decoder::with_buffer(file).map_err(io)?), Compression::Zstd)
    } else {
        (Box::new(file), Compression::None)
    })
}

/// UTF-16, by its mark or by every other byte being zero.
fn encoding_of(head: &[u8]) -> Option<&'static Encoding> {
    if head.starts_with(b"PAR1") {
        return None;
    }
    if let Some((encoding, _)) = Encoding::for_bom(head) {
        return Some(encoding);
    }
    let head = &head[..head.len().min(1000) & !1];
    let zeros = |first: usize| head.iter().skip(first).step_by(2).filter(|&&b| b == 0).count() * 2;
    match head.len() {
        0..4 => None,
        n if zeros(1) * 10 > n * 8 && zeros(0) * 10 < n => Some(UTF_16LE),
        n if zeros(0) * 10 > n * 8 && zeros(1) * 10 < n => Some(UTF_16BE),
        _ => None,
    }
}

/// Whether a CSV or text file is windows-1252. Where its head is all ASCII, it is read once more, up to the first byte
/// that is not.
fn is_windows_1252(path: &Path, head: &[u8]) -> Result<bool, DataError> {
    // A pipe cannot be read twice.
    if !head.is_ascii() || !path.is_file() {
        return Ok(is_never_utf8(head));
    }
    let accents = from_first_accent(unpacked(path)?.0).map_err(DataError::io("read", path))?;
    Ok(is_never_utf8(&accents))
}

/// At most [`BUFFER`] bytes from the first that is not ASCII.
fn from_first_accent(mut source: Source) -> io::Result<Vec<u8>> {
    loop {
        let buffer = source.fill_buf()?;
        let n_ascii = buffer.iter().take_while(|b| b.is_ascii()).count();
        let is_over = n_ascii < buffer.len() || buffer.is_empty();
        source.consume(n_ascii);
        if is_over {
            break;
        }
    }
    let mut found = Vec::new();
    source.take(BUFFER as u64).read_to_end(&mut found)?;
    Ok(found)
}

/// Whether bytes above ASCII are there and none of them are UTF-8. One that is may be a stray bad row instead.
fn is_never_utf8(head: &[u8]) -> bool {
    let n = head.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).filter(|c| !c.is_ascii()).count();
    // The head may end within a character.
    let n_bad = head.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
    n == 0 && n_bad > usize::from(head.len() >= BUFFER)
}

fn buffered(inner: impl Read + Send + 'static) -> Source {
    Box::new(BufReader::with_capacity(BUFFER, inner))
}

/// The format, by the name where it tells one and by the first bytes where it does not.
fn sniff(path: &Path, head: &[u8]) -> Result<Format, DataError> {
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst").trim_end_matches(".zstd");
    let extension = Path::new(name).extension().unwrap_or_default().to_string_lossy();
    let first = head.iter().find(|b| !b.is_ascii_whitespace());
    match (&*extension, first) {
        ("jsonl" | "ndjson" | "jsonlines", _) => {
            Ok(if is_array_of_objects(head) { Format::Json } else { Format::Jsonl })
        }
        ("csv" | "tsv", _) => Ok(Format::Csv),
        ("txt" | "md" | "markdown" | "text", _) if !has_json_lines(head) => Ok(Format::Text),
        (_, Some(b'{')) => {
            // One object a line where the first line is a whole object, one big value otherwise.
            let line = head.split(|&b| b == b'\n').find(|l| !l.trim_ascii().is_empty()).unwrap_or_default();
            let whole = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
            let more = super::json::newlines(head) > 1 || extension != "json";
            Ok(if whole && more { Format::Jsonl } else { Format::Json })
        }
        ("json", _) | (_, Some(b'[')) => Ok(Format::Json),
        ("parquet", _) => Err(format_error(path, "is named .parquet but does not begin with PAR1")),
        (_, None) => Err(format_error(path, "the file is empty")),
        _ => Err(format_error(
            path,
            "its format is not known: expected .jsonl, .json, .csv, .tsv, .parquet, .txt or .md, \
             each also as .gz or .zst",
        )),
    }
}

/// Whether a file that is called JSON lines is one array of objects: it opens as one and has no array on each line.
fn is_array_of_objects(head: &[u8]) -> bool {
    let head = head.trim_ascii_start();
    let opens = head.strip_prefix(b"[").is_some_and(|inside| inside.trim_ascii_start().starts_with(b"{"));
    let end = head.iter().position(|&b| b == b'\n').unwrap_or(head.len());
    let (line, more) = head.split_at(end);
    let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
    opens && (!is_whole || more.trim_ascii().is_empty())
}

/// Whether the first two lines are JSON objects, whatever the file is called.
fn has_json_lines(head: &[u8]) -> bool {
    let mut lines = head.split(|&b| b == b'\n').filter(|l| !l.trim_ascii().is_empty()).take(2);
    let is_object = |l: &[u8]| {
        l.trim_ascii().starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(l).is_ok()
    };
    lines.next().is_some_and(is_object) && lines.next().is_some_and(is_object)
}

fn format_error(path: &Path, reason: &str) -> DataError {
    DataError::Format { path: path.to_owned(), line: None, reason: reason.to_owned() }
}
