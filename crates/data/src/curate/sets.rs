//! The steps that look at all rows at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::clean::boilerplate::{self, BoilerplateConfig};
use crate::decontaminate::{DecontaminateConfig, EvaluationSet, decontaminate};
use crate::dedup::{self, DedupConfig, SubstringConfig, substring_dedup};
use crate::mix::{MixConfig, Source, mix};
use crate::read::{self, ReadOptions};
use crate::split::{SplitConfig, split};
use crate::{DataError, Drop, Dropped, Edit, Record};

/// A step over all rows at once.
pub(super) trait SetStep {
    fn name(&self) -> &'static str;
    fn apply(&mut self, records: Vec<Record>) -> Result<SetOutcome, DataError>;

    /// The files that it reads.
    fn reads(&self) -> Vec<&Path> {
        Vec::new()
    }
}

/// Every row that went in, and what was done with it.
#[derive(Default)]
pub(super) struct SetOutcome {
    pub(super) kept: Vec<Record>,
    pub(super) dropped: Vec<Dropped>,
    /// Rows that go into a set of their own, with its name; no later step sees them.
    pub(super) held_out: Vec<(&'static str, Record)>,
    /// Rows of `kept` that repeat another one.
    pub(super) repeats: usize,
    pub(super) edits: Vec<Edit>,
    pub(super) notes: Value,
    /// What a person should know before trusting the result.
    pub(super) warnings: Vec<String>,
}

impl SetOutcome {
    fn of(kept: Vec<Record>, dropped: Vec<Dropped>) -> Self {
        SetOutcome { kept, dropped, ..SetOutcome::default() }
    }
}

pub(super) struct Boilerplate(pub(super) BoilerplateConfig);

impl SetStep for Boilerplate {
    fn name(&self) -> &'static str {
        "boilerplate"
    }

    fn apply(&mut self, mut kept: Vec<Record>) -> Result<SetOutcome, DataError> {
        let mut edits = Vec::new();
        let lines = boilerplate::remove(&mut kept, &self.0, &mut edits);
        let notes = if lines.is_empty() { Value::Null } else { json!({ "removed_lines": lines }) };
        Ok(SetOutcome { kept, edits, notes, ..SetOutcome::default() })
    }
}

pub(super) struct Dedup(pub(super) DedupConfig);

impl SetStep for Dedup {
    fn name(&self) -> &'static str {
        "dedup"
    }

    fn apply(&mut self, records: Vec<Record>) -> Result<SetOutcome, DataError> {
        let result = dedup::dedup(records, &self.0)?;
        let (notes, warnings) = (json!(result.report), result.report.alarms);
        Ok(SetOutcome { notes, warnings, ..SetOutcome::of(result.kept, result.dropped) })
    }
}

/// Drops what repeats a row of other files: an earlier delivery, a published set, a held-out one.
pub(super) struct DedupAgainst {
    pub(super) config: DedupConfig,
    pub(super) against: Vec<PathBuf>,
    pub(super) read: ReadOptions,
}

impl SetStep for DedupAgainst {
    fn name(&self) -> &'static str {
        "dedup_against"
    }

    fn apply(&mut self, records: Vec<Record>) -> Result<SetOutcome, DataError> {
        let (mut rows, mut warnings, mut unusable) = (Vec::new(), Vec::new(), 0);
        for path in &self.against {
            let mut read = Reference::open(path, &self.read)?;
            rows.append(&mut read.rows);
            unusable += read.unusable;
            warnings.extend(read.warning);
        }
        let result = dedup::dedup_against(records, &rows, &self.config)?;
        let mut notes = json!(result.report);
        note_unusable(&mut notes, unusable);
        warnings.extend(result.report.alarms);
        Ok(SetOutcome { notes, warnings, ..SetOutcome::of(result.kept, result.dropped) })
    }

    fn reads(&self) -> Vec<&Path> {
        self.against.iter().map(PathBuf::as_path).collect()
    }
}

/// A file that rows are compared with.
struct Reference {
    rows: Vec<Record>,
    /// Rows that cannot be compared with.
    unusable: usize,
    /// What is to be told of those.
    warning: Option<String>,
}

impl Reference {
    /// Reads the file; one of which no row can be used is an error.
    fn open(path: &Path, options: &ReadOptions) -> Result<Self, DataError> {
        let (rows, dropped, _) = read::open(path, options)?;
        let Some(first) = dropped.first() else { return Ok(Reference { rows, unusable: 0, warning: None }) };
        let (unusable, all) = (dropped.len(), rows.len() + dropped.len());
        let why = format!("{} ({})", first.reason, first.detail);
        let remedy = "mend them, or read one column of all: \
                      `read = { shape = \"document\", columns = { text = \"question\" } }`";
        if rows.is_empty() {
            let reason = format!("none of its {all} rows can be compared with: {why}; {remedy}");
            return Err(DataError::Format { path: path.to_owned(), line: Some(first.origin.line), reason });
        }
        let warning = format!(
            "{}: {unusable} of {all} rows cannot be compared with, so what they hold stays; the first is line {}: \
             {why}; {remedy}",
            path.display(),
            first.origin.line
        );
        Ok(Reference { rows, unusable, warning: Some(warning) })
    }
}

fn note_unusable(notes: &mut Value, unusable: usize) {
    if unusable > 0 {
        let before = notes["unusable"].as_u64().unwrap_or(0);
        notes["unusable"] = json!(before + unusable as u64);
    }
}

pub(super) struct Substring(pub(super) SubstringConfig);

impl SetStep for Substring {
    fn name(&self) -> &'static str {
        "substring"
    }

    fn apply(&mut self, records: Vec<Record>) -> Result<SetOutcome, DataError> {
        let result = substring_dedup(records, &self.0)?;
        Ok(SetOutcome { edits: result.edits, ..SetOutcome::of(result.kept, result.dropped) })
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DecontaminateSettings {
    /// The evaluation sets.
    against: Vec<Against>,
    /// Whether an evaluation's answers must not occur either, beside its questions.
    answers: bool,
    ngram: Option<usize>,
    min_words: Option<usize>,
    common: Option<usize>,
    min_share: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Against {
    path: PathBuf,
    /// The file's name if unset.
    name: Option<String>,
    #[serde(default)]
    read: ReadOptions,
}

pub(super) struct Decontaminate {
    against: Vec<Against>,
    answers: bool,
    config: DecontaminateConfig,
}

impl Decontaminate {
    pub(super) fn new(mut settings: DecontaminateSettings, folder: Option<&Path>) -> Result<Self, DataError> {
        if settings.against.is_empty() {
            return Err(DataError::Config("`against` is empty: name the evaluation files".into()));
        }
        for set in &mut settings.against {
            set.path = existing(folder, &set.path)?;
        }
        let usual = DecontaminateConfig::default();
        let config = DecontaminateConfig {
            ngram: settings.ngram.unwrap_or(usual.ngram),
            min_words: settings.min_words.unwrap_or(usual.min_words),
            common: settings.common.unwrap_or(usual.common),
            min_share: settings.min_share.unwrap_or(usual.min_share),
        };
        Ok(Decontaminate { against: settings.against, answers: settings.answers, config })
    }
}

impl SetStep for Decontaminate {
    fn name(&self) -> &'static str {
        "decontaminate"
    }

    fn apply(&mut self, records: Vec<Record>) -> Result<SetOutcome, DataError> {
        let (mut sets, mut unusable, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for Against { path, name, read } in &self.against {
            let read = Reference::open(path, read)?;
            let name = name.clone().unwrap_or_else(|| super::file_name(path));
            sets.push(EvaluationSet::of_records(name, &read.rows, self.answers));
            unusable.push(read.unusable);
            warnings.extend(read.warning);
        }
        let result = decontaminate(records, &sets, &self.config)?;
        let mut notes = json!(result.report);
        for (set, unusable) in sets.iter().zip(unusable) {
            note_unusable(&mut notes[&set.name], unusable);
        }
        Ok(SetOutcome { notes, warnings, ..SetOutcome::of(result.kept, result.dropped) })
    }

    fn reads(&self) -> Vec<&Path> {
        self.against.iter().map(|set| set.path.as_path()).collect()
    }
}

/// Training rows go on; validation and test rows go into files of their own.
pub(super) struct Split(pub(super) SplitConfig);

impl SetStep for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn apply(&mut self, records: Vec<Record>) -> Result<SetOutcome, DataError> {
        let sets = split(records, &self.0)?;
        let validation = sets.validation.into_iter().map(|r| ("validation", r));
        let held_out = validation.chain(sets.test.into_iter().map(|r| ("test", r))).collect();
        let (notes, warnings) = (json!(sets.report), sets.report.notes);
        Ok(SetOutcome { kept: sets.train, held_out, notes, warnings, ..SetOutcome::default() })
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MixSettings {
    /// The column that names a row's source; its file if unset.
    by: Option<String>,
    /// Sources that are not mixed by their size alone.
    source: Vec<SourceSettings>,
    temperature: Option<f64>,
    replay: Option<f64>,
    rows: Option<usize>,
    max_repeats: Option<usize>,
    seed: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceSettings {
    name: String,
    weight: Option<f64>,
    #[serde(default)]
    replay: bool,
}

pub(super) struct Mix {
    by: Option<String>,
    sources: Vec<SourceSettings>,
    config: MixConfig,
}

impl Mix {
    pub(super) fn new(settings: MixSettings) -> Self {
        let usual = MixConfig::default();
        let config = MixConfig {
            temperature: settings.temperature.unwrap_or(usual.temperature),
            replay: settings.replay.unwrap_or(usual.replay),
            rows: settings.rows.or(usual.rows),
            max_repeats: settings.max_repeats.unwrap_or(usual.max_repeats),
            seed: settings.seed.unwrap_or(usual.seed),
        };
        Mix { by: settings.by, sources: settings.source, config }
    }
}

impl SetStep for Mix {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn apply(&mut self, records: Vec<Record>) -> Result<SetOutcome, DataError> {
        let mut by_source: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for record in records {
            by_source.entry(dedup::source_of(&record, self.by.as_deref())).or_default().push(record);
        }
        if let Some(unknown) = self.sources.iter().find(|s| !by_source.contains_key(&s.name)) {
            let known: Vec<&str> = by_source.keys().map(String::as_str).collect();
            let (name, known) = (&unknown.name, known.join(", "));
            return Err(DataError::Config(format!("mix: no row is of source {name:?}; there are {known}")));
        }
        let of = |(name, records): (String, Vec<Record>)| {
            let set = self.sources.iter().find(|s| s.name == name);
            Source {
                weight: set.and_then(|s| s.weight),
                replay: set.is_some_and(|s| s.replay),
                name,
                records,
            }
        };
        let sources: Vec<Source> = by_source.into_iter().map(of).collect();
        let mixed = mix(&sources, &self.config)?;
        let taken: BTreeSet<&str> = mixed.records.iter().map(Record::id).collect();
        let mut dropped = Vec::new();
        for source in &sources {
            let share = mixed.report[&source.name];
            let why = format!("{} of {}'s {} rows are taken", share.taken, source.name, share.available);
            let left = source.records.iter().filter(|r| !taken.contains(r.id()));
            dropped.extend(left.map(|r| r.clone().dropped("mix", Drop::new("not_sampled", why.clone()))));
        }
        let available: usize = sources.iter().map(|s| s.records.len()).sum();
        let repeats = mixed.records.len() + dropped.len() - available;
        let notes = json!(mixed.report);
        Ok(SetOutcome { repeats, notes, ..SetOutcome::of(mixed.records, dropped) })
    }
}

/// A path of a setting, beside the recipe's file, that must be there.
pub(super) fn existing(folder: Option<&Path>, path: &Path) -> Result<PathBuf, DataError> {
    let path = super::step::beside(folder, path);
    std::fs::metadata(&path).map_err(DataError::io("read", path.as_path()))?;
    Ok(path)
}
