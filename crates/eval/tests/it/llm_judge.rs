use std::sync::atomic::{AtomicUsize, Ordering};

use ferrotune_eval::{Basis, Case, EvalError, JudgeReport, LlmJudge, Verdict, Winner, judge};
use ferrotune_types::{Completion, Finish, GenerateParams, LanguageModel, Message, ModelError};

/// A judge that replies by a function of the user's turn, and counts what it is asked.
struct Replies<F> {
    say: F,
    asked: AtomicUsize,
}

impl<F: Fn(&str) -> Result<(&'static str, Finish), ModelError>> LanguageModel for Replies<F> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn chat(&self, messages: &[Message], _: &GenerateParams) -> Result<Completion, ModelError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (text, finish) = (self.say)(&messages.last().unwrap().content)?;
        let (text, ids, logprobs) = (text.to_owned(), vec![], vec![]);
        Ok(Completion { text, ids, finish, prompt_tokens: 0, completion_tokens: 0, logprobs })
    }
}

/// Cases `q0`, `q1`, …, in which the tuned answer is the longer one.
fn cases(n: usize) -> Vec<Case> {
    let case = |i: usize| Case {
        id: format!("q{i}"),
        question: format!("What is number {i}?"),
        before: Vec::new(),
        reference: None,
        base: "a short answer".to_owned(),
        tuned: "an answer that is clearly longer".to_owned(),
    };
    (0..n).map(case).collect()
}

fn longer(prompt: &str) -> &'static str {
    if prompt.contains("[Start of A's answer]\nan answer that") { "A" } else { "B" }
}

fn asks(prompt: &str, number: usize) -> bool {
    prompt.contains(&format!("number {number}?"))
}

/// The report, or the error, and the requests that it took.
fn run(
    cases: &[Case],
    say: impl Fn(&str) -> Result<(&'static str, Finish), ModelError>,
) -> (Result<JudgeReport, EvalError>, usize) {
    let model = Replies { say, asked: AtomicUsize::new(0) };
    let report = judge(&LlmJudge::new(&model), cases, 0);
    (report, model.asked.into_inner())
}

#[test]
fn replies_without_a_verdict_are_counted_and_shown() {
    let (report, _) = run(&cases(8), |prompt| match () {
        () if asks(prompt, 3) => Ok(("<think>\nOkay, A says", Finish::Length)),
        () if asks(prompt, 5) => Ok(("", Finish::Stop)),
        () => Ok((longer(prompt), Finish::Stop)),
    });
    let report = report.unwrap();
    assert_eq!((report.tuned, report.tie, report.unreadable), (6, 2, 2));
    assert_eq!(report.consistency, 1.0, "what cannot be read does not contradict itself");
    assert_eq!((report.rows[3].winner, report.rows[3].basis), (Winner::Tie, Basis::Unreadable));
    let expect = "a reply holds no verdict: \"<think>\\nOkay, A says\" (finish reason: length, cut off at the token limit)";
    assert_eq!(report.rows[3].reason, expect);
    assert_eq!(report.rows[5].reason, "a reply holds no verdict: nothing (finish reason: stop)");
    let notes = report.notes();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("ties because a reply could not be read: 2 (q3, q5); q3: "), "{notes:?}");
}

#[test]
fn a_judge_that_is_not_understood_is_an_error() {
    let (report, asked) = run(&cases(100), |_| Ok(("", Finish::Length)));
    let error = report.unwrap_err().to_string();
    assert!(
        error.contains("llm:scripted: 128 of 128 replies hold no verdict")
            && error.contains("case q0: nothing")
    );
    assert_eq!(asked, 128, "no more are asked for than it takes to know");
    // Half of them is a doubt, and no more.
    let (report, _) = run(&cases(2), |prompt| Ok((if asks(prompt, 0) { "" } else { "tie" }, Finish::Stop)));
    assert_eq!(report.unwrap().unreadable, 1);
}

#[test]
fn a_refused_case_is_a_tie_with_a_name() {
    let refuses = |prompt: &str| match () {
        () if asks(prompt, 3) => Err(ModelError::BadRequest("the response was filtered".to_owned())),
        () if asks(prompt, 90) => Err(ModelError::TooLong { tokens: 9000, limit: 8192 }),
        () => Ok((longer(prompt), Finish::Stop)),
    };
    let (report, asked) = run(&cases(100), refuses);
    let report = report.unwrap();
    assert_eq!((report.tuned, report.tie, report.refused, report.verdict), (98, 2, 2, Verdict::Better));
    assert_eq!(report.rows[3].basis, Basis::Refused);
    assert!(report.rows[3].reason.contains("the response was filtered"), "{}", report.rows[3].reason);
    let notes = report.notes();
    assert!(notes.len() == 1 && notes[0].contains("refused the case: 2 (q3, q90); q3: "), "{notes:?}");
    assert!(asked < 2 * 200, "{asked} requests");
}

#[test]
fn what_would_refuse_everything_stops_at_once() {
    let (report, _) = run(&cases(100), |_| Err(ModelError::BadRequest("no such parameter".to_owned())));
    assert!(report.unwrap_err().to_string().contains("no such parameter"));
    let (report, asked) = run(&cases(100), |prompt| {
        if asks(prompt, 1) { Err(ModelError::failed("refuses the API key")) } else { Ok(("A", Finish::Stop)) }
    });
    assert!(report.unwrap_err().to_string().contains("refuses the API key"));
    assert_eq!(asked, 3);
}

#[test]
fn what_was_not_shown_and_what_was_not_agreed_is_told() {
    let mut cases = cases(4);
    cases[0].base = String::new();
    let (report, asked) =
        run(&cases, |prompt| Ok((if asks(prompt, 1) { "A" } else { longer(prompt) }, Finish::Stop)));
    let report = report.unwrap();
    assert_eq!((report.not_shown, report.tuned, asked), (1, 3, 6));
    assert!((report.consistency - 2.0 / 3.0).abs() < 1e-12);
    let notes = report.notes();
    assert_eq!(notes.len(), 2);
    assert!(notes[0].contains("changed its mind in 1 of 3 cases"), "{notes:?}");
    assert!(notes[1].ends_with("is empty or loops: 1"), "{notes:?}");
}

#[test]
fn a_report_of_an_older_version_is_read() {
    let (report, _) = run(&cases(1), |prompt| Ok((longer(prompt), Finish::Stop)));
    let report = report.unwrap();
    let mut value = serde_json::to_value(&report).unwrap();
    for key in ["unreadable", "not_shown", "refused"] {
        assert_eq!(value.as_object_mut().unwrap().shift_remove(key), Some(0.into()));
    }
    assert_eq!(value["rows"][0].as_object_mut().unwrap().shift_remove("basis"), Some("judged".into()));
    assert_eq!(serde_json::from_value::<JudgeReport>(value).unwrap(), report);
}

#[test]
fn a_blank_reference_is_not_shown() {
    let mut cases = cases(1);
    cases[0].reference = Some(" ".to_owned());
    let (report, _) = run(&cases, |prompt| {
        assert!(!prompt.contains("[Reference answer]"));
        Ok((longer(prompt), Finish::Stop))
    });
    assert_eq!(report.unwrap().tuned, 1);
}
