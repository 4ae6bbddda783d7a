use ferrotune_types::{Batch, Segment};
use tch::Tensor;

use super::Growing;
use super::cache::KvCache;
use crate::cpu::{Plan, RopeRows, StepInput, floats};
use crate::lean;
use crate::rope::Rope;
use crate::{Block, Decoder, ModelError};

/// Steps after which it pays to make weights compact: for fewer it would take longer than it saves.
const COMPACT_AFTER: usize = 8;

/// Rows of text that grow together: their cache, and the decoder that feeds it.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
    /// The decoder laid out for the CPU's kernels, where they know it.
    plan: Option<Plan<'a>>,
    /// Steps taken that compact weights would have served.
    n_steps: usize,
    /// Rotary tables of the positions from 0 on, of which a step looks its rows up.
    ropes: (Option<Rope>, Option<Rope>),
    /// How many positions they hold.
    n_ropes: i64,
    /// Every token of every row: kept where LongRoPE may ask for another pass over all of them.
    texts: Vec<Vec<u32>>,
}

impl<'a> Rows<'a> {
    /// Reads all prompts in one pass. Gives the rows and the logits after each prompt's last token, (rows, V).
    pub(super) fn prefill(
        decoder: &'a Decoder,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
    ) -> Result<(Self, Vec<f32>), ModelError> {
        let (mut ids, mut segments) = (Vec::new(), Vec::new());
        for (i, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(ModelError::Input(format!("prompt {i} has no tokens")));
            }
            let start = ids.len();
            ids.extend(prompt.iter().map(|&id| i64::from(id)));
            segments.push(Segment { range: start..ids.len(), prefix: None });
        }
        let mask = vec![false; ids.len()];
        let batch = Batch::new(ids, mask, segments).map_err(|e| ModelError::Input(e.to_string()))?;
        let pass = decoder.pass(&batch)?;
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let cache = KvCache::new(decoder, &lengths, max_new_tokens);
        let last: Vec<i64> = batch.segments().iter().map(|s| s.range.end as i64 - 1).collect();
        let last = Tensor::from_slice(&last).to_device(decoder.device);
        let mut x = decoder.embed(&batch);
        if lean::reads(decoder, &batch) {
            let look = |layer: usize, row: usize, k: &Tensor, v: &Tensor| cache.fill(layer, row, k, v);
            x = lean::read(decoder, &batch, &pass, x, Some(&last), look);
        } else {
            for (layer_idx, block) in decoder.blocks.iter().enumerate() {
                let attention = &block.attention;
                x = block.forward_with(&x, |x| {
                    let (q, k, v) = attention.project(x, pass.rope_of(block));
                    for (row, segment) in batch.segments().iter().enumerate() {
                        let (start, n) = (segment.range.start as i64, segment.range.len() as i64);
                        let part = |t: &Tensor| t.narrow(0, start, n).transpose(0, 1);
                        cache.fill(layer_idx, row, &part(&k), &part(&v));
                    }
                    attention.o_proj.forward(&attention.attend_segments(&q, &k, &v, batch.segments()))
                });
            }
            x = x.index_select(0, &last);
        }
        let logits = decoder.logits(&decoder.norm.forward(&x));
        let texts = if decoder.long_rope_from().is_some() { prompts.to_vec() } else { Vec::new() };
        let plan = Plan::new(decoder);
        Ok((
            Rows { decoder, cache, plan, n_steps: 0, ropes: (None, None), n_ropes: 0, texts },
            floats(&logits),
        ))
    }

    /// As [`Self::step`], on any device.
    fn step_with_libtorch(
        &self,
        ids: &[i64],
        positions: &[i64],
        rope: Option<&Rope>,
        rope_local: Option<&Rope>,
    ) -> Vec<f32> {
        let decoder = self.decoder;
        let mut x = decoder.embed_ids(ids, positions);
        // Blocks differ in their window only, so there are few different masks.
        let first = self.cache.starts.iter().min().copied().unwrap_or(0);
        let full_mask = self.cache.mask(first, decoder.device);
        for (layer_idx, block) in decoder.blocks.iter().enumerate() {
            let rope = if block.local_rope { rope_local } else { rope };
            let windowed = self.window_start(block).filter(|&from| from > first);
            let mask = match windowed {
                Some(from) => self.cache.mask(from, decoder.device),
                None => full_mask.as_ref().map(Tensor::shallow_clone),
            };
            let attention = &block.attention;
            x = block.forward_with(&x, |x| {
                let (q, k, v) = attention.project(x, rope);
                let (keys, values) = self.cache.push(layer_idx, &k, &v, windowed.unwrap_or(first));
                let out = attention.scores_to_values(&q.unsqueeze(2), &keys, &values, mask.as_ref(), false);
                attention
                    .o_proj
                    .forward(&out.view([ids.len() as i64, attention.n_heads * attention.head_dim]))
            });
        }
        floats(&decoder.logits(&decoder.norm.forward(&x)))
    }

    /// The rotary tables for one token at each of `positions`.
    fn rope_rows(&mut self, positions: &[i64]) -> (Option<Rope>, Option<Rope>) {
        let n = positions.iter().max().map_or(0, |p| p + 1);
        if n > self.n_ropes {
            self.n_ropes = n + 512;
            let all: Vec<i64> = (0..self.n_ropes).collect();
            // A token that is written now ends its text.
            let lengths: Vec<i64> = all.iter().map(|p| p + 1).collect();
            self.ropes = self.decoder.ropes(&all, &lengths);
        }
        let rows = |rope: &Option<Rope>| rope.as_ref().map(|rope| rope.rows(positions));
        (rows(&self.ropes.0), rows(&self.ropes.1))
    }

    /// The first slot that a block's window shows the token in slot `end`.
    fn window_start(&self, block: &Block) -> Option<i64> {
        block.attention.sliding_window.map(|window| self.cache.end + 1 - window)
    }
}

impl Growing for Rows<'_> {
    fn step(&mut self, ids: &[i64]) -> Result<Vec<f32>, ModelError> {
        let decoder = self.decoder;
        let positions: Vec<i64> = self.cache.starts.iter().map(|start| self.cache.end - start).collect();
        if let Some(long) = decoder.long_rope_from() {
            for (text, &id) in self.texts.iter_mut().zip(ids) {
                text.push(id as u32);
            }
            if positions.iter().any(|p| p + 1 == long) {
                // The keys in the cache were turned as those of a short text: read the whole text anew.
                let texts = std::mem::take(&mut self.texts);
                let (rows, logits) = Rows::prefill(decoder, &texts, 128)?;
                *self = rows;
                return Ok(logits);
            }
        }
        if Plan::takes(ids.len()) {
            self.n_steps += 1;
            if self.n_steps == COMPACT_AFTER
                && let Some(plan) = &mut self.plan
            {
                plan.compact();
            }
        }
        self.cache.reserve();
        let (rope, rope_local) = self.rope_rows(&positions);
        let logits = match &self.plan {
            Some(plan) if Plan::takes(ids.len()) => plan.step(&StepInput {
                ids,
                positions: &positions,
                cache: self.cache.layers(),
                starts: &self.cache.starts,
                slot: self.cache.end,
                ropes: [rope.as_ref().map(RopeRows::new), rope_local.as_ref().map(RopeRows::new)],
            }),
            _ => self.step_with_libtorch(ids, &positions, rope.as_ref(), rope_local.as_ref()),
        };
        self.cache.end += 1;
        Ok(logits)
    }

    fn has_room(&self, row: usize) -> bool {
        let length = self.cache.end - self.cache.starts[row];
        length < self.decoder.config.max_position_embeddings as i64
    }

    fn keep(&mut self, rows: &[usize]) {
        self.cache.keep(rows);
        if !self.texts.is_empty() {
            self.texts = rows.iter().map(|&row| self.texts[row].clone()).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tch::{Device, Kind};

    use super::*;
    use crate::checkpoint::{Source, load_decoder};
    use crate::{families, quantize_int8};

    fn tiny(family: &str, kind: Kind) -> Decoder {
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny_models").join(family);
        load_decoder(&Source::Directory(folder), kind, Device::Cpu).unwrap().decoder
    }

    /// The kernels and libtorch take the same steps.
    fn check(decoder: &Decoder, tolerance: f32, what: &str) {
        tch::no_grad(|| {
            for prompts in
                [vec![vec![3, 9, 20, 7, 7, 30, 4, 5, 11]], vec![vec![5, 6], vec![8, 9, 10, 11, 12], vec![3]]]
            {
                let (mut fast, first) = Rows::prefill(decoder, &prompts, 8).unwrap();
                let (mut slow, second) = Rows::prefill(decoder, &prompts, 8).unwrap();
                assert_eq!(first, second);
                assert!(fast.plan.is_some(), "{what}");
                slow.plan = None;
                for step in 0..8 {
                    let ids: Vec<i64> =
                        (0..prompts.len() as i64).map(|row| 3 + (row * 5 + step * 3) % 40).collect();
                    let (a, b) = (fast.step(&ids).unwrap(), slow.step(&ids).unwrap());
                    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(a.len() == b.len() && worst < tolerance, "{what} step {step}: {worst:e}");
                }
            }
        });
    }

    #[test]
    fn compact_weights_change_no_bit() {
        // A checkpoint in bf16, run in fp32.
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
        let decoder = load_decoder(&Source::Directory(folder), Kind::Float, Device::Cpu).unwrap().decoder;
        tch::no_grad(|| {
            for n in [1, 3, 17] {
                let prompts: Vec<Vec<u32>> = (0..n).map(|row| vec![5, 6 + row, 7]).collect();
                let (mut compact, _) = Rows::prefill(&decoder, &prompts, 20).unwrap();
                let (mut plain, _) = Rows::prefill(&decoder, &prompts, 20).unwrap();
                plain.n_steps = COMPACT_AFTER;
                for step in 0..COMPACT_AFTER as i64 + 4 {
                    let ids: Vec<i64> = (0..i64::from(n)).map(|row| 3 + (row * 5 + step * 3) % 40).collect();
                    assert_eq!(compact.step(&ids).unwrap(), plain.step(&ids).unwrap(), "step {step}");
                }
                assert!(format!("{:?}", compact.plan).contains("Bf16(["), "it was not compact");
                assert!(!format!("{:?}", plain.plan).contains("Bf16(["));
            }
        });
    }

    #[test]
    fn the_kernels_agree_with_libtorch_on_every_family() {
        for family in families::decoder_types() {
            let decoder = tiny(family, Kind::Float);
            if decoder.config.moe.is_some() {
                assert!(Plan::new(&decoder).is_none(), "{family}");
                continue;
            }
            check(&decoder, 2e-5, family);
            // libtorch rounds every intermediate to bf16 here, the kernels none.
            check(&tiny(family, Kind::BFloat16), 0.6, &format!("{family} bf16"));
            let mut rounded = decoder;
            quantize_int8(&mut rounded);
            // The kernels round the input to 16 bits.
            check(&rounded, 1e-2, &format!("{family} int8"));
        }
    }
}
