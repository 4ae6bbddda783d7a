//! Judges two models' answers against reference answers, without a model or a network.
//!
//! `cargo run -p ferrotune-eval --example compare_answers`

#![expect(clippy::print_stdout, reason = "an example's output is its point")]

use ferrotune_eval::{Case, ReferenceJudge, judge};

/// Question, reference, the base's answer, the tuned model's answer.
const ANSWERS: [[&str; 4]; 6] = [
    [
        "How long do I have to return an item?",
        "You have 30 days, with the receipt.",
        "Most shops allow 14 days.",
        "30 days, if you keep the receipt.",
    ],
    [
        "Do gift cards expire?",
        "No, gift cards never expire.",
        "Yes, after one year.",
        "Gift cards never expire.",
    ],
    [
        "What does shipping cost?",
        "It is free over $75, else $6.95.",
        "Shipping costs $4.99.",
        "$6.95, and free over $75.",
    ],
    [
        "Do you ship to Canada?",
        "Yes, we ship to Canada and Mexico.",
        "Yes, to Canada and Mexico.",
        "Yes, we do ship to Canada.",
    ],
    [
        "Can I return underwear?",
        "No, underwear is final sale.",
        "Yes, of course!",
        "Underwear is final sale, so no.",
    ],
    ["When do you close?", "We close at 8 p.m.", "We are open. We are open. We are open.", "At 8 PM."],
];

fn main() -> Result<(), ferrotune_eval::EvalError> {
    let case = |(i, [question, reference, base, tuned]): (usize, [&str; 4])| Case {
        id: format!("q{i}"),
        question: question.to_owned(),
        before: Vec::new(),
        reference: Some(reference.to_owned()),
        base: base.to_owned(),
        tuned: tuned.to_owned(),
    };
    let cases: Vec<Case> = ANSWERS.into_iter().enumerate().map(case).collect();
    let report = judge(&ReferenceJudge::default(), &cases, 0)?;
    for row in &report.rows {
        println!("{:?}  {}\n       {}", row.winner, row.case.question, row.reason);
    }
    println!(
        "\n{} judge: tuned {}, base {}, tie {}; win rate {:.2} [{:.2}, {:.2}], p = {:.3}: {}",
        report.kind,
        report.tuned,
        report.base,
        report.tie,
        report.win_rate,
        report.ci95[0],
        report.ci95[1],
        report.p_value,
        report.verdict
    );
    Ok(())
}
