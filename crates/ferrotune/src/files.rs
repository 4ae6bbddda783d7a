//! Files that are whole or not there.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// Writes `bytes` beside `path` under another name, syncs them and renames: nobody ever reads half a file. A link stays one,
/// and what it points to is written. A device or a pipe is written into.
///
/// # Errors
/// The folder is not there, the disk is full, …: named with the path; the old file is untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            return std::fs::write(path, bytes);
        }
        let path = behind_links(path)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let partial = beside(&path, "partial");
        write_synced(&partial, bytes)
            .and_then(|()| std::fs::rename(&partial, &path))
            .inspect_err(|_| drop(std::fs::remove_file(&partial)))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Another name in the same folder, hidden, which says what it is for.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{what}"))
}

/// What a link points to, there or not yet; any other path as it is.
fn behind_links(path: &Path) -> std::io::Result<PathBuf> {
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        if !path.is_symlink() {
            return Ok(path);
        }
        path = match path.canonicalize() {
            Ok(there) => there,
            Err(_) => path.with_file_name(path.read_link()?),
        };
    }
    Err(std::io::Error::other("its links go round in a circle"))
}

/// What `take` makes of each row of a JSONL file and of the number of its line; blank lines are left out. `wanted` says in
/// an error what a row must be, such as `: a row needs a "text"`.
///
/// # Errors
/// A file that cannot be read; a line that is no such row, named by file and line; whatever `take` refuses.
pub fn json_lines<T: DeserializeOwned, U>(
    file: &Path,
    wanted: &str,
    take: impl FnMut(usize, T) -> Result<U>,
) -> Result<Vec<U>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    json_lines_of(&text, file, wanted, take)
}

/// As [`json_lines`], of a file's text.
pub fn json_lines_of<T: DeserializeOwned, U>(
    text: &str,
    file: &Path,
    wanted: &str,
    mut take: impl FnMut(usize, T) -> Result<U>,
) -> Result<Vec<U>> {
    // A byte-order mark, which some editors put first.
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let at = || format!("{}:{}{wanted}", file.display(), i + 1);
            take(i + 1, serde_json::from_str(line).with_context(at)?)
        })
        .collect()
}

/// Fills a folder beside `folder`, which then takes its place: it appears whole or not at all, and an old one stays until
/// then. A link stays one, and the folder that it points to is replaced.
///
/// # Errors
/// What `fill` says, after what it began is taken away; a full disk, ….
pub(crate) fn write_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = &behind_links(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let [partial, old] = ["writing", "old"].map(|what| beside(folder, what));
    for leftover in [&partial, &old] {
        let _ = std::fs::remove_dir_all(leftover);
    }
    fill(&partial).inspect_err(|_| drop(std::fs::remove_dir_all(&partial)))?;
    if folder.is_dir() {
        std::fs::rename(folder, &old).with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    std::fs::rename(&partial, folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

/// Whether `path` is `folder` or lies in it, whatever links lead there; one that is not there yet counts as lying where its
/// nearest folder that is there does.
pub(crate) fn lies_in(path: &Path, folder: &Path) -> bool {
    // The last ancestor of a relative path is empty.
    let here = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
    let real = path.ancestors().find_map(|path| here(path).canonicalize().ok());
    real.zip(folder.canonicalize().ok()).is_some_and(|(path, folder)| path.starts_with(folder))
}

/// SHA-256 of several parts, each with its length before it, in hexadecimal: names a run by all that made it.
pub fn hash_parts(parts: &[&[u8]]) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// SHA-256 of a file, or of a folder's files by name; of a file over 4 GiB its length stands for it. Subfolders are no part
/// of a model.
pub(crate) fn content_hash(path: &Path) -> Result<Vec<u8>> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = std::fs::read_dir(path)?.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    }
    hash_files(path, files)
}

/// As [`content_hash`], of these files of a folder.
pub(crate) fn hash_files(path: &Path, mut files: Vec<PathBuf>) -> Result<Vec<u8>> {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    files.sort();
    for file in &files {
        let name = file.strip_prefix(path).unwrap_or(file).to_string_lossy().into_owned();
        let mut reader =
            std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let length = reader.metadata()?.len();
        if path.is_dir() {
            hasher.update(name.as_bytes());
        }
        hasher.update(length.to_le_bytes());
        if length < 4 << 30 {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n =
                    reader.read(&mut buffer).with_context(|| format!("cannot read {}", file.display()))?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
            }
        }
    }
    Ok(hasher.finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_what_it_points_to_is_written() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // A link to a link to a file that is not there yet, then one that is.
        symlink("sub/second", at("first")).unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        symlink("../target", at("sub/second")).unwrap();
        for text in ["new", "newer"] {
            write_atomic(&at("first"), text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(at("target")).unwrap(), text);
        }
        symlink("models", at("link")).unwrap();
        for text in ["new", "newer"] {
            let fill = |partial: &Path| -> Result<()> {
                std::fs::create_dir(partial)?;
                Ok(std::fs::write(partial.join("file"), text)?)
            };
            write_folder(&at("link"), fill).unwrap();
            assert_eq!(std::fs::read_to_string(at("models/file")).unwrap(), text);
        }
        assert!(["first", "sub/second", "link"].iter().all(|name| at(name).is_symlink()));
        symlink("round", at("round")).unwrap();
        let error = format!("{:#}", write_atomic(&at("round"), b"").unwrap_err());
        assert!(error.contains("round in a circle"), "{error}");
        // Nothing takes a device's place.
        symlink("/dev/null", at("nowhere")).unwrap();
        write_atomic(&at("nowhere"), b"gone").unwrap();
        assert!(at("nowhere").is_symlink() && !Path::new("/dev/null").metadata().unwrap().is_file());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_row() {
        let rows = json_lines_of(
            "\u{feff}{\"a\": 1}\n\n{\"a\": 2}\n",
            Path::new("x"),
            "",
            |line, row: serde_json::Value| Ok((line, row["a"].as_i64())),
        );
        assert_eq!(rows.unwrap(), [(1, Some(1)), (3, Some(2))]);
    }
}
