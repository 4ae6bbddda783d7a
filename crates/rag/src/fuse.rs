use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Hit, RagError};

/// How two rankings become one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Fusion {
    /// Reciprocal rank fusion: the sum of 1 / (k + rank), ranks from 1 (Cormack et al., SIGIR 2009; k = 60).
    Rrf {
        /// Larger values level the top ranks.
        k: f64,
    },
    /// `text_weight` * text + (1 - `text_weight`) * vector, each scaled to 0..1 over its own hits.
    Weighted {
        /// From 0, vectors alone, to 1, text alone.
        text_weight: f64,
    },
}

impl Default for Fusion {
    fn default() -> Self {
        Fusion::Rrf { k: 60.0 }
    }
}

/// Merges a text ranking and a vector ranking, best first, into the best `k`.
///
/// A hit that only one ranking has gets nothing from the other. Equal scores are ordered by chunk id.
///
/// # Errors
/// [`RagError::Config`] where the constant is out of range.
pub fn fuse(text: Vec<Hit>, vector: Vec<Hit>, fusion: Fusion, k: usize) -> Result<Vec<Hit>, RagError> {
    let (text_scores, vector_scores) = match fusion {
        Fusion::Rrf { k } if k >= 0.0 && k.is_finite() => {
            let reciprocal = |hits: &[Hit]| (1..=hits.len()).map(|rank| 1.0 / (k + rank as f64)).collect();
            (reciprocal(&text), reciprocal(&vector))
        }
        Fusion::Weighted { text_weight } if (0.0..=1.0).contains(&text_weight) => {
            (scaled(&text, text_weight), scaled(&vector, 1.0 - text_weight))
        }
        bad => {
            let reason = format!("{bad:?} is out of range");
            return Err(RagError::Config { setting: "fusion", reason });
        }
    };
    let mut merged: BTreeMap<String, Hit> = BTreeMap::new();
    let scored = text.into_iter().zip::<Vec<f64>>(text_scores).chain(vector.into_iter().zip(vector_scores));
    for (hit, score) in scored {
        let id = hit.chunk.id.clone();
        merged.entry(id).or_insert_with(|| Hit { score: 0.0, ..hit }).score += score;
    }
    let mut hits: Vec<Hit> = merged.into_values().collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    hits.truncate(k);
    Ok(hits)
}

/// Scores scaled to 0..1 by their least and greatest, times `weight`; all 1 where they are equal.
fn scaled(hits: &[Hit], weight: f64) -> Vec<f64> {
    let max = hits.iter().map(|h| h.score).fold(f64::NEG_INFINITY, f64::max);
    let min = hits.iter().map(|h| h.score).fold(f64::INFINITY, f64::min);
    let scale = |score: f64| if max > min { (score - min) / (max - min) } else { 1.0 };
    hits.iter().map(|h| weight * scale(h.score)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chunk;

    fn hit(id: &str, score: f64) -> Hit {
        let chunk = Chunk {
            id: id.into(),
            doc_id: id.into(),
            start: 0,
            end: 0,
            heading: String::new(),
            text: String::new(),
            fingerprint: String::new(),
            meta: serde_json::Map::new(),
        };
        Hit { chunk, score }
    }

    fn check(fusion: Fusion, expect: &[(&str, f64)]) {
        let text = vec![hit("a", 9.0), hit("b", 5.0), hit("c", 1.0)];
        let vector = vec![hit("b", 0.9), hit("d", 0.4)];
        let fused = fuse(text, vector, fusion, 10).unwrap();
        assert_eq!(
            fused.iter().map(|h| h.chunk.id.as_str()).collect::<Vec<_>>(),
            expect.iter().map(|e| e.0).collect::<Vec<_>>()
        );
        for (hit, (id, score)) in fused.iter().zip(expect) {
            assert!((hit.score - score).abs() < 1e-12, "{id}: {} not {score}", hit.score);
        }
    }

    #[test]
    fn reciprocal_ranks_add_up() {
        check(
            Fusion::default(),
            &[("b", 1.0 / 62.0 + 1.0 / 61.0), ("a", 1.0 / 61.0), ("d", 1.0 / 62.0), ("c", 1.0 / 63.0)],
        );
    }

    #[test]
    fn weights_apply_to_scaled_scores() {
        check(Fusion::Weighted { text_weight: 0.5 }, &[("b", 0.75), ("a", 0.5), ("c", 0.0), ("d", 0.0)]);
    }

    #[test]
    fn bad_constants_are_refused() {
        for bad in
            [Fusion::Rrf { k: -1.0 }, Fusion::Rrf { k: f64::NAN }, Fusion::Weighted { text_weight: 1.5 }]
        {
            assert!(fuse(vec![], vec![], bad, 3).is_err(), "{bad:?}");
        }
    }
}
