//! What a run will take, told before its first step: memory from the sizes of what it keeps, time from one timed pass.

use std::time::{Duration, Instant};

use anyhow::Result;
use ferrotune_model::Decoder;
use ferrotune_train::{Estimate, HeadOptions, HeldMemory, PassCost, PassLoad, sft_accumulate};
use ferrotune_types::{Batch, Example};

use super::run::Run;
use super::sft::{SftConfig, SftData, batches};

/// Longer runs time a pass first; for shorter ones it would be a good part of the whole.
const TIMED_FROM: usize = 5;
/// A pass that is timed stays below so many multiplications and additions, some seconds on two cores, or below a
/// hundredth of the run's: a short pass of a large model is slower for its size than a step will be.
const TIMED_FLOPS: f64 = 2e12;

/// What `run` will take over `data`. `held` is what the process held before the run's states were made.
///
/// The batches of every step are laid out as they will come, so the largest and their sum are exact. A first pass warms
/// up, the second is timed; neither leaves a gradient.
pub(crate) fn forecast(
    decoder: &Decoder,
    run: &Run,
    data: &SftData,
    validation: &[Batch],
    config: &SftConfig,
    held: HeldMemory,
) -> Result<Estimate> {
    let mut sampler = run.sampler();
    let steps = run.steps_left();
    let mut loads = Vec::new();
    let mut first = None;
    for _ in 0..steps {
        let groups = sampler.take(config.batch.max(1));
        let examples: Vec<&Example> = groups.iter().flat_map(|&g| &data.train[g]).collect();
        let micro_batches = batches(&examples, config.micro_tokens)?;
        loads.extend(micro_batches.iter().map(PassLoad::of));
        first = first.or_else(|| micro_batches.into_iter().next());
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let states: usize = run.state_bytes(!validation.is_empty());
    let Some(first) = first else {
        let now = mib(held.used + states);
        return Ok(Estimate {
            peak_mib: now,
            held_mib: mib(held.used),
            states_mib: mib(states),
            pass_mib: 0.0,
            step_seconds: None,
            seconds: None,
        });
    };
    let cost = PassCost::of(decoder, &first, config.activation_checkpointing);
    let pass = loads.iter().map(|load| cost.pass_bytes(load)).max().unwrap_or(0);
    let (needed, step_seconds, seconds) = if steps < TIMED_FROM {
        (held.used + states + pass, None, None)
    } else {
        let flops: f64 = loads.iter().map(|load| cost.flops(load)).sum();
        let validated: f64 = validation.iter().map(|b| cost.forward_flops(&PassLoad::of(b))).sum();
        let most = TIMED_FLOPS.max(flops / 100.0);
        let Timed { rate, update, load } = timed(decoder, run, &first, &cost, config, most)?;
        let trained = flops / rate + update.as_secs_f64() * steps as f64;
        let validations = run.validations_left() as f64 * validated / rate;
        let needed = after_a_pass(held, states, &cost, &load, pass);
        (needed, Some(trained / steps as f64), Some(trained + validations))
    };
    Ok(Estimate {
        peak_mib: mib(needed.max(held.peak)),
        held_mib: mib(held.used),
        states_mib: mib(states),
        pass_mib: mib(needed.saturating_sub(held.used + states)),
        step_seconds,
        seconds,
    })
}

/// What will be needed, from what a pass of the size `load` has taken by now: that holds what no count of tensors
/// tells, such as code that libtorch compiles for every size and its buffers. To it come the states that are not there
/// yet, and what the largest pass, of `largest` bytes, takes more than this one.
fn after_a_pass(held: HeldMemory, states: usize, cost: &PassCost, load: &PassLoad, largest: usize) -> usize {
    let now = HeldMemory::now();
    let counted = cost.pass_bytes(load);
    let taken = now.resident.saturating_sub(held.used);
    // What autograd keeps is counted roughly: the pass that was run tells by how much.
    let share = if cost.is_exact() { 1.0 } else { (taken as f64 / counted.max(1) as f64).max(1.0) };
    let more = share * largest.saturating_sub(counted) as f64;
    now.resident + states.saturating_sub(now.used.saturating_sub(held.used)) + more as usize
}

/// What a pass over a part of the data showed.
struct Timed {
    /// Multiplications and additions a second.
    rate: f64,
    /// The time of an update.
    update: Duration,
    /// The size of the pass.
    load: PassLoad,
}

/// Times a pass over a batch, or its first part, of at most so many multiplications and additions, and an update.
fn timed(
    decoder: &Decoder,
    run: &Run,
    batch: &Batch,
    cost: &PassCost,
    config: &SftConfig,
    most: f64,
) -> Result<Timed> {
    let fits = cost.flops(&PassLoad::of(batch)) <= most;
    let shorter;
    let batch = if fits {
        batch
    } else {
        shorter = cut(batch, most / cost.flops(&PassLoad::of(batch)))?;
        &shorter
    };
    let mut best = Duration::MAX;
    for _ in 0..2 {
        let started = Instant::now();
        let head = HeadOptions { metrics: config.token_metrics, ..HeadOptions::TRAIN };
        sft_accumulate(decoder, std::slice::from_ref(batch), config.activation_checkpointing, head)?;
        best = best.min(started.elapsed());
        run.forget_gradients();
    }
    let load = PassLoad::of(batch);
    Ok(Timed { rate: cost.flops(&load) / best.as_secs_f64(), update: run.time_update()?, load })
}

/// The first part of a batch, about `share` of it.
fn cut(batch: &Batch, share: f64) -> Result<Batch> {
    let n = ((batch.n_tokens() as f64 * share) as usize).max(16).min(batch.n_tokens());
    let mut segments = Vec::new();
    for segment in batch.segments().iter().take_while(|s| s.range.start < n) {
        let mut segment = segment.clone();
        segment.range.end = segment.range.end.min(n);
        segments.push(segment);
    }
    let mut mask = batch.loss_mask()[..n].to_vec();
    // Where the cut leaves nothing to train on, its last token stands in.
    let opens = segments.last().is_some_and(|s| s.range.start + 1 >= n && s.prefix.is_none());
    if !mask.iter().any(|&m| m) && !opens {
        mask[n - 1] = true;
    }
    Ok(Batch::new(batch.ids()[..n].to_vec(), mask, segments)?)
}
