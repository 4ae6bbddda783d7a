//! Curves as the template draws them: points in a square of 1000 by 1000 that the page stretches to its width, and
//! labels placed in percent, so that text stays readable on a phone.

use std::fmt::Write;

use serde::Serialize;

use crate::pipeline::report::{DpoFacts, SftFacts};

/// Points of a line at most; more would not be seen, and would make the page heavy.
const MAX_POINTS: usize = 400;

/// A plot.
#[derive(Debug, Serialize)]
pub(super) struct Curve {
    /// What the plot shows, for those who do not see it.
    alt: String,
    lines: Vec<Line>,
    dots: Vec<Line>,
    /// A level that means something, such as ln 2.
    level: Option<Label>,
    /// The point that matters.
    best: Option<Label>,
    x_ticks: Vec<Label>,
    y_ticks: Vec<Label>,
}

/// Points of one colour, as an SVG path.
#[derive(Debug, Serialize)]
struct Line {
    class: &'static str,
    path: String,
}

/// A text at a place, in percent from the left and from the top.
#[derive(Debug, Serialize)]
struct Label {
    x: f64,
    y: f64,
    text: String,
}

/// Training loss (thin as it was, thick as it went) and validations, the best one marked.
pub(super) fn sft_curve(sft: &SftFacts) -> Option<Curve> {
    let raw = numbered(&sft.losses);
    let validations: Vec<(f64, f64)> =
        sft.validations.iter().map(|&(step, loss)| (step as f64, loss)).collect();
    let frame = Frame::around(&[&raw, &validations], None)?;
    let best = validations.iter().find(|v| v.0 == sft.best_step as f64);
    Some(Curve {
        alt: format!("Loss by step over {} steps of supervised fine-tuning", sft.losses.len()),
        lines: vec![
            frame.line("faint", &raw),
            frame.line("train", &smooth(&raw)),
            frame.line("held", &validations),
        ],
        dots: vec![frame.dots("held", &validations)],
        level: None,
        best: best.map(|&(x, y)| frame.label(x, y, format!("best {y:.3}"))),
        x_ticks: frame.x_ticks(),
        y_ticks: frame.y_ticks(),
    })
}

/// DPO's loss, with ln 2 where the loss begins there.
pub(super) fn dpo_curve(dpo: &DpoFacts) -> Option<Curve> {
    let raw = numbered(&dpo.losses);
    let ln_2 = (dpo.loss == "sigmoid").then_some(std::f64::consts::LN_2);
    let frame = Frame::around(&[&raw], ln_2)?;
    Some(Curve {
        alt: format!("Loss by step over {} steps of preference tuning", dpo.losses.len()),
        lines: vec![frame.line("faint", &raw), frame.line("train", &smooth(&raw))],
        dots: Vec::new(),
        level: ln_2.map(|y| frame.label(frame.x.1, y, "ln 2: no preference yet".to_owned())),
        best: None,
        x_ticks: frame.x_ticks(),
        y_ticks: frame.y_ticks(),
    })
}

/// Held-out preference accuracy.
pub(super) fn accuracy_curve(dpo: &DpoFacts) -> Option<Curve> {
    let points: Vec<(f64, f64)> = dpo.accuracies.iter().map(|&(step, a)| (step as f64, 100.0 * a)).collect();
    let known = Frame::around(&[&points], Some(50.0))?;
    let frame = Frame { y: (known.y.0.min(40.0), 100.0), ..known };
    let last = points.last().copied()?;
    Some(Curve {
        alt: format!("Held-out preference accuracy, at last {:.1} percent", last.1),
        lines: vec![frame.line("held", &points)],
        dots: vec![frame.dots("held", &points)],
        level: Some(frame.label(frame.x.1, 50.0, "a coin's toss".to_owned())),
        best: None,
        x_ticks: frame.x_ticks(),
        y_ticks: frame.y_ticks().into_iter().map(|t| Label { text: format!("{}%", t.text), ..t }).collect(),
    })
}

fn numbered(losses: &[f64]) -> Vec<(f64, f64)> {
    losses.iter().enumerate().map(|(i, &loss)| ((i + 1) as f64, loss)).collect()
}

/// A centred mean over about a twelfth of the points.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 24;
    (0..points.len())
        .map(|i| {
            let near = &points[i.saturating_sub(reach)..(i + reach + 1).min(points.len())];
            (points[i].0, near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64)
        })
        .collect()
}

/// The part of the plane that a plot shows.
#[derive(Debug, Clone, Copy)]
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    /// All finite points with a little room; none where there is no point.
    fn around(series: &[&[(f64, f64)]], level: Option<f64>) -> Option<Self> {
        let finite = || series.iter().flat_map(|s| s.iter()).filter(|p| p.1.is_finite());
        let last = finite().map(|p| p.0).reduce(f64::max)?;
        let (low, high) = finite()
            .map(|p| p.1)
            .chain(level)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let room = ((high - low) * 0.08).max(1e-3);
        let bottom = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
        Some(Frame { x: (0.0, last.max(1.0)), y: (bottom, high + room) })
    }

    /// In thousandths from the left and from the top.
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let across = (x - self.x.0) / (self.x.1 - self.x.0);
        let up = (y - self.y.0) / (self.y.1 - self.y.0);
        ((1000.0 * across).clamp(0.0, 1000.0), (1000.0 * (1.0 - up)).clamp(0.0, 1000.0))
    }

    /// A line through the finite points, thinned out where there are too many.
    fn line(&self, class: &'static str, points: &[(f64, f64)]) -> Line {
        let every = points.len().div_ceil(MAX_POINTS).max(1);
        let last = points.len().saturating_sub(1);
        let kept =
            points.iter().enumerate().filter(|(i, p)| (i % every == 0 || *i == last) && p.1.is_finite());
        let mut path = String::new();
        for (_, point) in kept {
            let (x, y) = self.place(*point);
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { "M" } else { "L" });
        }
        Line { class, path }
    }

    /// Lines of no length, which round ends draw as dots however the plot is stretched.
    fn dots(&self, class: &'static str, points: &[(f64, f64)]) -> Line {
        let mut path = String::new();
        for point in points.iter().filter(|p| p.1.is_finite()) {
            let (x, y) = self.place(*point);
            let _ = write!(path, "M{x:.1} {y:.1}h0");
        }
        Line { class, path }
    }

    fn label(&self, x: f64, y: f64, text: String) -> Label {
        let (left, top) = self.place((x, y));
        Label { x: (left * 10.0).round() / 100.0, y: (top * 10.0).round() / 100.0, text }
    }

    fn x_ticks(&self) -> Vec<Label> {
        ticks(self.x, 5, true).into_iter().map(|(x, text)| self.label(x, self.y.0, text)).collect()
    }

    fn y_ticks(&self) -> Vec<Label> {
        ticks(self.y, 5, false).into_iter().map(|(y, text)| self.label(self.x.0, y, text)).collect()
    }
}

/// Round numbers inside a range, about `n` of them, with as many decimals as tell them apart.
fn ticks((low, high): (f64, f64), n: usize, whole: bool) -> Vec<(f64, String)> {
    let rough = (high - low) / n as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
    let step = if whole { step.max(1.0).round() } else { step };
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| (i as f64 * step, format!("{:.decimals$}", i as f64 * step))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let check = |range: (f64, f64), whole: bool, expect: &[&str]| {
            let texts: Vec<String> = ticks(range, 4, whole).into_iter().map(|t| t.1).collect();
            assert_eq!(texts, expect, "{range:?}");
        };
        check((0.0, 120.0), true, &["0", "50", "100"]);
        check((0.0, 3.0), true, &["0", "1", "2", "3"]);
        check((1.13, 2.9), false, &["1.5", "2.0", "2.5"]);
        check((0.02, 0.75), false, &["0.2", "0.4", "0.6"]);
        check((40.0, 100.0), false, &["40", "60", "80", "100"]);
    }

    #[test]
    fn a_loss_that_is_no_number_breaks_no_curve_and_a_long_run_is_thinned_out() {
        let curve = |losses: Vec<f64>| sft_curve(&SftFacts { losses, ..SftFacts::default() });
        assert!(curve(vec![]).is_none());
        assert!(curve(vec![f64::NAN]).is_none());
        let one = curve(vec![2.0]).unwrap();
        assert!(!one.lines[0].path.contains("NaN"), "{one:?}");
        let holed = curve(vec![2.0, f64::NAN, 1.0]).unwrap();
        assert!(!holed.lines[0].path.contains("NaN"), "{holed:?}");
        let long = curve((0..5000).map(|i| 3.0 - f64::from(i) / 5000.0).collect()).unwrap();
        assert!(long.lines[0].path.matches('L').count() <= MAX_POINTS, "{}", long.lines[0].path.len());
    }
}
