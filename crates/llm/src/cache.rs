use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::LlmError;

/// Raised when the files' form changes; older files are then not read.
const VERSION: u64 = 1;

/// Replies on disk, one JSON file a request, named by the request's hash.
///
/// A file holds the whole request beside the reply, so that a collision or a damaged file is noticed and counts
/// as absent. Files appear whole or not at all, and a folder may be shared by several processes.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// A cache in this folder, which is made when first needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Cache { folder: folder.into() }
    }

    /// The reply to this very request to this address.
    pub(crate) fn get(&self, url: &str, body: &Value) -> Option<Value> {
        let text = std::fs::read_to_string(self.path(url, body)).ok()?;
        let mut entry: Value = serde_json::from_str(&text).ok()?;
        let same = entry["version"] == VERSION && entry["url"] == url && entry["request"] == *body;
        same.then(|| entry["reply"].take()).filter(|reply| !reply.is_null())
    }

    /// Keeps a reply.
    pub(crate) fn put(&self, url: &str, body: &Value, reply: &Value) -> Result<(), LlmError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let path = self.path(url, body);
        let entry = json!({"version": VERSION, "url": url, "request": body, "reply": reply});
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let folder = path.parent().unwrap_or(&self.folder);
        let failed = |op, path: &Path, source| LlmError::Cache { op, path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(|e| failed("make the folder", folder, e))?;
        let written = std::fs::write(&temporary, entry.to_string())
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| failed("write", &path, e));
        if written.is_err() {
            // What could not be finished must not pile up; that it cannot be removed either adds nothing.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn path(&self, url: &str, body: &Value) -> PathBuf {
        let key = format!("{url}\n{body}");
        let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(key.as_bytes()));
        self.folder.join(&hash[..2]).join(format!("{hash}.json"))
    }
}
