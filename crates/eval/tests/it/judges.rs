use std::collections::BTreeMap;

use ferrotune_eval::{
    Case, EvalError, Judge, LlmJudge, ReferenceJudge, Verdict, Winner, agreement, is_degenerate, judge,
    parse_csv, parse_verdict, rouge_l,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::{Scripted, shared};

fn case(question: &str, reference: &str, tuned: &str, base: &str) -> Case {
    Case {
        id: question.into(),
        question: question.into(),
        before: Vec::new(),
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
fn a_reference_that_only_mentions_not_knowing_is_no_riddle() {
    let check = |question: &str, reference: &str, right: &str| {
        for nothing in ["I do not know.", "I don't know.", "I am not able to say."] {
            let (found, reason) = winner(&case(question, reference, right, nothing));
            assert_eq!(found, Winner::Tuned, "{reference}: {reason}");
        }
    };
    check(
        "Where do I find my order number?",
        "If you can't find your order number, look in the confirmation email or under My Orders.",
        "Look in the confirmation email or under My Orders for your order number.",
    );
    check(
        "What do I do if the tracking shows nothing?",
        "Tracking pages may show no information for the first 24 hours; after that write to support.",
        "Wait 24 hours for tracking to appear, then write to support.",
    );
    check(
        "How do I pick a size?",
        "If you are not sure about your size, order two sizes and return one free of charge.",
        "Order two sizes and return one of them free of charge.",
    );
    check(
        "Can I pay by check?",
        "We cannot confirm checks, so we take cards and PayPal only.",
        "No, only cards and PayPal are taken.",
    );
    check(
        "What if support is slow?",
        "Customers who do not have an answer within 2 days get a $10 voucher.",
        "You get a $10 voucher if support takes longer than 2 days.",
    );
}

/// Each row: reference, answers that are right, answers with another figure of the same kind.
#[test]
fn a_figure_is_more_than_its_digits() {
    let check = |reference: &str, right: &[&str], wrong: &[&str]| {
        for (right, wrong) in right.iter().flat_map(|r| wrong.iter().map(move |w| (r, w))) {
            let (found, reason) = winner(&case("What is it?", reference, right, wrong));
            assert_eq!(found, Winner::Tuned, "{reference} {right} {wrong}: {reason}");
        }
    };
    check("It costs €10.", &["It costs 10 euros.", "10 €"], &["It costs $10.", "It costs 10 dollars."]);
    check("The lowest is -5 degrees.", &["-5 degrees", "minus five degrees"], &["The lowest is 5 degrees."]);
    check("You have twenty-five days.", &["25 days.", "25"], &["You have twenty days.", "You have 20 days."]);
    check("It has 1.5 million users.", &["1,500,000 users"], &["It has 1.5 billion users.", "1.5 users"]);
    check("It has two hundred rooms.", &["200 rooms"], &["It has two rooms.", "It has a hundred rooms."]);
}

/// No answer that a person or GPT-4 gave as right is empty or loops.
#[test]
fn references_are_no_loops() {
    let list = |path: &str, answer: &dyn Fn(&Value) -> Option<String>| -> Vec<String> {
        let Some(text) = shared(path) else { return Vec::new() };
        let rows: Vec<Value> = serde_json::from_str(&text)
            .unwrap_or_else(|_| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
        let found: Vec<String> =
            rows.iter().filter_map(answer).filter(|a| a.chars().any(char::is_alphanumeric)).collect();
        assert!(found.len() >= 30, "{path}: {} answers", found.len());
        found
    };
    let of = |keys: &'static str| move |row: &Value| row.pointer(keys)?.as_str().map(str::to_owned);
    let sets = [
        ("llama_factory/alpaca_en_demo.json", "/output"),
        ("llama_factory/dpo_en_demo.json", "/chosen/value"),
        ("gsm8k/test.jsonl", "/answer"),
        ("mt_bench/gpt-4.jsonl", "/choices/0/turns/0"),
        ("mt_bench/gpt-4.jsonl", "/choices/0/turns/1"),
    ];
    for (path, keys) in sets {
        let looping: Vec<String> = list(path, &of(keys)).into_iter().filter(|a| is_degenerate(a)).collect();
        assert!(looping.is_empty(), "{path}: {looping:#?}");
    }
}

#[test]
fn long_answers_are_judged() {
    let fine: String = (0..20_000).map(|i| format!("w{i} is here. ")).collect();
    let (found, _) = winner(&case("How long?", "30 days.", "30 days", &fine));
    assert_eq!(found, Winner::Tuned);
    let (found, reason) = winner(&case("How long?", "30 days.", &fine, &"I am here. ".repeat(60_000)));
    assert!(found == Winner::Tuned && reason.contains("base 0.00, empty or looping"), "{reason}");
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
    let none = judge(&ReferenceJudge::default(), &[], 0).unwrap_err().to_string();
    assert!(none.contains("there is no case"), "{none}");
}

#[test]
fn an_id_may_be_a_number() {
    let read = |id: &str| {
        let row = format!(r#"{{"id": {id}, "question": "q", "base": "a", "tuned": "b"}}"#);
        serde_json::from_str::<Case>(&row).map(|case| case.id).map_err(|error| error.to_string())
    };
    assert_eq!(read("17").unwrap(), "17");
    assert_eq!(read(r#""q-17""#).unwrap(), "q-17");
    for id in ["1.5", "null", "[1]"] {
        let error = read(id).unwrap_err();
        assert!(error.contains(&format!("`id` is {id}: it must be a text or a whole number")), "{error}");
    }
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
    assert!(matches!(judge(&LlmJudge::new(&mute), &cases, 0), Err(EvalError::Unreadable { .. })));
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
    // Forms of models that keep to no form.
    check("**Reasoning**: fine.\n\n**Verdict:** **A**", Some(Winner::Tuned));
    check("A", Some(Winner::Tuned));
    check(" **B**.\n", Some(Winner::Base));
    check("tie", Some(Winner::Tie));
    check("Response A", Some(Winner::Tuned));
    check(r#"{"reason": "x", "verdict": "Response B"}"#, Some(Winner::Base));
    check("B gives the right figure.\n\nResponse B", Some(Winner::Base));
    check("Final answer: A", Some(Winner::Tuned));
    check("{'reason': 'x', 'verdict': 'B'}", Some(Winner::Base));
    check("verdict: a", Some(Winner::Tuned));
    check("Verdict: a tie", Some(Winner::Tie));
    check("**A**\nis short\n**B**\nis long", None);
    check("The winner is a matter of taste.", None);
    check("A good question.", None);
    check(r#"{"verdict": "A or B"}"#, None);
    check("Verdict: B and A are alike", None);
    check("<think>A? {\"verdict\": \"A\"}</think>\nB", Some(Winner::Base));
    check("<think>\nSo the verdict: A? Let me see", None);
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
