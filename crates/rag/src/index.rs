use std::collections::{BTreeMap, BTreeSet};

use ferrotune_types::{Document, Embed};
use serde::{Deserialize, Serialize};

use crate::chunk::fingerprint;
use crate::{ChunkConfig, Filter, RagError, Store, Vectors, chunk_by};

/// Chunks are embedded and written this many at a time, so that memory stays bounded.
const BATCH: usize = 256;

/// What [`index`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexReport {
    /// Documents given.
    pub documents: usize,
    /// Of them, those whose text, columns and cut were in the index already, untouched.
    pub unchanged: usize,
    /// Of them, those without any text.
    pub empty: usize,
    /// Chunks written.
    pub chunks: usize,
    /// Chunks of earlier versions removed.
    pub removed: usize,
}

/// Brings a store up to date with documents: cuts, embeds and writes those that are new or changed.
///
/// Documents in the store that are not given stay; remove them with [`Store::delete`] and
/// [`Filter::documents`]. Killed at any moment, a second run finishes the work.
///
/// # Errors
/// [`RagError::Config`] where a document has no id, two share one, or the cut is impossible; the embedder's and
/// the store's own. A store made with an embedder must be given the same one.
pub fn index(
    store: &mut dyn Store,
    documents: &[Document],
    config: &ChunkConfig,
    embedder: Option<&dyn Embed>,
) -> Result<IndexReport, RagError> {
    index_by(store, documents, config, &|text| text.chars().count(), embedder)
}

/// [`index`] with sizes counted by `size_of`, as [`chunk_by`] does.
///
/// # Errors
/// As [`index`].
pub fn index_by(
    store: &mut dyn Store,
    documents: &[Document],
    config: &ChunkConfig,
    size_of: &dyn Fn(&str) -> usize,
    embedder: Option<&dyn Embed>,
) -> Result<IndexReport, RagError> {
    check_ids(documents)?;
    check_embedder(store, embedder)?;
    let held: BTreeMap<String, String> = store.documents()?.into_iter().collect();
    let mut report = IndexReport { documents: documents.len(), ..IndexReport::default() };
    let mut batch = Vec::new();
    for document in documents {
        if held.get(&document.id).is_some_and(|print| *print == fingerprint(document, config)) {
            report.unchanged += 1;
            continue;
        }
        let chunks = chunk_by(document, config, size_of)?;
        report.empty += usize::from(chunks.is_empty());
        report.chunks += chunks.len();
        if held.contains_key(&document.id) {
            report.removed += store.delete(&Filter::documents(&[&document.id]))?;
        }
        // A document's chunks are written together, so that none is ever half there.
        batch.extend(chunks);
        if batch.len() >= BATCH {
            write(store, &mut batch, embedder)?;
        }
    }
    write(store, &mut batch, embedder)?;
    Ok(report)
}

fn write(
    store: &mut dyn Store,
    batch: &mut Vec<crate::Chunk>,
    embedder: Option<&dyn Embed>,
) -> Result<(), RagError> {
    let chunks = std::mem::take(batch);
    if chunks.is_empty() {
        return Ok(());
    }
    let Some(embedder) = embedder else { return store.upsert(&chunks, None) };
    let texts: Vec<String> = chunks.iter().map(crate::Chunk::search_text).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rows = embedder.embed(&texts)?;
    store.upsert(&chunks, Some(Vectors { embedder: embedder.name(), rows: &rows }))
}

fn check_ids(documents: &[Document]) -> Result<(), RagError> {
    let mut seen = BTreeSet::new();
    for document in documents {
        let reason = if document.id.is_empty() {
            "a document has none".to_owned()
        } else if !seen.insert(document.id.as_str()) {
            format!("two documents have '{}'", document.id)
        } else {
            continue;
        };
        return Err(RagError::Config { setting: "id", reason });
    }
    Ok(())
}

/// Said before any document is cut, and also where every document is unchanged.
fn check_embedder(store: &dyn Store, embedder: Option<&dyn Embed>) -> Result<(), RagError> {
    let Some(held) = store.embedder()? else { return Ok(()) };
    match embedder {
        Some(asked) if asked.name() == held.name && asked.dim() == held.dim => Ok(()),
        Some(asked) => Err(RagError::OtherEmbedder {
            held: held.name,
            held_dim: held.dim,
            asked: asked.name().to_owned(),
            asked_dim: asked.dim(),
        }),
        None => Err(RagError::Config {
            setting: "embedder",
            reason: format!("the index was made with {}: new chunks need its vectors", held.name),
        }),
    }
}
