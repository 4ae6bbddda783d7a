use std::ops::Range;

use ferrotune_types::Segment;
use tch::Tensor;

use crate::kernels::{Heads, Seen, softmax_backward, softmax_seen};

/// Tokens that see none outside: a plain segment, or a prefix and the segments that share it.
pub(crate) struct Island {
    pub(crate) range: Range<usize>,
    /// For each of its tokens, which of its keys it sees.
    seen: Vec<Seen>,
}

/// Queries that are scored at once; the keys after them are left out.
const QUERIES: usize = 256;
/// Islands up to this length keep their probabilities for the backward pass; longer ones compute them again,
/// because they grow with the length's square.
const KEPT: usize = 1024;

/// A batch's islands in order; `None` where a segment does not stand right behind its prefix or that prefix's
/// other segments.
pub(crate) fn islands(segments: &[Segment]) -> Option<Vec<Island>> {
    let mut islands: Vec<Island> = Vec::new();
    for segment in segments {
        let Range { start, end } = segment.range;
        match &segment.prefix {
            None => islands.push(Island {
                range: start..end,
                seen: (0..end - start).map(|i| Seen { prefix: 0, start: 0, end: i + 1 }).collect(),
            }),
            Some(prefix) => {
                let island = islands.last_mut().filter(|island| island.range.start == prefix.start)?;
                let own = start - island.range.start;
                island.range.end = end;
                island.seen.extend((own..end - island.range.start).map(|i| Seen {
                    prefix: prefix.len(),
                    start: own,
                    end: i + 1,
                }));
            }
        }
    }
    Some(islands)
}

/// Probabilities of an island's blocks of queries.
pub(crate) type Kept = Vec<Tensor>;

/// q (Hkv, n, G·D by island), k, v → attended values laid out as q, and the probabilities that are worth keeping.
pub(crate) fn forward(
    [q, k, v]: &[Tensor; 3],
    islands: &[Island],
    heads: Heads,
    scale: f64,
    keep: bool,
) -> (Tensor, Vec<Kept>) {
    let out = q.empty_like();
    let mut kept = Vec::new();
    for island in islands {
        let n = island.range.len();
        let [q, k, v, out] = [q, k, v, &out].map(|t| view(t, island, heads));
        let mut own = Kept::new();
        for block in blocks(n) {
            let p = probabilities(&q, &k, island, &block, heads, scale);
            let v = v.narrow(1, 0, block.end as i64);
            if block.len() == n {
                let _ = p.bmm_out(&out, &v);
            } else {
                rows(&out, &block, heads).copy_(&p.bmm(&v));
            }
            if keep && n <= KEPT {
                own.push(p);
            }
        }
        kept.push(own);
    }
    (out, kept)
}

/// The gradients of q, k and v from g, that of [`forward`]'s result.
pub(crate) fn backward(
    [q, k, v]: &[Tensor; 3],
    kept: Vec<Kept>,
    g: &Tensor,
    islands: &[Island],
    heads: Heads,
    scale: f64,
) -> [Tensor; 3] {
    let out = [q.empty_like(), k.empty_like(), v.empty_like()];
    for (island, kept) in islands.iter().zip(kept) {
        let n = island.range.len();
        let [q, k, v, g] = [q, k, v, g].map(|t| view(t, island, heads));
        let [dq, mut dk, mut dv] = out.each_ref().map(|t| view(t, island, heads));
        let whole = n <= QUERIES + QUERIES / 2;
        if !whole {
            let _ = (dk.zero_(), dv.zero_());
        }
        let mut kept = kept.into_iter();
        for block in blocks(n) {
            let p = kept.next().unwrap_or_else(|| probabilities(&q, &k, island, &block, heads, scale));
            let keys = |t: &Tensor| t.narrow(1, 0, block.end as i64);
            let g = rows(&g, &block, heads);
            let ds = g.bmm(&keys(&v).transpose(1, 2));
            softmax_backward(&p, &ds, scale);
            let (p_t, ds_t) = (p.transpose(1, 2), ds.transpose(1, 2));
            if whole {
                let _ = (p_t.bmm_out(&dv, &g), ds_t.bmm_out(&dk, &q), ds.bmm_out(&dq, &k));
            } else {
                rows(&dq, &block, heads).copy_(&ds.bmm(&keys(&k)));
                let _ =
                    (keys(&dv).g_add_(&p_t.bmm(&g)), keys(&dk).g_add_(&ds_t.bmm(&rows(&q, &block, heads))));
            }
        }
    }
    out
}

fn probabilities(
    q: &Tensor,
    k: &Tensor,
    island: &Island,
    block: &Range<usize>,
    heads: Heads,
    scale: f64,
) -> Tensor {
    let scores = rows(q, block, heads).bmm(&k.narrow(1, 0, block.end as i64).transpose(1, 2));
    softmax_seen(&scores, &island.seen[block.clone()], heads.group, scale);
    scores
}

/// Probabilities that an island of `n` tokens keeps for its backward pass, for each head.
pub(crate) fn n_kept(n: usize) -> usize {
    if n > KEPT { 0 } else { blocks(n).iter().map(|block| block.len() * block.end).sum() }
}

/// Blocks of queries: one where the island is short.
fn blocks(n: usize) -> Vec<Range<usize>> {
    if n <= QUERIES + QUERIES / 2 {
        return std::iter::once(0..n).collect();
    }
    (0..n).step_by(QUERIES).map(|start| start..(start + QUERIES).min(n)).collect()
}

/// An island's part of a tensor of (T, …) as (Hkv, n or n·G, D).
fn view(t: &Tensor, island: &Island, heads: Heads) -> Tensor {
    let part = t.narrow(0, island.range.start as i64, island.range.len() as i64);
    part.view([heads.n_kv as i64, -1, heads.dim as i64])
}

/// A block's queries of (Hkv, n·G, D).
fn rows(t: &Tensor, block: &Range<usize>, heads: Heads) -> Tensor {
    let group = heads.group;
    t.narrow(1, (block.start * group) as i64, (block.len() * group) as i64)
}
