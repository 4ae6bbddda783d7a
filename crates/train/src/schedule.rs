use serde::{Deserialize, Serialize};

/// How the learning rate goes over a run, as a factor of its peak.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Schedule {
    /// Warm-up, then the peak.
    Constant {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: usize,
    },
    /// Warm-up, then a line down to zero.
    Linear {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: usize,
    },
    /// Warm-up, then half a cosine down to zero.
    Cosine {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: usize,
    },
    /// Warm-up, the peak, then a line down to zero over the last steps (warm-up, stable, decay).
    Wsd {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup_steps: usize,
        /// Steps of decay at the end.
        decay_steps: usize,
    },
}

impl Schedule {
    /// By name, as the command line gives it; WSD decays over the last tenth.
    pub fn from_name(name: &str, warmup_steps: usize, n_steps: usize) -> Option<Self> {
        match name {
            "constant" => Some(Schedule::Constant { warmup_steps }),
            "linear" => Some(Schedule::Linear { warmup_steps }),
            "cosine" => Some(Schedule::Cosine { warmup_steps }),
            "wsd" => Some(Schedule::Wsd { warmup_steps, decay_steps: (n_steps / 10).max(1) }),
            _ => None,
        }
    }

    /// The factor for `step`, counted from 0, of `n_steps`. Warm-up reaches 1 at its last step, so that no step
    /// is taken at a rate of zero.
    pub fn factor(self, step: usize, n_steps: usize) -> f64 {
        let (Schedule::Constant { warmup_steps }
        | Schedule::Linear { warmup_steps }
        | Schedule::Cosine { warmup_steps }
        | Schedule::Wsd { warmup_steps, .. }) = self;
        if step < warmup_steps {
            return (step + 1) as f64 / warmup_steps as f64;
        }
        let left = n_steps.saturating_sub(step) as f64;
        let after_warmup = n_steps.saturating_sub(warmup_steps).max(1) as f64;
        match self {
            Schedule::Constant { .. } => 1.0,
            Schedule::Linear { .. } => left / after_warmup,
            Schedule::Cosine { .. } => 0.5 * (1.0 - (std::f64::consts::PI * left / after_warmup).cos()),
            Schedule::Wsd { decay_steps, .. } => (left / decay_steps.max(1) as f64).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_warms_up_peaks_and_ends_low() {
        for name in ["constant", "linear", "cosine", "wsd"] {
            let schedule = Schedule::from_name(name, 10, 100).unwrap();
            let factors: Vec<f64> = (0..100).map(|s| schedule.factor(s, 100)).collect();
            assert!((factors[0] - 0.1).abs() < 1e-12, "{name} starts at {}", factors[0]);
            assert!((factors[9] - 1.0).abs() < 1e-12, "{name} peaks at {}", factors[9]);
            assert!(factors.iter().all(|f| (0.0..=1.0).contains(f)), "{name} leaves 0..1");
            assert!(factors.windows(2).skip(10).all(|w| w[1] <= w[0] + 1e-12), "{name} rises after warm-up");
            assert!(name == "constant" || factors[99] < 0.11, "{name} ends at {}", factors[99]);
        }
        assert!(Schedule::from_name("triangle", 0, 10).is_none());
    }
}
