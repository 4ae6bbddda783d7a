use half::bf16;
use tch::{Kind, Tensor};

use super::kernels::{activate, attend, tanh};
use super::matrix::{elements, floats};
use super::plan::{Layer, Plan, PlainMlp, PlainNorm};
use super::simd::Stored;

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
    /// Cosines and sines of (rows, dim) for most blocks, and for those of sliding windows.
    pub(crate) ropes: [Option<RopeRows>; 2],
}

/// Cosines and sines for one token a row, (rows, dim) each.
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
        match self.decoder.kind {
            Kind::BFloat16 => self.step_in::<bf16>(input),
            _ => self.step_in::<f32>(input),
        }
    }

    fn step_in<E: Stored>(&self, input: &StepInput<'_>) -> Vec<f32> {
        let (m, c) = (input.ids.len(), self.decoder.config.hidden_size);
        let mut x = vec![0.0; m * c];
        for (row, (&id, &position)) in x.chunks_exact_mut(c).zip(input.ids.iter().zip(input.positions)) {
            self.embed(id, position, row);
        }
        let mut scratch = Scratch::default();
        for (layer, (keys, values)) in self.layers.iter().zip(input.cache) {
            let h = normed(&x, layer.attention_norms.0.as_ref());
            let mut attended = self.attend::<E>(layer, &h, input, keys, values, &mut scratch);
            add(&mut x, &mut attended, layer.attention_norms.1.as_ref());
            let h = normed(&x, layer.mlp_norms.0.as_ref());
            let mut inner = self.feed_forward(&layer.mlp, h, m);
            add(&mut x, &mut inner, layer.mlp_norms.1.as_ref());
        }
        self.norm.apply(&mut x);
        let v = self.head.n;
        let mut logits = vec![0.0; m * v];
        self.head.forward(&self.team, &x, m, &mut logits, 0, v);
        if let Some(cap) = self.decoder.config.logits_softcap {
            let cap = cap as f32;
            logits.iter_mut().for_each(|x| *x = tanh(*x / cap) * cap);
        }
        logits
    }

    /// h of (rows, C) → (rows, C).
    fn attend<E: Stored>(
        &self,
        layer: &Layer<'_>,
        h: &[f32],
        input: &StepInput<'_>,
        keys: &Tensor,
        values: &Tensor,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let m = input.ids.len();
        let a = layer.attention;
        let (n_q, n_kv, d) = (a.n_heads as usize, a.n_kv_heads as usize, a.head_dim as usize);
        let width = (n_q + 2 * n_kv) * d;
        let qkv = scratch.qkv(m * width);
        let mut at = 0;
        for matrix in &layer.qkv {
            matrix.forward(&self.team, h, m, qkv, at, width);
            at += matrix.n;
        }
        let rope = input.ropes[usize::from(layer.local_rope)].as_ref();
        let capacity = keys.size()[2] as usize;
        let slot = input.slot as usize;
        let (keys, values) = (cache_of::<E>(keys), cache_of::<E>(values));
        for (row, qkv) in qkv.chunks_exact_mut(width).enumerate() {
            let (q, kv) = qkv.split_at_mut(n_q * d);
            let (k, v) = kv.split_at_mut(n_kv * d);
            if let Some((q_norm, k_norm)) = &layer.qk_norm {
                q_norm.apply(q);
                k_norm.apply(k);
            }
            if let Some(rope) = rope {
                rope.rotate(row, q, d);
                rope.rotate(row, k, d);
            }
            for head in 0..n_kv {
                let place = ((row * n_kv + head) * capacity + slot) * d;
                keys.write(place, &k[head * d..][..d]);
                values.write(place, &v[head * d..][..d]);
            }
        }
        let window = a.sliding_window.map_or(0, |w| input.slot + 1 - w);
        let (scale, softcap) = (a.scale as f32, a.softcap.map(|cap| cap as f32));
        let mut out = vec![0.0; m * n_q * d];
        let target = Heads(out.as_mut_ptr());
        let qkv = &*qkv;
        self.team.run(m * n_q, &|task| {
            let (row, head) = (task / n_q, task % n_q);
            let from = input.starts[row].max(window) as usize;
            let base = (row * n_kv + head / (n_q / n_kv)) * capacity;
            let slots = (base + from) * d..(base + slot + 1) * d;
            let q = &qkv[row * width + head * d..][..d];
            // SAFETY: every task writes the d numbers of its own head.
            let out = unsafe { std::slice::from_raw_parts_mut(target.get().add(task * d), d) };
            attend(q, keys.read(slots.clone()), values.read(slots), scale, softcap, out);
        });
        let mut merged = vec![0.0; m * layer.o_proj.n];
        layer.o_proj.forward(&self.team, &out, m, &mut merged, 0, layer.o_proj.n);
        merged
    }

    /// h of (rows, C) → (rows, C).
    fn feed_forward(&self, mlp: &PlainMlp<'_>, h: Vec<f32>, m: usize) -> Vec<f32> {
        let (inner, down) = match mlp {
            PlainMlp::Gated { gate_up, down, activation } => {
                let width: usize = gate_up.iter().map(|matrix| matrix.n).sum();
                let mut both = vec![0.0; m * width];
                let mut at = 0;
                for matrix in gate_up {
                    matrix.forward(&self.team, &h, m, &mut both, at, width);
                    at += matrix.n;
                }
                let mut inner = Vec::with_capacity(m * width / 2);
                for row in both.chunks_exact_mut(width) {
                    let (gate, up) = row.split_at_mut(width / 2);
                    activate(*activation, gate, Some(up));
                    inner.extend_from_slice(gate);
                }
                (inner, down)
            }
            PlainMlp::Plain { up, down, activation } => {
                let mut inner = vec![0.0; m * up.n];
                up.forward(&self.team, &h, m, &mut inner, 0, up.n);
                activate(*activation, &mut inner, None);
                (inner, down)
            }
            PlainMlp::Other(mlp) => {
                let x = Tensor::from_slice(&h).view([m as i64, -1]).to_kind(self.decoder.kind);
                return floats(&mlp.forward(&x));
            }
        };
        let mut out = vec![0.0; m * down.n];
        down.forward(&self.team, &inner, m, &mut out, 0, down.n);
        out
    }
}

/// Space that every block uses anew.
#[derive(Debug, Default)]
struct Scratch {
    qkv: Vec<f32>,
}

impl Scratch {
    fn qkv(&mut self, n: usize) -> &mut [f32] {
        self.qkv.resize(n, 0.0);
        &mut self.qkv
    }
}

fn normed(x: &[f32], norm: Option<&PlainNorm>) -> Vec<f32> {
    let mut h = x.to_vec();
    if let Some(norm) = norm {
        norm.apply(&mut h);
    }
    h
}

/// x += norm(y).
fn add(x: &mut [f32], y: &mut [f32], norm: Option<&PlainNorm>) {
    if let Some(norm) = norm {
        norm.apply(y);
    }
    x.iter_mut().zip(y).for_each(|(x, y)| *x += *y);
}

impl RopeRows {
    /// Turns every head of `x`, (heads, d), by the angles of row `row`.
    fn rotate(&self, row: usize, x: &mut [f32], d: usize) {
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

/// A block's keys or values, read and written in place.
#[derive(Clone, Copy)]
struct Cache<E> {
    start: *mut E,
    len: usize,
}

// SAFETY: written only before a team reads it.
unsafe impl<E: Sync> Sync for Cache<E> {}

impl<E: Stored> Cache<E> {
    fn write(&self, place: usize, x: &[f32]) {
        assert!(place + x.len() <= self.len);
        for (i, &x) in x.iter().enumerate() {
            // SAFETY: inside, as was checked; no slice of it is held while writing.
            unsafe { *self.start.add(place + i) = E::narrow(x) };
        }
    }

    fn read(&self, places: std::ops::Range<usize>) -> &[E] {
        assert!(places.start <= places.end && places.end <= self.len);
        // SAFETY: inside, as was checked; nothing writes while a slice is held.
        unsafe { std::slice::from_raw_parts(self.start.add(places.start), places.len()) }
    }
}

/// The cache's tensor in place. It is made by [`crate::generate`], contiguous, of E, on the CPU, with no other
/// handle on it.
fn cache_of<E: Stored>(tensor: &Tensor) -> Cache<E> {
    let kind = tensor.kind();
    let all = elements::<E>(tensor, kind).unwrap_or_default();
    Cache { start: all.as_ptr().cast_mut(), len: all.len() }
}

/// Where attention's tasks write, each its own head.
struct Heads(*mut f32);

// SAFETY: see `Plan::attend`.
unsafe impl Sync for Heads {}

impl Heads {
    fn get(&self) -> *mut f32 {
        self.0
    }
}
