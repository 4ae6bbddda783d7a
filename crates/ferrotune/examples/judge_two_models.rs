//! Which of two models answers better? `cargo run -p ferrotune --example judge_two_models`

use ferrotune::eval::{Case, ReferenceJudge, judge};

fn main() -> anyhow::Result<()> {
    let case = |id: &str, question: &str, reference: &str, base: &str, tuned: &str| Case {
        id: id.to_owned(),
        question: question.to_owned(),
        before: Vec::new(),
        reference: Some(reference.to_owned()),
        base: base.to_owned(),
        tuned: tuned.to_owned(),
    };
    let cases = [
        case(
            "returns",
            "How long may I return things?",
            "Within 30 days, with a receipt.",
            "You can return them whenever you like.",
            "You have 30 days; please bring the receipt.",
        ),
        case(
            "shipping",
            "From which sum is shipping free?",
            "Orders over $75 ship free.",
            "Shipping is free from $50.",
            "Shipping is free once your order is over $75.",
        ),
    ];
    let report = judge(&ReferenceJudge::default(), &cases, 0)?;
    for row in &report.rows {
        eprintln!("{:>10}: {:?} ({})", row.case.id, row.winner, row.reason);
    }
    eprintln!("tuned {}, base {}, tie {}: {}", report.tuned, report.base, report.tie, report.verdict);
    Ok(())
}
