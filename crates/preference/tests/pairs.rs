//! Making and checking preference pairs.

use std::path::Path;

use ferrotune_preference::pairs::{
    Outcome, PairCheck, PairTokens, Pairing, Thumb, Verdict, agreed, check_pairs, from_log, from_ranking,
    from_scores, from_thumbs, is_refusal, set_aside, to_thumbs,
};
use ferrotune_types::{Message, PreferencePair, Role};
use proptest::prelude::*;
use serde_json::Value;

fn says(text: &str) -> Vec<Message> {
    vec![Message::new(Role::Assistant, text)]
}

fn asks(text: &str) -> Vec<Message> {
    vec![Message::new(Role::User, text)]
}

fn pair(id: &str, prompt: &str, chosen: &str, rejected: &str) -> PreferencePair {
    let meta = serde_json::Map::new();
    PreferencePair {
        id: id.into(),
        prompt: asks(prompt),
        chosen: says(chosen),
        rejected: says(rejected),
        meta,
    }
}

/// The flags of each pair as `id:flag`.
fn check(pairs: &[PreferencePair], expect: &[&str]) {
    let report = check_pairs(pairs, None, &PairCheck::default());
    let found: Vec<String> = report.flagged.iter().map(|f| format!("{}:{}", f.id, f.flag.name())).collect();
    assert_eq!(found, expect);
    assert_eq!(report.counts.values().sum::<usize>(), found.len());
}

#[test]
fn pairs_that_teach_nothing_are_found() {
    let long =
        |end: &str| format!("{} {end}", (0..40).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" "));
    check(&[pair("a", "q", "yes it is", "no it is not")], &[]);
    check(&[pair("a", "q", "yes  it is\n", "yes it is")], &["a:identical"]);
    check(&[pair("a", "q", &long("x"), &long("y"))], &["a:near_identical"]);
    check(&[pair("a", "q", "yes", " \n")], &["a:empty"]);
    check(&[pair("a", "q", "I'm sorry, but I can't do that.", "Sure, here it is.")], &["a:refusal_chosen"]);
    check(&[pair("a", "q", "I\u{2019}m sorry, but no.", "I cannot help with that.")], &[]);
}

#[test]
fn contradictions_are_found_on_the_same_prompt_only() {
    check(
        &[pair("a", "q", "x", "y"), pair("b", "q ", "y", "x"), pair("c", "other", "y", "x")],
        &["a:conflict", "b:conflict"],
    );
    check(
        &[
            pair("a", "q", "x", "y"),
            pair("b", "q", "y", "z"),
            pair("c", "q", "z", "x"),
            pair("d", "q", "x", "w"),
        ],
        &["a:cycle", "b:cycle", "c:cycle"],
    );
    check(&[pair("a", "q", "x", "y"), pair("b", "q", "x", "y")], &["b:repeated"]);
    check(&[pair("a", "q", "x", "y"), pair("b", "q", "y", "z"), pair("c", "q", "x", "z")], &[]);
}

#[test]
fn a_prompt_that_fills_the_context_is_found() {
    let tokens = |prompt| PairTokens { prompt, chosen: 5, rejected: 5 };
    let pairs = [pair("a", "q", "x", "y"), pair("b", "p", "x", "y")];
    let config = PairCheck { max_length: Some(512), ..PairCheck::default() };
    let report = check_pairs(&pairs, Some(&[tokens(511), tokens(512)]), &config);
    assert_eq!(report.counts.get("no_room"), Some(&1));
    assert_eq!(report.flagged[0].id, "b");
    let (kept, aside) = set_aside(pairs.to_vec(), &report, &["no_room"]);
    assert_eq!((kept.len(), aside.len(), aside[0].pair.id.as_str()), (1, 1, "b"));
}

#[test]
fn length_bias_is_measured() {
    let pairs: Vec<PreferencePair> = (0..100)
        .map(|i| pair(&i.to_string(), &format!("q{i}"), if i < 80 { "a b c" } else { "a" }, "d e"))
        .collect();
    let bias = check_pairs(&pairs, None, &PairCheck::default()).length.unwrap();
    assert_eq!((bias.longer_is_chosen, bias.rejected_words), (0.8, 2.0));
    assert!((bias.z - 6.0).abs() < 1e-9 && (bias.chosen_words - 2.6).abs() < 1e-9);
    assert_eq!(check_pairs(&[], None, &PairCheck::default()).length, None);
}

#[test]
fn rankings_and_scores_become_pairs() {
    let answers: Vec<Vec<Message>> = ["a", "b", "c", "d"].map(says).to_vec();
    let count = |pairing| from_ranking("r", &asks("q"), &answers, pairing).len();
    assert_eq!(
        [Pairing::All, Pairing::BestAgainstRest, Pairing::BestAgainstWorst, Pairing::Neighbours].map(count),
        [6, 3, 1, 3]
    );
    let scored: Vec<(Vec<Message>, f64)> =
        [("a", 1.0), ("b", 4.0), ("c", 4.0), ("d", f64::NAN), ("e", 3.5)].map(|(t, s)| (says(t), s)).to_vec();
    let pairs = from_scores("s", &asks("q"), &scored, 1.0, Pairing::All);
    let found: Vec<String> = pairs
        .iter()
        .map(|p| format!("{}{}>{} {}", p.id, p.chosen[0].content, p.rejected[0].content, p.meta["margin"]))
        .collect();
    assert_eq!(found, ["s#0b>a 3.0", "s#1c>a 3.0", "s#2e>a 2.5"]);
}

#[test]
fn thumbs_become_pairs_and_pairs_thumbs() {
    let thumb = |id: &str, prompt: &str, answer: &str, label| Thumb {
        id: id.into(),
        prompt: asks(prompt),
        completion: says(answer),
        label,
    };
    let thumbs = [
        thumb("1", "q", "x", true),
        thumb("2", "p", "u", true),
        thumb("3", "q", "y", false),
        thumb("4", "q", "z", false),
    ];
    let ids: Vec<String> = from_thumbs(&thumbs).into_iter().map(|p| p.id).collect();
    assert_eq!(ids, ["1>3", "1>4"]);
    let [up, down] = to_thumbs(&pair("a", "q", "x", "y"));
    assert_eq!((up.id.as_str(), up.label, up.completion), ("a#up", true, says("x")));
    assert_eq!((down.id.as_str(), down.label, down.completion), ("a#down", false, says("y")));
}

#[test]
fn a_judge_that_follows_the_place_is_not_believed() {
    assert_eq!(agreed(Verdict::First, Verdict::Second), Some(true));
    assert_eq!(agreed(Verdict::Second, Verdict::First), Some(false));
    assert_eq!(agreed(Verdict::First, Verdict::First), None);
    assert_eq!(agreed(Verdict::First, Verdict::Tie), None);
}

#[test]
fn logs_hold_implicit_preferences() {
    let log = [
        (says("a"), Outcome::Regenerated),
        (says("b"), Outcome::Unknown),
        (says("c"), Outcome::Edited(says("d"))),
        (says("e"), Outcome::Accepted),
    ];
    let found: Vec<String> = from_log("l", &asks("q"), &log)
        .iter()
        .map(|p| format!("{}>{} {}", p.chosen[0].content, p.rejected[0].content, p.meta["signal"]))
        .collect();
    assert_eq!(found, ["d>c \"edited\"", "d>a \"regenerated\""]);
}

proptest! {
    #[test]
    fn a_ranking_never_contradicts_itself(n in 0..7usize) {
        let answers: Vec<Vec<Message>> = (0..n).map(|i| says(&format!("answer {i}"))).collect();
        let pairs = from_ranking("r", &asks("q"), &answers, Pairing::All);
        prop_assert_eq!(pairs.len(), n * n.saturating_sub(1) / 2);
        let report = check_pairs(&pairs, None, &PairCheck { near_identical: 2.0, ..PairCheck::default() });
        prop_assert!(report.flagged.is_empty(), "{:?}", report.flagged);
    }

    #[test]
    fn no_text_breaks_the_checks(a in "\\PC{0,40}", b in "\\PC{0,40}") {
        is_refusal(&a);
        check_pairs(&[pair("a", &b, &a, &b), pair("b", &b, &b, &a)], None, &PairCheck::default());
    }
}

/// On 300 real pairs: the figures that a reader of the report would see.
#[test]
fn real_pairs() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/llama_factory/dpo_en_demo.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {} is not there", path.display());
        return;
    };
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let value = |v: &Value| v["value"].as_str().unwrap_or_default().to_owned();
    let pairs: Vec<PreferencePair> = rows
        .iter()
        .enumerate()
        .map(|(i, row)| {
            let turns: Vec<String> = row["conversations"].as_array().unwrap().iter().map(value).collect();
            pair(&i.to_string(), &turns.join("\n"), &value(&row["chosen"]), &value(&row["rejected"]))
        })
        .collect();
    let report = check_pairs(&pairs, None, &PairCheck::default());
    assert_eq!(report.n_pairs, 300);
    let bias = report.length.unwrap();
    eprintln!("{:?} {bias:?}", report.counts);
    assert!(bias.longer_is_chosen > 0.3 && bias.longer_is_chosen < 0.8, "{bias:?}");
    assert_eq!(report.counts.get("conflict"), None);
}

#[test]
fn a_report_is_one_line_for_a_person() {
    let pairs = [pair("a", "q", "x z", "y"), pair("b", "q", "y", "x z"), pair("c", "p", "x y z", "y")];
    assert_eq!(
        check_pairs(&pairs, None, &PairCheck::default()).to_string(),
        "3 pairs of 2 prompts, 2 conflict; the chosen answer is the longer one in 67% (z 0.6; 2 words against 1)"
    );
}
