//! Text out of a decoder: generation with a key–value cache, scoring, perplexity, beam search.
//!
//! [`generate`] continues several prompts at once. They are read in one pass without padding and then grow token
//! by token as rows of one batch; a row that ends leaves it. What a row says depends on its prompt, the settings,
//! the seed and its stream of random numbers, but for what rounding changes not on its neighbours or on the number of threads.

mod beam;
mod cache;
mod perplexity;
mod sampling;
mod score;
mod step;
mod t5;

pub use beam::{BeamSearch, Hypothesis, beam_search};
pub use perplexity::{Perplexity, perplexity, rolling_loglikelihood};
pub use sampling::{Sampling, distribution};
pub use score::{Score, score};
pub use t5::generate_t5;

use ferrotune_types::Finish;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::{Decoder, ModelError};
use sampling::Sampler;
use step::Rows;

/// What came of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The new tokens, without the one of [`Sampling::stop_ids`] that ended them.
    pub ids: Vec<u32>,
    /// As long as `ids` where [`Sampling::logprobs`] asked for them, else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended.
    pub finish: Finish,
}

impl Default for Generated {
    fn default() -> Self {
        Generated { ids: Vec::new(), logprobs: Vec::new(), finish: Finish::Length }
    }
}

/// How likely a token was, and which others were likeliest.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// ln p of the token, under the model itself: before temperature, penalties and filters.
    pub logprob: f32,
    /// The likeliest tokens with their ln p, best first.
    pub top: Vec<(u32, f32)>,
}

/// Whether a row goes on after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It ends here: a stop string came, or nobody listens any more.
    Stop,
}

/// Continues every prompt. After each token, `on_token` gets the row and all its new ids so far (for streaming,
/// and for stop strings, which need the text: see [`stop_strings`]) and says whether the row goes on.
///
/// # Errors
/// [`ModelError::Input`] for an empty prompt, an id beyond the vocabulary, or a prompt longer than the context (one that
/// fills it gives a single token); [`ModelError::Config`] for settings out of range; [`ModelError::NotANumber`].
pub fn generate(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(usize, &[u32]) -> Flow,
) -> Result<Vec<Generated>, ModelError> {
    grow(prompts, sampling, on_token, || Rows::prefill(decoder, prompts, sampling.max_new_tokens))
}

/// Texts that grow together, a token each at a time.
trait Growing {
    /// Appends one token to every row and gives the logits after it, (rows, V).
    ///
    /// # Errors
    /// None in practice: what was let through at the beginning fits.
    fn step(&mut self, ids: &[i64]) -> Result<Vec<f32>, ModelError>;
    /// Keeps these rows, in this order.
    fn keep(&mut self, rows: &[usize]);
    /// Whether the context has room for another token of this row.
    fn has_room(&self, row: usize) -> bool;
}

/// Chooses tokens until every row has ended. `begin` gives the rows and the logits, (rows, V), that follow the texts in
/// `seen`, the only ones that penalties look at besides the new tokens.
fn grow<R: Growing>(
    seen: &[Vec<u32>],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(usize, &[u32]) -> Flow,
    begin: impl FnOnce() -> Result<(R, Vec<f32>), ModelError>,
) -> Result<Vec<Generated>, ModelError> {
    sampling.check()?;
    let mut out: Vec<Generated> = seen.iter().map(|_| Generated::default()).collect();
    if seen.is_empty() || sampling.max_new_tokens == 0 {
        return Ok(out);
    }
    let _guard = tch::no_grad_guard();
    let (mut rows, mut logits) = begin()?;
    let mut samplers: Vec<Sampler<'_>> = seen
        .iter()
        .enumerate()
        .map(|(row, seen)| {
            // A stream of its own, so that a row's luck does not depend on what its neighbours draw.
            let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
            rng.set_stream(sampling.streams.get(row).copied().unwrap_or(row as u64));
            Sampler::new(sampling, seen, rng)
        })
        .collect();
    let mut live: Vec<usize> = (0..seen.len()).collect();
    loop {
        let chosen = choose(&logits, &live, &mut samplers, &mut out)?;
        let mut keep = Vec::new();
        for (place, (&row, &id)) in live.iter().zip(&chosen).enumerate() {
            if sampling.stop_ids.contains(&id) {
                out[row].finish = Finish::Stop;
                let n = out[row].ids.len();
                out[row].logprobs.truncate(n);
                continue;
            }
            out[row].ids.push(id);
            if on_token(row, &out[row].ids) == Flow::Stop {
                out[row].finish = Finish::Stop;
            } else if out[row].ids.len() < sampling.max_new_tokens && rows.has_room(place) {
                keep.push(place);
            }
        }
        if keep.is_empty() {
            return Ok(out);
        }
        if keep.len() < live.len() {
            rows.keep(&keep);
            live = keep.iter().map(|&place| live[place]).collect();
        }
        let ids: Vec<i64> = keep.iter().map(|&place| i64::from(chosen[place])).collect();
        logits = rows.step(&ids)?;
    }
}

/// Chooses a token for every live row from its logits, (rows, V).
///
/// # Errors
/// As [`Sampler::choose`].
fn choose(
    logits: &[f32],
    live: &[usize],
    samplers: &mut [Sampler<'_>],
    out: &mut [Generated],
) -> Result<Vec<u32>, ModelError> {
    let n = logits.len() / live.len();
    live.iter()
        .zip(logits.chunks_exact(n))
        .map(|(&row, logits)| {
            let id = samplers[row].choose(logits)?;
            if let Some(n_top) = samplers[row].sampling.logprobs {
                out[row].logprobs.push(sampling::logprobs(logits, id, n_top));
            }
            Ok(id)
        })
        .collect()
}

/// An `on_token` that ends a row once its text holds one of `stops`. `decode` turns ids into text.
///
/// The text is decoded from scratch at each token: a token may hold part of a character.
pub fn stop_strings<'a>(
    decode: impl Fn(&[u32]) -> String + 'a,
    stops: &'a [String],
) -> impl FnMut(usize, &[u32]) -> Flow + 'a {
    move |_, ids| {
        if stops.is_empty() {
            return Flow::Continue;
        }
        let text = decode(ids);
        if stops.iter().any(|stop| text.contains(stop.as_str())) { Flow::Stop } else { Flow::Continue }
    }
}
