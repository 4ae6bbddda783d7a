//! The study as a picture: accuracy, margin and KL over a run, a row of panels for each dataset.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

use super::results::{Curve, Runs};
use super::{DATASETS, LOSSES};

/// Okabe and Ito's, which people with colour-blindness tell apart; one for each of [`LOSSES`].
const COLOURS: [RGBColor; LOSSES.len()] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(110, 110, 110),
];
/// What is drawn, and what it is called.
const FIGURES: [(&str, &str); 3] =
    [("accuracy", "held-out accuracy"), ("margin", "margin, nats"), ("kl", "KL, nats a token")];
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws every run thinly and the mean of a loss's seeds boldly.
pub(super) fn draw(path: &Path, rows: &[Value]) -> Result<()> {
    draw_all(path, rows).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

fn draw_all(path: &Path, rows: &[Value]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, (1080, 640)).into_drawing_area();
    area.fill(&WHITE)?;
    let (panels, legend) = area.split_vertically(600);
    let panels = panels.split_evenly((DATASETS.len(), FIGURES.len()));
    for (panels, dataset) in panels.chunks(FIGURES.len()).zip(&DATASETS) {
        let runs = Runs::of(rows, dataset);
        for (panel, (figure, name)) in panels.iter().zip(FIGURES) {
            let curves: Vec<_> = runs.iter().map(|runs| (runs.loss, runs.curves(figure))).collect();
            draw_panel(panel, &format!("{}: {name}", dataset.name), &curves)?;
        }
    }
    draw_legend(&legend)?;
    area.present()?;
    Ok(())
}

fn draw_panel(
    area: &Area<'_>,
    title: &str,
    curves: &[(&'static str, Vec<Curve>)],
) -> Result<(), Box<dyn std::error::Error>> {
    let values = || curves.iter().flat_map(|(_, seeds)| seeds).flatten().map(|at| at.1);
    let (low, high) = values().fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = ((high - low) * 0.06).max(1e-3);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 17))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(46)
        .build_cartesian_2d(0.0..1.0, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("share of the run")
        .x_labels(5)
        .y_labels(6)
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.10))
        .draw()?;
    for (loss, seeds) in curves {
        let colour = colour_of(loss);
        for seed in seeds {
            chart.draw_series(LineSeries::new(seed.iter().copied(), colour.mix(0.3).stroke_width(1)))?;
        }
        let mean = mean(seeds);
        chart.draw_series(LineSeries::new(mean.iter().copied(), colour.stroke_width(3)))?;
        chart.draw_series(mean.iter().map(|&at| Circle::new(at, 3, colour.filled())))?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let mut x = 60;
    for loss in LOSSES {
        let colour = colour_of(loss);
        area.draw(&PathElement::new([(x, 16), (x + 26, 16)], colour.stroke_width(3)))?;
        area.draw(&Text::new(loss, (x + 32, 8), (FONT, 15)))?;
        x += 120;
    }
    area.draw(&Text::new("bold: mean of the seeds", (x, 8), (FONT, 15)))?;
    Ok(())
}

fn colour_of(loss: &str) -> RGBColor {
    LOSSES.iter().zip(COLOURS).find(|(name, _)| **name == loss).map_or(BLACK, |(_, colour)| colour)
}

/// Over the seeds, at the validations that all of them have.
fn mean(seeds: &[Curve]) -> Curve {
    let validations = seeds.iter().map(Vec::len).min().unwrap_or(0);
    let over_seeds = |at: usize| {
        let sum = seeds.iter().fold((0.0, 0.0), |(x, y), seed| (x + seed[at].0, y + seed[at].1));
        (sum.0 / seeds.len() as f64, sum.1 / seeds.len() as f64)
    };
    (0..validations).map(over_seeds).collect()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sigmoid;
    use super::*;

    #[test]
    fn each_seed_is_a_thin_line_and_their_mean_a_bold_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.svg");
        draw(&path, &[sigmoid(0, 0.7), sigmoid(1, 0.8)]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        let lines = |opacity: &str, width: u8| {
            let of_sigmoid = |line: &&str| {
                line.contains("<polyline")
                    && line.contains("#0072B2")
                    && line.contains(&format!("opacity=\"{opacity}\""))
                    && line.contains(&format!("stroke-width=\"{width}\""))
            };
            svg.lines().filter(of_sigmoid).count()
        };
        assert_eq!(lines("0.3", 1), 2 * FIGURES.len(), "a line for each seed and figure");
        assert_eq!(lines("1", 3), FIGURES.len() + 1, "a mean for each figure, and the legend");
        for (_, name) in FIGURES {
            assert!(svg.contains(name), "{name} is not named");
        }
    }

    #[test]
    fn a_study_without_runs_is_drawn_empty() {
        let folder = tempfile::tempdir().unwrap();
        draw(&folder.path().join("study.svg"), &[]).unwrap();
    }

    #[test]
    fn the_mean_ends_where_the_shortest_run_does() {
        let seeds = [vec![(0.0, 1.0), (1.0, 3.0)], vec![(0.0, 2.0)]];
        assert_eq!(mean(&seeds), [(0.0, 1.5)]);
    }
}
