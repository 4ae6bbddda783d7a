//! Duplicates by meaning: vectors of great cosine.

use ferrotune_types::{Embed, ModelError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::banding::Banding;
use super::forest::Forest;
use super::lsh::{ClusterStats, Clusters, largest};
use super::shingle::mix;
use crate::DataError;

/// When two vectors are duplicates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// Least cosine. Look at pairs before you trust a value: models differ in how near unlike texts lie.
    pub threshold: f32,
    /// Up to so many vectors all pairs are compared; beyond, those that agree in a band of random hyperplanes
    /// (Charikar 2002).
    pub exact_up_to: usize,
    /// Hyperplanes to choose bands from.
    pub planes: usize,
    /// Share of the pairs at the threshold that bands must find.
    pub recall: f64,
    /// Seeds the hyperplanes.
    pub seed: u64,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        EmbeddingConfig { threshold: 0.95, exact_up_to: 5000, planes: 512, recall: 0.98, seed: 42 }
    }
}

/// Clusters of texts that `model` takes for the same; see [`vector_clusters`].
///
/// # Errors
/// What the model says; [`ModelError::Failed`] for settings out of range.
pub fn embedding_clusters(
    texts: &[&str],
    model: &dyn Embed,
    config: &EmbeddingConfig,
) -> Result<Clusters, ModelError> {
    vector_clusters(&model.embed(texts)?, config).map_err(ModelError::failed)
}

/// Clusters of vectors, (n, d), each pair verified by its true cosine. A vector of zeros is like no other.
///
/// # Errors
/// [`DataError::Config`] where the vectors differ in length or a setting is out of range.
///
/// ```
/// use ferrotune_data::dedup::{vector_clusters, EmbeddingConfig};
/// let found = vector_clusters(&[vec![1.0, 0.0], vec![0.0, 1.0], vec![0.99, 0.01]], &EmbeddingConfig::default());
/// assert_eq!(found.unwrap().of, [0, 1, 0]);
/// ```
pub fn vector_clusters(vectors: &[Vec<f32>], config: &EmbeddingConfig) -> Result<Clusters, DataError> {
    let bad = |what: String| Err(DataError::Config(format!("dedup by embedding: {what}")));
    let in_range = config.threshold > 0.0 && config.threshold <= 1.0 && (0.0..1.0).contains(&config.recall);
    if !in_range {
        return bad(format!("threshold {} or recall {} is out of range", config.threshold, config.recall));
    }
    let dim = vectors.first().map_or(0, Vec::len);
    if let Some(other) = vectors.iter().find(|v| v.len() != dim) {
        return bad(format!("vectors of {dim} and of {} dimensions", other.len()));
    }
    let unit: Vec<Vec<f32>> = vectors.par_iter().map(|v| to_unit(v)).collect();
    let mut forest = Forest::new(unit.len());
    let mut stats = ClusterStats::default();
    let is_close = |a: usize, b: usize| dot(&unit[a], &unit[b]) >= config.threshold;
    if unit.len() <= config.exact_up_to {
        let close: Vec<Vec<usize>> =
            (0..unit.len()).into_par_iter().map(|b| (0..b).filter(|&a| is_close(a, b)).collect()).collect();
        stats.candidates = unit.len() * unit.len().saturating_sub(1) / 2;
        for (b, close) in close.into_iter().enumerate() {
            stats.verified += close.len();
            for a in close {
                forest.union(a, b);
            }
        }
    } else {
        // Two vectors at angle θ fall on the same side of a random plane with probability 1 - θ / π.
        let agreement = 1.0 - f64::from(config.threshold).acos() / std::f64::consts::PI;
        let split = Banding::choose(agreement, config.planes, config.recall);
        for band in 0..split.bands {
            let planes = planes(dim, split.rows, config.seed, band as u64);
            let mut keyed: Vec<(u64, u32)> =
                unit.par_iter().enumerate().map(|(i, v)| (side(v, &planes), i as u32)).collect();
            keyed.par_sort_unstable();
            let buckets: Vec<&[(u64, u32)]> = keyed.chunk_by(|a, b| a.0 == b.0).collect();
            let found: Vec<(usize, Vec<(usize, usize)>)> = buckets
                .par_iter()
                .map(|bucket| {
                    let (mut candidates, mut pairs) = (0, Vec::new());
                    for (j, &(_, b)) in bucket.iter().enumerate() {
                        for &(_, a) in &bucket[..j] {
                            let (a, b) = (a as usize, b as usize);
                            if forest.root(a) != forest.root(b) {
                                candidates += 1;
                                if is_close(a, b) {
                                    pairs.push((a, b));
                                }
                            }
                        }
                    }
                    (candidates, pairs)
                })
                .collect();
            for (candidates, pairs) in found {
                stats.candidates += candidates;
                stats.verified += pairs.len();
                for (a, b) in pairs {
                    forest.union(a, b);
                }
            }
        }
    }
    let of = forest.roots();
    stats.largest = largest(&of);
    Ok(Clusters { of, stats })
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn to_unit(v: &[f32]) -> Vec<f32> {
    let norm = dot(v, v).sqrt();
    let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
    v.iter().map(|x| x * scale).collect()
}

/// `n` random directions, (n, dim): normal components by Box and Muller.
fn planes(dim: usize, n: usize, seed: u64, band: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ mix(band + 1));
    let mut normal = || {
        let (u, v) = (1.0 - rng.random::<f32>(), rng.random::<f32>());
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    };
    (0..n).map(|_| (0..dim).map(|_| normal()).collect()).collect()
}

/// On which side of each plane `v` lies, as a name.
fn side(v: &[f32], planes: &[Vec<f32>]) -> u64 {
    planes.iter().fold(0, |name, plane| mix(name << 1 ^ u64::from(dot(v, plane) >= 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` random directions and, after each, one at cosine about 0.97 to it.
    fn pairs(n: usize) -> Vec<Vec<f32>> {
        let around = planes(24, 2 * n, 9, 0);
        let mut vectors = Vec::new();
        for pair in around.chunks_exact(2) {
            let (a, noise) = (to_unit(&pair[0]), to_unit(&pair[1]));
            let twin: Vec<f32> = a.iter().zip(&noise).map(|(x, y)| x + 0.2 * y).collect();
            vectors.extend([a, twin]);
        }
        vectors
    }

    #[test]
    fn bands_find_what_all_pairs_find() {
        let vectors = pairs(300);
        let exact = vector_clusters(&vectors, &EmbeddingConfig::default()).unwrap();
        let banded = EmbeddingConfig { exact_up_to: 0, ..EmbeddingConfig::default() };
        let banded = vector_clusters(&vectors, &banded).unwrap();
        assert!(exact.groups().len() > 250, "{}", exact.groups().len());
        assert!(banded.stats.candidates < exact.stats.candidates / 20, "{:?}", banded.stats);
        let joined = |c: &Clusters| c.of.iter().enumerate().filter(|&(i, &first)| i != first).count();
        assert!(joined(&banded) as f64 >= 0.97 * joined(&exact) as f64);
        assert!(banded.of.iter().zip(&exact.of).all(|(b, e)| b >= e), "no pair that all pairs lacks");
    }

    #[test]
    fn odd_vectors_are_refused_or_left_alone() {
        let config = EmbeddingConfig::default();
        assert!(vector_clusters(&[vec![1.0], vec![1.0, 2.0]], &config).is_err());
        assert_eq!(vector_clusters(&[vec![0.0], vec![0.0]], &config).unwrap().of, [0, 1]);
        assert_eq!(vector_clusters(&[], &config).unwrap().of, [0; 0]);
    }
}
