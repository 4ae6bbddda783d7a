//! Spherical k-means over unit vectors.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// A unit vector as (dimension, weight), dimensions rising.
pub(super) type Sparse = Vec<(u32, f32)>;

/// Assigns each vector to one of at most `k` centroids of greatest cosine: k-means++ starts, at most 30 rounds
/// each, the best of eight starts. Returns the assignment and the centroids (dense, `dim` long, unit length).
/// Empty clusters are dropped.
///
/// The result does not depend on the number of threads: sums are taken in the order of the vectors.
pub(super) fn kmeans(vectors: &[Sparse], dim: usize, k: usize, seed: u64) -> (Vec<usize>, Vec<Vec<f32>>) {
    if vectors.is_empty() || k == 0 {
        return (Vec::new(), Vec::new());
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut best: Option<(f64, Vec<usize>, Vec<Vec<f32>>)> = None;
    for _ in 0..8 {
        let (fit, assignment, centroids) = one_start(vectors, dim, k, &mut rng);
        if best.as_ref().is_none_or(|b| fit > b.0) {
            best = Some((fit, assignment, centroids));
        }
    }
    best.map(|(_, assignment, centroids)| compact(assignment, centroids)).unwrap_or_default()
}

/// The sum of cosines reached from one start, and what reached it.
fn one_start(
    vectors: &[Sparse],
    dim: usize,
    k: usize,
    rng: &mut ChaCha8Rng,
) -> (f64, Vec<usize>, Vec<Vec<f32>>) {
    let mut centroids = start(vectors, dim, k, rng);
    let mut assignment = vec![usize::MAX; vectors.len()];
    for _ in 0..30 {
        let next: Vec<usize> = vectors.par_iter().map(|v| nearest(v, &centroids)).collect();
        let is_settled = next == assignment;
        assignment = next;
        if is_settled {
            break;
        }
        centroids = means(vectors, &assignment, centroids.len(), dim);
    }
    let fit = vectors.iter().zip(&assignment).map(|(v, &c)| f64::from(dot(v, &centroids[c]))).sum();
    (fit, assignment, centroids)
}

fn dot(sparse: &Sparse, dense: &[f32]) -> f32 {
    sparse.iter().map(|&(d, w)| w * dense[d as usize]).sum()
}

fn nearest(vector: &Sparse, centroids: &[Vec<f32>]) -> usize {
    let mut best = (0, f32::MIN);
    for (c, centroid) in centroids.iter().enumerate() {
        let cosine = dot(vector, centroid);
        if cosine > best.1 {
            best = (c, cosine);
        }
    }
    best.0
}

/// k-means++ (Arthur and Vassilvitskii 2007): each next centroid is drawn by squared distance from those there.
fn start(vectors: &[Sparse], dim: usize, k: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
    let dense = |i: usize| {
        let mut v = vec![0.0; dim];
        for &(d, w) in &vectors[i] {
            v[d as usize] = w;
        }
        v
    };
    let mut centroids = vec![dense(rng.random_range(0..vectors.len()))];
    let mut distance = vec![f64::MAX; vectors.len()];
    while centroids.len() < k.min(vectors.len()) {
        let newest = &centroids[centroids.len() - 1];
        for (d, v) in distance.iter_mut().zip(vectors) {
            *d = d.min(f64::from(2.0 - 2.0 * dot(v, newest)).max(0.0));
        }
        let total: f64 = distance.iter().sum();
        if total <= 1e-9 {
            break;
        }
        let mut left = rng.random::<f64>() * total;
        let drawn = distance.iter().position(|&d| {
            left -= d;
            left <= 0.0
        });
        centroids.push(dense(drawn.unwrap_or(vectors.len() - 1)));
    }
    centroids
}

fn means(vectors: &[Sparse], assignment: &[usize], k: usize, dim: usize) -> Vec<Vec<f32>> {
    let mut sums = vec![vec![0.0_f32; dim]; k];
    for (vector, &c) in vectors.iter().zip(assignment) {
        for &(d, w) in vector {
            sums[c][d as usize] += w;
        }
    }
    for sum in &mut sums {
        let norm = sum.iter().map(|w| w * w).sum::<f32>().sqrt();
        if norm > 0.0 {
            for w in sum {
                *w /= norm;
            }
        }
    }
    sums
}

fn compact(mut assignment: Vec<usize>, centroids: Vec<Vec<f32>>) -> (Vec<usize>, Vec<Vec<f32>>) {
    let mut size = vec![0_usize; centroids.len()];
    for &c in &assignment {
        size[c] += 1;
    }
    let mut new_name = vec![0; centroids.len()];
    let mut kept = Vec::new();
    for (c, centroid) in centroids.into_iter().enumerate() {
        if size[c] > 0 {
            new_name[c] = kept.len();
            kept.push(centroid);
        }
    }
    for c in &mut assignment {
        *c = new_name[*c];
    }
    (assignment, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_directions_are_three_clusters() {
        let vectors: Vec<Sparse> = (0..60)
            .map(|i| {
                let (main, side) = (i % 3, 3 + i % 5);
                vec![(main, 0.995_f32), (side, 0.1)]
            })
            .collect();
        let (assignment, centroids) = kmeans(&vectors, 8, 3, 1);
        assert_eq!(centroids.len(), 3);
        for (i, &c) in assignment.iter().enumerate() {
            assert_eq!(c, assignment[i % 3]);
        }
        assert_eq!(kmeans(&vectors[..1], 8, 3, 1).0, [0]);
        assert_eq!(kmeans(&[], 8, 3, 1).0, [0; 0]);
    }
}
