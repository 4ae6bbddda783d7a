use std::path::Path;

use plotters::prelude::*;

use crate::{LrPoint, TrainError};

/// A line of a loss plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// (step, loss).
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [RGBColor; 4] =
    [RGBColor(37, 99, 235), RGBColor(220, 90, 30), RGBColor(22, 140, 90), RGBColor(130, 60, 170)];

/// Draws `loss.svg`: each curve in its colour, the step of the best validation marked.
///
/// # Errors
/// [`TrainError::Plot`] where the file cannot be written; [`TrainError::Config`] where there is no point.
pub fn draw_loss(
    path: &Path,
    title: &str,
    curves: &[Curve],
    best: Option<(usize, f64)>,
) -> Result<(), TrainError> {
    let finite = || curves.iter().flat_map(|c| &c.points).filter(|(_, y)| y.is_finite());
    let Some(last) = finite().map(|p| p.0).reduce(f64::max) else {
        return Err(TrainError::Config("there is no loss to draw".to_owned()));
    };
    let (low, high) = finite().fold((f64::MAX, f64::MIN), |(low, high), &(_, y)| (low.min(y), high.max(y)));
    let margin = ((high - low) * 0.08).max(0.02);
    let fail = |e: &dyn std::fmt::Display| TrainError::Plot(e.to_string());

    let area = SVGBackend::new(path, (880, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| fail(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..last.max(1.0), (low - margin).max(0.0)..high + margin)
        .map_err(|e| fail(&e))?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss (nats a token)")
        .light_line_style(BLACK.mix(0.04))
        .bold_line_style(BLACK.mix(0.10))
        .draw()
        .map_err(|e| fail(&e))?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let points = curve.points.iter().copied().filter(|(_, y)| y.is_finite());
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
            .map_err(|e| fail(&e))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
        if curve.points.len() <= 40 {
            chart.draw_series(points.map(|p| Circle::new(p, 3, colour.filled()))).map_err(|e| fail(&e))?;
        }
    }
    if let Some((step, loss)) = best {
        let at = (step as f64, loss);
        chart
            .draw_series([EmptyElement::at(at)
                + Circle::new((0, 0), 6, BLACK.stroke_width(2))
                + Text::new(format!("best: {loss:.3} at step {step}"), (10, -16), ("sans-serif", 14))])
            .map_err(|e| fail(&e))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .position(SeriesLabelPosition::UpperRight)
        .draw()
        .map_err(|e| fail(&e))?;
    area.present().map_err(|e| fail(&e))
}

/// Draws a sweep of the learning rate: each step's loss, the running mean, and the rate that it suggests.
///
/// # Errors
/// As [`draw_loss`].
pub fn draw_lr_sweep(path: &Path, points: &[LrPoint], suggestion: Option<f64>) -> Result<(), TrainError> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Err(TrainError::Config("there is no loss to draw".to_owned()));
    };
    let smoothed = points.iter().map(|p| p.smoothed);
    let (low, high) = smoothed.fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
    // The explosion at the end would press the rest flat.
    let high = high.min(first.smoothed * 1.5).max(low + 0.1);
    let margin = (high - low) * 0.08;
    let fail = |e: &dyn std::fmt::Display| TrainError::Plot(e.to_string());
    let area = SVGBackend::new(path, (880, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| fail(&e))?;
    let x_range = (first.lr..last.lr.max(first.lr * 10.0)).log_scale();
    let mut chart = ChartBuilder::on(&area)
        .caption("Learning-rate sweep", ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(x_range, (low - margin).max(0.0)..high + margin)
        .map_err(|e| fail(&e))?;
    chart
        .configure_mesh()
        .x_desc("learning rate")
        .y_desc("loss (nats a token)")
        .x_label_formatter(&|x| format!("{x:.0e}"))
        .light_line_style(BLACK.mix(0.04))
        .bold_line_style(BLACK.mix(0.10))
        .draw()
        .map_err(|e| fail(&e))?;
    let dots = points.iter().filter(|p| p.loss <= high + margin).map(|p| (p.lr, p.loss));
    chart
        .draw_series(dots.map(|at| Circle::new(at, 2, COLOURS[0].mix(0.4).filled())))
        .map_err(|e| fail(&e))?;
    let line = points.iter().map(|p| (p.lr, p.smoothed.min(high + margin)));
    chart.draw_series(LineSeries::new(line, COLOURS[0].stroke_width(2))).map_err(|e| fail(&e))?;
    if let Some(point) = suggestion.and_then(|lr| points.iter().find(|p| p.lr >= lr)) {
        chart
            .draw_series([EmptyElement::at((point.lr, point.smoothed))
                + Circle::new((0, 0), 6, BLACK.stroke_width(2))
                + Text::new(format!("suggested: {:.1e}", point.lr), (10, -16), ("sans-serif", 14))])
            .map_err(|e| fail(&e))?;
    }
    area.present().map_err(|e| fail(&e))
}
