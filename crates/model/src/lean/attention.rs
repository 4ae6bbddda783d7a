use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ferrotune_types::Segment;
use tch::Tensor;

use crate::kernels::{Heads, parallel, softmax_backward, softmax_seen, wide};

/// Tokens that see none outside: a plain segment, or a prefix and the segments that share it.
pub(crate) struct Island {
    pub(crate) range: Range<usize>,
    /// At least one; the first begins with the prefix that the others share.
    pub(super) runs: Vec<Run>,
}

/// Tokens of an island of which each sees the island's first `prefix` tokens, and of the run those up to itself.
pub(super) struct Run {
    pub(super) own: Range<usize>,
    pub(super) prefix: usize,
}

/// Queries that are scored at once: few enough that their scores stay in a core's cache, and that few keys after them are
/// scored in vain.
const QUERIES: usize = 64;
/// Keys are scored in such steps where there are more: products of the same sizes are prepared once.
const KEYS: usize = 64;
/// Islands up to this length keep their probabilities for the backward pass; longer ones compute them again,
/// because they grow with the length's square.
const KEPT: usize = 1024;

/// A batch's islands in order; `None` where a segment does not stand right behind its prefix or that prefix's
/// other segments.
pub(crate) fn islands(segments: &[Segment]) -> Option<Vec<Island>> {
    let mut islands: Vec<Island> = Vec::new();
    for segment in segments {
        let Range { start, end } = segment.range;
        let Some(prefix) = &segment.prefix else {
            let runs = vec![Run { own: 0..end - start, prefix: 0 }];
            islands.push(Island { range: start..end, runs });
            continue;
        };
        let island = islands.last_mut().filter(|island| island.range.start == prefix.start)?;
        let (own, n_prefix) = (start - island.range.start..end - island.range.start, prefix.len());
        island.range.end = end;
        match island.runs.last_mut() {
            // The first segment behind its prefix only continues it.
            Some(run) if run.prefix == 0 && run.own == (0..n_prefix) && own.start == n_prefix => {
                run.own.end = own.end;
            }
            _ => island.runs.push(Run { own, prefix: n_prefix }),
        }
    }
    Some(islands)
}

/// Queries of a run that are scored at once, by their places in the run, and how many of the run's keys are scored:
/// at least those that the last of the queries sees.
pub(super) struct Block {
    queries: Range<usize>,
    keys: usize,
}

impl Run {
    /// Keys that its last token sees.
    fn n_keys(&self) -> usize {
        self.prefix + self.own.len()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> {
        let (n, prefix, most) = (self.own.len(), self.prefix, self.n_keys());
        (0..n).step_by(QUERIES).map(move |start| {
            let end = (start + QUERIES).min(n);
            Block { queries: start..end, keys: (prefix + end).next_multiple_of(KEYS).min(most) }
        })
    }

    /// What it sees of an island's keys or values, (Hkv, n, D): its prefix, then its own.
    fn seen(&self, t: &Tensor) -> Tensor {
        let own = part(t, &self.own, 1);
        if self.own.start == self.prefix {
            return part(t, &(0..self.own.end), 1);
        }
        Tensor::cat(&[part(t, &(0..self.prefix), 1), own], 1)
    }

    /// Adds a gradient of [`Self::seen`] to that of the island's.
    fn unseen(&self, t: &Tensor, gradient: &Tensor) {
        if self.own.start == self.prefix {
            let _ = part(t, &(0..self.own.end), 1).g_add_(gradient);
            return;
        }
        let _ = part(t, &(0..self.prefix), 1).g_add_(&part(gradient, &(0..self.prefix), 1));
        let _ = part(t, &self.own, 1).g_add_(&part(gradient, &(self.prefix..self.n_keys()), 1));
    }

    /// A block's queries of (Hkv, n·G, D).
    fn rows(&self, t: &Tensor, block: &Block, heads: Heads) -> Tensor {
        let start = self.own.start;
        part(t, &(start + block.queries.start..start + block.queries.end), heads.group)
    }
}

/// Probabilities of an island's blocks of queries, run after run.
pub(crate) type Kept = Vec<Tensor>;

/// One key-value head's part of a block: whole products of their own, so that threads share them evenly however many heads
/// there are.
struct Piece {
    /// (queries·G, D).
    q: Tensor,
    /// (keys, D).
    k: Tensor,
    v: Tensor,
    /// (queries·G, keys), where the probabilities are kept.
    kept: Option<Tensor>,
    /// (queries·G, D).
    out: Tensor,
    /// Keys that the first query sees.
    seen: usize,
}

impl Piece {
    fn attend(&self, heads: Heads, scale: f64) {
        let as_kept = self.kept.as_ref().filter(|kept| kept.kind() == self.q.kind());
        let p = match as_kept {
            Some(kept) => self.q.mm_out(kept, &self.k.tr()),
            None => self.q.mm(&self.k.tr()),
        };
        softmax_seen(&p.unsqueeze(0), self.seen, heads.group, scale);
        if self.out.kind() == p.kind() {
            let _ = p.mm_out(&self.out, &self.v);
        } else {
            self.out.shallow_clone().copy_(&p.mm(&self.v));
        }
        if let (Some(kept), None) = (&self.kept, as_kept) {
            kept.shallow_clone().copy_(&p);
        }
    }
}

/// q (Hkv, n, G·D by island), k, v → attended values laid out as q, and the probabilities that are worth keeping.
pub(crate) fn forward(
    [q, k, v]: &[Tensor; 3],
    islands: &[Island],
    heads: Heads,
    scale: f64,
    keep: bool,
) -> (Tensor, Vec<Kept>) {
    let out = q.empty_like();
    let (mut kept, mut pieces) = (Vec::new(), Vec::new());
    for island in islands {
        let n = island.range.len();
        let [q, k, v] = [q, k, v].map(|t| wide(&view(t, island, heads)));
        let out = view(&out, island, heads);
        let mut own = Kept::new();
        for run in &island.runs {
            let (k, v) = (run.seen(&k), run.seen(&v));
            for block in run.blocks() {
                let q = run.rows(&q, &block, heads);
                let size = [heads.n_kv as i64, q.size()[1], block.keys as i64];
                let kept = (keep && n <= KEPT).then(|| Tensor::empty(size, (out.kind(), out.device())));
                for head in 0..heads.n_kv as i64 {
                    let keys = |t: &Tensor| part(t, &(0..block.keys), 1).get(head);
                    pieces.push(Mutex::new(Piece {
                        q: q.get(head),
                        k: keys(&k),
                        v: keys(&v),
                        kept: kept.as_ref().map(|p| p.get(head)),
                        out: run.rows(&out, &block, heads).get(head),
                        seen: first_seen(run, &block),
                    }));
                }
                own.extend(kept);
            }
        }
        kept.push(own);
    }
    // Neighbours cost about the same, and every so many of them more: each thread takes every so many-th. A tensor may go
    // to another thread but not be shared, hence the locks, which nobody waits for.
    let threads = (tch::get_num_threads().max(1) as usize).min(pieces.len());
    parallel(threads, 1, |range| {
        for thread in range {
            for piece in pieces.iter().skip(thread).step_by(threads) {
                piece.lock().unwrap_or_else(PoisonError::into_inner).attend(heads, scale);
            }
        }
    });
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
    let out = [q.empty_like(), k.zeros_like(), v.zeros_like()];
    for (island, kept) in islands.iter().zip(kept) {
        let [q, k, v, g] = [q, k, v, g].map(|t| wide(&view(t, island, heads)));
        let [dq, dk, dv] = out.each_ref().map(|t| view(t, island, heads));
        let mut kept = kept.into_iter();
        for run in &island.runs {
            let (k_seen, v_seen) = (run.seen(&k), run.seen(&v));
            let blocks: Vec<Block> = run.blocks().collect();
            let mut own: Vec<Tensor> = kept.by_ref().take(blocks.len()).collect();
            // The last block sees all keys: its gradients are the sums that the others' are added to.
            let mut sums: Option<(Tensor, Tensor)> = None;
            for block in blocks.iter().rev() {
                let p = own.pop().map(|p| wide(&p));
                let p = p.unwrap_or_else(|| probabilities(&q, &k_seen, run, block, heads, scale));
                let keys = |t: &Tensor| part(t, &(0..block.keys), 1);
                let g = run.rows(&g, block, heads);
                let ds = g.bmm(&keys(&v_seen).transpose(1, 2));
                softmax_backward(&p, &ds, first_seen(run, block), heads.group, scale);
                run.rows(&dq, block, heads).copy_(&ds.bmm(&keys(&k_seen)));
                let more = (ds.transpose(1, 2).bmm(&run.rows(&q, block, heads)), p.transpose(1, 2).bmm(&g));
                match &sums {
                    None => sums = Some(more),
                    Some((dk, dv)) => drop((keys(dk).g_add_(&more.0), keys(dv).g_add_(&more.1))),
                }
            }
            if let Some((dk_seen, dv_seen)) = sums {
                run.unseen(&dk, &dk_seen);
                run.unseen(&dv, &dv_seen);
            }
        }
    }
    out
}

/// How many keys the first of a block's queries sees; each query after it sees one more.
fn first_seen(run: &Run, block: &Block) -> usize {
    run.prefix + block.queries.start + 1
}

/// (Hkv, queries·G, keys).
fn probabilities(q: &Tensor, k: &Tensor, run: &Run, block: &Block, heads: Heads, scale: f64) -> Tensor {
    let scores = run.rows(q, block, heads).bmm(&part(k, &(0..block.keys), 1).transpose(1, 2));
    softmax_seen(&scores, first_seen(run, block), heads.group, scale);
    scores
}

/// Probabilities that an island of `n` tokens keeps for its backward pass, for each head.
pub fn n_kept(n: usize) -> usize {
    let run = Run { own: 0..n, prefix: 0 };
    if n > KEPT { 0 } else { run.blocks().map(|block| block.queries.len() * block.keys).sum() }
}

/// An island's part of a tensor of (T, …) as (Hkv, n or n·G, D).
pub(super) fn view(t: &Tensor, island: &Island, heads: Heads) -> Tensor {
    let part = t.narrow(0, island.range.start as i64, island.range.len() as i64);
    part.view([heads.n_kv as i64, -1, heads.dim as i64])
}

/// Tokens of (Hkv, n·each, D), `each` rows a token.
pub(super) fn part(t: &Tensor, tokens: &Range<usize>, each: usize) -> Tensor {
    t.narrow(1, (tokens.start * each) as i64, (tokens.len() * each) as i64)
}
