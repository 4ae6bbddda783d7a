//! How a sketch is cut into bands, and what that finds.

use std::fmt;

/// A sketch of `bands` x `rows` slots. Two texts are candidates where all rows of a band agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Banding {
    /// b.
    pub bands: usize,
    /// r.
    pub rows: usize,
}

impl Banding {
    /// The split with the most rows, so the fewest false candidates, that finds at least `recall` of the pairs
    /// whose similarity is exactly `threshold`. More similar pairs are found more often.
    ///
    /// False candidates cost time only: each is verified. So recall leads.
    pub fn choose(threshold: f64, permutations: usize, recall: f64) -> Self {
        let permutations = permutations.max(1);
        (1..=permutations)
            .rev()
            .map(|rows| Banding { bands: permutations / rows, rows })
            .find(|split| split.probability(threshold) >= recall)
            .unwrap_or(Banding { bands: permutations, rows: 1 })
    }

    /// The chance that two texts of Jaccard similarity `s` become candidates: 1 - (1 - s^r)^b.
    pub fn probability(self, s: f64) -> f64 {
        1.0 - (1.0 - s.powi(self.rows as i32)).powi(self.bands as i32)
    }
}

impl fmt::Display for Banding {
    /// The split and its S-curve, a line each 0.05 of similarity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} bands of {} rows: chance that a pair is found, by its similarity",
            self.bands, self.rows
        )?;
        for step in 4..=20 {
            let s = f64::from(step) * 0.05;
            let p = self.probability(s);
            writeln!(f, "  {s:.2}  {p:.3}  {}", "#".repeat((p * 40.0).round() as usize))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_keeps_its_promise_and_is_the_steepest() {
        let check = |threshold: f64, permutations: usize, recall: f64, expect: (usize, usize)| {
            let split = Banding::choose(threshold, permutations, recall);
            assert_eq!((split.bands, split.rows), expect);
            assert!(split.probability(threshold) >= recall);
            let steeper = Banding { bands: permutations / (split.rows + 1), rows: split.rows + 1 };
            assert!(steeper.probability(threshold) < recall);
        };
        check(0.7, 256, 0.95, (36, 7));
        check(0.7, 128, 0.95, (25, 5));
        check(0.5, 256, 0.9, (64, 4));
    }

    #[test]
    fn datatroves_figure_for_14_by_8_comes_out() {
        let p = Banding { bands: 14, rows: 8 }.probability(0.8);
        assert!((p - 0.924).abs() < 5e-4, "{p}");
    }

    #[test]
    fn the_curve_is_printed() {
        let text = Banding::choose(0.7, 256, 0.95).to_string();
        assert!(text.contains("36 bands of 7 rows") && text.contains("0.70  0.95"), "{text}");
    }
}
