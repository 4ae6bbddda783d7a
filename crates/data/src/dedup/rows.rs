//! Deduplication of rows: which is kept, which go, and a report that a person can audit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::exact::{exact_clusters, exact_key};
use super::facets::{Rows, View};
use super::keep::{Keep, Rank};
use super::lsh::{ClusterStats, Clusters, MinHashConfig, clusters};
use super::texts::{Texts, similarity};
use crate::{DataError, Drop, Dropped, Record};

/// How rows are deduplicated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedupConfig {
    /// Only rows of equal text (case and white space aside) are duplicates.
    pub exact_only: bool,
    /// How near duplicates are found.
    pub minhash: MinHashConfig,
    /// Which row of a cluster is kept.
    pub keep: Keep,
    /// The column that names a row's source; its file if unset.
    pub source: Option<String>,
    /// Where one cluster holds more than this share of all rows, and at least 20, the report sounds an alarm:
    /// a boilerplate or a broken setting is more likely than so many duplicates.
    pub alarm_cluster_share: f64,
    /// Where a source of at least 20 rows would lose more than this share, the run stops.
    pub max_source_loss: f64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        DedupConfig {
            exact_only: false,
            minhash: MinHashConfig::default(),
            keep: Keep::default(),
            source: None,
            alarm_cluster_share: 0.1,
            max_source_loss: 0.9,
        }
    }
}

/// What deduplication did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Rows that came in.
    pub rows: usize,
    /// Rows dropped as equal to a kept one.
    pub exact_duplicates: usize,
    /// Rows dropped as near a kept one.
    pub near_duplicates: usize,
    /// Each kept row that others were dropped for, most losses first.
    pub clusters: Vec<KeptTwin>,
    /// Rows in and dropped, by source.
    pub sources: BTreeMap<String, SourceLoss>,
    /// What a person should look at before trusting the result.
    pub alarms: Vec<String>,
    /// The bands, their rows and the S-curve.
    pub banding: String,
    /// Counts of the search.
    pub search: ClusterStats,
}

/// A kept row and the rows dropped for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptTwin {
    /// Id of the kept row.
    pub kept: String,
    /// Its source.
    pub source: String,
    /// The dropped rows.
    pub dropped: Vec<LostTwin>,
}

/// A row dropped for a [`KeptTwin`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LostTwin {
    /// Its id.
    pub id: String,
    /// Its source.
    pub source: String,
    /// Jaccard similarity with the kept row; 1 for an exact duplicate.
    pub similarity: f64,
    /// Why the other was kept.
    pub why: String,
}

/// What a source lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLoss {
    /// Rows that came in.
    pub rows: usize,
    /// Rows dropped.
    pub dropped: usize,
}

/// What deduplication gives back: every row that came in is in `kept` or in `dropped`.
#[derive(Debug, Clone, PartialEq)]
pub struct Deduped {
    /// The rows to go on with, in their order.
    pub kept: Vec<Record>,
    /// The others, with reason `exact_duplicate` or `near_duplicate` and a detail that names the kept twin.
    pub dropped: Vec<Dropped>,
    /// What was done.
    pub report: ClusterReport,
}

const STEP: &str = "dedup";

/// Keeps one row of each set of duplicates.
///
/// Every dropped row was compared with the row kept in its place and is, facet by facet, at least as similar to
/// it as the threshold asks: chains of similar rows do not swallow each other. No two kept rows of a cluster are
/// that similar.
///
/// # Errors
/// [`DataError::Config`] for settings out of range or where a source would lose too much;
/// [`DataError::Io`] where columns cannot go to disk.
pub fn dedup(records: Vec<Record>, config: &DedupConfig) -> Result<Deduped, DataError> {
    dedup_within(records, &[], config)
}

/// Drops the rows that repeat a row of `reference` (another split, a published set, last year's data) and leaves
/// duplicates among `records` alone.
///
/// # Errors
/// As [`dedup`], but no loss is too great.
pub fn dedup_against(
    records: Vec<Record>,
    reference: &[Record],
    config: &DedupConfig,
) -> Result<Deduped, DataError> {
    dedup_within(records, reference, config)
}

fn dedup_within(
    records: Vec<Record>,
    reference: &[Record],
    config: &DedupConfig,
) -> Result<Deduped, DataError> {
    let n = records.len();
    let rows = Rows { records: &records, reference, view: View::Row };
    let found = find(&rows, config)?;
    let mut report = ClusterReport {
        rows: n,
        banding: if config.exact_only { String::new() } else { config.minhash.banding().to_string() },
        search: found.stats.clone(),
        ..ClusterReport::default()
    };
    let source = |row: usize| source_of(rows.get(row), config.source.as_deref());
    for row in 0..n {
        report.sources.entry(source(row)).or_default().rows += 1;
    }

    let mut drops: Vec<Option<Drop>> = vec![None; n];
    for group in found.groups() {
        if reference.is_empty() {
            alarm_if_large(&group, &rows, config, &mut report);
        }
        let is_fixed = |row: usize| row >= n;
        let mut ranks: Vec<Rank> = group.iter().map(|&row| config.keep.rank(rows.get(row), row)).collect();
        ranks.sort_by(|a, b| is_fixed(b.row).cmp(&is_fixed(a.row)).then_with(|| a.better(b)));
        let mut kept: Vec<(Rank, u128, KeptTwin)> = Vec::new();
        for rank in ranks {
            let facets = rows.facets(rank.row);
            let key = exact_key(&facets);
            let mut twin = None;
            if !is_fixed(rank.row) {
                twin = kept.iter_mut().find(|(_, k, _)| *k == key).map(|keeper| (keeper, 1.0));
                if twin.is_none() && !config.exact_only {
                    twin = kept.iter_mut().find_map(|keeper| {
                        let other = rows.facets(keeper.0.row);
                        let s = similarity(&facets, &other, &config.minhash.shingling);
                        (s >= config.minhash.threshold).then_some((keeper, s))
                    });
                }
            }
            let Some(((keeper, kept_key, line), similarity)) = twin else {
                if is_fixed(rank.row) || reference.is_empty() {
                    let line = KeptTwin {
                        kept: rows.get(rank.row).id().to_owned(),
                        source: source(rank.row),
                        dropped: Vec::new(),
                    };
                    kept.push((rank, key, line));
                }
                continue;
            };
            let why = if is_fixed(keeper.row) {
                "it is in the reference set".to_owned()
            } else {
                config.keep.why(keeper, &rank)
            };
            let (is_exact, twin) = (*kept_key == key, &line.kept);
            drops[rank.row] = Some(if is_exact {
                Drop::new("exact_duplicate", format!("same text as {twin}, kept because: {why}"))
            } else {
                let detail = format!("Jaccard {similarity:.3} with {twin}, kept because: {why}");
                Drop::new("near_duplicate", detail)
            });
            *(if is_exact { &mut report.exact_duplicates } else { &mut report.near_duplicates }) += 1;
            report.sources.entry(source(rank.row)).or_default().dropped += 1;
            line.dropped.push(LostTwin {
                id: rows.get(rank.row).id().to_owned(),
                source: source(rank.row),
                similarity,
                why,
            });
        }
        report.clusters.extend(kept.into_iter().map(|(_, _, line)| line).filter(|l| !l.dropped.is_empty()));
    }
    report.clusters.sort_by(|a, b| b.dropped.len().cmp(&a.dropped.len()).then_with(|| a.kept.cmp(&b.kept)));
    if reference.is_empty() {
        refuse_loss(&report, config)?;
    }

    let (mut kept, mut dropped) = (Vec::with_capacity(n), Vec::new());
    for (record, drop) in records.into_iter().zip(drops) {
        match drop {
            Some(drop) => dropped.push(record.dropped(STEP, drop)),
            None => kept.push(record),
        }
    }
    Ok(Deduped { kept, dropped, report })
}

fn find(rows: &Rows<'_>, config: &DedupConfig) -> Result<Clusters, DataError> {
    if config.exact_only {
        return Ok(exact_clusters(rows));
    }
    clusters(rows, &config.minhash)
}

/// Where a row comes from: its value in the column `key`, or its file.
pub(crate) fn source_of(record: &Record, key: Option<&str>) -> String {
    let named = key.and_then(|key| record.meta().get(key)).map(|value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    });
    named.unwrap_or_else(|| record.origin.file.clone())
}

fn alarm_if_large(group: &[usize], rows: &Rows<'_>, config: &DedupConfig, report: &mut ClusterReport) {
    let share = group.len() as f64 / rows.count() as f64;
    if group.len() >= 20 && share > config.alarm_cluster_share {
        let id = rows.get(group[0]).id();
        report.alarms.push(format!(
            "{} of {} rows ({:.0}%) are one cluster, that of {id}: look for a shared boilerplate or a threshold \
             set too low",
            group.len(),
            rows.count(),
            share * 100.0
        ));
    }
}

fn refuse_loss(report: &ClusterReport, config: &DedupConfig) -> Result<(), DataError> {
    for (source, loss) in &report.sources {
        let share = loss.dropped as f64 / loss.rows as f64;
        if loss.rows >= 20 && share > config.max_source_loss {
            return Err(DataError::Config(format!(
                "dedup: source {source:?} would lose {} of its {} rows ({:.0}%); if that is meant, raise \
                 max_source_loss above {share:.3}",
                loss.dropped,
                loss.rows,
                share * 100.0
            )));
        }
    }
    Ok(())
}
