use tch::Tensor;

use super::element::{Element, Rows, exp, max, sum};
use super::parallel::{parallel, rows_worth};
use super::{by_kind, for_each_width};

/// What a row of logits says of its target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct HeadRow {
    /// ln p of the target.
    pub(crate) logp: f32,
    /// Entropy in nats; 0 where metrics are off.
    pub(crate) entropy: f32,
    /// Mean logit; 0 where metrics are off.
    pub(crate) mean: f32,
    /// Whether the target is the likeliest.
    pub(crate) correct: bool,
}

/// Turns logits (N, V) in place, where `gradient`, into d ln p / d logits: one at the target less softmax.
pub(crate) fn head_rows(logits: &Tensor, targets: &[i64], gradient: bool, metrics: bool) -> Vec<HeadRow> {
    let mut out = vec![HeadRow::default(); targets.len()];
    by_kind!(logits.kind(), run(logits, targets, gradient, metrics, &mut out));
    out
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
        let top = max(n, |j| row[j].get());
        let own = row[target].get();
        for (out, x) in buffer.iter_mut().zip(&*row) {
            *out = exp(x.get() - top);
        }
        let total = sum(n, |j| buffer[j]);
        let log_total = top + total.ln();
        let mut said = HeadRow { logp: own - log_total, correct: own == top, ..HeadRow::default() };
        if metrics {
            said.mean = sum(n, |j| row[j].get()) / n as f32;
            said.entropy = log_total - top - sum(n, |j| buffer[j] * (row[j].get() - top)) / total;
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
