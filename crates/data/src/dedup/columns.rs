//! The band names of all texts, one column a band, in memory up to a budget and on disk beyond it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DataError;

/// Columns of 32-bit band names. Rows are pushed in order; a column is read back whole.
///
/// Once the columns held in memory would outgrow `budget` bytes they are appended to a file each, in `folder`,
/// which is removed with the value.
pub(super) struct Columns {
    held: Vec<Vec<u32>>,
    spilled: Vec<(PathBuf, File)>,
    n_spilled: usize,
    budget: usize,
    folder: PathBuf,
}

impl Columns {
    pub(super) fn new(bands: usize, budget: usize, folder: PathBuf) -> Self {
        Columns { held: vec![Vec::new(); bands], spilled: Vec::new(), n_spilled: 0, budget, folder }
    }

    /// Whether anything went to disk.
    pub(super) fn has_spilled(&self) -> bool {
        self.n_spilled > 0
    }

    /// Appends texts: `names` holds each text's bands one after another.
    pub(super) fn push(&mut self, names: &[u32]) -> Result<(), DataError> {
        let bands = self.held.len();
        for (band, column) in self.held.iter_mut().enumerate() {
            column.extend(names.iter().skip(band).step_by(bands));
        }
        if self.held.iter().map(|c| c.len() * 4).sum::<usize>() > self.budget {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<(), DataError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        if self.spilled.is_empty() {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            for band in 0..self.held.len() {
                let name = format!("ferrotune-bands-{}-{serial}-{band}", std::process::id());
                let path = self.folder.join(name);
                let file = File::options().write(true).create_new(true).open(&path);
                self.spilled.push((path.clone(), file.map_err(DataError::io("create", path))?));
            }
        }
        self.n_spilled += self.held.first().map_or(0, Vec::len);
        for (column, (path, file)) in self.held.iter_mut().zip(&mut self.spilled) {
            let mut out = BufWriter::new(file);
            for name in column.drain(..) {
                out.write_all(&name.to_le_bytes()).map_err(DataError::io("write", path.as_path()))?;
            }
            out.flush().map_err(DataError::io("write", path.as_path()))?;
            column.shrink_to_fit();
        }
        Ok(())
    }

    /// One band of every text, as (name << 32 | text), sorted.
    pub(super) fn keyed(&self, band: usize) -> Result<Vec<u64>, DataError> {
        let mut keyed = Vec::with_capacity(self.n_spilled + self.held[band].len());
        let mut push = |name: u32| {
            let text = keyed.len() as u64;
            keyed.push(u64::from(name) << 32 | text);
        };
        if self.has_spilled() {
            read_names(&self.spilled[band].0, &mut push)?;
        }
        self.held[band].iter().copied().for_each(push);
        Ok(sorted_by_name(keyed))
    }
}

/// Sorts keys of which those with equal names are in order: by the name's digits of eleven bits, the lowest first. A
/// name is a hash, so no digit is commoner than another, and this takes a third of the time that comparing takes.
fn sorted_by_name(mut keys: Vec<u64>) -> Vec<u64> {
    const DIGITS: usize = 1 << 11;
    let mut sorted = vec![0; keys.len()];
    for shift in [32, 43, 54] {
        let digit = |key: u64| (key >> shift) as usize % DIGITS;
        let mut place = [0; DIGITS];
        for &key in &keys {
            place[digit(key)] += 1;
        }
        let mut next = 0;
        for place in &mut place {
            next += std::mem::replace(place, next);
        }
        for &key in &keys {
            sorted[place[digit(key)]] = key;
            place[digit(key)] += 1;
        }
        std::mem::swap(&mut keys, &mut sorted);
    }
    keys
}

fn read_names(path: &Path, mut push: impl FnMut(u32)) -> Result<(), DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let mut input = BufReader::with_capacity(1 << 16, file);
    let mut bytes = [0; 4];
    loop {
        match input.read_exact(&mut bytes) {
            Ok(()) => push(u32::from_le_bytes(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(DataError::io("read", path)(error)),
        }
    }
}

impl Drop for Columns {
    fn drop(&mut self) {
        for (path, _) in &self.spilled {
            // Nothing is lost if a temporary file outlives us.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_reads_back_the_same_from_disk_and_memory() {
        let folder = tempfile::tempdir().unwrap();
        let read = |budget: usize| {
            let mut columns = Columns::new(3, budget, folder.path().to_owned());
            for start in [0_u32, 30, 60] {
                columns.push(&(start..start + 30).collect::<Vec<_>>()).unwrap();
            }
            let bands: Vec<_> = (0..3).map(|band| columns.keyed(band).unwrap()).collect();
            (bands, columns.has_spilled())
        };
        let (in_memory, _) = read(usize::MAX);
        let (on_disk, has_spilled) = read(150);
        assert!(has_spilled);
        assert_eq!(in_memory, on_disk);
        assert_eq!(in_memory[1][7], 22 << 32 | 7);
        assert!(in_memory.iter().all(|keys| keys.is_sorted()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "temporary files are removed");
    }

    #[test]
    fn names_sort_as_comparing_sorts_them() {
        for n in [0_u64, 1, 2, 5000] {
            // Some names occur more than once, and both ends of the range.
            let name =
                |i: u64| [i.wrapping_mul(0x9e37_79b9) as u32 >> (i % 20), 0, u32::MAX][(i % 3) as usize];
            let keys: Vec<u64> = (0..n).map(|i| u64::from(name(i)) << 32 | i).collect();
            let mut expect = keys.clone();
            expect.sort_unstable();
            assert_eq!(sorted_by_name(keys), expect);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let mut columns = Columns::new(1, 0, PathBuf::from("no/such/folder"));
        let error = columns.push(&[1, 2, 3]).unwrap_err().to_string();
        assert!(error.contains("cannot create no/such/folder"), "{error}");
    }
}
