//! Splitting: disjoint by group, shares kept, the seed alone decides.

use std::collections::{BTreeMap, BTreeSet};

use ferrotune_data::split::{SplitConfig, leaks, near, split};
use ferrotune_data::{Item, Origin, Record};
use ferrotune_types::{Conversation, Message, Role};
use proptest::prelude::*;
use serde_json::{Value, json};

fn ticket(id: &str, question: &str, meta: Value) -> Record {
    let Value::Object(meta) = meta else { panic!("meta is an object") };
    let messages = vec![Message::new(Role::User, question), Message::new(Role::Assistant, "Yes.")];
    let item = Item::Chat(Conversation { id: id.into(), messages, tools: Vec::new(), meta });
    Record { item, origin: Origin::default() }
}

/// Questions that have little in common.
fn question(i: usize) -> String {
    let word = |k: usize| {
        "abcdefghijklmnopqrstuvwxyz"
            .chars()
            .cycle()
            .skip(k * 7 % 26)
            .step_by(k % 5 + 1)
            .take(9)
            .collect::<String>()
    };
    format!("{} {i} {} {}?", word(i), word(i / 5 + 3), word(i * i + 1))
}

#[test]
fn strata_and_shares_are_kept() {
    let category = |i: usize| match i % 10 {
        0..=5 => "a",
        6..=8 => "b",
        _ => "c",
    };
    let rows: Vec<Record> = (0..600)
        .map(|i| ticket(&format!("t{i}"), &format!("{i} {}", i * 7919), json!({"category": category(i)})))
        .collect();
    let config = SplitConfig {
        validation: 0.1,
        test: 0.2,
        group_near_duplicates: false,
        stratify_by: Some("category".into()),
        ..SplitConfig::default()
    };
    let sets = split(rows, &config).unwrap();
    assert_eq!(sets.report.rows, [420, 60, 120]);
    assert_eq!(sets.report.strata["a"], [252, 36, 72]);
    assert_eq!(sets.report.strata["c"], [42, 6, 12]);
    assert_eq!(sets.report.notes, [""; 0]);
}

#[test]
fn a_prompt_asked_twice_is_not_held_out_once() {
    let mut rows: Vec<Record> = (0..60).map(|i| ticket(&format!("a{i}"), &question(i), json!({}))).collect();
    rows.extend((0..60).map(|i| ticket(&format!("b{i}"), &format!("{} Please!", question(i)), json!({}))));
    let sets = split(rows.clone(), &SplitConfig { validation: 0.3, ..SplitConfig::default() }).unwrap();
    assert_eq!(leaks(&sets.train, &sets.validation, &near()).unwrap(), []);
    assert!(sets.validation.len() >= 30, "{:?}", sets.report);
    let careless = SplitConfig { validation: 0.3, group_near_duplicates: false, ..SplitConfig::default() };
    let sets = split(rows, &careless).unwrap();
    let found = leaks(&sets.train, &sets.validation, &near()).unwrap();
    assert!(found.len() > 10, "splitting row by row leaks");
    assert!(found.iter().all(|leak| leak.held_out[1..] == leak.train[1..] && leak.similarity >= 0.7));
}

#[test]
fn what_cannot_be_done_is_said() {
    let check = |validation: f64, test: f64, expect: &str| {
        let config = SplitConfig { validation, test, ..SplitConfig::default() };
        let error = split(Vec::new(), &config).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(-0.1, 0.0, "must not be negative");
    check(0.5, 0.5, "leave rows to train on");
    check(f64::NAN, 0.0, "must not be negative");
    let rows: Vec<Record> =
        (0..40).map(|i| ticket(&format!("{i}"), &question(i), json!({"customer": 1}))).collect();
    let config = SplitConfig { group_by: vec!["customer".into()], ..SplitConfig::default() };
    let sets = split(rows, &config).unwrap();
    assert_eq!(sets.report.largest_group, 40);
    assert!(sets.report.notes.iter().any(|n| n.contains("validation is empty")), "{:?}", sets.report.notes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn groups_are_never_cut_and_order_does_not_matter(
        rows in prop::collection::vec((0..40_usize, 0..12_u8), 1..80), seed in any::<u64>()
    ) {
        let rows: Vec<Record> = rows
            .iter()
            .enumerate()
            .map(|(i, &(q, customer))| ticket(&format!("{i}"), &question(q), json!({"customer": customer})))
            .collect();
        let config = SplitConfig {
            validation: 0.2, test: 0.2, seed, group_by: vec!["customer".into()], ..SplitConfig::default()
        };
        let sets = split(rows.clone(), &config).unwrap();
        let all = [&sets.train, &sets.validation, &sets.test];
        let ids: BTreeSet<&str> = all.iter().flat_map(|s| s.iter()).map(Record::id).collect();
        prop_assert_eq!(ids.len(), rows.len());
        prop_assert_eq!(all.iter().map(|s| s.len()).sum::<usize>(), rows.len());
        let mut set_of: BTreeMap<String, usize> = BTreeMap::new();
        for (i, set) in all.iter().enumerate() {
            for record in *set {
                for key in [record.meta()["customer"].to_string(), record.texts()[0].1.to_owned()] {
                    prop_assert_eq!(*set_of.entry(key).or_insert(i), i);
                }
            }
        }
        let mut reversed = rows;
        reversed.reverse();
        let again = split(reversed, &config).unwrap();
        let sorted = |records: &[Record]| records.iter().map(|r| r.id().to_owned()).collect::<BTreeSet<_>>();
        prop_assert_eq!(sorted(&sets.validation), sorted(&again.validation));
        prop_assert_eq!(sorted(&sets.test), sorted(&again.test));
    }
}
