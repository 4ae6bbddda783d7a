//! Takes out of the training data what an evaluation asks.
//!
//! A row is contaminated where it shares a run of `ngram` words with an item of an evaluation set (13 words, as
//! GPT-3's report, arXiv 2005.14165, appendix C); of an item shorter than that, the whole text must occur. Case
//! and punctuation do not count. Runs that occur in many items (a prompt's standing phrase) do not either.
//!
//! ```
//! use ferrotune_data::{decontaminate::{decontaminate, DecontaminateConfig, EvaluationSet}, Item, Origin, Record};
//! use ferrotune_types::Document;
//! let row = |text: &str| Record {
//!     item: Item::Document(Document { id: "r".into(), text: text.into(), meta: Default::default() }),
//!     origin: Origin::default(),
//! };
//! let set = EvaluationSet {
//!     name: "arithmetic".into(),
//!     items: vec![("q7".into(), "Natalia sold clips to 48 of her friends in April. How many?".into())],
//! };
//! let rows = vec![row("Blog: natalia sold clips to 48 of her friends in April - how many?"), row("All else.")];
//! let result = decontaminate(rows, &[set], &DecontaminateConfig::default()).unwrap();
//! assert_eq!(result.kept.len(), 1);
//! assert!(result.dropped[0].detail.contains("arithmetic"));
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ferrotune_types::Role;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dedup::{ngrams, word_hashes, word_spans};
use crate::{DataError, Drop, Dropped, Record};

/// What counts as contamination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecontaminateConfig {
    /// Words that must follow each other in both.
    pub ngram: usize,
    /// Items of fewer words are not looked for: they occur everywhere.
    pub min_words: usize,
    /// A run that occurs in more items than this is a standing phrase.
    pub common: usize,
    /// Share of an item's runs that a row must hold to be dropped; 0 for any one.
    pub min_share: f64,
}

impl Default for DecontaminateConfig {
    fn default() -> Self {
        DecontaminateConfig { ngram: 13, min_words: 6, common: 10, min_share: 0.0 }
    }
}

/// A set that must not be trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationSet {
    /// Its name, for reports.
    pub name: String,
    /// Ids and texts: questions, or questions and answers.
    pub items: Vec<(String, String)>,
}

impl EvaluationSet {
    /// The questions of rows (a document's text, a pair's prompt), and their answers if wanted. Answers of a help
    /// desk are standing phrases that training data may well hold; those of a quiz are not.
    pub fn of_records(name: impl Into<String>, records: &[Record], answers: bool) -> Self {
        let is_sought = |role: Option<Role>| match role {
            None | Some(Role::User) => true,
            Some(Role::Assistant) => answers,
            Some(_) => false,
        };
        let of = |record: &Record| {
            let texts = record.spoken().into_iter().filter(|s| is_sought(s.role));
            texts.map(|s| (record.id().to_owned(), s.text.to_owned())).collect::<Vec<_>>()
        };
        EvaluationSet { name: name.into(), items: records.iter().flat_map(of).collect() }
    }
}

/// What decontamination did to one evaluation set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// Texts of the set.
    pub items: usize,
    /// Items too short to be looked for.
    pub too_short: usize,
    /// Ids of the items found in the data.
    pub found: BTreeSet<String>,
    /// Rows dropped for it.
    pub dropped: usize,
}

/// Rows apart from all evaluation sets, and the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Decontaminated {
    /// The rows to go on with, in their order.
    pub kept: Vec<Record>,
    /// The others, reason `contaminated`, with set, item and the words in common.
    pub dropped: Vec<Dropped>,
    /// By name of the evaluation set.
    pub report: BTreeMap<String, Overlap>,
}

/// One evaluation item's runs.
struct Sought {
    set: usize,
    item: usize,
    runs: usize,
}

/// Runs of one length, and the items that hold each.
type Runs = HashMap<u64, Vec<u32>>;

/// Sets contaminated rows aside.
///
/// # Errors
/// [`DataError::Config`] where `ngram` is 0 or `min_share` is not in 0 to 1.
pub fn decontaminate(
    records: Vec<Record>,
    sets: &[EvaluationSet],
    config: &DecontaminateConfig,
) -> Result<Decontaminated, DataError> {
    if config.ngram == 0 || !(0.0..=1.0).contains(&config.min_share) {
        let reason = "decontaminate: ngram must be at least 1 and min_share 0 to 1".to_owned();
        return Err(DataError::Config(reason));
    }
    let mut report: BTreeMap<String, Overlap> = BTreeMap::new();
    let (sought, by_length) = index(sets, config, &mut report);
    let verdicts: Vec<Option<(usize, Drop)>> =
        records.par_iter().map(|record| judge(record, sets, &sought, &by_length, config)).collect();
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (record, verdict) in records.into_iter().zip(verdicts) {
        let Some((item, drop)) = verdict else {
            kept.push(record);
            continue;
        };
        let Sought { set, item, .. } = sought[item];
        let overlap = report.entry(sets[set].name.clone()).or_default();
        overlap.found.insert(sets[set].items[item].0.clone());
        overlap.dropped += 1;
        dropped.push(record.dropped("decontaminate", drop));
    }
    Ok(Decontaminated { kept, dropped, report })
}

fn index(
    sets: &[EvaluationSet],
    config: &DecontaminateConfig,
    report: &mut BTreeMap<String, Overlap>,
) -> (Vec<Sought>, BTreeMap<usize, Runs>) {
    let mut sought = Vec::new();
    let mut by_length: BTreeMap<usize, Runs> = BTreeMap::new();
    let (mut words, mut runs) = (Vec::new(), Vec::new());
    for (set, EvaluationSet { name, items }) in sets.iter().enumerate() {
        let overlap = report.entry(name.clone()).or_default();
        overlap.items += items.len();
        for (item, (_, text)) in items.iter().enumerate() {
            words.clear();
            word_hashes(text, &mut words);
            if words.len() < config.min_words.min(config.ngram) {
                overlap.too_short += 1;
                continue;
            }
            let length = config.ngram.min(words.len());
            runs.clear();
            ngrams(&words, length, 0, &mut runs);
            runs.sort_unstable();
            runs.dedup();
            let number = sought.len() as u32;
            sought.push(Sought { set, item, runs: runs.len() });
            for &run in &runs {
                by_length.entry(length).or_default().entry(run).or_default().push(number);
            }
        }
    }
    for runs in by_length.values_mut() {
        runs.retain(|_, items| items.len() <= config.common);
    }
    (sought, by_length)
}

/// The item that a row holds most of, and the verdict.
fn judge(
    record: &Record,
    sets: &[EvaluationSet],
    sought: &[Sought],
    by_length: &BTreeMap<usize, Runs>,
    config: &DecontaminateConfig,
) -> Option<(usize, Drop)> {
    /// The runs of an item that were found, and where the first was.
    struct Hit {
        found: BTreeSet<u64>,
        field: usize,
        first_word: usize,
        words: usize,
    }
    let mut hits: BTreeMap<u32, Hit> = BTreeMap::new();
    let (mut words, mut runs) = (Vec::new(), Vec::new());
    let texts = record.texts();
    for (field, (_, text)) in texts.iter().enumerate() {
        words.clear();
        word_hashes(text, &mut words);
        for (&length, known) in by_length {
            if words.len() < length {
                break;
            }
            runs.clear();
            ngrams(&words, length, 0, &mut runs);
            for (at, run) in runs.iter().enumerate() {
                for &item in known.get(run).map_or(&[][..], Vec::as_slice) {
                    let first = || Hit { found: BTreeSet::new(), field, first_word: at, words: length };
                    hits.entry(item).or_insert_with(first).found.insert(*run);
                }
            }
        }
    }
    let share = |item: u32, found: usize| found as f64 / sought[item as usize].runs as f64;
    let (item, hit) =
        hits.into_iter().filter(|(item, hit)| share(*item, hit.found.len()) >= config.min_share).max_by(
            |(a, x), (b, y)| share(*a, x.found.len()).total_cmp(&share(*b, y.found.len())).then(b.cmp(a)),
        )?;
    let (name, text) = &texts[hit.field];
    let spans = word_spans(text);
    let passage = &text[spans[hit.first_word].start..spans[hit.first_word + hit.words - 1].end];
    let set = &sets[sought[item as usize].set];
    let id = &set.items[sought[item as usize].item].0;
    let words = hit.words;
    let percent = share(item, hit.found.len()) * 100.0;
    let detail =
        format!("{} {id}: {percent:.0}% of its {words}-word runs, first in {name}: {passage:?}", set.name);
    Some((item as usize, Drop::new("contaminated", detail)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Item, Origin};
    use ferrotune_types::Document;
    use proptest::prelude::*;

    fn row(text: &str) -> Record {
        let item =
            Item::Document(Document { id: "r".into(), text: text.into(), meta: serde_json::Map::new() });
        Record { item, origin: Origin::default() }
    }

    fn set(items: &[&str]) -> EvaluationSet {
        let items = items.iter().enumerate().map(|(i, text)| (format!("q{i}"), (*text).to_owned())).collect();
        EvaluationSet { name: "eval".into(), items }
    }

    const ITEM: &str =
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen";

    #[test]
    fn what_is_shared_decides() {
        let check = |text: &str, items: &[&str], expect: Option<&str>| {
            let config = DecontaminateConfig::default();
            let result = decontaminate(vec![row(text)], &[set(items)], &config).unwrap();
            let detail = result.dropped.first().map(|d| d.detail.as_str());
            assert_eq!(detail, expect, "{text}");
        };
        let shared = "Two, three four five six seven eight nine ten eleven twelve thirteen FOURTEEN";
        let detail = format!("eval q0: 33% of its 13-word runs, first in text: {shared:?}");
        check(&format!("It says: {shared}!"), &[ITEM], Some(&detail));
        check("two three four five six seven eight nine ten eleven twelve thirteen, but then", &[ITEM], None);
        check(
            "They ask what is the capital of France here.",
            &["What is the capital of France?"],
            Some("eval q0: 100% of its 6-word runs, first in text: \"what is the capital of France\""),
        );
        check("Yes it is", &["Yes it is"], None);
        let common = vec![ITEM; 11];
        check(ITEM, &common, None);
    }

    #[test]
    fn the_report_counts_items_and_rows() {
        let rows = vec![row(ITEM), row("clean"), row(ITEM)];
        let sets = [set(&[ITEM, "too short"])];
        let result = decontaminate(rows, &sets, &DecontaminateConfig::default()).unwrap();
        let overlap = &result.report["eval"];
        assert_eq!((overlap.items, overlap.too_short, overlap.dropped), (2, 1, 2));
        assert_eq!(overlap.found, BTreeSet::from(["q0".to_owned()]));
        let half = DecontaminateConfig { min_share: 0.5, ..DecontaminateConfig::default() };
        let part = row("one two three four five six seven eight nine ten eleven twelve thirteen");
        assert_eq!(decontaminate(vec![part], &sets, &half).unwrap().kept.len(), 1);
    }

    proptest! {
        #[test]
        fn a_second_pass_finds_nothing(texts in prop::collection::vec("([a-c] ){0,20}\\PC{0,4}", 0..20)) {
            let sets = [set(&["a b c a b c a", "c c c c c c"])];
            let config = DecontaminateConfig { ngram: 7, ..DecontaminateConfig::default() };
            let rows: Vec<Record> = texts.iter().map(|t| row(t)).collect();
            let once = decontaminate(rows.clone(), &sets, &config).unwrap();
            prop_assert_eq!(once.kept.len() + once.dropped.len(), rows.len());
            let twice = decontaminate(once.kept.clone(), &sets, &config).unwrap();
            prop_assert_eq!(twice.kept, once.kept);
        }
    }
}
