use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{EventFile, TrainError};

/// `metrics.jsonl`: one JSON object a line, each with at least `stage` and `step`; and the same figures as
/// TensorBoard's event files in `tensorboard/` beside it, tagged `stage/figure`.
#[derive(Debug)]
pub struct MetricLog {
    path: PathBuf,
    file: File,
    events: EventFile,
}

impl MetricLog {
    /// Opens the file for `stage`, keeping what other stages wrote and this stage's lines up to `from_step`: a
    /// resumed run must not leave the lines that it is about to write again. A checkpoint is written before its step's
    /// validation, so that one's line goes too.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn open(path: &Path, stage: &str, from_step: usize) -> Result<Self, TrainError> {
        let mut kept = String::new();
        if let Ok(old) = File::open(path) {
            for line in BufReader::new(old).lines() {
                let line = line.map_err(TrainError::io("read", path))?;
                let Ok(row) = serde_json::from_str::<Value>(&line) else { continue };
                let step = row["step"].as_u64().unwrap_or(0) as usize;
                let comes_again = step > from_step || step == from_step && is_validation(&row);
                if row["stage"] != stage || !comes_again && from_step > 0 {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        }
        std::fs::write(path, kept).map_err(TrainError::io("write", path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(TrainError::io("open", path))?;
        let folder = path.with_file_name("tensorboard");
        if from_step == 0 {
            forget(&folder, stage);
        }
        Ok(MetricLog { path: path.to_owned(), file, events: EventFile::create(&folder, stage)? })
    }

    /// Adds a line. A figure that is no number is left out: JSON has none.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn write(&mut self, stage: &str, step: usize, figures: &[(&str, f64)]) -> Result<(), TrainError> {
        let mut row = Map::new();
        row.insert("stage".to_owned(), stage.into());
        row.insert("step".to_owned(), step.into());
        for (name, value) in figures {
            if let Some(number) = serde_json::Number::from_f64(*value) {
                row.insert((*name).to_owned(), Value::Number(number));
                self.events.scalar(&format!("{stage}/{name}"), step, *value)?;
            }
        }
        let mut line = Value::Object(row).to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(TrainError::io("write", &self.path))
    }
}

/// Whether a line holds the figures of a validation, which are named `eval_…`.
fn is_validation(row: &Value) -> bool {
    row.as_object().is_some_and(|row| row.keys().any(|name| name.starts_with("eval_")))
}

/// Removes an earlier run's event files of `stage`.
fn forget(folder: &Path, stage: &str) {
    let Ok(files) = std::fs::read_dir(folder) else { return };
    let suffix = format!(".{stage}");
    for path in files.flatten().map(|file| file.path()) {
        if path.to_string_lossy().ends_with(&suffix) {
            // What cannot be removed shows as an older curve; no reason to stop.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_stage_overwrites_its_own_later_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricLog::open(&path, "sft", 0).unwrap();
        for step in 1..=4 {
            log.write("sft", step, &[("loss", 1.0 / step as f64), ("nothing", f64::NAN)]).unwrap();
        }
        MetricLog::open(&path, "dpo", 0).unwrap().write("dpo", 9, &[("loss", 0.5)]).unwrap();
        MetricLog::open(&path, "sft", 2).unwrap().write("sft", 3, &[("loss", 7.0)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let steps: Vec<_> =
            rows.iter().map(|r| (r["stage"].as_str().unwrap(), r["step"].as_u64().unwrap())).collect();
        assert_eq!(steps, [("sft", 1), ("sft", 2), ("dpo", 9), ("sft", 3)]);
        assert!(rows[0].get("nothing").is_none());
    }

    #[test]
    fn the_validation_that_follows_a_checkpoint_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let validate = |log: &mut MetricLog, step| log.write("sft", step, &[("eval_loss", 2.0)]).unwrap();
        let mut log = MetricLog::open(&path, "sft", 0).unwrap();
        validate(&mut log, 0);
        for step in 1..=4 {
            log.write("sft", step, &[("loss", 1.0)]).unwrap();
            if step % 2 == 0 {
                validate(&mut log, step);
            }
        }
        validate(&mut MetricLog::open(&path, "sft", 4).unwrap(), 4);
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let steps = |name: &str| -> Vec<u64> {
            rows.iter().filter(|r| r.get(name).is_some()).map(|r| r["step"].as_u64().unwrap()).collect()
        };
        assert_eq!((steps("loss"), steps("eval_loss")), (vec![1, 2, 3, 4], vec![0, 2, 4]));
    }
}
