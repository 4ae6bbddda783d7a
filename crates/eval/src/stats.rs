use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::EvalError;

/// How often a bootstrap draws.
const RESAMPLES: usize = 10_000;

/// A value with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The value.
    pub mean: f64,
    /// The bounds that 95% of the resampled values lie between.
    pub ci95: [f64; 2],
}

/// The mean with a percentile bootstrap interval: 10,000 resamples, drawn from `seed`. Of nothing: all 0.
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Interval {
    let means = resampled_means(values, seed);
    Interval { mean: mean(values), ci95: [percentile(&means, 0.025), percentile(&means, 0.975)] }
}

/// Share of wins, ties counted half; 0.5 where nothing was compared.
pub fn win_rate(wins: usize, losses: usize, ties: usize) -> f64 {
    let n = wins + losses + ties;
    if n == 0 { 0.5 } else { (wins as f64 + 0.5 * ties as f64) / n as f64 }
}

/// How much `a` is above `b` on the same items, and whether that may be chance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean of a - b.
    pub difference: f64,
    /// Its 95% bootstrap interval.
    pub ci95: [f64; 2],
    /// Two-sided: twice the share of resampled means on the other side of 0, at most 1 (Koehn 2004).
    pub p_value: f64,
}

/// Compares two models' scores on the same items by resampling the items.
///
/// # Errors
/// [`EvalError::Shape`] where the lists differ in length or are empty.
pub fn paired_bootstrap(a: &[f64], b: &[f64], seed: u64) -> Result<PairedDifference, EvalError> {
    if a.len() != b.len() || a.is_empty() {
        let reason = format!("{} and {} scores do not pair", a.len(), b.len());
        return Err(EvalError::Shape { op: "paired_bootstrap", reason });
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let means = resampled_means(&differences, seed);
    let below = means.iter().filter(|m| **m <= 0.0).count();
    let above = means.iter().filter(|m| **m >= 0.0).count();
    // One is added to both, because an observed result is itself one draw: p is never 0.
    let p_value = (2.0 * (below.min(above) + 1) as f64 / (means.len() + 1) as f64).min(1.0);
    let ci95 = [percentile(&means, 0.025), percentile(&means, 0.975)];
    Ok(PairedDifference { difference: mean(&differences), ci95, p_value })
}

/// The exact two-sided sign test: how likely a split at least as uneven is, if either side were as likely to
/// win. Ties are left out beforehand. 1 where there is nothing to compare.
pub fn sign_test(wins: usize, losses: usize) -> f64 {
    let (n, fewer) = (wins + losses, wins.min(losses));
    // ln C(n, k) is built up from term to term; sums stay exact to 1e-12 far beyond any test set.
    let (mut ln_choose, mut tail) = (0f64, 0f64);
    for k in 0..=fewer {
        tail += (ln_choose - n as f64 * std::f64::consts::LN_2).exp();
        ln_choose += (((n - k) as f64) / ((k + 1) as f64)).ln();
    }
    (2.0 * tail).min(1.0)
}

/// McNemar's exact test for two models that are right or wrong on the same items: only items on which they
/// differ tell anything.
///
/// # Errors
/// [`EvalError::Shape`] where the lists differ in length.
pub fn mcnemar(a: &[bool], b: &[bool]) -> Result<f64, EvalError> {
    if a.len() != b.len() {
        let reason = format!("{} and {} outcomes do not pair", a.len(), b.len());
        return Err(EvalError::Shape { op: "mcnemar", reason });
    }
    let only_a = a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
    let only_b = a.iter().zip(b).filter(|(a, b)| !**a && **b).count();
    Ok(sign_test(only_a, only_b))
}

/// Agreement of two raters beyond chance: 1 is perfect, 0 is what chance gives (Cohen 1960).
///
/// Where both always say the same one thing there is nothing to agree about beyond chance, and the result is 1.
///
/// # Errors
/// [`EvalError::Shape`] where the lists differ in length or are empty.
pub fn cohen_kappa<T: PartialEq>(a: &[T], b: &[T]) -> Result<f64, EvalError> {
    if a.len() != b.len() || a.is_empty() {
        let reason = format!("{} and {} ratings do not pair", a.len(), b.len());
        return Err(EvalError::Shape { op: "cohen_kappa", reason });
    }
    let n = a.len() as f64;
    let observed = a.iter().zip(b).filter(|(x, y)| x == y).count() as f64 / n;
    // Chance: for each of a's ratings, how many of b's are the same.
    let expected: f64 = a.iter().map(|x| b.iter().filter(|y| *y == x).count() as f64 / n / n).sum();
    Ok(if expected >= 1.0 { 1.0 } else { (observed - expected) / (1.0 - expected) })
}

/// The normal distribution's 97.5th percentile.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's 95% interval for a share (Wilson 1927): unlike the bootstrap it is not empty at 0 or 1.
pub fn wilson(successes: usize, n: usize) -> Interval {
    if n == 0 {
        return Interval { mean: 0.0, ci95: [0.0, 1.0] };
    }
    let (n, p) = (n as f64, successes as f64 / n as f64);
    let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Interval { mean: p, ci95: [(centre - half).max(0.0), (centre + half).min(1.0)] }
}

/// Sample standard deviation over the square root of n, as lm-eval reports it; 0 for fewer than two values.
pub fn standard_error(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let (n, mean) = (values.len() as f64, mean(values));
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (variance / n).sqrt()
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Means of resamples, ascending.
fn resampled_means(values: &[f64], seed: u64) -> Vec<f64> {
    if values.is_empty() {
        return vec![0.0];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || values[rng.random_range(0..values.len())];
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..values.len()).map(|_| draw()).sum::<f64>() / values.len() as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    means
}

/// Linear interpolation between neighbours, as NumPy does.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}
