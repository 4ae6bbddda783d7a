use ferrotune_types::{Embed, ModelError};

use crate::{Analyzer, Language};

/// An embedder without a model: each term's hash picks a direction, and a text is the sum of its terms.
///
/// It knows no synonyms; it is here so that tests, examples and first tries of vector search need no weights.
#[derive(Debug)]
pub struct HashEmbed {
    name: String,
    dim: usize,
    analyzer: Analyzer,
}

impl HashEmbed {
    /// Vectors of `dim` numbers, at least 1.
    pub fn new(dim: usize) -> Self {
        let dim = dim.max(1);
        HashEmbed { name: format!("hash-{dim}"), dim, analyzer: Analyzer::new(Language::English) }
    }
}

impl Embed for HashEmbed {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

impl HashEmbed {
    fn vector(&self, text: &str) -> Vec<f32> {
        let mut sum = vec![0f32; self.dim];
        for term in self.analyzer.terms(text) {
            let hash = xxhash_rust::xxh3::xxh3_64(term.as_bytes());
            let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
            sum[(hash % self.dim as u64) as usize] += sign;
        }
        let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm > 0.0 {
            for x in &mut sum {
                *x /= norm;
            }
        } else {
            // A text without terms, or whose terms cancel, still needs a direction of unit length.
            sum[0] = 1.0;
        }
        sum
    }
}
