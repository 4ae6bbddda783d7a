//! Opening a file: its compression, its byte order mark, its format.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

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

/// Opens `path`, undoes its compression, turns UTF-16 with a mark into UTF-8, and tells its format.
pub(super) fn open(path: &Path, format: Option<Format>) -> Result<(Source, Format, Compression), DataError> {
    let io = |e| DataError::io("read", path)(e);
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        let reason = "is a folder; name the files in it".to_owned();
        return Err(DataError::Format { path: path.to_owned(), line: None, reason });
    }
    let mut file = BufReader::with_capacity(BUFFER, file);
    let head = file.fill_buf().map_err(io)?;
    let (mut source, compression): (Source, _) = if head.starts_with(&[0x1f, 0x8b]) {
        (buffered(flate2::bufread::MultiGzDecoder::new(file)), Compression::Gzip)
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        (buffered(zstd::stream::read::Decoder::with_buffer(file).map_err(io)?), Compression::Zstd)
    } else {
        (Box::new(file), Compression::None)
    };
    let head = source.fill_buf().map_err(io)?;
    if head.starts_with(&[0xef, 0xbb, 0xbf]) {
        source.consume(3);
    } else if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        // Spreadsheets export UTF-16; such files are small, so they are held whole.
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).map_err(io)?;
        let encoding = if bytes[0] == 0xff { encoding_rs::UTF_16LE } else { encoding_rs::UTF_16BE };
        source = Box::new(Cursor::new(encoding.decode(&bytes).0.into_owned().into_bytes()));
    }
    let head = source.fill_buf().map_err(io)?;
    let format = format.map_or_else(|| sniff(path, head), Ok)?;
    if format == Format::Parquet && compression != Compression::None {
        let reason = "a Parquet file is compressed inside; unpack the outer compression first".to_owned();
        return Err(DataError::Format { path: path.to_owned(), line: None, reason });
    }
    Ok((source, format, compression))
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
        ("jsonl" | "ndjson" | "jsonlines", _) => Ok(Format::Jsonl),
        ("csv" | "tsv", _) => Ok(Format::Csv),
        ("txt" | "md" | "markdown" | "text", _) => Ok(Format::Text),
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

fn format_error(path: &Path, reason: &str) -> DataError {
    DataError::Format { path: path.to_owned(), line: None, reason: reason.to_owned() }
}
