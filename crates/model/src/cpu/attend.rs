use half::bf16;
use tch::{Kind, Tensor};

use super::kernels::{Out, Scratch, Stored, Weight, Width};
use super::math::{softcap, softmax};
use super::matrix::Columns;
use super::parallel::parallel;
use super::step::StepInput;
use crate::Attention;

/// A block's keys and values, (rows, Hkv, capacity, D) each, read and written in place.
///
/// Invariant: nobody else holds a handle on the tensors while this lives; they are the cache's own.
pub(super) struct Cache<'a> {
    keys: &'a Tensor,
    values: &'a Tensor,
    capacity: usize,
}

impl<'a> Cache<'a> {
    pub(super) fn new((keys, values): &'a (Tensor, Tensor)) -> Self {
        Cache { keys, values, capacity: keys.size()[2] as usize }
    }

    /// Writes every row's new keys and values into slot `input.slot` and attends: `qkv` of (rows, width), queries
    /// first, → (rows, H·D).
    pub(super) fn attend(
        &mut self,
        width: Width,
        attention: &Attention,
        qkv: &[f32],
        input: &StepInput<'_>,
    ) -> Scratch {
        match self.keys.kind() {
            Kind::BFloat16 => self.attend_in::<bf16>(width, attention, qkv, input),
            _ => self.attend_in::<f32>(width, attention, qkv, input),
        }
    }

    fn attend_in<E: Stored>(
        &mut self,
        width: Width,
        attention: &Attention,
        qkv: &[f32],
        input: &StepInput<'_>,
    ) -> Scratch {
        let (rows, capacity, slot) = (input.ids.len(), self.capacity, input.slot as usize);
        let d = attention.head_dim as usize;
        let (n_q, n_kv) = (attention.n_heads as usize, attention.n_kv_heads as usize);
        let row_width = (n_q + 2 * n_kv) * d;
        for (row, qkv) in qkv.chunks_exact(row_width).enumerate() {
            let (k, v) = qkv[n_q * d..].split_at(n_kv * d);
            for (head, (k, v)) in k.chunks_exact(d).zip(v.chunks_exact(d)).enumerate() {
                let place = ((row * n_kv + head) * capacity + slot) * d;
                write::<E>(self.keys, place, k);
                write::<E>(self.values, place, v);
            }
        }
        let (keys, values) = (slice::<E>(self.keys), slice::<E>(self.values));
        let window = attention.sliding_window.map_or(0, |w| input.slot + 1 - w);
        let (scale, cap) = (attention.scale as f32, attention.softcap.map(|cap| cap as f32));
        let mut out = Scratch::new(rows * n_q * d);
        let target = Columns(out.as_mut_ptr());
        // The query heads that share keys go together: the keys come from memory once.
        let group = n_q / n_kv;
        parallel(rows * n_kv, &|task| {
            let (row, head) = (task / n_kv, task % n_kv);
            let from = input.starts[row].max(window) as usize;
            let slots = (task * capacity + from) * d..(task * capacity + slot + 1) * d;
            let (keys, values) = (&keys[slots.clone()], &values[slots]);
            let q = &qkv[row * row_width + head * group * d..][..group * d];
            let n = slot + 1 - from;
            let mut scratch = Scratch::new(group * (n + d));
            // (group, slots), every query of the group with every key; and what comes of each, (group, D).
            let (scores, mixed) = scratch.split_at_mut(group * n);
            let keys = Weight { rows: keys, cached: false };
            E::product(width, keys, &E::arrange(width, q, d), d, Out { numbers: scores, stride: n });
            mixed.fill(0.0);
            for (scores, mixed) in scores.chunks_exact_mut(n).zip(mixed.chunks_exact_mut(d)) {
                for score in scores.iter_mut() {
                    *score *= scale;
                }
                if let Some(cap) = cap {
                    softcap(scores, cap);
                }
                softmax(scores);
                E::mix(width, scores, values, mixed);
            }
            // SAFETY: every task has the numbers of its own heads in `out`, which is looked at when all are done.
            unsafe { target.write(task * group * d, mixed) };
        });
        out
    }
}

/// Puts `x` into the tensor's elements from `place` on.
fn write<E: Stored>(tensor: &Tensor, place: usize, x: &[f32]) {
    assert!(place + x.len() <= tensor.numel());
    let start = tensor.data_ptr().cast::<E>();
    for (i, &x) in x.iter().enumerate() {
        // SAFETY: inside, as was checked; no slice of it is held while writing.
        unsafe { start.add(place + i).write(E::narrow(x)) };
    }
}

fn slice<E: Stored>(tensor: &Tensor) -> &[E] {
    super::matrix::elements(tensor, tensor.kind()).unwrap_or_default()
}
