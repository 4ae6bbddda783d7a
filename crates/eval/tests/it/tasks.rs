use ferrotune_eval::{EvalError, Gold, McTask, Shots, run_choices, run_gsm8k};
use ferrotune_types::GenerateParams;
use serde_json::Value;

use crate::{Scripted, shared};

#[test]
fn requests_equal_those_of_lm_eval() {
    let golden: Value = serde_json::from_str(include_str!("../golden/tasks.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let task = McTask::from_name(case[0].as_str().unwrap()).unwrap();
        let items = task.read(&case[1].to_string()).unwrap();
        let expect: Vec<(String, String)> = serde_json::from_value(case[2].clone()).unwrap();
        assert_eq!(items[0].requests, expect, "{}", case[0]);
    }
    assert_eq!(McTask::Mmlu.description("abstract_algebra"), golden["mmlu_description"].as_str().unwrap());
}

#[test]
fn examples_stand_before_the_question() {
    let items = McTask::Mmlu.read("\"What, is 1+1?\",1,2,3,4,B\nWhat is 2+2?,1,2,3,4,D\n").unwrap();
    let shots = Shots { description: McTask::Mmlu.description("sums"), examples: vec![items[0].clone()] };
    assert_eq!(
        shots.text(),
        "The following are multiple choice questions (with answers) about sums.\n\n\
         What, is 1+1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
    );
}

/// A model that likes the letter e.
fn likes_e() -> impl ferrotune_types::LanguageModel {
    Scripted::new(|_| String::new(), |_, k| k.matches('e').count() as f64 - k.len() as f64)
}

#[test]
fn scores_follow_the_likelihoods() {
    let text = r#"{"query": "q", "choices": ["short", "eeeeeeeeee"], "gold": 1}
{"query": "q", "choices": ["bbb", "e b b b b b b b"], "gold": 1}"#;
    let report = run_choices(&likes_e(), "arc", &McTask::Arc.read(text).unwrap(), &Shots::default()).unwrap();
    assert_eq!((report.n, report.acc, report.acc_norm), (2, 0.5, Some(1.0)));
    assert_eq!(report.acc_stderr, 0.5);
    let mc2 = r#"{"question": "q", "mc2_targets": {"choices": ["a", "b", "cc"], "labels": [1, 0, 1]}}"#;
    let report =
        run_choices(&likes_e(), "mc2", &McTask::TruthfulQaMc2.read(mc2).unwrap(), &Shots::default()).unwrap();
    let (one, two) = ((-2f64).exp(), (-3f64).exp());
    assert!((report.acc - (one + two) / (2.0 * one + two)).abs() < 1e-12);
    assert_eq!(report.acc_norm, None);
}

#[test]
fn bad_files_are_refused_with_their_line() {
    let check = |task: McTask, text: &str, expect: &str| {
        let error = task.read(text).unwrap_err();
        assert!(matches!(error, EvalError::Record { .. }));
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(McTask::Arc, "{\"id\": 1}", "arc, record 1");
    check(McTask::Arc, "{}\n{oops", "arc, record 1");
    check(
        McTask::Piqa,
        "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 0}\n{oops",
        "piqa, record 2",
    );
    check(McTask::Mmlu, "q,1,2,3,4,E", "mmlu, record 1");
    check(
        McTask::Winogrande,
        r#"{"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"}"#,
        "record 1",
    );
    check(McTask::TruthfulQaMc1, "Type,Question\na,b", "record 2");
    let one = McTask::Arc.read(r#"{"query": "q", "choices": ["only"], "gold": 0}"#).unwrap();
    assert!(run_choices(&likes_e(), "arc", &one, &Shots::default()).is_err());
    assert!(run_choices(&likes_e(), "arc", &[], &Shots::default()).is_err());
}

#[test]
fn gsm8k_counts_by_both_rules() {
    let file = r#"{"question": "2+2?", "answer": "It is <<2+2=4>>4.\n#### 4"}
{"question": "A thousand?", "answer": "Yes.\n#### 1,000"}"#;
    let model = Scripted::new(
        |prompt| if prompt.contains("2+2") { "So 4.\n#### 4" } else { "That makes $1000." }.to_owned(),
        |_, _| 0.0,
    );
    let shots = [("1+1?".to_owned(), "#### 2".to_owned())];
    let report = run_gsm8k(&model, file, 10, &shots, &GenerateParams::default()).unwrap();
    assert_eq!((report.n, report.strict_match, report.flexible_extract), (2, 0.5, 1.0));
    let asked = model.asked.lock().unwrap();
    assert_eq!(asked[0][0].content, "Question: 1+1?\nAnswer:");
    assert_eq!(asked[0].len(), 3);
    assert!(run_gsm8k(&model, "{}", 1, &[], &GenerateParams::default()).is_err());
}

#[test]
fn published_files_are_read() {
    let check = |task: McTask, path: &str, n: usize, choices: std::ops::RangeInclusive<usize>| {
        let Some(text) = shared(path) else { return };
        let items = task.read(&text).unwrap();
        assert_eq!(items.len(), n, "{path}");
        assert!(items.iter().all(|item| choices.contains(&item.requests.len())), "{path}");
        let asked =
            |item: &ferrotune_eval::Choices| item.requests.iter().all(|(c, k)| !c.is_empty() && k.len() > 1);
        assert!(items.iter().all(asked), "{path}");
    };
    check(McTask::Arc, "arc/ARC-Challenge-Dev.jsonl", 299, 3..=5);
    check(McTask::Arc, "arc/arc_easy.jsonl", 2376, 3..=5);
    check(McTask::CommonsenseQa, "csqa/dev_rand_split.jsonl", 1221, 5..=5);
    check(McTask::Piqa, "piqa_winogrande/piqa.jsonl", 1838, 2..=2);
    check(McTask::Winogrande, "piqa_winogrande/winogrande.jsonl", 1267, 2..=2);
    check(McTask::TruthfulQaMc1, "truthfulqa/TruthfulQA.csv", 817, 2..=20);
    check(McTask::TruthfulQaMc2, "truthfulqa/TruthfulQA.csv", 817, 2..=30);
    check(McTask::Mmlu, "mmlu_dev/anatomy_dev.csv", 5, 4..=4);
    if let Some(text) = shared("truthfulqa/TruthfulQA.csv") {
        let items = McTask::TruthfulQaMc2.read(&text).unwrap();
        assert!(matches!(&items[0].gold, Gold::Any(labels) if labels.iter().filter(|l| **l).count() == 6));
    }
}
