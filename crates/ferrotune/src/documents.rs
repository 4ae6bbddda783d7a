//! A folder of documents.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_types::Document;

/// Reads every `.md` and `.txt` file below `folder`, in order of their paths; a document's id is its path without
/// the extension.
///
/// # Errors
/// No such file, or one that is not UTF-8.
pub fn read_folder(folder: &Path) -> Result<Vec<Document>> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    if files.is_empty() {
        bail!("{} holds no .md or .txt file", folder.display());
    }
    files
        .iter()
        .map(|path| {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(folder).unwrap_or(path).with_extension("");
            Ok(Document { id: name.to_string_lossy().into_owned(), text, meta: serde_json::Map::new() })
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "md" || e == "txt") {
            files.push(path);
        }
    }
    Ok(())
}
