use serde::{Deserialize, Serialize};

/// Remembers the best validation figure and says when to stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    patience: usize,
    best: Option<(usize, f64)>,
    worse_in_a_row: usize,
}

/// What a validation means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The best so far: keep this state.
    Best,
    /// Not the best, but go on.
    Worse,
    /// Not the best for `patience` validations: stop.
    Stop,
}

impl EarlyStop {
    /// Stops after `patience` validations without a new best; 0 never stops.
    pub fn new(patience: usize) -> Self {
        EarlyStop { patience, best: None, worse_in_a_row: 0 }
    }

    /// Takes the validation loss at `step`; smaller is better, NaN never is.
    pub fn see(&mut self, step: usize, loss: f64) -> Turn {
        if self.best.is_none_or(|(_, best)| loss < best) && !loss.is_nan() {
            self.best = Some((step, loss));
            self.worse_in_a_row = 0;
            return Turn::Best;
        }
        self.worse_in_a_row += 1;
        if self.patience > 0 && self.worse_in_a_row >= self.patience { Turn::Stop } else { Turn::Worse }
    }

    /// Step and loss of the best validation.
    pub fn best(&self) -> Option<(usize, f64)> {
        self.best
    }

    /// In words, where validation has turned: what a reader of the log should know.
    pub fn words(&self) -> Option<String> {
        let (step, _) = self.best?;
        (self.worse_in_a_row >= 2).then(|| {
            format!(
                "{} validations in a row were no better than that at step {step}: the model is overfitting",
                self.worse_in_a_row
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_after_patience_and_remembers_the_best() {
        let mut stop = EarlyStop::new(2);
        let turns: Vec<Turn> =
            [2.0, 1.5, 1.6, f64::NAN].iter().enumerate().map(|(i, &l)| stop.see(i, l)).collect();
        assert_eq!(turns, [Turn::Best, Turn::Best, Turn::Worse, Turn::Stop]);
        assert_eq!(stop.best(), Some((1, 1.5)));
        assert!(stop.words().unwrap().contains("overfitting"));
    }
}
