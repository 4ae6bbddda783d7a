//! How a figure is spread over the rows.

use serde::{Deserialize, Serialize};

use super::asked_and_answered;
use crate::{Item, Record};

/// A figure's spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// What is counted.
    pub name: String,
    /// How many values there are.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Minimum, 10th, 50th and 90th percentile (nearest rank), maximum.
    pub quantiles: [usize; 5],
    /// The histogram, without gaps.
    pub bins: Vec<Bin>,
}

/// A bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// Least value that it counts.
    pub from: usize,
    /// Least value of the next bar.
    pub to: usize,
    /// How many values.
    pub n: usize,
}

impl Distribution {
    /// The spread of some values; `None` of none.
    pub fn of(name: &str, mut values: Vec<usize>) -> Option<Self> {
        values.sort_unstable();
        let (&least, &most) = (values.first()?, values.last()?);
        let n = values.len();
        let rank = |p: f64| values[((p * n as f64).ceil() as usize).clamp(1, n) - 1];
        let quantiles = [least, rank(0.1), rank(0.5), rank(0.9), most];
        let mean = values.iter().sum::<usize>() as f64 / n as f64;
        // About twenty bars to twice the 90th percentile; the last takes the long tail.
        let width = nice((2 * quantiles[3]).min(most).saturating_sub(least) / 20 + 1);
        let start = least / width * width;
        let n_bars = ((2 * quantiles[3]).min(most).saturating_sub(start) / width + 1).min(40);
        let mut bins: Vec<Bin> =
            (0..n_bars).map(|i| Bin { from: start + i * width, to: start + (i + 1) * width, n: 0 }).collect();
        for value in values {
            bins[((value - start) / width).min(n_bars - 1)].n += 1;
        }
        if let Some(last) = bins.last_mut() {
            last.to = last.to.max(most + 1);
        }
        Some(Distribution { name: name.to_owned(), n, mean, quantiles, bins })
    }
}

/// 1, 2, 5, 10, 20, 50 … at or above `x`.
fn nice(x: usize) -> usize {
    let mut power = 1;
    loop {
        if let Some(width) = [1, 2, 5].into_iter().map(|d| d * power).find(|&w| w >= x) {
            return width;
        }
        power *= 10;
    }
}

/// The spreads that every dataset has.
pub(super) fn all(records: &[Record]) -> Vec<Distribution> {
    let (mut asked, mut answered, mut turns, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let words = |text: &&str| text.split_whitespace().count();
    for record in records {
        let (questions, answers) = asked_and_answered(record);
        asked.extend(questions.iter().map(words));
        if matches!(record.item, Item::Document(_)) {
            lengths.extend(answers.iter().map(words));
        } else {
            answered.extend(answers.iter().map(words));
            turns.push(questions.len() + answers.len());
        }
    }
    let spread = [
        ("words in an answer", answered),
        ("words in a question", asked),
        ("words in a document", lengths),
        ("turns in a conversation", turns),
    ];
    spread.into_iter().filter_map(|(name, values)| Distribution::of(name, values)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let spread = Distribution::of("x", (1..=100).rev().collect()).unwrap();
        assert_eq!(spread.quantiles, [1, 10, 50, 90, 100]);
        assert_eq!(spread.mean, 50.5);
        assert!(Distribution::of("x", vec![]).is_none());
    }

    proptest! {
        #[test]
        fn bars_follow_each_other_and_hold_every_value(values in prop::collection::vec(0..100_000_usize, 1..200)) {
            let spread = Distribution::of("x", values.clone()).unwrap();
            prop_assert_eq!(spread.bins.iter().map(|b| b.n).sum::<usize>(), values.len());
            prop_assert!(spread.bins.windows(2).all(|w| w[0].to == w[1].from));
            for bin in &spread.bins {
                let inside = values.iter().filter(|&&v| (bin.from..bin.to).contains(&v)).count();
                prop_assert_eq!(inside, bin.n);
            }
        }
    }
}
