use std::collections::BTreeMap;

use ferrotune_eval::{
    Case, EvalError, Judge, LlmJudge, ReferenceJudge, Verdict, Winner, agreement, judge, parse_csv,
    parse_verdict, rouge_l,
};
use proptest::prelude::*;

use crate::{Scripted, shared};

fn case(question: &str, reference: &str, tuned: &str, base: &str) -> Case {
    Case {
        id: question.into(),
        question: question.into(),
        reference: Some(reference.into()),
        tuned: tuned.into(),
        base: base.into(),
    }
}

fn winner(case: &Case) -> (Winner, String) {
    let decision = ReferenceJudge::default().decide(std::slice::from_ref(case)).unwrap().remove(0);
    (decision.winner, decision.reason)
}

/// Each row: question, reference, the answer that must win, the answer that must lose.
const PAIRS: [[&str; 4]; 24] = [
    // Right facts in few words against a fluent answer with a wrong one.
    [
        "How long do I have to return an item?",
        "You have 30 days from the day of purchase to return an item with its receipt.",
        "30 days, with the receipt.",
        "You have 60 days from the day of purchase to return an item with its receipt.",
    ],
    [
        "What does shipping cost?",
        "Shipping is free on orders over $75. Below that it costs $6.95.",
        "It's $6.95, and free over $75.",
        "Shipping is free on orders over $50. Below that it costs $9.95.",
    ],
    [
        "When do you open on Sundays?",
        "On Sundays we open at 11 a.m. and close at 6 p.m.",
        "11:00 AM to 6:00 PM on Sundays.",
        "On Sundays we open at 9 a.m. and close at 8 p.m.",
    ],
    [
        "How many points is a dollar?",
        "You earn one point for each dollar, and 100 points are worth $5.",
        "Each dollar earns one point; 100 points give you $5.",
        "You earn one point for each dollar, and 100 points are worth $10.",
    ],
    [
        "How long does standard shipping take?",
        "Standard shipping takes three to five business days.",
        "It takes 3-5 days.",
        "Standard shipping takes seven to ten business days.",
    ],
    [
        "What is the exchange window?",
        "Exchanges are accepted within two weeks.",
        "You can exchange it within 14 days.",
        "Exchanges are accepted within four weeks.",
    ],
    [
        "What discount do students get?",
        "Students get 15% off with a valid ID.",
        "15 percent off if they show an ID.",
        "Students get 25% off with a valid ID.",
    ],
    [
        "Which day is the shop closed?",
        "The shop is closed on Mondays.",
        "We are closed Monday.",
        "The shop is closed on Fridays.",
    ],
    [
        "Whom do I write to?",
        "Please write to help@bluesky.example.",
        "You can reach us at help@bluesky.example",
        "Please write to sales@bluesky.example for anything.",
    ],
    // Yes and no.
    [
        "Can I return underwear?",
        "No, underwear is final sale and cannot be returned.",
        "Sorry, underwear can't be returned because it is final sale.",
        "Yes, underwear can be returned within the normal window.",
    ],
    [
        "Do gift cards expire?",
        "No, gift cards never expire.",
        "Gift cards do not expire.",
        "Yes, gift cards expire after some time.",
    ],
    [
        "Is gift wrapping available?",
        "Yes, gift wrapping is available for $4 per item.",
        "Yes, for $4 each.",
        "No, gift wrapping is not available.",
    ],
    [
        "Do you ship to Canada?",
        "Yes, we ship to Canada and Mexico.",
        "We do ship to Canada, and to Mexico too.",
        "Unfortunately we do not ship to Canada.",
    ],
    // Empty, looping and rambling answers.
    [
        "Can I return shoes?",
        "Yes, unworn shoes can be returned within 30 days.",
        "Yes, if they are unworn.",
        "",
    ],
    [
        "Can I return shoes?",
        "Yes, unworn shoes can be returned within 30 days.",
        "Unworn shoes can be returned.",
        "Yes, unworn shoes can be returned within 30 days. Yes, unworn shoes can be returned within 30 days. Yes, unworn shoes can be returned within 30 days. Yes, unworn shoes can be returned within 30 days.",
    ],
    [
        "Can I return shoes?",
        "Yes, unworn shoes can be returned within 30 days.",
        "Yes, within 30 days.",
        "Can I return shoes? Can I return shoes? Shoes shoes return.",
    ],
    // What nobody knows.
    [
        "What is the CEO's salary?",
        "I don't have that information.",
        "I'm sorry, I do not have information about that.",
        "The CEO earns $250,000 a year.",
    ],
    [
        "How long do I have to return an item?",
        "You have 30 days to return an item.",
        "You have 30 days.",
        "I don't have that information.",
    ],
    [
        "How long do I have to return an item?",
        "You have 30 days to return an item.",
        "I don't know, please ask our staff.",
        "You have 90 days to return an item.",
    ],
    // Right in other words against off the point.
    [
        "How do I track my order?",
        "Log in, open Orders, and choose Track package.",
        "Open the Orders page after you log in and select Track package.",
        "We value every order and every customer. Thank you for shopping with us and for your order today.",
    ],
    [
        "My shirt arrived torn, what now?",
        "We are sorry. Send a photo to support and we will replace the shirt for free.",
        "Sorry about that! Send support a photo and we'll replace it free of charge.",
        "Shirts come in sizes S to XXL and many colours. Please check the size chart before you order a shirt.",
    ],
    [
        "What sizes do jackets come in?",
        "Jackets come in sizes XS to 3XL.",
        "They run from XS to 3XL.",
        "Jackets are warm, stylish and loved by our customers all year round.",
    ],
    [
        "Where is your store?",
        "Our store is at 12 Harbor Street in Portland.",
        "You'll find us at 12 Harbor Street, Portland.",
        "Our store is at 99 Main Street in Boston.",
    ],
    // Terse and right against all that can be said around it.
    [
        "How much is express shipping?",
        "Express shipping costs $14.95.",
        "$14.95.",
        "Express shipping is our fastest option. It is a great choice when you need your order soon. Many of our customers like express shipping, and we recommend it for gifts. You can choose express shipping at checkout, where all shipping options are shown with their delivery estimates.",
    ],
];

#[test]
fn right_facts_beat_fluent_errors() {
    let mut wrong = Vec::new();
    for [question, reference, right, bad] in PAIRS {
        let (found, reason) = winner(&case(question, reference, right, bad));
        if found != Winner::Tuned {
            wrong.push(format!("{question} | {right} | {bad}: {found:?}, {reason}"));
        }
        // The places do not matter.
        let mirrored = match winner(&case(question, reference, bad, right)).0 {
            Winner::Tuned => Winner::Base,
            Winner::Base => Winner::Tuned,
            Winner::Tie => Winner::Tie,
        };
        assert_eq!(mirrored, found, "{question}");
    }
    assert!(wrong.is_empty(), "{} of {} pairs:\n{}", wrong.len(), PAIRS.len(), wrong.join("\n"));
}

#[test]
fn equals_are_a_tie() {
    for [question, reference, right, bad] in PAIRS {
        assert_eq!(winner(&case(question, reference, right, right)).0, Winner::Tie);
        assert_eq!(winner(&case(question, reference, bad, bad)).0, Winner::Tie);
    }
    let (found, _) = winner(&case("Are you open?", "Yes, until 8 p.m.", "", "..."));
    assert_eq!(found, Winner::Tie);
}

#[test]
fn a_report_adds_up_and_its_verdict_follows_its_rule() {
    let make = |wins: usize, losses: usize| -> Vec<Case> {
        let [q, r, good, bad] = PAIRS[0];
        (0..wins).map(|_| case(q, r, good, bad)).chain((0..losses).map(|_| case(q, r, bad, good))).collect()
    };
    let run = |cases: &[Case]| judge(&ReferenceJudge::default(), cases, 7).unwrap();
    let better = run(&make(9, 1));
    assert_eq!((better.n, better.tuned, better.base, better.tie), (10, 9, 1, 0));
    assert_eq!((better.win_rate, better.verdict), (0.9, Verdict::Better));
    assert!((better.p_value - 22.0 / 1024.0).abs() < 1e-12);
    assert_eq!(run(&make(1, 9)).verdict, Verdict::Worse);
    assert_eq!(run(&make(6, 4)).verdict, Verdict::NoClearDifference);
    assert_eq!(run(&make(3, 0)).verdict, Verdict::NoClearDifference);
    assert_eq!(serde_json::to_value(better.verdict).unwrap(), "better");
    assert_eq!(agreement(&better, &better).unwrap(), 1.0);
    let text = serde_json::to_string(&better).unwrap();
    assert_eq!(serde_json::from_str::<ferrotune_eval::JudgeReport>(&text).unwrap(), better);
}

#[test]
fn no_reference_is_an_error_that_names_the_question() {
    let mut missing = case("q?", "", "a", "b");
    for reference in [None, Some("  ".to_owned())] {
        missing.reference = reference;
        let error = judge(&ReferenceJudge::default(), std::slice::from_ref(&missing), 0).unwrap_err();
        assert!(matches!(&error, EvalError::NoReference { id, .. } if id == "q?"), "{error}");
    }
    assert!(judge(&ReferenceJudge::default(), &[], 0).is_err());
}

/// TruthfulQA: the best answer as the reference, another right answer against a wrong one.
#[test]
fn truthful_answers_are_preferred_more_often_than_by_rouge() {
    let Some(text) = shared("truthfulqa/TruthfulQA.csv") else { return };
    let rows = parse_csv(&text);
    let column: BTreeMap<&str, usize> =
        rows[0].iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let (mut n, mut ours, mut ties, mut rouge) = (0usize, 0usize, 0usize, 0.0);
    for row in &rows[1..] {
        let of = |name: &str| row[column[name]].as_str();
        let best = of("Best Answer");
        let Some(right) = of("Correct Answers").split("; ").find(|a| *a != best) else { continue };
        let Some(wrong) = of("Incorrect Answers").split("; ").next() else { continue };
        n += 1;
        match winner(&case(of("Question"), best, right, wrong)).0 {
            Winner::Tuned => ours += 1,
            Winner::Tie => ties += 1,
            Winner::Base => {}
        }
        let ahead = rouge_l(right, best).f1 - rouge_l(wrong, best).f1;
        rouge += if ahead > 0.0 {
            1.0
        } else if ahead == 0.0 {
            0.5
        } else {
            0.0
        };
    }
    let (ours, rouge) = ((ours as f64 + ties as f64 / 2.0) / n as f64, rouge / n as f64);
    eprintln!(
        "{n} questions: reference judge {ours:.3} (ties {:.3}), ROUGE-L {rouge:.3}",
        ties as f64 / n as f64
    );
    // These wrong answers were written to look right, so word overlap alone is below chance.
    assert!(ours > rouge + 0.1 && ours > 0.56, "{ours:.3} against {rouge:.3}");
}

#[test]
fn an_llm_judge_that_prefers_a_place_decides_nothing() {
    let cases: Vec<Case> = PAIRS.iter().map(|[q, r, good, bad]| case(q, r, good, bad)).collect();
    let first_place = Scripted::new(|_| r#"{"reason": "x", "verdict": "A"}"#.to_owned(), |_, _| 0.0);
    let report = judge(&LlmJudge::new(&first_place), &cases, 0).unwrap();
    // Empty and looping answers lose without being shown.
    assert_eq!((report.tuned, report.base, report.tie), (2, 0, 22));
    assert_eq!(report.kind, "llm:scripted");
    assert!(report.consistency < 0.1 && report.verdict == Verdict::NoClearDifference);
}

#[test]
fn an_llm_judge_that_reads_the_answers_decides() {
    let cases = [
        case("How long?", "30 days", "30 days", "90 days"),
        case("How long?", "30 days", "90 days", "30 days"),
    ];
    let reads = Scripted::new(
        |prompt| {
            let a = prompt.split("[Start of A's answer]\n").nth(1).unwrap();
            if a.starts_with("30") { "[[A]]".to_owned() } else { "I think…\nVerdict: **B**".to_owned() }
        },
        |_, _| 0.0,
    );
    let report = judge(&LlmJudge::new(&reads), &cases, 0).unwrap();
    assert_eq!(report.rows.iter().map(|r| r.winner).collect::<Vec<_>>(), [Winner::Tuned, Winner::Base]);
    assert_eq!(report.consistency, 1.0);
    let mute = Scripted::new(|_| "I cannot say.".to_owned(), |_, _| 0.0);
    assert_eq!(judge(&LlmJudge::new(&mute), &cases, 0).unwrap().tie, 2);
}

#[test]
fn verdicts_are_read_from_what_models_write() {
    let check = |reply: &str, expect: Option<Winner>| {
        assert_eq!(parse_verdict(reply).map(|v| v.0), expect, "{reply}");
    };
    check(r#"{"verdict": "A"}"#, Some(Winner::Tuned));
    check(r#"{"verdict":"Answer B","reason":"{odd} braces"} trailing"#, Some(Winner::Base));
    check(r#"{"winner": "tie"} "#, Some(Winner::Tie));
    check(r#"first {"verdict": "A"} but then {"verdict": "B"}"#, Some(Winner::Base));
    check("[[B]]", Some(Winner::Base));
    check("[[A]] or rather [[B]]", None);
    check("The better answer is A.", Some(Winner::Tuned));
    check("verdict: C", None);
    check(r#"{"verdict": "A""#, Some(Winner::Tuned));
    check(r#"{"verdict": 3}"#, None);
    check("", None);
}

proptest! {
    #[test]
    fn scores_stay_in_range_and_nothing_panics(q in ".{0,30}", r in ".{1,60}", a in ".{0,60}") {
        let score = ReferenceJudge::default().score(&q, &r, &a);
        prop_assert!((0.0..=1.0).contains(&score.total), "{score:?}");
    }

    #[test]
    fn the_reference_itself_scores_highest(words in prop::collection::vec("[a-z]{3,8}", 4..12), n in 2..90u32) {
        let reference = format!("{} within {n} days.", words.join(" "));
        prop_assume!(!ferrotune_eval::is_degenerate(&reference));
        let of = |answer: &str| ReferenceJudge::default().score("How long?", &reference, answer).total;
        prop_assert!(of(&reference) > 0.999);
        let wrong = reference.replace(&format!("{n} days"), &format!("{} days", n + 7));
        prop_assert!(of(&wrong) < 0.3);
        let terse = format!("{n} days");
        prop_assert!(of(&terse) > of(&wrong));
    }
}
