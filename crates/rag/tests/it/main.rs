//! The crate as its users see it: stores, published retrieval figures, answers.

mod anchors;
mod answers;
mod metrics;
mod stores;

use ferrotune_types::Document;

fn document(id: &str, text: &str) -> Document {
    Document { id: id.into(), text: text.into(), meta: serde_json::Map::new() }
}

/// A file of the shared test data, or a note and nothing where this checkout has none.
fn shared(path: &str) -> Option<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    if let Ok(bytes) = std::fs::read(&path) {
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    eprintln!("skipped: {} is not here", path.display());
    None
}
