use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::TrainError;

/// Figures as TensorBoard reads them: an event file of TFRecords, each an `Event` message of one scalar.
///
/// Formats: tensorflow/core/util/event.proto and tensorflow/core/lib/io/record_writer.h. A resumed run begins another
/// file; TensorBoard joins the files of a folder.
#[derive(Debug)]
pub struct EventFile {
    path: std::path::PathBuf,
    file: File,
}

impl EventFile {
    /// A new file in `folder`, named by the time and `run` (a stage's name).
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn create(folder: &Path, run: &str) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
        let now = now();
        let path = folder.join(format!("events.out.tfevents.{}.{run}", (now * 1e6) as u64));
        let file = File::create(&path).map_err(TrainError::io("create", &path))?;
        let mut events = EventFile { path, file };
        let mut version = Vec::new();
        put_double(&mut version, 1, now);
        put_bytes(&mut version, 3, b"brain.Event:2");
        events.write(&version)?;
        Ok(events)
    }

    /// Adds one figure.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn scalar(&mut self, tag: &str, step: usize, value: f64) -> Result<(), TrainError> {
        self.write(&scalar_event(now(), tag, step, value))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), TrainError> {
        self.file.write_all(&record(event)).map_err(TrainError::io("write", &self.path))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// `Event { wall_time, step, summary { value { tag, simple_value } } }`.
fn scalar_event(time: f64, tag: &str, step: usize, value: f64) -> Vec<u8> {
    let mut one = Vec::new();
    put_bytes(&mut one, 1, tag.as_bytes());
    one.push(2 << 3 | 5);
    one.extend((value as f32).to_le_bytes());
    let mut summary = Vec::new();
    put_bytes(&mut summary, 1, &one);
    let mut event = Vec::new();
    put_double(&mut event, 1, time);
    event.push(2 << 3);
    put_varint(&mut event, step as u64);
    put_bytes(&mut event, 5, &summary);
    event
}

fn put_varint(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

fn put_double(out: &mut Vec<u8>, field: u8, x: f64) {
    out.push(field << 3 | 1);
    out.extend(x.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Length, its check sum, the data, its check sum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(data);
    out.extend(masked(crc32c(data)).to_le_bytes());
    out
}

/// A check sum that may stand in data that is check-summed itself.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a few hundred bytes a step.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_sum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn an_event_has_the_bytes_that_protobuf_gives() {
        // summary { value { tag: "loss" simple_value: 1.5 } } at step 300, by the wire format's tables.
        let expect = [
            &[0x09][..],
            &2.0f64.to_le_bytes(),
            &[0x10, 0xac, 0x02, 0x2a, 0x0d, 0x0a, 0x0b, 0x0a, 0x04],
            b"loss",
            &[0x15],
            &1.5f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(scalar_event(2.0, "loss", 300, 1.5), expect);
    }

    #[test]
    fn a_file_is_records_that_can_be_walked() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(&dir.path().join("tensorboard"), "sft").unwrap();
        events.scalar("sft/loss", 1, 0.25).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let (mut at, mut n) = (0, 0);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let data = &bytes[at + 12..at + 12 + length];
            let sum = u32::from_le_bytes(bytes[at + 12 + length..at + 16 + length].try_into().unwrap());
            assert_eq!(sum, masked(crc32c(data)));
            (at, n) = (at + 16 + length, n + 1);
        }
        assert_eq!((at, n), (bytes.len(), 2));
    }
}
