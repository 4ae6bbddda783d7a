//! Near-duplicate clusters of texts: MinHash, banding, verification, union.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::banding::Banding;
use super::exact::exact_twins;
use super::forest::Forest;
use super::index::{Found, Index};
use super::shingle::Shingling;
use super::texts::Texts;
use crate::DataError;

/// How near duplicates are found. The defaults find 95% of the pairs at Jaccard 0.7 and more of the nearer ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinHashConfig {
    /// Two texts are near duplicates where the Jaccard similarity of their shingle sets is at least this.
    pub threshold: f64,
    /// How a text becomes a set.
    pub shingling: Shingling,
    /// Slots of a sketch: more find as much with fewer false candidates.
    pub permutations: usize,
    /// Share of the pairs exactly at the threshold that must be found; [`Banding::choose`] splits by it.
    pub recall: f64,
    /// Seeds the hash functions.
    pub seed: u64,
    /// In a bucket of more texts than this, not all pairs are compared: each text is compared with the bucket's
    /// leaders (texts like no earlier leader, at most this many). Such buckets are counted in the report.
    pub bucket_cap: usize,
    /// Memory for band columns, in MiB; beyond it they go to disk. All else takes about 80 bytes a text.
    pub memory_mib: usize,
    /// Where columns go; the system's temporary folder if unset.
    pub spill_folder: Option<PathBuf>,
}

impl Default for MinHashConfig {
    fn default() -> Self {
        MinHashConfig {
            threshold: 0.7,
            shingling: Shingling::default(),
            permutations: 256,
            recall: 0.95,
            seed: 42,
            bucket_cap: 1000,
            memory_mib: 1024,
            spill_folder: None,
        }
    }
}

impl MinHashConfig {
    /// The split of the sketch that these settings ask for; print it to see its S-curve.
    pub fn banding(&self) -> Banding {
        Banding::choose(self.threshold, self.permutations, self.recall)
    }

    fn check(&self) -> Result<(), DataError> {
        let in_unit = |x: f64| x > 0.0 && x <= 1.0;
        let bad = |what: String| Err(DataError::Config(format!("dedup: {what}")));
        if !in_unit(self.threshold) {
            return bad(format!("threshold must be above 0 and at most 1, not {}", self.threshold));
        }
        if !(0.0..1.0).contains(&self.recall) {
            return bad(format!("recall must be at least 0 and below 1, not {}", self.recall));
        }
        if self.permutations == 0 || self.permutations > 4096 {
            return bad(format!("permutations must be 1 to 4096, not {}", self.permutations));
        }
        if self.shingling.ngram == 0 || self.shingling.short_ngram == 0 {
            return bad("an n-gram has at least one word or character".to_owned());
        }
        Ok(())
    }
}

/// Which texts belong together, and what finding it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    /// For each text the first text of its cluster; its own number where it is alone.
    pub of: Vec<usize>,
    /// What finding it took.
    pub stats: ClusterStats,
}

/// Counts of a clustering.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStats {
    /// Texts whose normalised form occurred before.
    pub exact: usize,
    /// Pairs that shared a band and passed the sketch's rough test.
    pub candidates: usize,
    /// Candidates whose true similarity reached the threshold.
    pub verified: usize,
    /// Buckets over the cap, in which not all pairs were compared.
    pub capped_buckets: usize,
    /// Texts of the largest cluster.
    pub largest: usize,
    /// Whether band columns went to disk.
    pub spilled: bool,
}

impl Clusters {
    /// The clusters of two texts or more, each in order, by their first text.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (text, &first) in self.of.iter().enumerate() {
            if first != text {
                groups.entry(first).or_insert_with(|| vec![first]).push(text);
            }
        }
        groups.into_values().collect()
    }
}

/// Clusters of near-duplicate texts: the connected components of all found pairs at or above the threshold, each
/// pair verified by its true Jaccard similarity. See [`MinHashConfig`].
///
/// The clusters do not depend on the order of the texts or the number of threads.
///
/// # Errors
/// [`DataError::Config`] for settings out of range; [`DataError::Io`] where columns cannot go to disk.
///
/// ```
/// use ferrotune_data::dedup::{clusters, MinHashConfig};
/// let texts = ["How do I reset my password?", "Where is my parcel?", "how do i  reset my password"];
/// let found = clusters(&texts, &MinHashConfig::default()).unwrap();
/// assert_eq!(found.of, [0, 1, 0]);
/// ```
pub fn clusters<T: Texts + ?Sized>(texts: &T, config: &MinHashConfig) -> Result<Clusters, DataError> {
    config.check()?;
    let n = texts.count();
    let exact = exact_twins(texts);
    let mut forest = Forest::new(n);
    for (text, &first) in exact.iter().enumerate() {
        forest.union(first as usize, text);
    }
    let mut stats = ClusterStats {
        exact: exact.iter().enumerate().filter(|&(text, &first)| text != first as usize).count(),
        ..ClusterStats::default()
    };

    let index = Index::build(texts, &exact, config)?;
    stats.spilled = index.columns.has_spilled();
    for band in 0..index.banding.bands {
        let keyed = index.columns.keyed(band)?;
        let buckets: Vec<&[u64]> =
            keyed.chunk_by(|a, b| a >> 32 == b >> 32).filter(|bucket| bucket.len() > 1).collect();
        // A slice at a time, so that the found pairs stay few and later buckets see earlier unions.
        for slice in buckets.chunks(1 << 14) {
            let found: Vec<Found> = slice.par_iter().map(|bucket| index.search(bucket, &forest)).collect();
            for bucket in found {
                stats.candidates += bucket.candidates;
                stats.verified += bucket.pairs.len();
                stats.capped_buckets += usize::from(bucket.is_capped);
                for (a, b) in bucket.pairs {
                    forest.union(a, b);
                }
            }
        }
    }
    let of = forest.roots();
    stats.largest = largest(&of);
    Ok(Clusters { of, stats })
}

pub(super) fn largest(of: &[usize]) -> usize {
    let mut sizes = vec![0_usize; of.len()];
    for &first in of {
        sizes[first] += 1;
    }
    sizes.into_iter().max().unwrap_or(0)
}
