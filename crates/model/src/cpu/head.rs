use half::bf16;
use tch::{Kind, Tensor};

use super::kernels::Stored;
use super::math::log_sum_exp;
use super::matrix::{Columns, elements};
use super::parallel::parallel;

/// ln Σ exp and the greatest of every row of logits (rows, V), in fp32; `None` for what does not lie on the CPU in
/// fp32 or bf16. libtorch goes over all of them five times for that; here each row is read while it is in a cache.
pub(crate) fn log_sum_exps(logits: &Tensor) -> Option<Vec<(f32, f32)>> {
    let (_, width) = logits.size2().ok()?;
    match logits.kind() {
        Kind::Float => Some(of_rows::<f32>(elements(logits, Kind::Float)?, width as usize)),
        Kind::BFloat16 => Some(of_rows::<bf16>(elements(logits, Kind::BFloat16)?, width as usize)),
        _ => None,
    }
}

fn of_rows<E: Stored>(logits: &[E], width: usize) -> Vec<(f32, f32)> {
    let rows = logits.len() / width;
    let mut out = vec![0.0; 2 * rows];
    let target = Columns(out.as_mut_ptr());
    parallel(rows, &|row| {
        let logits: Vec<f32> = logits[row * width..(row + 1) * width].iter().map(|x| x.widen()).collect();
        let (total, greatest) = log_sum_exp(&logits);
        // SAFETY: every task has two numbers of its own in `out`, which is looked at when all are done.
        unsafe { target.write(2 * row, &[total, greatest]) };
    });
    out.as_chunks::<2>().0.iter().map(|&[total, greatest]| (total, greatest)).collect()
}
