use tch::{Device, Tensor};

use super::attention::{Island, Kept, Run, part, view};
use crate::kernels::Heads;

/// What of a batch a loss's gradient reaches, where that is not all of it.
///
/// A loss may look at answers without learning from them, as KTO does at those that its prompts borrow. Nobody else sees
/// such an answer's tokens, so their gradients are zero from the last block to the first: nothing of them is kept for
/// the backward pass, which does without them.
pub(super) struct Reached {
    /// The islands without the runs that no gradient reaches, at their new places.
    pub(super) islands: Vec<Island>,
    /// Which tokens of the batch are left, in order.
    pub(super) tokens: Vec<i64>,
    /// Those, (T′).
    rows: Tensor,
    /// By island of the batch: which of its runs are left.
    runs: Vec<Vec<bool>>,
}

impl Reached {
    /// `learnt`: by token, whether the loss learns from it. `None` where it learns from every run; and where it does from
    /// none, so that all that is trained has a gradient, if only of zeros.
    pub(super) fn of(islands: &[Island], learnt: &[bool], device: Device) -> Option<Self> {
        let (mut left, mut tokens, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        for island in islands {
            let start = island.range.start;
            let is_reached = |run: &Run| learnt[start..][run.own.clone()].contains(&true);
            let mut kept: Vec<bool> = island.runs.iter().map(is_reached).collect();
            // All see the prefix, which is part of the first.
            kept[0] = kept.contains(&true);
            let (begin, mut n) = (tokens.len(), 0);
            let mut own = Vec::new();
            for (run, _) in island.runs.iter().zip(&kept).filter(|(_, kept)| **kept) {
                tokens.extend(run.own.clone().map(|token| (start + token) as i64));
                own.push(Run { own: n..n + run.own.len(), prefix: run.prefix });
                n += run.own.len();
            }
            if n > 0 {
                left.push(Island { range: begin..begin + n, runs: own });
            }
            runs.push(kept);
        }
        let all = runs.iter().flatten().all(|&kept| kept);
        (!all && !tokens.is_empty()).then(|| {
            let rows = Tensor::from_slice(&tokens).to_device(device);
            Reached { islands: left, tokens, rows, runs }
        })
    }

    /// Of (T, …), by token.
    pub(super) fn rows(&self, t: &Tensor) -> Tensor {
        t.index_select(0, &self.rows)
    }

    /// Of (T, …) that holds each of `islands`, the batch's, as (Hkv, n·each, D).
    pub(super) fn by_island(&self, t: &Tensor, islands: &[Island], heads: Heads, each: usize) -> Tensor {
        let mut size = t.size();
        let mut parts = Vec::new();
        for (island, kept) in islands.iter().zip(&self.runs).filter(|(_, kept)| kept[0]) {
            let of_island = view(t, island, heads);
            let left = island.runs.iter().zip(kept).filter(|(_, kept)| **kept);
            let left: Vec<Tensor> = left.map(|(run, _)| part(&of_island, &run.own, each)).collect();
            size[0] = left.iter().map(|run| run.size()[1]).sum::<i64>() / each as i64;
            parts.push(Tensor::cat(&left, 1).view(size.as_slice()));
        }
        Tensor::cat(&parts, 0)
    }

    /// Of the probabilities that `islands`, the batch's, keep.
    pub(super) fn kept(&self, probabilities: Vec<Kept>, islands: &[Island]) -> Vec<Kept> {
        let mut out = Vec::new();
        for ((all, island), kept) in probabilities.into_iter().zip(islands).zip(&self.runs) {
            let mut all = all.into_iter();
            let mut left = Kept::new();
            for (run, &kept) in island.runs.iter().zip(kept) {
                let own = all.by_ref().take(run.blocks().count());
                if kept {
                    left.extend(own);
                } else {
                    own.for_each(drop);
                }
            }
            if kept[0] {
                out.push(left);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use ferrotune_types::Segment;
    use tch::Kind;

    use super::super::attention::islands;
    use super::*;

    /// Two pairs and a plain text: prompts of 3 and 2, answers of 2 and 4, 1 and 1; 5.
    fn batch() -> Vec<Island> {
        let segment = |start: usize, end: usize, prefix: Option<(usize, usize)>| Segment {
            range: start..end,
            prefix: prefix.map(|(start, end)| start..end),
        };
        let segments = [
            segment(0, 3, None),
            segment(3, 5, Some((0, 3))),
            segment(5, 9, Some((0, 3))),
            segment(9, 11, None),
            segment(11, 12, Some((9, 11))),
            segment(12, 13, Some((9, 11))),
            segment(13, 18, None),
        ];
        islands(&segments).unwrap()
    }

    fn reached(learnt: &[usize]) -> Option<Reached> {
        let learnt: Vec<bool> = (0..18).map(|token| learnt.contains(&token)).collect();
        Reached::of(&batch(), &learnt, Device::Cpu)
    }

    #[test]
    fn what_no_gradient_reaches_is_left_out() {
        let left = |learnt: &[usize]| reached(learnt).map(|reached| reached.tokens);
        assert_eq!(left(&[3, 7, 12, 13, 10]), None, "all is reached");
        assert_eq!(left(&[]), None, "nothing is");
        assert_eq!(left(&[4]), Some((0..5).collect()), "an answer with its prompt");
        assert_eq!(left(&[6]), Some((0..9).collect()), "a second answer stands behind the first");
        assert_eq!(left(&[14, 11]), Some((9..12).chain(13..18).collect()));
    }

    /// Numbers that say where they were: token by token, and by island.
    #[test]
    fn parts_are_those_of_the_tokens_left() {
        let islands = batch();
        let heads = Heads { n_kv: 2, group: 2, dim: 4 };
        // Of the first pair both answers, of the second the first one.
        let reached = reached(&[8, 11]).unwrap();
        assert_eq!(reached.tokens, (0..12).collect::<Vec<i64>>());
        let by_token = Tensor::arange(18, (Kind::Float, Device::Cpu)).unsqueeze(-1);
        assert_eq!(
            Vec::<f32>::try_from(reached.rows(&by_token).view(-1)).unwrap(),
            (0..12u8).map(f32::from).collect::<Vec<_>>()
        );
        // (T, Hkv · each · D), filled island by island with (Hkv, n · each, D) of token numbers.
        let each = heads.group;
        let size = [18, (heads.n_kv * each * heads.dim) as i64];
        let t = Tensor::zeros(size, (Kind::Float, Device::Cpu));
        let numbered = |t: &Tensor, island: &Island, first: usize| {
            for (i, token) in (first..first + island.range.len()).enumerate() {
                let _ = part(&view(t, island, heads), &(i..i + 1), each).fill_(token as f64);
            }
        };
        for island in &islands {
            numbered(&t, island, island.range.start);
        }
        let expected = Tensor::zeros([12, size[1]], (Kind::Float, Device::Cpu));
        for island in &reached.islands {
            numbered(&expected, island, island.range.start);
        }
        assert_eq!(reached.by_island(&t, &islands, heads, each), expected);
    }
}
