//! Of the defects planted in a fixture, how many did curation catch?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use ferrotune_data::{Dropped, Record};
use serde::Deserialize;

use super::Planted;

/// `planted.json`, as `fixtures/bluesky/make.py` describes it.
#[derive(Deserialize)]
pub(super) struct PlantedFile {
    planted: BTreeMap<String, Vec<Defect>>,
    clean: Vec<String>,
    #[serde(default)]
    not_pii: Vec<Defect>,
}

#[derive(Deserialize)]
struct Defect {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    line: Option<usize>,
    #[serde(default)]
    expect: String,
    #[serde(default)]
    cluster: Vec<String>,
    #[serde(default)]
    absent: Texts,
    #[serde(default)]
    present: Texts,
}

/// One text or several.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Texts {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn all(&self) -> &[String] {
        match self {
            Texts::None => &[],
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Many(texts) => texts,
        }
    }
}

/// Caught by kind, and the share of clean rows that were lost.
pub(super) fn count(
    file: &Path,
    kept: &[Record],
    dropped: &[Dropped],
) -> Result<(BTreeMap<String, Planted>, f64)> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let planted: PlantedFile =
        serde_json::from_slice(&bytes).with_context(|| format!("{}", file.display()))?;
    let texts: BTreeMap<&str, String> = kept
        .iter()
        .map(|r| (r.id(), r.texts().into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n")))
        .collect();
    let dropped_ids: BTreeSet<&str> = dropped.iter().map(|d| d.id.as_str()).collect();
    let dropped_lines: BTreeSet<usize> = dropped.iter().map(|d| d.origin.line).collect();

    let caught = |defect: &Defect| -> bool {
        if !defect.cluster.is_empty() {
            return defect.cluster.iter().filter(|id| texts.contains_key(id.as_str())).count() <= 1;
        }
        let id = defect.id.as_deref().unwrap_or_default();
        if defect.expect == "dropped" {
            return dropped_ids.contains(id) || defect.line.is_some_and(|l| dropped_lines.contains(&l));
        }
        // A row that was dropped whole no longer holds what it should not hold.
        texts.get(id).is_none_or(|text| {
            defect.absent.all().iter().all(|t| !text.contains(t.as_str()))
                && defect.present.all().iter().all(|t| text.contains(t.as_str()))
        })
    };
    let mut out: BTreeMap<String, Planted> = BTreeMap::new();
    let kinds = planted.planted.iter().map(|(kind, list)| (kind.as_str(), list));
    for (kind, defects) in kinds.chain([("not_pii", &planted.not_pii)]) {
        let caught = defects.iter().filter(|d| caught(d)).count();
        if !defects.is_empty() {
            out.insert(kind.to_owned(), Planted { planted: defects.len(), caught });
        }
    }
    let lost = planted.clean.iter().filter(|id| !texts.contains_key(id.as_str())).count();
    Ok((out, lost as f64 / planted.clean.len().max(1) as f64))
}
