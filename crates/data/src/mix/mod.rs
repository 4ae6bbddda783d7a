//! Mixes sources by weight, with temperature and a share of replay.
//!
//! A source's share is its weight to the power 1/T, normalised. The weight is its number of rows if none is
//! given: T = 1 mixes in proportion, a larger T lifts small sources (arXiv 1907.05019 and 2010.11934 use 5 and
//! 1/0.3). Replay sources (general data that keeps the model from forgetting) get a fixed share of the whole,
//! mixed among themselves in the same way.
//!
//! A source with too few rows is repeated, whole passes before any row comes once more, up to a bound; what it
//! still lacks is reported and not filled up with others, so that no share is silently another.
//!
//! ```
//! use ferrotune_data::{mix::{mix, MixConfig, Source}, Item, Origin, Record};
//! use ferrotune_types::Document;
//! let rows = |name: &str, n: usize| -> Vec<Record> {
//!     (0..n)
//!         .map(|i| Record {
//!             item: Item::Document(Document { id: format!("{name}-{i}"), text: String::new(), meta: Default::default() }),
//!             origin: Origin::default(),
//!         })
//!         .collect()
//! };
//! let sources = [
//!     Source { name: "tickets".into(), weight: None, replay: false, records: rows("tickets", 900) },
//!     Source { name: "general".into(), weight: None, replay: true, records: rows("general", 5000) },
//! ];
//! let mixed = mix(&sources, &MixConfig { replay: 0.1, rows: Some(1000), ..MixConfig::default() }).unwrap();
//! assert_eq!(mixed.report["tickets"].taken, 900);
//! assert_eq!(mixed.report["general"].taken, 100);
//! ```

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{DataError, Item, Record};

/// How sources are mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixConfig {
    /// T: 1 keeps the weights, larger ones even them out.
    pub temperature: f64,
    /// Share of the whole that replay sources get.
    pub replay: f64,
    /// Rows of the mixture; as many as the other sources hold, and replay on top, if unset.
    pub rows: Option<usize>,
    /// How often a row may come at most.
    pub max_repeats: usize,
    /// Same seed, same rows in the same order.
    pub seed: u64,
}

impl Default for MixConfig {
    fn default() -> Self {
        MixConfig { temperature: 1.0, replay: 0.0, rows: None, max_repeats: 4, seed: 42 }
    }
}

/// A set of rows with a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name, for the report.
    pub name: String,
    /// Its weight among its kind; its number of rows if unset.
    pub weight: Option<f64>,
    /// Whether it belongs to the replay share.
    pub replay: bool,
    /// Its rows.
    pub records: Vec<Record>,
}

/// What came of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Rows it holds.
    pub available: usize,
    /// Rows that its share asks for.
    pub asked: usize,
    /// Rows it gave, repeats included.
    pub taken: usize,
    /// Passes over it: above 1, rows repeat.
    pub passes: f64,
}

/// A mixture.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    /// The rows, shuffled. The second and later copies of a row carry `#2`, `#3` … at the end of their id.
    pub records: Vec<Record>,
    /// By name of the source.
    pub report: BTreeMap<String, Share>,
}

/// Mixes `sources`. See [`MixConfig`].
///
/// # Errors
/// [`DataError::Config`] for settings out of range, two sources of one name, or a replay share without a source.
pub fn mix(sources: &[Source], config: &MixConfig) -> Result<Mixed, DataError> {
    let bad = |what: String| Err(DataError::Config(format!("mix: {what}")));
    if !(config.temperature > 0.0 && config.temperature.is_finite()) {
        return bad(format!("temperature must be above 0, not {}", config.temperature));
    }
    if !(0.0..1.0).contains(&config.replay) || config.max_repeats == 0 {
        return bad(format!(
            "replay must be 0 to below 1 and max_repeats at least 1, not {} and {}",
            config.replay, config.max_repeats
        ));
    }
    if let Some(source) = sources.iter().find(|s| s.weight.is_some_and(|w| !(w >= 0.0 && w.is_finite()))) {
        return bad(format!("the weight of {} must not be negative", source.name));
    }
    let has = |replay: bool| sources.iter().any(|s| s.replay == replay && !s.records.is_empty());
    if config.replay > 0.0 && !has(true) {
        return bad("a replay share is asked for but no replay source has rows".to_owned());
    }
    let own = sources.iter().filter(|s| !s.replay).map(|s| s.records.len()).sum::<usize>() as f64;
    let rows = config.rows.unwrap_or_else(|| (own / (1.0 - config.replay)).round() as usize);
    let n_replay = (rows as f64 * config.replay).round() as usize;
    let asked_of_own = asked(sources, false, rows - n_replay, config.temperature);
    let asked_of_replay = asked(sources, true, n_replay, config.temperature);

    let mut mixed = Mixed { records: Vec::with_capacity(rows), report: BTreeMap::new() };
    for ((source, own), replay) in sources.iter().zip(asked_of_own).zip(asked_of_replay) {
        let n = source.records.len();
        let asked = own + replay;
        let taken = asked.min(n * config.max_repeats);
        // A source's draw does not depend on which others there are.
        let mut rng = ChaCha8Rng::seed_from_u64(xxh3_64_with_seed(source.name.as_bytes(), config.seed));
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..taken {
            if i % n == 0 {
                order.shuffle(&mut rng);
            }
            mixed.records.push(copy(&source.records[order[i % n]], i / n));
        }
        let passes = if n == 0 { 0.0 } else { taken as f64 / n as f64 };
        let share = Share { available: n, asked, taken, passes };
        if mixed.report.insert(source.name.clone(), share).is_some() {
            return bad(format!("two sources are called {}", source.name));
        }
    }
    mixed.records.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
    Ok(mixed)
}

/// How many of `rows` each source of a kind gives, by largest remainder; 0 for sources of the other kind.
fn asked(sources: &[Source], replay: bool, rows: usize, temperature: f64) -> Vec<usize> {
    let weight = |s: &Source| {
        if s.replay != replay || s.records.is_empty() {
            return 0.0;
        }
        s.weight.unwrap_or(s.records.len() as f64).powf(1.0 / temperature)
    };
    let total: f64 = sources.iter().map(weight).sum();
    if total == 0.0 {
        return vec![0; sources.len()];
    }
    let exact: Vec<f64> = sources.iter().map(|s| rows as f64 * weight(s) / total).collect();
    let mut asked: Vec<usize> = exact.iter().map(|x| x.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..sources.len()).filter(|&i| exact[i] > 0.0).collect();
    by_remainder.sort_by(|&a, &b| (exact[b].fract()).total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let missing = rows.saturating_sub(asked.iter().sum());
    for &i in by_remainder.iter().take(missing) {
        asked[i] += 1;
    }
    asked
}

fn copy(record: &Record, pass: usize) -> Record {
    let mut record = record.clone();
    if pass > 0 {
        let id = match &mut record.item {
            Item::Chat(c) => &mut c.id,
            Item::Pair(p) => &mut p.id,
            Item::Document(d) => &mut d.id,
        };
        *id = format!("{id}#{}", pass + 1);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Origin;
    use ferrotune_types::Document;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn source(name: &str, n: usize, weight: Option<f64>, replay: bool) -> Source {
        let record = |i| Record {
            item: Item::Document(Document {
                id: format!("{name}-{i}"),
                text: String::new(),
                meta: serde_json::Map::new(),
            }),
            origin: Origin::default(),
        };
        Source { name: name.into(), weight, replay, records: (0..n).map(record).collect() }
    }

    #[test]
    fn shares_follow_weight_and_temperature() {
        let check = |a: usize,
                     b: usize,
                     weights: (Option<f64>, Option<f64>),
                     temperature: f64,
                     expect: (usize, usize)| {
            let sources = [source("a", a, weights.0, false), source("b", b, weights.1, false)];
            let config = MixConfig { temperature, rows: Some(100), max_repeats: 100, ..MixConfig::default() };
            let report = mix(&sources, &config).unwrap().report;
            assert_eq!((report["a"].taken, report["b"].taken), expect);
        };
        check(900, 100, (None, None), 1.0, (90, 10));
        check(900, 100, (None, None), 2.0, (75, 25));
        check(900, 100, (None, None), 1e9, (50, 50));
        check(900, 100, (Some(1.0), Some(3.0)), 1.0, (25, 75));
        check(900, 1, (Some(1.0), Some(1.0)), 1.0, (50, 50));
        check(900, 0, (None, Some(5.0)), 1.0, (100, 0));
    }

    #[test]
    fn what_a_source_lacks_is_reported() {
        let sources = [source("a", 100, None, false), source("general", 3, None, true)];
        let mixed =
            mix(&sources, &MixConfig { replay: 0.2, max_repeats: 2, ..MixConfig::default() }).unwrap();
        let share = mixed.report["general"];
        assert_eq!((share.asked, share.taken, share.passes), (25, 6, 2.0));
        assert_eq!(mixed.records.iter().filter(|r| r.id().ends_with("#2")).count(), 3);
    }

    #[test]
    fn unusable_settings_are_refused() {
        let check = |config: MixConfig, expect: &str| {
            let sources = [source("a", 2, None, false), source("a", 2, None, false)];
            let error = mix(&sources, &config).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(MixConfig::default(), "two sources are called a");
        check(MixConfig { replay: 0.1, ..MixConfig::default() }, "no replay source");
        check(MixConfig { temperature: 0.0, ..MixConfig::default() }, "temperature must be above 0");
        check(MixConfig { replay: 1.0, ..MixConfig::default() }, "replay must be");
    }

    proptest! {
        #[test]
        fn every_row_is_known_once_and_the_count_is_right(
            sizes in prop::collection::vec(0..30_usize, 1..5), rows in 0..200_usize, replay in 0..2_u8, seed in any::<u64>()
        ) {
            let replay_share = if replay == 1 { 0.3 } else { 0.0 };
            let mut sources: Vec<Source> =
                sizes.iter().enumerate().map(|(i, &n)| source(&format!("s{i}"), n, None, false)).collect();
            sources.push(source("general", 7, None, true));
            let config = MixConfig { rows: Some(rows), replay: replay_share, seed, ..MixConfig::default() };
            let mixed = mix(&sources, &config).unwrap();
            let ids: BTreeSet<&str> = mixed.records.iter().map(Record::id).collect();
            prop_assert_eq!(ids.len(), mixed.records.len());
            prop_assert!(mixed.records.len() <= rows);
            let taken: usize = mixed.report.values().map(|s| s.taken).sum();
            prop_assert_eq!(taken, mixed.records.len());
            prop_assert_eq!(mix(&sources, &config).unwrap().records, mixed.records);
        }
    }
}
