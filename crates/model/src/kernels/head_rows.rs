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
}

impl RunningHead {
    /// Before anything is known.
    pub(crate) const NOTHING: Self =
        RunningHead { top: f32::NEG_INFINITY, total: 0.0, own: f32::NEG_INFINITY };

    /// ln p of the target, and whether no other token is likelier.
    pub(crate) fn of_target(self) -> (f32, bool) {
        (self.own - (self.top + self.total.ln()), self.own >= self.top)
    }
}

/// Adds to every row what logits (N, v) of the v tokens from `first` on say; `targets` count from 0.
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
            let own = targets[i].checked_sub(first).and_then(|y| row.get(usize::try_from(y).ok()?));
            let (top, total) = part_row::<E>(row);
            if let Ok(mut out) = out.lock() {
                let head = &mut out[i];
                head.own = own.map_or(head.own, |x| x.get());
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
