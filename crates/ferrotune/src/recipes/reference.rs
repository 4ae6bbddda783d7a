//! What the reference says of a run's batches: computed once, before anything moves, and kept on disk, so that a run that
//! goes on does not ask again.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrotune_types::Batch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{hash_parts, write_atomic};
use crate::progress::{Interrupted, Progress, interrupted};

/// In a run's folder.
const FILE: &str = "reference.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceFile<T> {
    version: u32,
    /// Of the run and of every token of its batches, so that another template shows too.
    hash: String,
    /// None for a batch that is not wanted.
    batches: Vec<Option<T>>,
}

/// What `of` gives for each of the `wanted` batches, by its place and without gradients: from the file in `dir` where it belongs to this run, else
/// computed and written there. Also whether it came from the file.
///
/// # Errors
/// A file of another run, or a broken one; what `of` refuses; [`Interrupted`].
pub(super) fn computed_once<T: Serialize + DeserializeOwned>(
    batches: &[&Batch],
    wanted: &BTreeSet<usize>,
    dir: &Path,
    run_hash: &str,
    of: impl Fn(usize) -> Result<T>,
) -> Result<(Vec<Option<T>>, bool)> {
    let cache = dir.join(FILE);
    let tokens: Vec<Vec<u8>> =
        batches.iter().map(|b| b.ids().iter().flat_map(|id| id.to_le_bytes()).collect()).collect();
    let parts = std::iter::once(run_hash.as_bytes()).chain(tokens.iter().map(Vec::as_slice));
    let hash = hash_parts(&parts.collect::<Vec<_>>());
    if let Ok(bytes) = std::fs::read(&cache) {
        let broken = || format!("{} is broken; remove it and start again", cache.display());
        let file: ReferenceFile<Value> = serde_json::from_slice(&bytes).with_context(broken)?;
        let whole = wanted.iter().all(|&b| file.batches.get(b).is_some_and(Option::is_some));
        if file.version != 2 || file.hash != hash || !whole {
            bail!(
                "{} belongs to another model, data or settings; remove it or use another folder",
                cache.display()
            );
        }
        let batches = file.batches.into_iter().map(|batch| batch.map(serde_json::from_value).transpose());
        return Ok((batches.collect::<Result<_, _>>().with_context(broken)?, true));
    }
    let mut progress = Progress::new("reference", wanted.len());
    let mut found: Vec<Option<T>> = batches.iter().map(|_| None).collect();
    for &b in wanted {
        found[b] = Some(tch::no_grad(|| of(b))?);
        progress.step(1, String::new);
        if interrupted() {
            return Err(Interrupted("nothing was trained yet, and nothing kept".to_owned()).into());
        }
    }
    progress.finish("log-probabilities of the reference computed");
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = ReferenceFile { version: 2, hash, batches: found };
    write_atomic(&cache, &serde_json::to_vec(&file)?)?;
    Ok((file.batches, false))
}
