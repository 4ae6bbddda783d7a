//! Lines of any length in bounded memory.

use std::io::{self, BufRead};

/// A physical line without its line end.
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    /// The line, or its beginning where it is too long.
    pub(super) bytes: Vec<u8>,
    /// How many bytes the line really has.
    pub(super) len: usize,
}

impl Line {
    /// Whether bytes were thrown away.
    pub(super) fn is_cut(&self) -> bool {
        self.len > self.bytes.len()
    }
}

/// Splits a source into lines and keeps at most `max` bytes of each.
pub(super) struct Lines<R> {
    source: R,
    max: usize,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(source: R, max: usize) -> Self {
        Lines { source, max, number: 0 }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Line { number: self.number + 1, bytes: Vec::new(), len: 0 };
        let mut ended = false;
        while !ended {
            let buffer = match self.source.fill_buf() {
                Ok(buffer) => buffer,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Some(Err(e)),
            };
            if buffer.is_empty() {
                break;
            }
            let newline = buffer.iter().position(|&b| b == b'\n');
            let part = &buffer[..newline.unwrap_or(buffer.len())];
            line.len += part.len();
            let room = self.max.saturating_sub(line.bytes.len());
            line.bytes.extend_from_slice(&part[..part.len().min(room)]);
            ended = newline.is_some();
            let used = part.len() + usize::from(ended);
            self.source.consume(used);
        }
        if line.len == 0 && !ended {
            return None;
        }
        self.number += 1;
        if !line.is_cut() && line.bytes.last() == Some(&b'\r') {
            line.bytes.pop();
            line.len -= 1;
        }
        Some(Ok(line))
    }
}
