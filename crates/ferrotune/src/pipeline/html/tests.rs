use super::*;
use crate::pipeline::report::{
    CurateFacts, DpoFacts, GroundedRow, MergeFacts, ModelFacts, PerplexityFacts, RagFacts, SftFacts,
    StageTime,
};

fn row(i: usize, winner: &str) -> JudgedRow {
    JudgedRow {
        id: format!("Q-{i}"),
        question: format!("question {i}?"),
        reference: "Within 30 days.".to_owned(),
        base: "Somewhere on the website.".to_owned(),
        tuned: "Within 30 days, with the receipt.".to_owned(),
        winner: winner.to_owned(),
        reason: "tuned 0.9, base 0.1".to_owned(),
    }
}

fn judge(kind: &str, verdict: &str, [tuned, base, tie]: [usize; 3]) -> JudgeFacts {
    let winners = [("tuned", tuned), ("base", base), ("tie", tie)];
    let rows =
        winners.iter().flat_map(|&(w, n)| std::iter::repeat_n(w, n)).enumerate().map(|(i, w)| row(i, w));
    let n = tuned + base + tie;
    JudgeFacts {
        kind: kind.to_owned(),
        n,
        tuned,
        base,
        tie,
        win_rate: (tuned as f64 + 0.5 * tie as f64) / n as f64,
        ci95: [0.625, 0.8],
        p_value: 1.2e-6,
        verdict: verdict.to_owned(),
        tuned_mean: (kind == "reference").then_some(0.61),
        base_mean: (kind == "reference").then_some(0.18),
        notes: Vec::new(),
        rows: rows.collect(),
    }
}

/// A run with every stage.
fn sample() -> Report {
    Report {
        config_hash: "9f3c".to_owned(),
        seed: 17,
        title: "BlueSky Clothing".to_owned(),
        model: ModelFacts { id: "smollm2".to_owned(), dtype: "fp32".to_owned(), device: "cpu".to_owned() },
        stages: vec![StageTime { name: "sft".to_owned(), seconds: 151.2 }],
        curate: Some(CurateFacts {
            read: 1009,
            kept: 997,
            dropped: [("too_short".to_owned(), 2), ("near_duplicate".to_owned(), 10)].into(),
            planted: [("pii_iban".to_owned(), crate::pipeline::report::Planted { planted: 12, caught: 12 })]
                .into(),
            ..CurateFacts::default()
        }),
        sft: Some(SftFacts {
            losses: vec![2.5, 2.0, 1.5],
            validations: vec![(0, 2.6), (3, 1.6)],
            best_step: 3,
            ..SftFacts::default()
        }),
        dpo: Some(DpoFacts {
            loss: "sigmoid".to_owned(),
            losses: vec![std::f64::consts::LN_2, 0.4],
            accuracies: vec![(0, 0.5), (2, 0.9)],
            accuracy_after: 0.9,
            ..DpoFacts::default()
        }),
        merge: Some(MergeFacts { max_abs_logit_diff: 3.1e-5 }),
        perplexity: Some(PerplexityFacts { base: 16.42, sft: 3.39, dpo: 3.61, tokens: 4120 }),
        judge: Some(judge("reference", "better", [30, 6, 4])),
        rag: Some(RagFacts {
            recall_at_3: 0.989,
            rows: vec![GroundedRow { answer: "Within 30 days. [1]".to_owned(), ..GroundedRow::default() }],
            ..RagFacts::default()
        }),
        config: serde_json::json!({"sft": {"lr": 0.0002}, "judge": {"url": ""}}),
        ..Report::default()
    }
}

fn rendered(report: &Report) -> String {
    page(report, "<svg/>").unwrap()
}

#[test]
fn what_was_not_measured_or_judged_is_said() {
    let mut report = sample();
    assert!(!rendered(&report).contains("not measured"));
    let rag = report.rag.as_mut().unwrap();
    rag.not_measured = vec!["recall_at_3".to_owned(), "citation_precision".to_owned()];
    let judge = report.judge.as_mut().unwrap();
    judge.notes = vec!["not shown to the judge because an answer is empty or loops: <3".to_owned()];
    let page = rendered(&report);
    assert_eq!(page.matches("not measured").count(), 2);
    assert!(!page.contains("right document in the first three") && !page.contains("document missed"));
    assert!(page.contains("an answer is empty or loops: &lt;3."));
    report.rag.as_mut().unwrap().rows[0].hit = Some(false);
    assert!(rendered(&report).contains("document missed"));
}

#[test]
fn the_verdict_is_one_sentence_with_its_certainty_and_its_judge() {
    let check = |judge: Option<JudgeFacts>, expect: &str| {
        let verdict = verdict(&Report { judge, ..sample() });
        assert_eq!(format!("{}: {}", verdict.headline, verdict.rest), expect);
    };
    check(
        Some(judge("reference", "better", [30, 6, 4])),
        "The tuned model is better than its base: it wins 80% of 40 held-out questions, ties counted half \
         (95% interval 62.5% to 80%), says the offline reference judge.",
    );
    check(
        Some(judge("llm:some-model", "worse", [1, 3, 0])),
        "The tuned model is worse than its base: it wins 25% of 4 held-out questions (95% interval 62.5% to 80%), \
         says an LLM judge (some-model) that saw each pair in both orders.",
    );
    check(
        Some(judge("reference", "no clear difference", [1, 0, 0])),
        "The tuned model is not clearly better than its base: it wins 100% of 1 held-out question (95% interval \
         62.5% to 80%), says the offline reference judge.",
    );
    check(
        None,
        "Whether the tuned model is better than its base was not judged: the judge stage was skipped. On held-out \
         answers perplexity went from 16.4 to 3.61.",
    );
    let html = rendered(&sample());
    let first = html.find("The tuned model is better than its base:</strong> it wins 80%").unwrap();
    assert!(html[..first].find("<section").is_some_and(|s| !html[s + 1..first].contains("<section")));
}

#[test]
fn hostile_texts_stay_texts() {
    let hostile = r#"</style></p><script>alert("1")</script><img src=x onerror='a()'>"#;
    let mut report = sample();
    report.title = hostile.to_owned();
    report.model.id = hostile.to_owned();
    report.versions = [(hostile.to_owned(), hostile.to_owned())].into();
    report.config = serde_json::json!({hostile: [hostile]});
    report.stages[0].name = hostile.to_owned();
    let curate = report.curate.as_mut().unwrap();
    curate.detection = hostile.to_owned();
    curate.dropped = [(hostile.to_owned(), 1)].into();
    curate.edits = curate.dropped.clone();
    curate.planted = [(hostile.to_owned(), crate::pipeline::report::Planted::default())].into();
    report.sft.as_mut().unwrap().note = Some(hostile.to_owned());
    let dpo = report.dpo.as_mut().unwrap();
    (dpo.loss, dpo.reference) = (hostile.to_owned(), hostile.to_owned());
    let judge = report.judge.as_mut().unwrap();
    judge.kind = format!("llm:{hostile}");
    let row = &mut judge.rows[0];
    for text in [&mut row.question, &mut row.reference, &mut row.base, &mut row.tuned, &mut row.reason] {
        hostile.clone_into(text);
    }
    judge.rows[1].winner = hostile.to_owned();
    let grounded = &mut report.rag.as_mut().unwrap().rows[0];
    grounded.sources = vec![hostile.to_owned()];
    (grounded.question, grounded.answer) = (hostile.to_owned(), hostile.to_owned());

    let html = page(&report, hostile).unwrap();
    for tag in ["<script", "<img src=x", "onerror='"] {
        assert!(!html.contains(tag), "{tag}");
    }
    assert_eq!(html.matches("</style>").count(), 1);
    assert!(html.contains("&lt;script&gt;"));
}

#[test]
fn a_run_without_a_stage_says_so() {
    let full = rendered(&sample());
    assert!(!full.contains("Skipped."), "{full}");
    let report = Report {
        curate: None,
        sft: None,
        dpo: None,
        merge: None,
        perplexity: None,
        judge: None,
        rag: None,
        stages: Vec::new(),
        config: Json::Null,
        ..sample()
    };
    let html = rendered(&report);
    assert_eq!(html.matches("Skipped.").count(), 7);
    assert!(html.contains("was not judged:</strong> the judge stage was skipped."));
    // Without preference tuning the final model is SFT's: no bar and no tile speaks of DPO.
    let html = rendered(&Report { dpo: None, ..sample() });
    assert!(html.contains("16.4 → 3.39") && !html.contains("after DPO"));
}

#[test]
fn figures_that_are_no_numbers_read_as_not_known() {
    let mut report = sample();
    let sft = report.sft.as_mut().unwrap();
    (sft.loss_last, sft.val_loss_best) = (f64::NAN, f64::NAN);
    sft.losses.push(f64::NAN);
    let html = rendered(&report);
    assert!(html.contains("→ not known"), "{html}");
    assert!(!html.contains("NaN"));
}

#[test]
fn a_dozen_answers_show_every_outcome_and_none_is_lost() {
    let check = |counts: [usize; 3], expect: [usize; 3]| {
        let rows = judge("reference", "better", counts).rows;
        let (shown, folded) = choose(&rows);
        let of = |winner: &str| shown.iter().filter(|r| r.winner == winner).count();
        assert_eq!([of("tuned"), of("base"), of("tie")], expect, "{counts:?}");
        let mut ids: Vec<&str> = shown.iter().chain(&folded).map(|r| r.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows.len());
    };
    check([60, 14, 14], [6, 3, 3]);
    check([60, 0, 1], [11, 0, 1]);
    check([2, 50, 50], [2, 7, 3]);
    check([0, 0, 40], [0, 0, 12]);
    check([0, 5, 40], [0, 5, 7]);
    check([3, 1, 1], [3, 1, 1]);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let html = rendered(&sample());
    for outside in ["http://", "https://", "src=\"/", "url(", "@import", "<link"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("data:image/svg+xml,%3Csvg%2F%3E"));
}
