use std::ops::Range;

use tch::Tensor;

use super::element::{Element, Rows, elements};
use super::parallel::{parallel, rows_worth};
use super::{by_kind, for_each_width};

/// How a layer's heads lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Key-value heads.
    pub(crate) n_kv: usize,
    /// Query heads that share one of them.
    pub(crate) group: usize,
    /// Features of a head.
    pub(crate) dim: usize,
}

impl Heads {
    /// Features of a token's queries, and of its keys.
    fn widths(self) -> (usize, usize) {
        (self.n_kv * self.group * self.dim, self.n_kv * self.dim)
    }
}

/// Queries, keys and values side by side, (T, (H + 2·Hkv)·D) → head by head, queries and keys rotated: for every
/// island of n tokens a block of (Hkv, n, G·D) in q, and of (Hkv, n, D) in k and v. `cos` and `sin` are (T, 1, D).
pub(crate) fn split_qkv(
    qkv: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    heads: Heads,
    islands: &[Range<usize>],
) -> [Tensor; 3] {
    let (q_width, kv_width) = heads.widths();
    let t = qkv.size()[0];
    let empty = |width: usize| Tensor::empty([t, width as i64], (qkv.kind(), qkv.device()));
    let parts = [empty(q_width), empty(kv_width), empty(kv_width)];
    by_kind!(qkv.kind(), turn(qkv, cos, sin, heads, islands, &parts, true));
    parts
}

/// The way back, for gradients: what [`split_qkv`] made → (T, (H + 2·Hkv)·D), turned the other way round.
pub(crate) fn unsplit_qkv(
    parts: &[Tensor; 3],
    cos: &Tensor,
    sin: &Tensor,
    heads: Heads,
    islands: &[Range<usize>],
) -> Tensor {
    let (q_width, kv_width) = heads.widths();
    let t = parts[0].size()[0];
    let qkv = Tensor::empty([t, (q_width + 2 * kv_width) as i64], (parts[0].kind(), parts[0].device()));
    by_kind!(qkv.kind(), turn(&qkv, cos, sin, heads, islands, parts, false));
    qkv
}

/// (T, H·D) → for every island a block of (Hkv, n, G·D).
pub(crate) fn split_heads(x: &Tensor, heads: Heads, islands: &[Range<usize>]) -> Tensor {
    let out = x.empty_like();
    by_kind!(x.kind(), lay(x, &out, heads, islands, true));
    out
}

/// The way back of [`split_heads`].
pub(crate) fn join_heads(x: &Tensor, heads: Heads, islands: &[Range<usize>]) -> Tensor {
    let out = x.empty_like();
    by_kind!(x.kind(), lay(&out, x, heads, islands, false));
    out
}

/// For every token its island's first token, the island's length, and its place in it.
fn places(islands: &[Range<usize>]) -> Vec<(usize, usize, usize)> {
    islands.iter().flat_map(|r| r.clone().map(|t| (r.start, r.len(), t - r.start))).collect()
}

/// Between tokens (T, H·D) and islands, one way or the other.
fn lay<E: Element>(tokens: &Tensor, blocks: &Tensor, heads: Heads, islands: &[Range<usize>], split: bool) {
    let width = heads.group * heads.dim;
    let (tokens, blocks) = (Rows::<E>::of(tokens, width), Rows::<E>::of(blocks, width));
    let places = places(islands);
    parallel(places.len(), rows_worth(width * heads.n_kv), |range| {
        for t in range {
            let (start, n, i) = places[t];
            for head in 0..heads.n_kv {
                // SAFETY: a token's rows belong to one thread.
                let (token, block) = unsafe {
                    (tokens.row(t * heads.n_kv + head), blocks.row(start * heads.n_kv + head * n + i))
                };
                if split {
                    block.copy_from_slice(token);
                } else {
                    token.copy_from_slice(block);
                }
            }
        }
    });
}

fn turn<E: Element>(
    qkv: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    heads: Heads,
    islands: &[Range<usize>],
    parts: &[Tensor; 3],
    forward: bool,
) {
    let Heads { n_kv, group, dim } = heads;
    let (cos, sin) = (elements::<E>(cos), elements::<E>(sin));
    let whole = Rows::<E>::of(qkv, dim);
    let [q, k, v] = parts.each_ref().map(|t| Rows::<E>::of(t, dim));
    let places = places(islands);
    let per_token = n_kv * (group + 2);
    parallel(places.len(), rows_worth(per_token * dim), |range| {
        for t in range {
            let (start, n, i) = places[t];
            let (cos, sin) = (&cos[t * dim..(t + 1) * dim], &sin[t * dim..(t + 1) * dim]);
            for head in 0..per_token {
                let kv = if head < n_kv * group { head / group } else { (head - n_kv * group) % n_kv };
                // SAFETY: a token's rows belong to one thread.
                let (token, block) = unsafe {
                    let block = if head < n_kv * group {
                        q.row((start * n_kv + kv * n + i) * group + head % group)
                    } else if head < n_kv * (group + 1) {
                        k.row(start * n_kv + kv * n + i)
                    } else {
                        v.row(start * n_kv + kv * n + i)
                    };
                    (whole.row(t * per_token + head), block)
                };
                let rotated = head < n_kv * (group + 1);
                match (rotated, forward) {
                    (true, true) => rotate_row::<E>(token, cos, sin, block),
                    (true, false) => rotate_back_row::<E>(block, cos, sin, token),
                    (false, true) => block.copy_from_slice(token),
                    (false, false) => token.copy_from_slice(block),
                }
            }
        }
    });
}

for_each_width! {
    fn rotate_row<E: Element>(x: &[E], cos: &[E], sin: &[E], y: &mut [E]) {
        let half = x.len() / 2;
        let ((x0, x1), (y0, y1)) = (x.split_at(half), y.split_at_mut(half));
        let ((c0, c1), (s0, s1)) = (cos.split_at(half), sin.split_at(half));
        for j in 0..half {
            y0[j] = E::put(x0[j].get() * c0[j].get() + x1[j].get() * s0[j].get());
            y1[j] = E::put(x1[j].get() * c1[j].get() + x0[j].get() * s1[j].get());
        }
    }
}

for_each_width! {
    /// The transpose of [`rotate_row`].
    fn rotate_back_row<E: Element>(g: &[E], cos: &[E], sin: &[E], x: &mut [E]) {
        let half = g.len() / 2;
        let ((g0, g1), (x0, x1)) = (g.split_at(half), x.split_at_mut(half));
        let ((c0, c1), (s0, s1)) = (cos.split_at(half), sin.split_at(half));
        for j in 0..half {
            x0[j] = E::put(g0[j].get() * c0[j].get() + g1[j].get() * s1[j].get());
            x1[j] = E::put(g1[j].get() * c1[j].get() + g0[j].get() * s0[j].get());
        }
    }
}
