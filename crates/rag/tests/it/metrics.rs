use std::collections::BTreeMap;

use ferrotune_rag::{average_precision, hit_at, ndcg_at, precision_at, recall_at, reciprocal_rank};

#[derive(serde::Deserialize)]
struct Case {
    ranking: Vec<String>,
    grades: BTreeMap<String, f64>,
    expect: BTreeMap<String, f64>,
}

#[test]
fn metrics_equal_those_of_trec_eval() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../golden/metrics.json")).unwrap();
    assert_eq!(cases.len(), 24);
    for case in &cases {
        let relevant: Vec<&String> = case.grades.keys().collect();
        let gains: Vec<(&String, f64)> = case.grades.iter().map(|(id, grade)| (id, *grade)).collect();
        for (name, expect) in &case.expect {
            let (name, k) = name.rsplit_once('_').map_or((name.as_str(), None), |(n, k)| (n, k.parse().ok()));
            let k = k.unwrap_or(0);
            let found = match name {
                "recall" => recall_at(&case.ranking, &relevant, k),
                "P" => precision_at(&case.ranking, &relevant, k),
                "ndcg_cut" => ndcg_at(&case.ranking, &gains, k),
                "success" => hit_at(&case.ranking, &relevant, k),
                "map" => average_precision(&case.ranking, &relevant),
                "recip" => reciprocal_rank(&case.ranking, &relevant),
                other => panic!("unknown measure {other}"),
            };
            assert!(
                (found - expect).abs() < 1e-9,
                "{name} at {k} of {:?}: {found} not {expect}",
                case.ranking
            );
        }
    }
}

#[test]
fn nothing_relevant_is_zero_and_not_a_number() {
    let none: [&str; 0] = [];
    assert_eq!(recall_at(&["a"], &none, 3), 0.0);
    assert_eq!(average_precision(&["a"], &none), 0.0);
    assert_eq!(ndcg_at(&["a"], &[("a", 0.0)], 3), 0.0);
    assert_eq!(precision_at(&["a"], &["a"], 0), 0.0);
}

#[test]
fn a_relevant_id_given_twice_counts_once() {
    let (ranking, twice) = (["a", "x"], ["a", "a"]);
    assert_eq!(recall_at(&ranking, &twice, 1), 1.0);
    assert_eq!(average_precision(&ranking, &twice), 1.0);
    assert_eq!(ndcg_at(&ranking, &twice.map(|id| (id, 1.0)), 10), 1.0);
}
