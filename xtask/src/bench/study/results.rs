//! What the study's runs gave: figures over a run, and the table of `docs/preference.md`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{DATASETS, Dataset, LOSSES, settings};

/// A figure over one run: (share of its steps, value) at each validation.
pub(super) type Curve = Vec<(f64, f64)>;

/// The runs of one loss on a dataset, one for each seed.
pub(super) struct Runs<'a> {
    pub(super) loss: &'static str,
    outcomes: Vec<&'a Value>,
}

impl<'a> Runs<'a> {
    /// Of each loss that has runs on the dataset, in the order of [`LOSSES`].
    pub(super) fn of(rows: &'a [Value], dataset: &Dataset) -> Vec<Self> {
        let settings = settings(dataset);
        let of_loss = |loss: &'static str| Runs {
            loss,
            outcomes: rows
                .iter()
                .filter(|row| {
                    let key = &row["key"];
                    key["data"] == dataset.name && key["settings"] == *settings && key["loss"] == loss
                })
                .map(|row| &row["outcome"])
                .collect(),
        };
        LOSSES.into_iter().map(of_loss).filter(|runs| !runs.outcomes.is_empty()).collect()
    }

    /// A figure of the drift, `accuracy`, `margin`, `kl`, `chosen` or `rejected`, over each run that has it. Of these a
    /// reward model has the accuracy.
    pub(super) fn curves(&self, name: &str) -> Vec<Curve> {
        let figure = |figures: &Value| {
            let drift = [&figures["drift"][name], &figures[format!("eval_drift/{name}")]];
            let own = (self.loss == "reward" && name == "accuracy").then(|| &figures["eval_accuracy"]);
            drift.into_iter().chain(own).find_map(Value::as_f64)
        };
        let curve = |outcome: &&Value| -> Option<Curve> {
            let steps = outcome["steps"].as_f64()?;
            let at = |validation: &Value| Some((validation[0].as_f64()? / steps, figure(&validation[1])?));
            outcome["validations"].as_array()?.iter().map(at).collect()
        };
        self.outcomes.iter().filter_map(curve).filter(|curve| !curve.is_empty()).collect()
    }

    /// Mean tokens of the greedy answers, `before` or `after`.
    fn answer_tokens(&self, when: &str) -> Vec<f64> {
        self.outcomes.iter().filter_map(|run| run["answer_tokens"][when]["mean"].as_f64()).collect()
    }
}

/// Markdown: a table for each dataset, what is there of it.
pub(super) fn table(rows: &[Value]) -> String {
    let mut text = String::new();
    for dataset in &DATASETS {
        let _ = write!(
            text,
            "{}: {} pairs to train on, {} held out\n\n| loss | seeds | accuracy | margin, nats | KL, nats a token | \
             chosen, nats an answer | rejected | answer tokens |\n|---|---|---|---|---|---|---|---|\n",
            dataset.name, dataset.train, dataset.held
        );
        for runs in Runs::of(rows, dataset) {
            let end = |name: &str| -> Vec<f64> {
                runs.curves(name).iter().filter_map(|curve| Some(curve.last()?.1)).collect()
            };
            let midway = |name: &str| -> Vec<f64> {
                runs.curves(name).iter().filter_map(|curve| Some(curve.get(curve.len() / 2)?.1)).collect()
            };
            let on_the_way = |name: &str, digits| from_to(&midway(name), &end(name), digits);
            let cells = [
                runs.loss.to_owned(),
                runs.outcomes.len().to_string(),
                on_the_way("accuracy", 3),
                on_the_way("margin", 1),
                on_the_way("kl", 3),
                spread(&end("chosen"), 1),
                spread(&end("rejected"), 1),
                from_to(&runs.answer_tokens("before"), &runs.answer_tokens("after"), 0),
            ];
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text += "\n";
    }
    text
}

/// The mean of one, then mean and range of the other.
fn from_to(before: &[f64], after: &[f64], digits: usize) -> String {
    match mean(before) {
        Some(before) => format!("{} → {}", number(before, digits), spread(after, digits)),
        None => spread(after, digits),
    }
}

/// Mean, and the range where it has a width at so many digits.
fn spread(values: &[f64], digits: usize) -> String {
    let Some(mean) = mean(values) else { return "–".to_owned() };
    let low = number(values.iter().copied().fold(f64::MAX, f64::min), digits);
    let high = number(values.iter().copied().fold(f64::MIN, f64::max), digits);
    let mean = number(mean, digits);
    if low == high { mean } else { format!("{mean} ({low} to {high})") }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// With a minus sign and not a hyphen, and without one where nothing is left of the number.
fn number(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let is_zero = text.chars().all(|c| matches!(c, '0' | '.'));
    if value < 0.0 && !is_zero { format!("−{text}") } else { text }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A run of DPO on the first dataset, validated at its start, two thirds and end.
    pub(in super::super) fn sigmoid(seed: u64, accuracy: f64) -> Value {
        let drift = |accuracy: f64, kl: f64| json!({"drift": {"accuracy": accuracy, "margin": -accuracy, "kl": kl, "chosen": 0.01, "rejected": -0.01}});
        json!({
            "key": {"data": DATASETS[0].name, "loss": "sigmoid", "seed": seed, "settings": settings(&DATASETS[0])},
            "outcome": {
                "steps": 45,
                "validations": [[0, drift(0.5, 0.0)], [30, drift(0.6, 0.25)], [45, drift(accuracy, 0.5)]],
                "answer_tokens": {"before": {"mean": 70.0}, "after": {"mean": 40.0 + seed as f64}},
            },
        })
    }

    fn reward(accuracy: f64) -> Value {
        json!({
            "key": {"data": DATASETS[0].name, "loss": "reward", "seed": 0, "settings": settings(&DATASETS[0])},
            "outcome": {"steps": 45, "validations": [[45, {"eval_accuracy": accuracy}]], "answer_tokens": null},
        })
    }

    #[test]
    fn a_row_tells_the_mean_on_the_way_and_the_range_at_the_end() {
        let mut other = sigmoid(9, 0.9);
        other["key"]["settings"] = "others".into();
        let table = table(&[sigmoid(0, 0.7), reward(0.65), sigmoid(1, 0.8), other]);
        let rows: Vec<&str> =
            table.lines().filter(|line| line.starts_with("| sig") || line.starts_with("| rew")).collect();
        assert_eq!(
            rows,
            [
                "| sigmoid | 2 | 0.600 → 0.750 (0.700 to 0.800) | −0.6 → −0.8 (−0.8 to −0.7) | 0.250 → 0.500 | 0.0 | 0.0 | 70 → 40 (40 to 41) |",
                "| reward | 1 | 0.650 → 0.650 | – | – | – | – | – |",
            ]
        );
    }

    #[test]
    fn a_curve_runs_over_shares_of_the_steps() {
        let rows = [sigmoid(0, 0.7)];
        let [runs] = &Runs::of(&rows, &DATASETS[0])[..] else { panic!("one loss has runs") };
        assert_eq!(runs.curves("kl"), [[(0.0, 0.0), (30.0 / 45.0, 0.25), (1.0, 0.5)]]);
        assert!(Runs::of(&rows, &DATASETS[1]).is_empty());
    }
}
