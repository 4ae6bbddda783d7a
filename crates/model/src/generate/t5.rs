use super::{Flow, Generated, Growing, Sampling, grow};
use crate::cpu::floats;
use crate::t5::T5State;
use crate::{ModelError, T5};

/// Writes a text for each that T5 reads, as [`super::generate`] continues prompts: the same settings, the same streaming.
/// Penalties look at what is written, not at what was read.
///
/// # Errors
/// [`ModelError::Input`] for an empty text or an id beyond the vocabulary; [`ModelError::Config`] for settings out of
/// range.
pub fn generate_t5(
    t5: &T5,
    texts: &[Vec<u32>],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(usize, &[u32]) -> Flow,
) -> Result<Vec<Generated>, ModelError> {
    let start = t5.config.decoder_start_token_id;
    grow(&vec![vec![start]; texts.len()], sampling, on_token, || {
        let begun = texts.iter().map(|ids| Ok(t5.begin(&t5.encode(ids)?)));
        let mut rows = T5Rows { t5, states: begun.collect::<Result<_, ModelError>>()? };
        let logits = rows.step(&vec![i64::from(start); texts.len()])?;
        Ok((rows, logits))
    })
}

/// Each row by itself: their texts were read apart, and each looks at its own.
struct T5Rows<'a> {
    t5: &'a T5,
    states: Vec<T5State>,
}

impl Growing for T5Rows<'_> {
    fn step(&mut self, ids: &[i64]) -> Result<Vec<f32>, ModelError> {
        let mut logits = Vec::new();
        for (state, &id) in self.states.iter_mut().zip(ids) {
            logits.extend(floats(&self.t5.decode(state, &[id as u32])?));
        }
        Ok(logits)
    }

    fn keep(&mut self, rows: &[usize]) {
        let states = std::mem::take(&mut self.states).into_iter().enumerate();
        self.states = states.filter(|(row, _)| rows.contains(row)).map(|(_, state)| state).collect();
    }

    /// Distances have no end here.
    fn has_room(&self, _: usize) -> bool {
        true
    }
}
