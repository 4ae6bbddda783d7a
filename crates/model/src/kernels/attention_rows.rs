use tch::Tensor;

use super::element::{Element, LANES, Rows, elements, exp, max, sum_zipped};
use super::parallel::{parallel, rows_worth};
use super::{by_kind, for_each_width};

/// Turns scores (Hkv, n·G, m) in place into probabilities: softmax(scale · scores) over the keys that each query sees,
/// 0 elsewhere. The first of the n tokens sees the first `seen` keys, each token after it one more.
pub(crate) fn softmax_seen(scores: &Tensor, seen: usize, group: usize, scale: f64) {
    by_kind!(scores.kind(), forward(scores, seen, group, scale as f32));
}

/// Turns `g`, the gradient with respect to probabilities `p`, in place into the one with respect to the scores:
/// p · (g − Σ g·p) · scale. `seen` and `group` as in [`softmax_seen`].
pub(crate) fn softmax_backward(p: &Tensor, g: &Tensor, seen: usize, group: usize, scale: f64) {
    by_kind!(p.kind(), backward(p, g, seen, group, scale as f32));
}

/// Tokens of (Hkv, n·G, m).
fn n_tokens(scores: &Tensor, group: usize) -> usize {
    (scores.size()[1] as usize / group).max(1)
}

fn forward<E: Element>(scores: &Tensor, seen: usize, group: usize, scale: f32) {
    let (m, n) = (scores.size()[2] as usize, n_tokens(scores, group));
    let rows = Rows::<E>::of(scores, m);
    parallel(rows.len(), rows_worth(m), |range| {
        let mut buffer = vec![0f32; m];
        for i in range {
            let seen = (seen + i / group % n).min(m);
            // SAFETY: each row belongs to one thread.
            softmax_row::<E>(unsafe { rows.row(i) }, seen, scale, &mut buffer);
        }
    });
}

fn backward<E: Element>(p: &Tensor, g: &Tensor, seen: usize, group: usize, scale: f32) {
    let (m, n) = (p.size()[2] as usize, n_tokens(p, group));
    let (p, g) = (elements::<E>(p), Rows::<E>::of(g, m));
    parallel(g.len(), rows_worth(m), |range| {
        for i in range {
            let seen = (seen + i / group % n).min(m);
            // SAFETY: each row belongs to one thread.
            backward_row::<E>(&p[i * m..(i + 1) * m], unsafe { g.row(i) }, seen, scale);
        }
    });
}

for_each_width! {
    fn softmax_row<E: Element>(row: &mut [E], seen: usize, scale: f32, buffer: &mut [f32]) {
        let (row, rest) = row.split_at_mut(seen);
        let buffer = &mut buffer[..row.len()];
        let top = max(row);
        let mut lanes = [0f32; LANES];
        let (chunks, last) = row.as_chunks::<LANES>();
        let (out, out_last) = buffer.as_chunks_mut::<LANES>();
        for (out, x) in out.iter_mut().zip(chunks) {
            for lane in 0..LANES {
                out[lane] = exp((x[lane].get() - top) * scale);
                lanes[lane] += out[lane];
            }
        }
        // As a whole chunk too: one by one, so many take as long as all the others.
        let mut rest_of_row = [f32::NEG_INFINITY; LANES];
        rest_of_row.iter_mut().zip(last).for_each(|(to, x)| *to = x.get());
        for (x, lane) in rest_of_row.iter_mut().zip(&mut lanes) {
            *x = exp((*x - top) * scale);
            *lane += *x;
        }
        out_last.copy_from_slice(&rest_of_row[..out_last.len()]);
        let inverse = 1.0 / lanes.iter().sum::<f32>();
        for (x, out) in row.iter_mut().zip(&*buffer) {
            *x = E::put(out * inverse);
        }
        rest.fill(E::put(0.0));
    }
}

for_each_width! {
    fn backward_row<E: Element>(p: &[E], g: &mut [E], seen: usize, scale: f32) {
        let p = &p[..seen];
        let (g, rest) = g.split_at_mut(seen);
        let dot = sum_zipped([p, &*g], p, |p, g, _| p * g);
        for (p, g) in p.iter().zip(g) {
            *g = E::put(p.get() * (g.get() - dot) * scale);
        }
        rest.fill(E::put(0.0));
    }
}
