use tch::Tensor;

use super::attend::Cache;
use super::kernels::Scratch;
use super::math::{activate, softcap};
use super::matrix::{Columns, floats, side_by_side};
use super::norm::PlainNorm;
use super::parallel::parallel;
use super::plan::{Layer, PlainMlp, Plan};
use crate::Rope;

/// What a step looks at: one token of every row, and where its row lies in the cache.
#[derive(Debug)]
pub(crate) struct StepInput<'a> {
    /// The tokens.
    pub(crate) ids: &'a [i64],
    /// Each one's place in its own text.
    pub(crate) positions: &'a [i64],
    /// By block: keys and values, (rows, Hkv, capacity, D), in the model's dtype.
    pub(crate) cache: &'a [(Tensor, Tensor)],
    /// The first slot of each row.
    pub(crate) starts: &'a [i64],
    /// The slot that the tokens go into.
    pub(crate) slot: i64,
    /// Cosines and sines for most blocks, and for those of sliding windows where theirs differ.
    pub(crate) ropes: [Option<RopeRows>; 2],
}

/// Cosines and signed sines for one token a row, (rows, dim) each.
#[derive(Debug, Clone)]
pub(crate) struct RopeRows {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) dim: usize,
}

impl Plan<'_> {
    /// Appends a token to every row: writes its keys and values into the cache and gives the logits after it,
    /// (rows, V).
    pub(crate) fn step(&self, input: &StepInput<'_>) -> Vec<f32> {
        let (m, c) = (input.ids.len(), self.decoder.config.hidden_size);
        let mut x = vec![0.0; m * c];
        for (row, (&id, &position)) in x.chunks_exact_mut(c).zip(input.ids.iter().zip(input.positions)) {
            self.embed(id, position, row);
        }
        for (layer, cache) in self.layers.iter().zip(input.cache) {
            residual(&mut x, &layer.attention_norms, |h| {
                self.attend(layer, h, input, &mut Cache::new(cache))
            });
            residual(&mut x, &layer.mlp_norms, |h| self.feed_forward(&layer.mlp, h, m));
        }
        self.norm.apply(&mut x);
        let mut logits = side_by_side(self.width, std::slice::from_ref(&self.head), &x);
        if let Some(cap) = self.decoder.config.logits_softcap {
            softcap(&mut logits, cap as f32);
        }
        logits
    }

    /// h of (rows, C) → (rows, C).
    fn attend(&self, layer: &Layer<'_>, h: &[f32], input: &StepInput<'_>, cache: &mut Cache<'_>) -> Vec<f32> {
        let a = layer.attention;
        let mut qkv = side_by_side(self.width, &layer.qkv, h);
        let d = a.head_dim as usize;
        let (q_width, k_width) = (a.n_heads as usize * d, a.n_kv_heads as usize * d);
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            for qkv in qkv.chunks_exact_mut(q_width + 2 * k_width) {
                let (q, k) = qkv[..q_width + k_width].split_at_mut(q_width);
                q_norm.apply(q);
                k_norm.apply(k);
            }
        }
        let attended = cache.attend(self.width, layer, &qkv, input);
        side_by_side(self.width, std::slice::from_ref(&layer.o_proj), &attended)
    }

    /// h of (rows, C) → (rows, C).
    fn feed_forward(&self, mlp: &PlainMlp<'_>, h: &[f32], m: usize) -> Vec<f32> {
        let mut inner = side_by_side(self.width, &mlp.up, h);
        let down = std::slice::from_ref(&mlp.down);
        if !mlp.gated {
            activate(mlp.activation, &mut inner, None);
            return side_by_side(self.width, down, &inner);
        }
        let n = inner.len() / (2 * m);
        let mut gated = Scratch::new(m * n);
        let target = Columns(gated.as_mut_ptr());
        parallel(m, &|row| {
            let (gate, up) = inner[row * 2 * n..][..2 * n].split_at(n);
            let mut out = Scratch::new(n);
            out.copy_from_slice(gate);
            activate(mlp.activation, &mut out, Some(up));
            // SAFETY: every task has a row of its own in `gated`, which is looked at when all are done.
            unsafe { target.write(row * n, &out) };
        });
        side_by_side(self.width, down, &gated)
    }
}

/// x += after(f(before(x))).
fn residual(
    x: &mut [f32],
    (before, after): &(Option<PlainNorm>, Option<PlainNorm>),
    f: impl FnOnce(&[f32]) -> Vec<f32>,
) {
    let mut h = x.to_vec();
    if let Some(norm) = before {
        norm.apply(&mut h);
    }
    let mut y = f(&h);
    if let Some(norm) = after {
        norm.apply(&mut y);
    }
    x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
}

impl RopeRows {
    pub(crate) fn new(rope: &Rope) -> Self {
        let (cos, sin) = rope.tables();
        RopeRows { cos: floats(cos), sin: floats(sin), dim: *cos.size().last().unwrap_or(&0) as usize }
    }

    /// Turns every head of `x`, (heads, d), by the angles of row `row`.
    pub(super) fn rotate(&self, row: usize, x: &mut [f32], d: usize) {
        let (cos, sin) = (&self.cos[row * self.dim..][..self.dim], &self.sin[row * self.dim..][..self.dim]);
        let half = self.dim / 2;
        for head in x.chunks_exact_mut(d) {
            let (first, second) = head[..self.dim].split_at_mut(half);
            for i in 0..half {
                let (a, b) = (first[i], second[i]);
                first[i] = a * cos[i] + b * sin[i];
                second[i] = b * cos[half + i] + a * sin[half + i];
            }
        }
    }
}
