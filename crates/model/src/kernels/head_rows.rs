use tch::Tensor;

use super::element::{Element, Rows, elements, exp, max, sum, sum_zipped};
use super::parallel::{parallel, rows_worth};
use super::{by_kind, for_each_width};

/// What a row of logits says of its target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HeadRow {
    /// ln p of the target.
    pub logp: f32,
    /// Entropy in nats; 0 where metrics are off.
    pub entropy: f32,
    /// Mean logit; 0 where metrics are off.
    pub mean: f32,
    /// Whether the target is the likeliest.
    pub correct: bool,
}

/// Turns logits (N, V) in place, where `gradient`, into d ln p / d logits: one at the target less softmax.
///
/// # Panics
/// For logits that are no contiguous CPU tensor of fp32 or bf16, or targets beyond them.
pub fn head_rows(logits: &Tensor, targets: &[i64], gradient: bool, metrics: bool) -> Vec<HeadRow> {
    let mut out = vec![HeadRow::default(); targets.len()];
    by_kind!(logits.kind(), run(logits, targets, gradient, metrics, &mut out));
    out
}

/// What is known of a row's softmax and target after some of the vocabulary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningHead {
    /// The greatest logit so far, and Σ exp(logit − greatest).
    top: f32,
    total: f32,
    /// The target's logit, once it was seen.
    own: f32,
    /// A token before the target is as likely: of equals the first is taken.
    comes_late: bool,
}

impl RunningHead {
    /// Before anything is known.
    pub(crate) const NOTHING: Self =
        RunningHead { top: f32::NEG_INFINITY, total: 0.0, own: f32::NEG_INFINITY, comes_late: false };

    /// ln p of the target, and whether it is the token that greedy decoding takes.
    pub(crate) fn of_target(self) -> (f32, bool) {
        (self.own - (self.top + self.total.ln()), self.own >= self.top && !self.comes_late)
    }
}

/// Adds to every row what logits (N, v) of the v tokens from `first` on say; `targets` count from 0. The parts of a
/// vocabulary come in their order.
pub(crate) fn head_part(logits: &Tensor, targets: &[i64], first: i64, rows: &mut [RunningHead]) {
    by_kind!(logits.kind(), add_part(logits, targets, first, rows));
}

fn add_part<E: Element>(logits: &Tensor, targets: &[i64], first: i64, heads: &mut [RunningHead]) {
    let v = logits.size()[1] as usize;
    let logits = elements::<E>(logits);
    assert!(logits.len() == heads.len() * v && targets.len() == heads.len());
    let out = std::sync::Mutex::new(heads);
    parallel(targets.len(), rows_worth(v), |range| {
        for i in range {
            let row = &logits[i * v..(i + 1) * v];
            let target =
                targets[i].checked_sub(first).and_then(|y| usize::try_from(y).ok()).filter(|&y| y < v);
            let (top, total) = part_row::<E>(row);
            // Only a target that nothing in its part exceeds may yet be the likeliest: few rows are looked at again.
            let is_top = |y: usize| row[y].get() >= top;
            let equal_before = target.filter(|&y| is_top(y)).is_some_and(|y| (0..y).any(is_top));
            if let Ok(mut out) = out.lock() {
                let head = &mut out[i];
                if let Some(y) = target {
                    head.own = row[y].get();
                    head.comes_late = equal_before || head.top >= head.own;
                }
                let greatest = head.top.max(top);
                head.total = head.total * exp(head.top - greatest) + total * exp(top - greatest);
                head.top = greatest;
            }
        }
    });
}

for_each_width! {
    /// The greatest, and Σ exp(x − greatest).
    fn part_row<E: Element>(row: &[E]) -> (f32, f32) {
        let top = max(row);
        (top, sum(row, |x| exp(x - top)))
    }
}

fn run<E: Element>(logits: &Tensor, targets: &[i64], gradient: bool, metrics: bool, out: &mut [HeadRow]) {
    let v = logits.size()[1] as usize;
    let rows = Rows::<E>::of(logits, v);
    assert!(rows.len() == targets.len() && targets.iter().all(|&y| (y as usize) < v));
    let out = std::sync::Mutex::new(out);
    parallel(rows.len(), rows_worth(v), |range| {
        let mut buffer = vec![0f32; v];
        for i in range {
            // SAFETY: each row belongs to one thread.
            let row = unsafe { rows.row(i) };
            let said = head_row::<E>(row, targets[i] as usize, gradient, metrics, &mut buffer);
            if let Ok(mut out) = out.lock() {
                out[i] = said;
            }
        }
    });
}

for_each_width! {
    fn head_row<E: Element>(
        row: &mut [E],
        target: usize,
        gradient: bool,
        metrics: bool,
        buffer: &mut [f32],
    ) -> HeadRow {
        let n = row.len().min(buffer.len());
        let (row, buffer) = (&mut row[..n], &mut buffer[..n]);
        let top = max(row);
        let own = row[target].get();
        for (out, x) in buffer.iter_mut().zip(&*row) {
            *out = exp(x.get() - top);
        }
        let total = sum(buffer, |x| x);
        let log_total = top + total.ln();
        let mut said = HeadRow { logp: own - log_total, correct: own == top, ..HeadRow::default() };
        if metrics {
            said.mean = sum(row, |x| x) / n as f32;
            said.entropy = log_total - top - sum_zipped([&*buffer, &*buffer], row, |p, _, x| p * (x - top)) / total;
            said.correct = own == top && row.iter().position(|x| x.get() == top) == Some(target);
        }
        if gradient {
            let inverse = -1.0 / total;
            for (x, out) in row.iter_mut().zip(&*buffer) {
                *x = E::put(out * inverse);
            }
            row[target] = E::put(1.0 + buffer[target] * inverse);
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each target is what greedy decoding takes, of a vocabulary that comes in parts of `part`.
    fn taken(row: &[f32], part: usize) -> Vec<i64> {
        let is_taken = |&target: &i64| {
            let mut heads = [RunningHead::NOTHING];
            for (i, logits) in row.chunks(part).enumerate() {
                let logits = Tensor::from_slice(logits).unsqueeze(0);
                head_part(&logits, &[target], (i * part) as i64, &mut heads);
            }
            heads[0].of_target().1
        };
        (0..row.len() as i64).filter(is_taken).collect()
    }

    #[test]
    fn of_equal_logits_the_first_is_taken_in_whichever_parts_they_lie() {
        let check = |row: &[f32], expect: i64| {
            for part in 1..=row.len() {
                assert_eq!(taken(row, part), [expect], "{row:?} in parts of {part}");
            }
            assert_eq!(i64::try_from(Tensor::from_slice(row).argmax(-1, false)).unwrap(), expect);
        };
        check(&[0.0, 3.0, 1.0, 2.0], 1);
        check(&[0.0, 3.0, 1.0, 3.0], 1);
        check(&[2.0, 2.0, 2.0, 2.0], 0);
        check(&[2.0, 2.0, 2.0, 5.0], 3);
        check(&[4.0, 1.0, 4.0, 4.0, 5.0, 0.0, 5.0], 4);
        check(&[f32::NEG_INFINITY, f32::NEG_INFINITY, -1.0, -1.0], 2);
    }
}
