use std::path::Path;

use ferrotune_types::Batch;
use serde_json::json;

use crate::TrainError;

/// Stops a run whose loss is no number, or 10 000 times what it was at the first step (`first`) and above 10 000 nats (no
/// cross entropy is that bad by chance), and writes the ids of the step's batches to `DIR/diverged-step-N.json` for a look.
/// A first step's loss may be any number: IPO's is 0.25 / β².
///
/// # Errors
/// [`TrainError::Diverged`].
pub fn check_loss(
    step: usize,
    loss: f64,
    first: Option<f64>,
    batches: &[&Batch],
    dir: &Path,
) -> Result<(), TrainError> {
    let most = first.map_or(f64::INFINITY, |first| 1e4 * first.abs().max(1.0));
    if loss.is_finite() && loss.abs() < most {
        return Ok(());
    }
    let path = dir.join(format!("diverged-step-{step}.json"));
    let rows: Vec<_> = batches.iter().map(|b| json!({"ids": b.ids(), "loss_mask": b.loss_mask()})).collect();
    // The divergence is the news; a disk that is full as well must not hide it.
    let saved =
        std::fs::write(&path, json!({"step": step, "batches": rows}).to_string()).is_ok().then_some(path);
    Err(TrainError::Diverged { step, loss, saved })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrotune_types::Example;

    #[test]
    fn a_nan_loss_stops_and_leaves_the_batch() {
        let dir = tempfile::tempdir().unwrap();
        let example = Example::new("x", vec![7, 8], vec![false, true]).unwrap();
        let batch = Batch::from_examples(&[&example]).unwrap();
        let check = |loss: f64, first: Option<f64>| check_loss(3, loss, first, &[&batch], dir.path());
        assert!(check(2.5, None).is_ok() && check(2.5, Some(3.0)).is_ok());
        // IPO with β = 0.001 begins there.
        assert!(check(250_000.0, None).is_ok() && check(250_010.0, Some(250_000.0)).is_ok());
        assert!(check(40_000.0, Some(3.0)).is_err() && check(f64::INFINITY, None).is_err());
        let error = check(f64::NAN, None).unwrap_err().to_string();
        assert!(error.contains("step 3") && error.contains("NaN"), "{error}");
        let saved = std::fs::read_to_string(dir.path().join("diverged-step-3.json")).unwrap();
        assert!(saved.contains("[7,8]"), "{saved}");
    }
}
