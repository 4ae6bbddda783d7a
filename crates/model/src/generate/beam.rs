use tch::{Kind, Tensor};

use super::Growing as _;
use super::step::Rows;
use crate::{Decoder, ModelError};

/// Settings of [`beam_search`].
#[derive(Debug, Clone, PartialEq)]
pub struct BeamSearch {
    /// How many texts are followed at once.
    pub n_beams: usize,
    /// Upper bound on new tokens.
    pub max_new_tokens: usize,
    /// A finished text of n new tokens scores Σ ln p / n^penalty: above 0 favours long ones.
    pub length_penalty: f64,
    /// Ids that end a text.
    pub stop_ids: Vec<u32>,
}

/// A text that beam search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The new tokens, without the one that ended them.
    pub ids: Vec<u32>,
    /// Its score.
    pub score: f64,
}

/// Each beam keeps keys and values of its own; more than so many is a slip.
const MOST_BEAMS: usize = 1024;

/// The likeliest continuations of a prompt, best first, at most `n_beams`.
///
/// At each step every live text is extended by every token; of the best (1 + stop ids) · `n_beams`, at least 2 · `n_beams`,
/// those that end are set aside, and the best `n_beams` others live on, until no live text can beat the worst one set aside.
///
/// # Errors
/// [`ModelError::Input`] as [`super::generate`]; [`ModelError::Config`] for no beams, or more than 1,024, or a penalty
/// that is no number; [`ModelError::NotANumber`].
pub fn beam_search(
    decoder: &Decoder,
    prompt: &[u32],
    search: &BeamSearch,
) -> Result<Vec<Hypothesis>, ModelError> {
    if search.n_beams == 0 {
        return Err(ModelError::Config("beam search: n_beams is 0".to_owned()));
    }
    if search.n_beams > MOST_BEAMS || !search.length_penalty.is_finite() {
        return Err(ModelError::Config(format!(
            "beam search: {} beams (at most {MOST_BEAMS}) with length penalty {}",
            search.n_beams, search.length_penalty
        )));
    }
    let score = |sum: f64, n: usize| sum / (n.max(1) as f64).powf(search.length_penalty);
    let mut done: Vec<Hypothesis> = Vec::new();
    tch::no_grad(|| {
        let (mut rows, mut logits) = Rows::prefill(decoder, &[prompt.to_vec()], search.max_new_tokens)?;
        let mut live: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), 0.0)];
        for step in 1..=search.max_new_tokens {
            let vocabulary = (logits.len() / live.len()) as i64;
            let sums: Vec<f32> = live.iter().map(|(_, sum)| *sum as f32).collect();
            let table = Tensor::from_slice(&logits).view([-1, vocabulary]);
            let all = (table.log_softmax(-1, Kind::Float) + Tensor::from_slice(&sums).unsqueeze(1)).view(-1);
            // As many as may end, so that enough others are left.
            let n = ((1 + search.stop_ids.len()).max(2) * search.n_beams)
                .min(vocabulary as usize * live.len()) as i64;
            let (values, places) = all.topk(n, -1, true, true);
            let values = Vec::<f32>::try_from(values)?;
            if values.iter().any(|value| value.is_nan()) {
                return Err(ModelError::NotANumber);
            }
            let places = Vec::<i64>::try_from(places)?;
            let mut next = Vec::new();
            for (rank, (value, place)) in values.into_iter().zip(places).enumerate() {
                let (row, id) = ((place / vocabulary) as usize, (place % vocabulary) as u32);
                let ids = &live[row].0;
                if search.stop_ids.contains(&id) {
                    // One that ends, but is not among the best, would crowd out better ones to come.
                    if rank < search.n_beams {
                        done.push(Hypothesis { ids: ids.clone(), score: score(f64::from(value), step) });
                    }
                } else if next.len() < search.n_beams {
                    let mut ids = ids.clone();
                    ids.push(id);
                    next.push((row, ids, f64::from(value)));
                }
            }
            done.sort_by(|a, b| b.score.total_cmp(&a.score));
            done.truncate(search.n_beams);
            let best = next.first().map_or(f64::NEG_INFINITY, |(_, _, sum)| score(*sum, step));
            let beaten = done.len() == search.n_beams && done.last().is_some_and(|worst| worst.score >= best);
            let kept: Vec<usize> = next.iter().map(|(row, ..)| *row).collect();
            live = next.into_iter().map(|(_, ids, sum)| (ids, sum)).collect();
            if beaten || live.is_empty() {
                live.clear();
                break;
            }
            if step == search.max_new_tokens || !rows.has_room(0) {
                break;
            }
            rows.keep(&kept);
            let ids: Vec<i64> =
                live.iter().map(|(ids, _)| ids.last().map_or(0, |&id| i64::from(id))).collect();
            logits = rows.step(&ids)?;
        }
        done.extend(live.into_iter().map(|(ids, sum)| Hypothesis { score: score(sum, ids.len()), ids }));
        done.sort_by(|a, b| b.score.total_cmp(&a.score));
        done.truncate(search.n_beams);
        Ok(done)
    })
}
