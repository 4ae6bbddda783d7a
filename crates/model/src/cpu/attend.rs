use half::bf16;
use tch::{Device, Kind, Tensor};

use super::kernels::{Out, Scratch, Stored, Weight, Width};
use super::math::{softcap, softmax};
use super::matrix::Columns;
use super::parallel::parallel;
use super::plan::Layer;
use super::step::StepInput;

/// A block's keys and values, (rows, Hkv, capacity, D) each, read and written in place.
///
/// Invariant: nobody else holds a handle on the tensors while this lives; they are the cache's own.
pub(super) struct Cache<'a> {
    keys: &'a Tensor,
    values: &'a Tensor,
}

impl<'a> Cache<'a> {
    pub(super) fn new((keys, values): &'a (Tensor, Tensor)) -> Self {
        Cache { keys, values }
    }

    /// Turns queries and keys by their places, writes every row's new keys and values into slot `input.slot` and attends:
    /// `qkv` of (rows, width), queries first, → (rows, H·D).
    pub(super) fn attend(
        &mut self,
        width: Width,
        layer: &Layer<'_>,
        qkv: &[f32],
        input: &StepInput<'_>,
    ) -> Scratch {
        match self.keys.kind() {
            Kind::BFloat16 => self.attend_in::<bf16>(width, layer, qkv, input),
            _ => self.attend_in::<f32>(width, layer, qkv, input),
        }
    }

    fn attend_in<E: Stored>(
        &mut self,
        width: Width,
        layer: &Layer<'_>,
        qkv: &[f32],
        input: &StepInput<'_>,
    ) -> Scratch {
        let (attention, rope) = (layer.attention, input.ropes[usize::from(layer.local_rope)].as_ref());
        let (rows, slot) = (input.ids.len(), input.slot as usize);
        let d = attention.head_dim as usize;
        let (n_q, n_kv) = (attention.n_heads as usize, attention.n_kv_heads as usize);
        let row_width = (n_q + 2 * n_kv) * d;
        let capacity = self.keys.size()[2] as usize;
        let [all_keys, all_values] = [self.keys, self.values].map(|tensor| {
            let holds = tensor.kind().elt_size_in_bytes() == size_of::<E>()
                && tensor.device() == Device::Cpu
                && tensor.is_contiguous()
                && tensor.numel() >= rows * n_kv * capacity * d;
            assert!(holds && slot < capacity, "slot {slot} of {:?}", tensor.size());
            Columns(tensor.data_ptr().cast::<E>())
        });
        let window = attention.sliding_window.map_or(0, |w| input.slot + 1 - w);
        let (scale, cap) = (attention.scale as f32, attention.softcap.map(|cap| cap as f32));
        let mut out = Scratch::new(rows * n_q * d);
        let target = Columns(out.as_mut_ptr());
        // The query heads that share keys go together: the keys come from memory once.
        let group = n_q / n_kv;
        parallel(rows * n_kv, &|task| {
            let (row, head) = (task / n_kv, task % n_kv);
            let from = input.starts[row].max(window) as usize;
            let n = slot + 1 - from;
            let qkv = &qkv[row * row_width..][..row_width];
            let part = |first_head: usize, heads: usize| &qkv[first_head * d..][..heads * d];
            // The queries and the new key; (group, slots), every query with every key; what comes of each query, (group, D).
            let mut scratch = Scratch::new((group + 1) * d + group * (n + d));
            let (turned, rest) = scratch.split_at_mut((group + 1) * d);
            let (scores, mixed) = rest.split_at_mut(group * n);
            turned[..group * d].copy_from_slice(part(head * group, group));
            turned[group * d..].copy_from_slice(part(n_q + head, 1));
            if let Some(rope) = rope {
                rope.rotate(row, turned, d);
            }
            let (q, k) = turned.split_at(group * d);
            let place = task * capacity * d;
            // SAFETY: inside the tensors, as was asserted; every task has a row and a head of its own, whose slots nobody
            // else reads or writes before `parallel` comes back.
            let (keys, values) = unsafe {
                narrow::<E>(k, &all_keys, place + slot * d);
                narrow::<E>(part(n_q + n_kv + head, 1), &all_values, place + slot * d);
                (all_keys.read(place + from * d, n * d), all_values.read(place + from * d, n * d))
            };
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

/// Puts `x` into places from `place` on.
///
/// # Safety
/// As [`Columns::write`].
unsafe fn narrow<E: Stored>(x: &[f32], target: &Columns<E>, place: usize) {
    for (i, &x) in x.iter().enumerate() {
        // SAFETY: the caller vouches for it.
        unsafe { target.write(place + i, &[E::narrow(x)]) };
    }
}
