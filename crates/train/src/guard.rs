use std::path::Path;

use ferrotune_types::Batch;
use serde_json::json;

use crate::TrainError;

/// Stops a run whose loss is no number, or above 10 000 nats a token (no cross entropy is that bad by chance),
/// and writes the ids of the step's batches to `DIR/diverged-step-N.json` for a look.
///
/// # Errors
/// [`TrainError::Diverged`].
pub fn check_loss(step: usize, loss: f64, batches: &[&Batch], dir: &Path) -> Result<(), TrainError> {
    if loss.is_finite() && loss.abs() < 1e4 {
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
        assert!(check_loss(1, 2.5, &[&batch], dir.path()).is_ok());
        let error = check_loss(3, f64::NAN, &[&batch], dir.path()).unwrap_err().to_string();
        assert!(error.contains("step 3") && error.contains("NaN"), "{error}");
        let saved = std::fs::read_to_string(dir.path().join("diverged-step-3.json")).unwrap();
        assert!(saved.contains("[7,8]"), "{saved}");
    }
}
