//! Train, validation and test sets that share nothing.
//!
//! Rows are first joined to groups: rows whose prompts are near duplicates, and rows with the same value in a
//! column (a customer, a thread). A group goes to one set whole, so that a held-out row was not seen in training
//! under another wording. Groups are dealt out so that every stratum (a category) comes to each set in the
//! asked share.
//!
//! Invariants: every row comes to exactly one set; no group is cut; the same seed deals the same, whatever the
//! order of the rows.
//!
//! ```
//! use ferrotune_data::{split::{split, SplitConfig}, Item, Origin, Record};
//! use ferrotune_types::Document;
//! let rows: Vec<Record> = (0..100)
//!     .map(|i| Record {
//!         item: Item::Document(Document { id: format!("{i}"), text: format!("{i}"), meta: Default::default() }),
//!         origin: Origin::default(),
//!     })
//!     .collect();
//! let sets = split(rows, &SplitConfig { validation: 0.2, ..SplitConfig::default() }).unwrap();
//! assert_eq!((sets.train.len(), sets.validation.len(), sets.test.len()), (80, 20, 0));
//! ```

mod leak;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::dedup::{Forest, MinHashConfig, Rows, Shingling, View, clusters};
use crate::{DataError, Record};

pub use leak::{Leak, leaks};

/// How rows are dealt out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Share of the rows for validation.
    pub validation: f64,
    /// Share of the rows for the test set.
    pub test: f64,
    /// Deals differently.
    pub seed: u64,
    /// Whether rows with near-duplicate prompts stay together.
    pub group_near_duplicates: bool,
    /// What counts as near.
    pub minhash: MinHashConfig,
    /// Rows with the same value in any of these columns stay together.
    pub group_by: Vec<String>,
    /// Each value of this column is spread over the sets in the asked shares.
    pub stratify_by: Option<String>,
}

impl Default for SplitConfig {
    fn default() -> Self {
        SplitConfig {
            validation: 0.1,
            test: 0.0,
            seed: 42,
            group_near_duplicates: true,
            minhash: near(),
            group_by: Vec::new(),
            stratify_by: None,
        }
    }
}

/// Near duplicates as splitting sees them: a question about 30 days and the same about 10 belong together, which
/// deduplication would keep apart; and hardly a pair may be missed, since a missed one is a leak.
pub fn near() -> MinHashConfig {
    let shingling = Shingling { guard: false, ..Shingling::default() };
    MinHashConfig { shingling, recall: 0.999, ..MinHashConfig::default() }
}

/// Three sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// What the model learns from, in the order of the rows.
    pub train: Vec<Record>,
    /// What is looked at during training.
    pub validation: Vec<Record>,
    /// What is looked at once.
    pub test: Vec<Record>,
    /// What was done.
    pub report: SplitReport,
}

/// What splitting did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Rows in train, validation and test.
    pub rows: [usize; 3],
    /// Groups that were dealt.
    pub groups: usize,
    /// Rows of the largest group.
    pub largest_group: usize,
    /// Rows in train, validation and test, by stratum.
    pub strata: BTreeMap<String, [usize; 3]>,
    /// What a person should know: a set that is far from its asked share, an empty one.
    pub notes: Vec<String>,
}

/// Deals `records` out. See [`SplitConfig`].
///
/// # Errors
/// [`DataError::Config`] for shares that are negative or leave nothing to train on; as [`clusters`] otherwise.
pub fn split(records: Vec<Record>, config: &SplitConfig) -> Result<Split, DataError> {
    let shares = [1.0 - config.validation - config.test, config.validation, config.test];
    let is_share = |x: f64| (0.0..1.0).contains(&x);
    if !is_share(config.validation) || !is_share(config.test) || shares[0] <= 0.0 {
        return Err(DataError::Config(format!(
            "split: validation {} and test {} must not be negative and must leave rows to train on",
            config.validation, config.test
        )));
    }
    let strata: Vec<String> = records.iter().map(|r| column(r, config.stratify_by.as_deref())).collect();
    let mut groups = groups(&records, config)?;
    let mut report = SplitReport {
        groups: groups.len(),
        largest_group: groups.iter().map(Vec::len).max().unwrap_or(0),
        ..SplitReport::default()
    };

    // Large groups first, while there is room to choose; then in an order that only the seed and the ids decide.
    let lot = |row: usize| (xxh3_64_with_seed(records[row].id().as_bytes(), config.seed), records[row].id());
    groups.sort_by_cached_key(|group| {
        let first = group.iter().map(|&row| lot(row)).min().map(|(hash, id)| (hash, id.to_owned()));
        (usize::MAX - group.len(), first)
    });
    let mut need: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
    for stratum in &strata {
        let need = need.entry(stratum).or_default();
        (0..3).for_each(|set| need[set] += shares[set]);
    }
    let mut set_of = vec![0; records.len()];
    for group in &groups {
        let mut gain = [0.0; 3];
        for &row in group {
            (0..3).for_each(|set| gain[set] += need[&*strata[row]][set]);
        }
        // The first of the neediest, so that a tie goes to training.
        let set = (0..3).fold(0, |best, set| if gain[set] > gain[best] + 1e-9 { set } else { best });
        for &row in group {
            set_of[row] = set;
            report.rows[set] += 1;
            report.strata.entry(strata[row].clone()).or_default()[set] += 1;
            if let Some(need) = need.get_mut(&*strata[row]) {
                need[set] -= 1.0;
            }
        }
    }
    if config.stratify_by.is_none() {
        report.strata.clear();
    }
    note_shares(&mut report, shares);

    let mut sets = [Vec::new(), Vec::new(), Vec::new()];
    for (record, set) in records.into_iter().zip(set_of) {
        sets[set].push(record);
    }
    let [train, validation, test] = sets;
    Ok(Split { train, validation, test, report })
}

/// Rows that must stay together, each group in order of its rows.
fn groups(records: &[Record], config: &SplitConfig) -> Result<Vec<Vec<usize>>, DataError> {
    let mut forest = Forest::new(records.len());
    if config.group_near_duplicates {
        let rows = Rows { records, reference: &[], view: View::Prompt };
        for (row, first) in clusters(&rows, &config.minhash)?.of.into_iter().enumerate() {
            forest.union(first, row);
        }
    }
    for key in &config.group_by {
        let mut first_with: BTreeMap<String, usize> = BTreeMap::new();
        for (row, record) in records.iter().enumerate() {
            if record.meta().get(key).is_some_and(|v| !v.is_null()) {
                let first = *first_with.entry(column(record, Some(key))).or_insert(row);
                forest.union(first, row);
            }
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (row, root) in forest.roots().into_iter().enumerate() {
        groups.entry(root).or_default().push(row);
    }
    Ok(groups.into_values().collect())
}

/// A column's value as a text; empty where there is none.
fn column(record: &Record, key: Option<&str>) -> String {
    match key.and_then(|key| record.meta().get(key)) {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn note_shares(report: &mut SplitReport, shares: [f64; 3]) {
    let n = report.rows.iter().sum::<usize>();
    for (set, name) in ["train", "validation", "test"].into_iter().enumerate() {
        let (rows, share) = (report.rows[set], shares[set]);
        if n > 0 && share > 0.0 && rows == 0 {
            report.notes.push(format!("{name} is empty: {n} rows in {} groups are too few", report.groups));
        } else if n > 0 && (rows as f64 - share * n as f64).abs() > (0.02 * n as f64).max(1.0) {
            let largest = report.largest_group;
            report.notes.push(format!(
                "{name} has {rows} of {n} rows where {:.0} were asked for; the largest group has {largest}",
                share * n as f64
            ));
        }
    }
}
