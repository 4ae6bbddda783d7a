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
    /// Of them, those whose text, columns and cut were in the index already, with vectors where an embedder is given:
    /// untouched.
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
/// A document that the store holds without vectors counts as changed where an embedder is given. Documents in the
/// store that are not given stay; [`remove_others`] removes them. Killed at any moment, a second run finishes the work.
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
    let held = held(store, embedder.is_some())?;
    let mut report = IndexReport { documents: documents.len(), ..IndexReport::default() };
    let mut batch = Vec::new();
    for document in documents {
        if held.get(&document.id).is_some_and(|prints| *prints == [fingerprint(document, config)]) {
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

/// Removes every document of a store that is not among these, and says which they were.
///
/// After [`index`] with all documents of a folder, the store then holds those and no others: what was deleted or
/// renamed is found no more.
///
/// # Errors
/// The store's own.
pub fn remove_others(store: &mut dyn Store, documents: &[Document]) -> Result<Vec<String>, RagError> {
    let kept: BTreeSet<&str> = documents.iter().map(|document| document.id.as_str()).collect();
    let mut others: Vec<String> = store.documents()?.into_iter().map(|(id, _)| id).collect();
    others.retain(|id| !kept.contains(id.as_str()));
    others.dedup();
    if !others.is_empty() {
        store.delete(&Filter::documents(&others.iter().map(String::as_str).collect::<Vec<_>>()))?;
    }
    Ok(others)
}

/// The fingerprints of each document in a store; none of one that lacks vectors which it should have.
fn held(store: &dyn Store, with_vectors: bool) -> Result<BTreeMap<String, Vec<String>>, RagError> {
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, print) in store.documents()? {
        held.entry(id).or_default().push(print);
    }
    if with_vectors {
        for id in store.without_vectors()? {
            held.insert(id, Vec::new());
        }
    }
    Ok(held)
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
