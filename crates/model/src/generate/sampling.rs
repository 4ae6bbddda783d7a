use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::TokenLogprobs;
use crate::ModelError;
use crate::kernels::for_each_width;

/// How tokens are chosen. The default is greedy, 256 tokens.
///
/// Steps run in the order of transformers: penalties, temperature, top-k, top-p, min-p, typical.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Upper bound on new tokens.
    pub max_new_tokens: usize,
    /// Before so many new tokens none of `stop_ids` is chosen.
    pub min_new_tokens: usize,
    /// Logits are divided by it; 0 is greedy.
    pub temperature: f64,
    /// Keep the k likeliest tokens, and what is as likely as the last of them.
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens whose probability reaches this (arXiv 1904.09751).
    pub top_p: Option<f64>,
    /// Keep tokens at least this part as likely as the likeliest (arXiv 2407.01082).
    pub min_p: Option<f64>,
    /// Keep the set, of this probability, whose surprise is nearest to the expected one (arXiv 2202.00666).
    pub typical_p: Option<f64>,
    /// Positive logits of tokens in prompt or answer are divided by it, negative ones multiplied (arXiv
    /// 1909.05858); 1 is none.
    pub repetition_penalty: f64,
    /// Taken off the logits of tokens in the answer.
    pub presence_penalty: f64,
    /// Taken off them once for each time they came.
    pub frequency_penalty: f64,
    /// Ids that end a row.
    pub stop_ids: Vec<u32>,
    /// How many alternatives to report with each token's log-probability; `None` reports nothing.
    pub logprobs: Option<usize>,
    /// Same seed, same tokens.
    pub seed: u64,
    /// Which of the seed's streams of random numbers each row draws from; a row beyond has its place for it.
    pub streams: Vec<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            max_new_tokens: 256,
            min_new_tokens: 0,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            stop_ids: Vec::new(),
            logprobs: None,
            seed: 0,
            streams: Vec::new(),
        }
    }
}

impl Sampling {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let bad = |what: &str, value: f64| {
            let range = match what {
                "temperature" => "0, which is greedy, or at least 1e-6",
                "repetition_penalty" => "above 0",
                "top_k" => "at least 1",
                "min_p" => "from 0 to 1",
                "top_p" | "typical_p" => "above 0, at most 1",
                _ => "a number",
            };
            Err(ModelError::Config(format!("sampling: {what} is {value}; it must be {range}")))
        };
        let part = |x: Option<f64>| x.is_none_or(|x| x > 0.0 && x <= 1.0);
        // Logits divided by less would not be numbers.
        let is_greedy = self.temperature == 0.0;
        if !(self.temperature.is_finite() && (is_greedy || self.temperature >= 1e-6)) {
            return bad("temperature", self.temperature);
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return bad("repetition_penalty", self.repetition_penalty);
        }
        if !(self.presence_penalty.is_finite() && self.frequency_penalty.is_finite()) {
            return bad("a penalty", self.presence_penalty + self.frequency_penalty);
        }
        if self.top_k == Some(0) {
            return bad("top_k", 0.0);
        }
        match [("top_p", self.top_p), ("typical_p", self.typical_p)].into_iter().find(|(_, x)| !part(*x)) {
            Some((name, value)) => bad(name, value.unwrap_or(0.0)),
            None if self.min_p.is_some_and(|x| !(0.0..=1.0).contains(&x)) => {
                bad("min_p", self.min_p.unwrap_or(0.0))
            }
            None => Ok(()),
        }
    }

    fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Chooses the tokens of one row.
#[derive(Debug)]
pub(super) struct Sampler<'a> {
    pub(super) sampling: &'a Sampling,
    rng: ChaCha8Rng,
    /// Tokens of prompt and answer, with how often they came in the answer.
    seen: BTreeMap<u32, usize>,
    /// Tokens chosen.
    n: usize,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(sampling: &'a Sampling, prompt: &[u32], rng: ChaCha8Rng) -> Self {
        Sampler { sampling, rng, seen: prompt.iter().map(|&id| (id, 0)).collect(), n: 0 }
    }

    /// The next token, from the model's logits.
    ///
    /// # Errors
    /// [`ModelError::NotANumber`].
    pub(super) fn choose(&mut self, logits: &[f32]) -> Result<u32, ModelError> {
        let may_end = self.n >= self.sampling.min_new_tokens;
        let mut changed;
        let logits = if self.sampling.has_penalties() || !may_end {
            changed = logits.to_vec();
            penalise(&mut changed, &self.seen, self.sampling);
            for &id in if may_end { &[] } else { self.sampling.stop_ids.as_slice() } {
                if let Some(logit) = changed.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            changed.as_slice()
        } else {
            logits
        };
        let id = if self.sampling.temperature == 0.0 {
            let id = best(logits);
            if !logits.get(id as usize).is_some_and(|logit| logit.is_finite()) {
                return Err(ModelError::NotANumber);
            }
            id
        } else {
            let kept = keep(logits, self.sampling);
            if kept.is_empty() || kept.iter().any(|(_, p)| p.is_nan()) {
                return Err(ModelError::NotANumber);
            }
            pick(&kept, uniform(&mut self.rng))
        };
        *self.seen.entry(id).or_insert(0) += 1;
        self.n += 1;
        Ok(id)
    }
}

/// The distribution that a token is drawn from after `prompt` and `answer`: kept ids with their probabilities,
/// likeliest first.
pub fn distribution(logits: &[f32], prompt: &[u32], answer: &[u32], sampling: &Sampling) -> Vec<(u32, f32)> {
    let mut seen: BTreeMap<u32, usize> = prompt.iter().map(|&id| (id, 0)).collect();
    for &id in answer {
        *seen.entry(id).or_insert(0) += 1;
    }
    let mut logits = logits.to_vec();
    penalise(&mut logits, &seen, sampling);
    if sampling.temperature == 0.0 {
        return vec![(best(&logits), 1.0)];
    }
    keep(&logits, sampling)
}

fn penalise(logits: &mut [f32], seen: &BTreeMap<u32, usize>, sampling: &Sampling) {
    if !sampling.has_penalties() {
        return;
    }
    let repetition = sampling.repetition_penalty as f32;
    for (&id, &count) in seen {
        let Some(logit) = logits.get_mut(id as usize) else { continue };
        *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        if count > 0 {
            *logit -= (sampling.presence_penalty + sampling.frequency_penalty * count as f64) as f32;
        }
    }
}

/// The first of the greatest; NaN is never chosen.
fn best(logits: &[f32]) -> u32 {
    const CHUNK: usize = 1024;
    let mut best = (0, f32::NEG_INFINITY);
    for (i, chunk) in logits.chunks(CHUNK).enumerate() {
        let greatest = greatest(chunk);
        if greatest > best.1 {
            best = (i, greatest);
        }
    }
    let start = best.0 * CHUNK;
    let place = logits.iter().skip(start).position(|&logit| logit == best.1);
    (start + place.unwrap_or(0)) as u32
}

for_each_width! {
    /// NaN is passed over.
    fn greatest(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 64];
        let (chunks, rest) = x.as_chunks::<64>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |greatest, &x| greatest.max(x))
    }
}

/// Temperature and filters: what is left, with probabilities that sum to 1, likeliest first.
fn keep(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f32)> {
    let temperature = sampling.temperature as f32;
    let mut kept: Vec<(u32, f32)> =
        logits.iter().enumerate().map(|(id, &logit)| (id as u32, logit / temperature)).collect();
    kept.retain(|(_, logit)| !logit.is_nan());
    // Ties go to the smaller id, so that the order is the same everywhere.
    let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if let Some(k) = sampling.top_k.filter(|&k| k < kept.len()) {
        let (_, &mut (_, last), _) = kept.select_nth_unstable_by(k - 1, by_logit);
        kept.retain(|(_, logit)| *logit >= last);
    }
    softmax(&mut kept);
    if let Some(p) = sampling.top_p {
        keep_until(&mut kept, by_logit, |sum| sum >= p as f32);
        softmax_again(&mut kept);
    }
    if let Some(min_p) = sampling.min_p {
        let greatest = kept.iter().map(|(_, p)| *p).fold(0.0, f32::max);
        kept.retain(|(_, p)| *p >= min_p as f32 * greatest);
        softmax_again(&mut kept);
    }
    if let Some(mass) = sampling.typical_p {
        typical(&mut kept, mass as f32);
        softmax_again(&mut kept);
    }
    kept.sort_unstable_by(by_logit);
    kept
}

/// Logits → probabilities.
fn softmax(kept: &mut [(u32, f32)]) {
    let greatest = kept.iter().map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
    for (_, x) in kept.iter_mut() {
        *x = (*x - greatest).exp();
    }
    softmax_again(kept);
}

/// Makes probabilities sum to 1 again.
fn softmax_again(kept: &mut [(u32, f32)]) {
    let sum: f64 = kept.iter().map(|(_, p)| f64::from(*p)).sum();
    for (_, p) in kept.iter_mut() {
        *p = (f64::from(*p) / sum) as f32;
    }
}

/// Keeps the first tokens in the order of `compare`, up to and with the one that makes their sum `enough`. Sorts
/// only as many as it takes: a few hundred of a vocabulary, mostly.
fn keep_until(
    kept: &mut Vec<(u32, f32)>,
    compare: impl Fn(&(u32, f32), &(u32, f32)) -> std::cmp::Ordering,
    enough: impl Fn(f32) -> bool,
) {
    let mut n = 256;
    loop {
        let all = n >= kept.len();
        let head = if all {
            kept.as_mut_slice()
        } else {
            kept.select_nth_unstable_by(n - 1, &compare);
            &mut kept[..n]
        };
        head.sort_unstable_by(&compare);
        let mut sum = 0.0;
        let reached = head.iter().position(|(_, p)| {
            sum += p;
            enough(sum)
        });
        match reached {
            Some(last) => return kept.truncate(last + 1),
            None if all => return,
            None => n *= 8,
        }
    }
}

/// Keeps the tokens whose surprise is nearest to the entropy, until they have `mass`.
fn typical(kept: &mut Vec<(u32, f32)>, mass: f32) {
    let entropy: f32 = kept.iter().filter(|(_, p)| *p > 0.0).map(|(_, p)| -p * p.ln()).sum();
    let distance = |p: f32| (-p.ln() - entropy).abs();
    let by_distance =
        |a: &(u32, f32), b: &(u32, f32)| distance(a.1).total_cmp(&distance(b.1)).then(a.0.cmp(&b.0));
    keep_until(kept, by_distance, |sum| sum >= mass);
}

/// The token at which the running sum passes `u`.
fn pick(kept: &[(u32, f32)], u: f64) -> u32 {
    let mut sum = 0.0;
    for (id, p) in kept {
        sum += f64::from(*p);
        if u < sum {
            return *id;
        }
    }
    kept.last().map_or(0, |(id, _)| *id)
}

/// A number in [0, 1), of 53 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// ln p of `id` and of the `n_top` likeliest tokens.
pub(super) fn logprobs(logits: &[f32], id: u32, n_top: usize) -> TokenLogprobs {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - greatest).exp()).sum();
    let total = f64::from(greatest) + sum.ln();
    let logprob = |id: u32| logits.get(id as usize).map_or(f32::NAN, |x| (f64::from(*x) - total) as f32);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n_top = n_top.min(order.len());
    if n_top > 0 && n_top < order.len() {
        order.select_nth_unstable_by(n_top - 1, by_logit);
    }
    order.truncate(n_top);
    order.sort_unstable_by(by_logit);
    TokenLogprobs { logprob: logprob(id), top: order.into_iter().map(|id| (id, logprob(id))).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Ties, infinities and NaN, in rows shorter and longer than what is looked at together.
        #[test]
        fn the_first_of_the_greatest_is_best(
            row in prop::collection::vec(prop::sample::select(vec![f32::NAN, f32::NEG_INFINITY, -0.0, 0.0, 1.0, 2.5]), 0..3000),
            most in 0..3000usize,
        ) {
            let mut row = row;
            if let Some(x) = row.get_mut(most) {
                *x = 3.0;
            }
            let numbers = || row.iter().enumerate().filter(|(_, x)| !x.is_nan());
            let greatest = numbers().map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
            let first = numbers().find(|(_, x)| **x == greatest).map_or(0, |(i, _)| i);
            prop_assert_eq!(best(&row) as usize, first);
        }
    }
}
