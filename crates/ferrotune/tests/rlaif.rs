//! Preferences from a judge, with a scripted model as both the one that answers and the one that judges.
#![cfg(feature = "torch")]

use ferrotune::recipes::{RlaifConfig, RlaifPrompt, RlaifReport, rlaif};
use ferrotune_eval::{LlmJudge, ReferenceJudge};
use ferrotune_types::{
    Completion, Finish, GenerateParams, LanguageModel, Message, ModelError, PreferencePair, Role,
};

/// A model that is a function of what it reads and of the seed.
struct Scripted<F>(F);

impl<F: Fn(&str, u64) -> String> LanguageModel for Scripted<F> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn chat(&self, messages: &[Message], params: &GenerateParams) -> Result<Completion, ModelError> {
        let asked = messages.last().map_or("", |m| m.content.as_str());
        Ok(Completion {
            text: (self.0)(asked, params.seed),
            ids: vec![],
            finish: Finish::Stop,
            prompt_tokens: 0,
            completion_tokens: 0,
            logprobs: vec![],
        })
    }
}

fn prompts(questions: &[&str], reference: Option<&str>) -> Vec<RlaifPrompt> {
    let prompt = |(i, text): (usize, &&str)| RlaifPrompt {
        id: format!("p{i}"),
        messages: vec![Message::new(Role::User, *text)],
        reference: reference.map(str::to_owned),
    };
    questions.iter().enumerate().map(prompt).collect()
}

/// Answers by a table of (question, answers by sample), judged by `judge` over the shown A and B.
fn run(
    questions: &[&str],
    samples: usize,
    answers: impl Fn(&str, u64) -> String,
    judge: impl Fn(&str, &str) -> &'static str,
) -> (Vec<PreferencePair>, RlaifReport) {
    let judge = Scripted(move |asked: &str, _| {
        let answer = |letter: &str| {
            let start = format!("[Start of {letter}'s answer]\n");
            let from = asked.find(&start).unwrap() + start.len();
            asked[from..].split("\n[End of").next().unwrap().to_owned()
        };
        format!("{{\"reason\": \"because\", \"verdict\": \"{}\"}}", judge(&answer("A"), &answer("B")))
    });
    let config = RlaifConfig { samples, seed: 7, ..RlaifConfig::default() };
    rlaif(&Scripted(answers), &LlmJudge::new(&judge), &prompts(questions, None), &config).unwrap()
}

fn longer(a: &str, b: &str) -> &'static str {
    match a.len().cmp(&b.len()) {
        std::cmp::Ordering::Greater => "A",
        std::cmp::Ordering::Less => "B",
        std::cmp::Ordering::Equal => "tie",
    }
}

#[test]
fn agreed_verdicts_become_pairs_with_their_origin() {
    let answers = |asked: &str, seed: u64| match (asked, seed) {
        ("same", _) => "the very same words".to_owned(),
        ("even", seed) => format!("answer number {seed} of them"),
        (_, 7) => "a short answer".to_owned(),
        _ => "an answer that is clearly longer".to_owned(),
    };
    let (pairs, report) = run(&["long?", "same", "even"], 2, answers, longer);
    assert_eq!(pairs.len(), 1);
    let pair = &pairs[0];
    assert_eq!(pair.id, "p0#0-1");
    assert_eq!(pair.chosen[0].content, "an answer that is clearly longer");
    assert_eq!(
        (pair.rejected[0].content.as_str(), pair.rejected[0].role),
        ("a short answer", Role::Assistant)
    );
    assert_eq!(pair.prompt[0].content, "long?");
    for (key, value) in
        [("source", "rlaif"), ("model", "scripted"), ("judge", "llm:scripted"), ("judge_reason", "because")]
    {
        assert_eq!(pair.meta[key], value);
    }
    assert_eq!((&pair.meta["chosen_sample"], &pair.meta["seed"]), (&1.into(), &7.into()));
    let counts =
        (report.prompts, report.answers, report.identical, report.comparisons, report.ties, report.pairs);
    assert_eq!(counts, (3, 6, 1, 2, 1, 1));
    // The same seed gives the same pairs.
    assert_eq!(run(&["long?", "same", "even"], 2, answers, longer).0, pairs);
}

#[test]
fn a_judge_that_follows_the_place_gives_no_pair() {
    let answers = |_: &str, seed: u64| format!("an answer with number {seed}");
    let (pairs, report) = run(&["a?", "b?"], 2, answers, |_, _| "A");
    assert!(pairs.is_empty());
    assert_eq!((report.comparisons, report.inconsistent, report.ties), (2, 2, 0));
}

#[test]
fn preferences_in_a_circle_are_set_aside() {
    // Consistent in both orders, and a circle over three samples.
    let said = ["rock is it", "paper is what it is", "scissors is what it really is"];
    let answers = |_: &str, seed: u64| said[seed as usize - 7].to_owned();
    let beats = |a: &str, b: &str| {
        let wins = [("paper", "rock"), ("scissors", "paper"), ("rock", "scissors")];
        if wins.iter().any(|(x, y)| a.starts_with(x) && b.starts_with(y)) { "A" } else { "B" }
    };
    let (pairs, report) = run(&["q?"], 3, answers, beats);
    assert_eq!((report.comparisons, report.cycles, pairs.len()), (3, 3, 0));
    // A judge that ranks them gives all three pairs.
    let (pairs, _) = run(&["q?"], 3, answers, longer);
    let won: Vec<&str> = pairs.iter().map(|p| p.chosen[0].content.as_str()).collect();
    assert_eq!(won, [said[1], said[2], said[2]]);
}

#[test]
fn the_reference_judge_needs_no_model() {
    let answers = |_: &str, seed: u64| {
        if seed == 7 { "You have 30 days to return it." } else { "You have 90 days to return it." }.to_owned()
    };
    let config = RlaifConfig { seed: 7, ..RlaifConfig::default() };
    let prompts = prompts(&["How long may I return it?"], Some("You have 30 days."));
    let (pairs, _) = rlaif(&Scripted(answers), &ReferenceJudge::default(), &prompts, &config).unwrap();
    assert_eq!(pairs[0].chosen[0].content, "You have 30 days to return it.");
    assert!(pairs[0].meta["chosen_score"].as_f64() > pairs[0].meta["rejected_score"].as_f64());
}

#[test]
fn bad_settings_are_refused() {
    let check = |prompts: &[RlaifPrompt], config: RlaifConfig, expect: &str| {
        let model = Scripted(|_: &str, _| String::new());
        let error = rlaif(&model, &ReferenceJudge::default(), prompts, &config).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let some = prompts(&["q?"], None);
    check(&[], RlaifConfig::default(), "no prompt");
    check(&some, RlaifConfig { samples: 1, ..RlaifConfig::default() }, "two answers");
    check(&some, RlaifConfig { temperature: 0.0, ..RlaifConfig::default() }, "without randomness");
}
