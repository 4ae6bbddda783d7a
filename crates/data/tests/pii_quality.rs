//! Precision and recall on `presidio_research/generated_large.json` (2,109 sentences with labelled spans), and
//! false hits on prose and code that hold no personal numbers. A found span counts as right where it overlaps
//! a labelled one of its kind, and a labelled one as found where a span of its kind overlaps it.

#![expect(clippy::print_stdout, reason = "the figures are what the test reports")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use ferrotune_data::pii::{self, Kind, PiiConfig};
use serde_json::Value;

fn shared(file: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(file);
    let text = std::fs::read_to_string(path).ok();
    if text.is_none() {
        println!("skipped: the shared test data has no {file}");
    }
    text
}

/// The labels that a kind answers to.
fn labels(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Email => &["EMAIL_ADDRESS"],
        Kind::Phone => &["PHONE_NUMBER"],
        Kind::Card => &["CREDIT_CARD"],
        Kind::Iban => &["IBAN_CODE"],
        Kind::Ip => &["IP_ADDRESS"],
        Kind::NationalId => &["US_SSN", "US_DRIVER_LICENSE"],
        Kind::Date | Kind::DateOfBirth => &["DATE_TIME"],
        Kind::Address => &["ADDRESS"],
        Kind::Person => &["PERSON"],
        _ => &[],
    }
}

#[derive(Default)]
struct Tally {
    found: usize,
    right: usize,
    labelled: usize,
    recalled: usize,
}

impl Tally {
    fn precision(&self) -> f64 {
        self.right as f64 / self.found.max(1) as f64
    }

    fn recall(&self) -> f64 {
        self.recalled as f64 / self.labelled.max(1) as f64
    }

    /// Recall weighs twice as much as precision, as Presidio's authors advise.
    fn f2(&self) -> f64 {
        let (p, r) = (self.precision(), self.recall());
        5.0 * p * r / (4.0 * p + r).max(1e-9)
    }
}

fn tally(rows: &[Value]) -> Option<BTreeMap<&'static str, Tally>> {
    let config = PiiConfig::everything();
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    for row in rows {
        let text = row["full_text"].as_str()?;
        let byte_of: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
        let place = |value: &Value| Some(byte_of[value.as_u64()? as usize]);
        let found = pii::find(text, &config);
        let mut gold = Vec::new();
        for span in row["spans"].as_array()? {
            gold.push((
                span["entity_type"].as_str()?,
                place(&span["start_position"])?,
                place(&span["end_position"])?,
            ));
        }
        for span in &found {
            let Some(name) = labels(span.kind).first() else { continue };
            let tally = tallies.entry(name).or_default();
            tally.found += 1;
            let is_right = |g: &&(&str, usize, usize)| {
                labels(span.kind).contains(&g.0) && g.1 < span.end && span.start < g.2
            };
            tally.right += usize::from(gold.iter().any(|g| is_right(&g)));
        }
        for (label, start, end) in gold {
            let Some(name) = Kind::ALL.iter().map(|k| labels(*k)).find(|l| l.contains(&label)) else {
                continue;
            };
            let tally = tallies.entry(name[0]).or_default();
            tally.labelled += 1;
            let recalls = |s: &pii::Span| labels(s.kind).contains(&label) && start < s.end && s.start < end;
            tally.recalled += usize::from(found.iter().any(recalls));
        }
    }
    Some(tallies)
}

#[test]
fn precision_and_recall_on_the_labelled_sentences() {
    let Some(file) = shared("presidio_research/generated_large.json") else { return };
    let rows: Vec<Value> = serde_json::from_str(&file).expect("the file is JSON");
    let tallies = tally(&rows).expect("the file has the known columns");
    for (name, t) in &tallies {
        let (p, r, f2) = (t.precision(), t.recall(), t.f2());
        println!("{name:14} labelled {:5} found {:5} P {p:.3} R {r:.3} F2 {f2:.3}", t.labelled, t.found);
    }
    let check = |name: &str, precision: f64, recall: f64| {
        let t = &tallies[name];
        assert!(t.precision() >= precision, "{name}: precision {}", t.precision());
        assert!(t.recall() >= recall, "{name}: recall {}", t.recall());
    };
    for name in ["EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "US_SSN"] {
        check(name, 0.98, 0.98);
    }
    check("PHONE_NUMBER", 0.95, 0.95);
    check("DATE_TIME", 0.95, 0.95);
    check("ADDRESS", 0.95, 0.80);
    check("PERSON", 0.85, 0.70);
}

/// Hits per MB on texts that hold next to no personal data. Names and dates are there in plenty, and rightly
/// found; numbers, keys and addresses are not.
#[test]
fn prose_and_code_are_not_damaged() {
    let config = PiiConfig::everything();
    let wiki: Option<Vec<String>> =
        shared("wikitext2/valid.txt").map(|t| t.lines().map(str::to_owned).collect());
    let code = shared("data_juicer/stack_exchange.jsonl").map(|t| {
        let rows = t.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        rows.filter_map(|row| row["text"].as_str().map(str::to_owned)).collect()
    });
    for (name, texts, at_most) in [("wikitext", wiki, 15.0), ("stack_exchange", code, 40.0)] {
        let Some(texts) = texts else { continue };
        let mb = texts.iter().map(String::len).sum::<usize>() as f64 / 1e6;
        let mut hits: BTreeMap<Kind, usize> = BTreeMap::new();
        for text in &texts {
            for span in pii::find(text, &config) {
                *hits.entry(span.kind).or_default() += 1;
            }
        }
        for (kind, n) in &hits {
            println!("{name:15} {kind:12} {:7.1} a MB", *n as f64 / mb);
        }
        let damage: usize = hits
            .iter()
            .filter(|(k, _)| {
                !matches!(k, Kind::Person | Kind::Date | Kind::DateOfBirth | Kind::Email | Kind::Ip)
            })
            .map(|(_, n)| n)
            .sum();
        assert!(damage as f64 / mb <= at_most, "{name}: {hits:?}");
        assert!(!hits.contains_key(&Kind::Phone) && !hits.contains_key(&Kind::Card), "{name}: {hits:?}");
    }
}
