use std::ops::Range;

use crate::{Example, InvalidValue, PairExample};

/// A run of tokens that attend causally to themselves and, where `prefix` is set, to all of an earlier run.
///
/// `prefix` is how two answers share one prompt: the prompt is a segment of its own, computed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The tokens of the batch that this segment holds.
    pub range: Range<usize>,
    /// An earlier run that its tokens also see, whole.
    pub prefix: Option<Range<usize>>,
}

/// What one forward pass reads: a flat stream of tokens in segments that do not see each other.
///
/// Plain vectors: no tensor, no padding. Linear layers run over all `T` tokens at once; attention runs inside
/// each segment. So an example's numbers do not depend on what it is batched with.
///
/// Token `t` is a *target* where [`Self::targets`] names a token before it that must predict it; inside a
/// segment that is `t - 1`, and for a segment's first token the last one of its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<i64>,
    positions: Vec<i64>,
    loss_mask: Vec<bool>,
    segments: Vec<Segment>,
}

impl Batch {
    /// # Errors
    /// [`InvalidValue::Batch`] where the segments do not tile the tokens in order, a prefix is not the range of
    /// an earlier segment, lengths differ, or a token is to be trained on that nothing predicts.
    pub fn new(ids: Vec<i64>, loss_mask: Vec<bool>, segments: Vec<Segment>) -> Result<Self, InvalidValue> {
        let bad = |reason: String| Err(InvalidValue::Batch(reason));
        if ids.len() != loss_mask.len() {
            return bad(format!("{} ids but a loss mask of {}", ids.len(), loss_mask.len()));
        }
        let mut positions = Vec::with_capacity(ids.len());
        for (i, segment) in segments.iter().enumerate() {
            let Range { start, end } = segment.range;
            if start != positions.len() || end <= start || end > ids.len() {
                return bad(format!("segment {i} ({start}..{end}) does not follow the one before it"));
            }
            let offset = match &segment.prefix {
                None if loss_mask[start] => {
                    return bad(format!("token {start} opens segment {i} and cannot be predicted"));
                }
                None => 0,
                Some(prefix) => {
                    let known = segments[..i].iter().any(|s| s.range == *prefix && s.prefix.is_none());
                    if !known {
                        return bad(format!("segment {i} has a prefix that is not an earlier plain segment"));
                    }
                    prefix.len()
                }
            };
            positions.extend((0..end - start).map(|p| (offset + p) as i64));
        }
        if positions.len() != ids.len() {
            return bad(format!("segments hold {} of {} tokens", positions.len(), ids.len()));
        }
        Ok(Batch { ids, positions, loss_mask, segments })
    }

    /// Examples laid one after another, each a segment.
    ///
    /// # Errors
    /// [`InvalidValue::Batch`] where an example is empty.
    pub fn from_examples(examples: &[&Example]) -> Result<Self, InvalidValue> {
        let (mut ids, mut mask, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for example in examples {
            let start = ids.len();
            ids.extend(example.ids().iter().map(|&id| i64::from(id)));
            mask.extend_from_slice(example.loss_mask());
            segments.push(Segment { range: start..ids.len(), prefix: None });
        }
        Batch::new(ids, mask, segments)
    }

    /// Preference pairs, three segments each: prompt, chosen, rejected; both answers share the prompt.
    /// Every token of an answer is a target.
    ///
    /// # Errors
    /// None in practice: a [`PairExample`]'s parts are never empty.
    pub fn from_pairs(pairs: &[&PairExample]) -> Result<Self, InvalidValue> {
        let (mut ids, mut mask, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for pair in pairs {
            let start = ids.len();
            let prompt = start..start + pair.prompt().len();
            for (part, is_answer) in [(pair.prompt(), false), (pair.chosen(), true), (pair.rejected(), true)]
            {
                let start = ids.len();
                ids.extend(part.iter().map(|&id| i64::from(id)));
                mask.resize(ids.len(), is_answer);
                segments.push(Segment { range: start..ids.len(), prefix: is_answer.then(|| prompt.clone()) });
            }
        }
        Batch::new(ids, mask, segments)
    }

    /// Token ids, (T).
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Each token's place in its own sequence, prefix counted, (T).
    pub fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// True where the token is trained on, (T).
    pub fn loss_mask(&self) -> &[bool] {
        &self.loss_mask
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// T.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many tokens are trained on.
    pub fn n_targets(&self) -> usize {
        self.loss_mask.iter().filter(|&&m| m).count()
    }

    /// The trained tokens as `(predictor, target, segment)`: the hidden state of token `predictor` must predict
    /// token `target`, which lies in segment `segment`. In order of `target`.
    pub fn targets(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.segments.iter().enumerate().flat_map(move |(s, segment)| {
            segment.range.clone().filter(|&t| self.loss_mask[t]).map(move |t| {
                let predictor = match &segment.prefix {
                    Some(prefix) if t == segment.range.start => prefix.end - 1,
                    _ => t - 1,
                };
                (predictor, t, s)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(prompt: usize, chosen: usize, rejected: usize) -> PairExample {
        PairExample::new("p", vec![1; prompt], vec![2; chosen], vec![3; rejected]).unwrap()
    }

    #[test]
    fn an_answers_first_token_is_predicted_by_the_prompts_last() {
        let batch = Batch::from_pairs(&[&pair(3, 2, 1)]).unwrap();
        assert_eq!(batch.targets().collect::<Vec<_>>(), [(2, 3, 1), (3, 4, 1), (2, 5, 2)]);
        assert_eq!(batch.positions(), [0, 1, 2, 3, 4, 3]);
    }

    #[test]
    fn a_bad_batch_is_refused() {
        let seg = |range: Range<usize>, prefix| Segment { range, prefix };
        let check = |mask: [bool; 3], segments: Vec<Segment>, expect: &str| {
            let error = Batch::new(vec![1, 2, 3], mask.to_vec(), segments).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check([true, false, false], vec![seg(0..3, None)], "cannot be predicted");
        check([false; 3], vec![seg(0..2, None)], "hold 2 of 3");
        check([false; 3], vec![seg(0..2, None), seg(1..3, None)], "does not follow");
        check([false; 3], vec![seg(0..1, Some(1..3)), seg(1..3, None)], "not an earlier");
        check([false; 3], vec![seg(0..9, None)], "does not follow");
    }

    proptest! {
        #[test]
        fn segments_tile_and_every_target_has_a_predictor(
            shapes in prop::collection::vec((1..9usize, 1..9usize, 1..9usize), 1..6)
        ) {
            let pairs: Vec<_> = shapes.iter().map(|&(p, c, r)| pair(p, c, r)).collect();
            let batch = Batch::from_pairs(&pairs.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(batch.n_tokens(), pairs.iter().map(PairExample::n_tokens).sum::<usize>());
            prop_assert_eq!(batch.targets().count(), batch.n_targets());
            for (predictor, target, _) in batch.targets() {
                prop_assert!(predictor < target);
                prop_assert_eq!(batch.positions()[predictor] + 1, batch.positions()[target]);
            }
        }
    }
}
