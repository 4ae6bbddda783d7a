//! A linear classifier over hashed words and character n-grams, trained on a user's labelled texts.
//!
//! Logistic regression by AdaGrad (Duchi et al. 2011) on features hashed into 2^18 buckets (Weinberger et al.
//! 2009), each text scaled to unit length, classes weighed by their rarity. Trains on ten thousand short texts in
//! seconds; the same texts and seed give the same bytes.

use std::path::Path;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{DataError, write};

const BITS: u32 = 18;
const VERSION: u32 = 1;

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the texts.
    pub epochs: usize,
    /// AdaGrad's step.
    pub learning_rate: f32,
    /// Pull of weights to zero, per step.
    pub l2: f32,
    /// Order of the texts.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig { epochs: 5, learning_rate: 0.5, l2: 1e-6, seed: 0 }
    }
}

/// A trained classifier: `probability` that a text is what the training file called toxic.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    weights: Vec<f32>,
    bias: f32,
}

/// The file form: only weights that are not zero.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u32,
    bits: u32,
    bias: f32,
    weights: Vec<(u32, f32)>,
}

impl Classifier {
    /// Learns from texts and whether each is toxic.
    ///
    /// # Errors
    /// [`DataError::Config`] where one of the classes is missing.
    pub fn train(examples: &[(impl AsRef<str>, bool)], config: &TrainConfig) -> Result<Self, DataError> {
        let features: Vec<Features> = examples.iter().map(|(text, _)| features(text.as_ref())).collect();
        let labels: Vec<bool> = examples.iter().map(|(_, label)| *label).collect();
        let all: Vec<usize> = (0..labels.len()).collect();
        fit(&features, &labels, &all, config)
    }

    /// Probability that a text is toxic, 0 to 1.
    pub fn probability(&self, text: &str) -> f64 {
        f64::from(sigmoid(self.margin(&features(text))))
    }

    fn margin(&self, features: &Features) -> f32 {
        self.bias + features.iter().map(|&(i, x)| self.weights[i as usize] * x).sum::<f32>()
    }

    /// Writes the classifier as JSON.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        let kept = |(i, &w): (usize, &f32)| (w.abs() > 1e-3).then_some((i as u32, (w * 1e4).round() / 1e4));
        let file = File {
            format: "ferrotune toxicity classifier".to_owned(),
            version: VERSION,
            bits: BITS,
            bias: self.bias,
            weights: self.weights.iter().enumerate().filter_map(kept).collect(),
        };
        write::json(path, &file)
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::Format`] for another file or version.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
        let error = |reason: String| DataError::Format { path: path.to_owned(), line: None, reason };
        let file: File =
            serde_json::from_slice(&bytes).map_err(|e| error(format!("is no classifier: {e}")))?;
        if (file.version, file.bits) != (VERSION, BITS) {
            return Err(error(format!(
                "is a classifier of version {}, this program reads {VERSION}",
                file.version
            )));
        }
        let mut weights = vec![0.0; 1 << BITS];
        for (i, weight) in file.weights {
            let slot = weights.get_mut(i as usize).ok_or_else(|| error(format!("names bucket {i}")))?;
            *slot = weight;
        }
        Ok(Classifier { weights, bias: file.bias })
    }
}

/// Buckets with their values, of unit length together.
type Features = Vec<(u32, f32)>;

/// Words, pairs of words, and the three to five characters inside words; links and user names are one word each.
fn features(text: &str) -> Features {
    let text = text.to_lowercase();
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|w| match w {
            w if w.contains("://") => "\u{1}link",
            w if w.starts_with('@') && w.len() > 1 => "\u{1}user",
            w => w.trim_matches(|c: char| c.is_ascii_punctuation() && c != '#' && c != '*'),
        })
        .filter(|w| !w.is_empty())
        .collect();
    let mut buckets = Vec::new();
    let mut push = |kind: u64, piece: &[u8]| {
        buckets.push((xxh3_64_with_seed(piece, kind) & ((1 << BITS) - 1)) as u32);
    };
    let mut buffer = String::new();
    for (i, word) in words.iter().enumerate() {
        push(1, word.as_bytes());
        if let Some(next) = words.get(i + 1) {
            buffer.clear();
            buffer.extend([word, " ", next]);
            push(2, buffer.as_bytes());
        }
        buffer.clear();
        buffer.extend(["<", word, ">"]);
        let starts: Vec<usize> = buffer.char_indices().map(|(at, _)| at).chain([buffer.len()]).collect();
        for n in 3..=5 {
            for ends in starts.windows(n + 1) {
                push(3, &buffer.as_bytes()[ends[0]..ends[n]]);
            }
        }
    }
    buckets.sort_unstable();
    let mut out: Features = Vec::new();
    for bucket in buckets {
        match out.last_mut() {
            Some((last, n)) if *last == bucket => *n += 1.0,
            _ => out.push((bucket, 1.0)),
        }
    }
    for (_, n) in &mut out {
        *n = 1.0 + n.ln();
    }
    let norm = out.iter().map(|(_, x)| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    for (_, x) in &mut out {
        *x /= norm;
    }
    out
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn fit(
    features: &[Features],
    labels: &[bool],
    rows: &[usize],
    config: &TrainConfig,
) -> Result<Classifier, DataError> {
    let n_toxic = rows.iter().filter(|&&i| labels[i]).count();
    if n_toxic == 0 || n_toxic == rows.len() {
        let what = if n_toxic == 0 { "toxic" } else { "harmless" };
        return Err(DataError::Config(format!("the training file holds no {what} text")));
    }
    // The rarer class weighs more, but not so much that the other is called by its name: half way, in logarithms,
    // to equal weight.
    let weight_of = |label: bool| {
        let n = if label { n_toxic } else { rows.len() - n_toxic };
        (rows.len() as f32 / (2.0 * n as f32)).sqrt()
    };
    let mut model = Classifier { weights: vec![0.0; 1 << BITS], bias: 0.0 };
    let mut squares = vec![1e-2f32; 1 << BITS];
    let mut bias_square = 1.0f32;
    let mut order = rows.to_vec();
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    for _ in 0..config.epochs {
        order.shuffle(&mut rng);
        for &row in &order {
            let target = if labels[row] { 1.0 } else { 0.0 };
            let error = (sigmoid(model.margin(&features[row])) - target) * weight_of(labels[row]);
            for &(i, x) in &features[row] {
                let i = i as usize;
                let gradient = error * x + config.l2 * model.weights[i];
                squares[i] += gradient * gradient;
                model.weights[i] -= config.learning_rate * gradient / squares[i].sqrt();
            }
            bias_square += error * error;
            model.bias -= config.learning_rate * error / bias_square.sqrt();
        }
    }
    Ok(model)
}

/// How well the classifier does on texts it has not seen: every text is judged once, by a model trained on the
/// other folds, at probability 0.5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossValidation {
    /// Texts judged.
    pub n: usize,
    /// Of the texts called toxic, how many are.
    pub precision: f64,
    /// Of the toxic texts, how many were found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// The same of the harmless class.
    pub harmless_f1: f64,
    /// Mean of both classes' F1.
    pub macro_f1: f64,
}

/// Trains and judges `folds` times; folds are drawn by the seed and hold equal shares of both classes.
///
/// # Errors
/// [`DataError::Config`] where a fold would lack a class.
pub fn cross_validate(
    examples: &[(impl AsRef<str>, bool)],
    folds: usize,
    config: &TrainConfig,
) -> Result<CrossValidation, DataError> {
    let features: Vec<Features> = examples.iter().map(|(text, _)| features(text.as_ref())).collect();
    let labels: Vec<bool> = examples.iter().map(|(_, label)| *label).collect();
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
    // Stratified: the rows of each class are dealt out in turn.
    let mut fold_of = vec![0; labels.len()];
    let mut dealt = [0usize; 2];
    for &row in &order {
        let class = usize::from(labels[row]);
        fold_of[row] = dealt[class] % folds.max(2);
        dealt[class] += 1;
    }
    let mut counts = [[0usize; 2]; 2];
    for fold in 0..folds.max(2) {
        let rows: Vec<usize> = (0..labels.len()).filter(|&i| fold_of[i] != fold).collect();
        let model = fit(&features, &labels, &rows, config)?;
        for i in (0..labels.len()).filter(|&i| fold_of[i] == fold) {
            let called = model.margin(&features[i]) > 0.0;
            counts[usize::from(labels[i])][usize::from(called)] += 1;
        }
    }
    let ratio = |a: usize, b: usize| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    let f1 = |c: usize| {
        let (hit, missed, wrong) = (counts[c][c], counts[c][1 - c], counts[1 - c][c]);
        ratio(2 * hit, 2 * hit + missed + wrong)
    };
    Ok(CrossValidation {
        n: labels.len(),
        precision: ratio(counts[1][1], counts[1][1] + counts[0][1]),
        recall: ratio(counts[1][1], counts[1][1] + counts[1][0]),
        f1: f1(1),
        harmless_f1: f1(0),
        macro_f1: f64::midpoint(f1(0), f1(1)),
    })
}
