//! A folder of documents.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_types::Document;

/// Reads every `.md` and `.txt` file below `folder`, in order of their paths; a document's id is its path without
/// the extension.
///
/// # Errors
/// No such file, one that is not UTF-8, or two that differ in their extension only.
pub fn read_folder(folder: &Path) -> Result<Vec<Document>> {
    let mut files = files_below(folder)?;
    files.sort();
    if files.is_empty() {
        bail!("{} holds no .md or .txt file", folder.display());
    }
    let mut of_ids: BTreeMap<String, &Path> = BTreeMap::new();
    let mut documents = Vec::with_capacity(files.len());
    for path in &files {
        let name = path.strip_prefix(folder).unwrap_or(path).with_extension("");
        let id = name.to_string_lossy().into_owned();
        if let Some(other) = of_ids.insert(id.clone(), path) {
            let (other, path) = (other.display(), path.display());
            bail!("{other} and {path} would both be the document '{id}': rename one");
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        documents.push(Document { id, text, meta: serde_json::Map::new() });
    }
    Ok(documents)
}

/// SHA-256 of the documents below `folder` and of their paths.
#[cfg(feature = "torch")]
pub(crate) fn folder_hash(folder: &Path) -> Result<Vec<u8>> {
    crate::files::hash_files(folder, files_below(folder)?)
}

/// Links are followed last, and no folder is read twice: a link to a folder above ends there.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut links, mut seen) = (Vec::new(), VecDeque::new(), BTreeSet::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop().or_else(|| links.pop_front()) {
        let cannot_read = || format!("cannot read {}", folder.display());
        if !seen.insert(folder.canonicalize().with_context(cannot_read)?) {
            continue;
        }
        let entries = std::fs::read_dir(&folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut paths: Vec<PathBuf> =
            entries.with_context(cannot_read)?.into_iter().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                if path.is_symlink() { links.push_back(path) } else { folders.push(path) }
            } else if is_document(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// A pipe or a socket is none, whatever its name; a link to nothing is, so that reading it names it.
fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "md" || e == "txt") && (path.is_file() || !path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
    }

    fn ids(folder: &Path) -> Vec<String> {
        read_folder(folder).unwrap().into_iter().map(|document| document.id).collect()
    }

    #[cfg(feature = "torch")]
    #[test]
    fn a_trees_hash_feels_subfolders_and_no_loop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("sub")).unwrap();
        std::fs::write(path.join("a.md"), "a").unwrap();
        std::fs::write(path.join("sub/b.md"), "b").unwrap();
        let (top, tree) = (crate::files::content_hash(path).unwrap(), folder_hash(path).unwrap());
        std::fs::write(path.join("sub/b.md"), "c").unwrap();
        assert_eq!(crate::files::content_hash(path).unwrap(), top);
        let changed = folder_hash(path).unwrap();
        assert_ne!(changed, tree);
        #[cfg(unix)]
        std::os::unix::fs::symlink(path, path.join("sub/loop")).unwrap();
        assert_eq!(folder_hash(path).unwrap(), changed, "a link back adds nothing");
    }

    #[test]
    fn every_document_is_read_once_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["b.md", "a/c.txt", "a/d.pdf", "e.tar.md"]);
        assert_eq!(ids(folder.path()), ["a/c", "b", "e.tar"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_in_circles_and_pipes_end() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["top.md", "a/one.md", "b/two.md"]);
        for (to, link) in [(".", "a/loop"), ("../b", "a/over"), ("..", "b/back")] {
            std::os::unix::fs::symlink(to, folder.path().join(link)).unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket.md")).unwrap();
        assert_eq!(ids(folder.path()), ["a/one", "b/two", "top"]);
        std::os::unix::fs::symlink("nowhere", folder.path().join("gone.md")).unwrap();
        let error = format!("{:#}", read_folder(folder.path()).unwrap_err());
        assert!(error.contains("gone.md"), "{error}");
    }

    #[test]
    fn two_files_of_one_id_are_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["a/x.md", "a/x.txt"]);
        let error = read_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("x.md") && error.contains("x.txt") && error.contains("'a/x'"), "{error}");
    }
}
