//! Whether two sets are apart.

use serde::{Deserialize, Serialize};

use crate::dedup::facets;
use crate::dedup::{MinHashConfig, Rows, View, clusters, similarity};
use crate::{DataError, Record};

/// A held-out row whose prompt was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leak {
    /// The held-out row.
    pub held_out: String,
    /// A row of the training set with the same prompt or nearly.
    pub train: String,
    /// Jaccard similarity of the prompts.
    pub similarity: f64,
}

/// The rows of `held_out` whose prompt has a near duplicate in `train`, each with its nearest found.
///
/// # Errors
/// As [`clusters`].
pub fn leaks(train: &[Record], held_out: &[Record], config: &MinHashConfig) -> Result<Vec<Leak>, DataError> {
    let rows = Rows { records: train, reference: held_out, view: View::Prompt };
    let mut found = Vec::new();
    for group in clusters(&rows, config)?.groups() {
        let (seen, held): (Vec<usize>, Vec<usize>) = group.into_iter().partition(|&row| row < train.len());
        for held in held {
            let prompt = facets(rows.get(held), View::Prompt);
            let nearest = seen
                .iter()
                .map(|&row| {
                    (similarity(&prompt, &facets(rows.get(row), View::Prompt), &config.shingling), row)
                })
                .filter(|&(s, _)| s >= config.threshold)
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            if let Some((similarity, row)) = nearest {
                let (held_out, train) = (rows.get(held).id().to_owned(), rows.get(row).id().to_owned());
                found.push(Leak { held_out, train, similarity });
            }
        }
    }
    found.sort_by(|a, b| a.held_out.cmp(&b.held_out));
    Ok(found)
}
