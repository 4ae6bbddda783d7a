use serde::{Deserialize, Serialize};

use crate::TrainError;

/// A sweep of the learning rate from low to high, a step each (arXiv 1506.01186): where the loss falls steepest is a
/// good rate to begin with.
#[derive(Debug, Clone)]
pub struct LrSweep {
    low: f64,
    high: f64,
    n_steps: usize,
    points: Vec<LrPoint>,
    average: f64,
    best: f64,
    ended: bool,
}

/// One step of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LrPoint {
    /// The learning rate of the step.
    pub lr: f64,
    /// The loss before the step's update.
    pub loss: f64,
    /// Its running mean.
    pub smoothed: f64,
}

/// Share of the running mean that a new loss leaves as it was.
const KEEP: f64 = 0.9;
/// The sweep ends where the running mean is this many times its best.
const EXPLODED: f64 = 4.0;
/// Points to either side over which a slope is taken.
const REACH: usize = 3;

impl LrSweep {
    /// From `low` to `high` in `n_steps` equal ratios.
    ///
    /// # Errors
    /// [`TrainError::Config`] where the range is empty or there are fewer than ten steps.
    pub fn new(low: f64, high: f64, n_steps: usize) -> Result<Self, TrainError> {
        if !(low > 0.0 && low < high && high.is_finite()) {
            return Err(TrainError::Config(format!("learning rates from {low} to {high} are no range")));
        }
        if n_steps < 10 {
            return Err(TrainError::Config(format!("a sweep takes at least 10 steps, not {n_steps}")));
        }
        let (points, average, best) = (Vec::new(), 0.0, f64::INFINITY);
        Ok(LrSweep { low, high, n_steps, points, average, best, ended: false })
    }

    /// The next step's learning rate; `None` at the end, or where the loss has exploded.
    pub fn next_lr(&self) -> Option<f64> {
        let step = self.points.len();
        let share = step as f64 / (self.n_steps - 1) as f64;
        (!self.ended && step < self.n_steps).then(|| self.low * (self.high / self.low).powf(share))
    }

    /// Takes the loss of the step whose rate [`Self::next_lr`] gave.
    pub fn see(&mut self, loss: f64) {
        let Some(lr) = self.next_lr() else { return };
        if !loss.is_finite() {
            self.ended = true;
            return;
        }
        self.average = KEEP * self.average + (1.0 - KEEP) * loss;
        // The mean starts at zero; divided so it is that of the losses seen.
        let smoothed = self.average / (1.0 - KEEP.powi(self.points.len() as i32 + 1));
        self.best = self.best.min(smoothed);
        self.points.push(LrPoint { lr, loss, smoothed });
        self.ended = self.points.len() > 3 && smoothed > EXPLODED * self.best;
    }

    /// The steps so far.
    pub fn points(&self) -> &[LrPoint] {
        &self.points
    }

    /// The rate at which the running mean falls steepest before its lowest point; `None` where it never falls.
    pub fn suggestion(&self) -> Option<f64> {
        let lowest = (0..self.points.len())
            .min_by(|&a, &b| self.points[a].smoothed.total_cmp(&self.points[b].smoothed))?;
        let slope = |i: usize| {
            let (from, to) = (self.points.get(i.checked_sub(REACH)?)?, self.points.get(i + REACH)?);
            Some((to.smoothed - from.smoothed, self.points[i].lr))
        };
        let steepest = (0..=lowest).filter_map(slope).min_by(|a, b| a.0.total_cmp(&b.0))?;
        // A flat line's mean wavers in its last bits.
        (steepest.0 < -1e-6 * self.points[0].smoothed.abs()).then_some(steepest.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a sweep over 1e-6..1 whose loss is `f(log10 lr)`.
    fn sweep(f: impl Fn(f64) -> f64) -> LrSweep {
        let mut sweep = LrSweep::new(1e-6, 1.0, 61).unwrap();
        while let Some(lr) = sweep.next_lr() {
            let before = sweep.points().len();
            sweep.see(f(lr.log10()));
            if sweep.points().len() == before {
                break;
            }
        }
        sweep
    }

    #[test]
    fn the_steepest_fall_is_found_and_an_explosion_ends_the_sweep() {
        // Falls from 3 to 1 around 1e-3, rises from 1e-1 on.
        let loss = |x: f64| 3.0 - 2.0 / (1.0 + (-4.0 * (x + 3.0)).exp()) + (8.0 * (x + 1.0)).max(0.0).powi(2);
        let found = sweep(loss);
        let suggestion = found.suggestion().unwrap();
        // The running mean lags, by about ten points of a tenth of a decade.
        assert!((5e-4..1.5e-2).contains(&suggestion), "{suggestion:e}");
        assert!(found.points().len() < 61, "it went on after the loss exploded");
        assert_eq!(found.points()[0].lr, 1e-6);
        let nan = sweep(|x| if x > -2.0 { f64::NAN } else { 2.0 });
        assert!(nan.points().last().unwrap().lr < 1.1e-2 && nan.suggestion().is_none());
    }

    #[test]
    fn what_is_no_sweep_is_refused() {
        assert!(LrSweep::new(1e-3, 1e-3, 60).is_err());
        assert!(LrSweep::new(1e-6, 1.0, 9).unwrap_err().to_string().contains("at least 10"));
        assert!(LrSweep::new(0.0, 1.0, 60).is_err());
    }
}
