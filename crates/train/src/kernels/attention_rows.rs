use tch::Tensor;

use super::element::{Element, Rows, elements, exp, max, sum};
use super::parallel::{parallel, rows_worth};
use super::{by_kind, for_each_width};

/// Which keys of its island a token sees: the first `prefix`, and those from `start` to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) prefix: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Turns scores (Hkv, n·G, m) in place into probabilities: softmax(scale · scores) over the keys that each query
/// sees, 0 elsewhere. `seen` holds one entry for each of the n tokens.
pub(crate) fn softmax_seen(scores: &Tensor, seen: &[Seen], group: usize, scale: f64) {
    by_kind!(scores.kind(), forward(scores, seen, group, scale as f32));
}

/// Turns `g`, the gradient with respect to probabilities `p`, in place into the one with respect to the scores:
/// p · (g − Σ g·p) · scale.
pub(crate) fn softmax_backward(p: &Tensor, g: &Tensor, scale: f64) {
    by_kind!(p.kind(), backward(p, g, scale as f32));
}

fn forward<E: Element>(scores: &Tensor, seen: &[Seen], group: usize, scale: f32) {
    let m = scores.size()[2] as usize;
    let rows = Rows::<E>::of(scores, m);
    parallel(rows.len(), rows_worth(m), |range| {
        let mut buffer = vec![0f32; m];
        for i in range {
            let seen = seen[i / group % seen.len()];
            // SAFETY: each row belongs to one thread.
            softmax_row::<E>(unsafe { rows.row(i) }, seen, scale, &mut buffer);
        }
    });
}

fn backward<E: Element>(p: &Tensor, g: &Tensor, scale: f32) {
    let m = p.size()[2] as usize;
    let (p, g) = (elements::<E>(p), Rows::<E>::of(g, m));
    parallel(g.len(), rows_worth(m), |range| {
        for i in range {
            // SAFETY: each row belongs to one thread.
            backward_row::<E>(&p[i * m..(i + 1) * m], unsafe { g.row(i) }, scale);
        }
    });
}

for_each_width! {
    fn softmax_row<E: Element>(row: &mut [E], seen: Seen, scale: f32, buffer: &mut [f32]) {
        // A prefix that the token's own run does not continue is seen apart from it.
        let parts = [0..seen.prefix, seen.start..seen.end];
        let mut top = f32::NEG_INFINITY;
        for part in &parts {
            let (row, out) = (&row[part.clone()], &mut buffer[part.clone()]);
            for (out, x) in out.iter_mut().zip(row) {
                *out = x.get() * scale;
            }
            top = top.max(max(out.len(), |j| out[j]));
        }
        let mut total = 0.0;
        for part in &parts {
            let out = &mut buffer[part.clone()];
            for x in out.iter_mut() {
                *x = exp(*x - top);
            }
            total += sum(out.len(), |j| out[j]);
        }
        let inverse = 1.0 / total;
        let mut done = 0;
        for part in parts {
            row[done..part.start].fill(E::put(0.0));
            for (x, out) in row[part.clone()].iter_mut().zip(&buffer[part.clone()]) {
                *x = E::put(out * inverse);
            }
            done = part.end;
        }
        row[done..].fill(E::put(0.0));
    }
}

for_each_width! {
    fn backward_row<E: Element>(p: &[E], g: &mut [E], scale: f32) {
        let n = p.len().min(g.len());
        let (p, g) = (&p[..n], &mut g[..n]);
        let dot = sum(n, |j| p[j].get() * g[j].get());
        for (p, g) in p.iter().zip(g) {
            *g = E::put(p.get() * (g.get() - dot) * scale);
        }
    }
}
