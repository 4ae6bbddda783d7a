//! KTO: how thumbs are read, laid and cut, what its settings do, and that a run goes on as if it had not stopped.
#![cfg(feature = "torch")]

use std::path::Path;
use std::process::{Command, Output};

use ferrotune::model_store::{self, LoadedModel, Place};
use ferrotune::recipes::{RunConfig, RunOutcome, ThumbData, ThumbExample, kto, lora_config, thumb_examples};
use ferrotune_peft::{Adapter, inject};
use ferrotune_preference::{Kto, KtoLoss};
use ferrotune_tokenizer::{Limits, SkipReason, Tokenized, Truncation};
use ferrotune_types::{Conversation, Message, PairExample, Role};
use serde_json::{Value, json};

fn llama() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama").display().to_string()
}

fn tiny() -> LoadedModel {
    tch::set_num_threads(1); // the model is too small to share
    model_store::load(&llama(), Place::parse("cpu", "fp32").unwrap(), "").unwrap()
}

fn with_adapter() -> (LoadedModel, Adapter) {
    let mut model = tiny();
    let lora = lora_config(4, 8.0, 0.0, "all-linear", "tiny").unwrap();
    let adapter = inject(&mut model.decoder, &lora, 0).unwrap();
    (model, adapter)
}

/// A chat of these turns, the person's first.
fn chat(id: &str, turns: &[&str]) -> Conversation {
    let role = |i: usize| if i.is_multiple_of(2) { Role::User } else { Role::Assistant };
    let messages = turns.iter().enumerate().map(|(i, text)| Message::new(role(i), *text)).collect();
    Conversation { id: id.to_owned(), messages, tools: Vec::new(), meta: serde_json::Map::new() }
}

fn tokenized(
    model: &LoadedModel,
    chats: &[(Conversation, bool)],
    max_length: usize,
    truncation: Truncation,
) -> Tokenized<ThumbExample> {
    let limits = Limits { max_length, truncation, ..Limits::default() };
    thumb_examples(chats, model.template().unwrap(), &model.tokenizer, &limits).unwrap()
}

/// A thumb on a prompt and an answer of these lengths.
fn thumb(i: u32, n_prompt: u32, n_answer: u32) -> ThumbExample {
    let ids = |n: u32, by: u32| (0..n).map(|t| 20 + (i + by * t) % 60).collect();
    ThumbExample::new(format!("t{i}"), ids(n_prompt, 3), ids(n_answer, 7), i.is_multiple_of(2)).unwrap()
}

fn thumbs(ids: std::ops::Range<u32>) -> Vec<ThumbExample> {
    ids.map(|i| thumb(i, 4 + i % 3, 3 + i % 4)).collect()
}

fn run(
    data: &ThumbData,
    loss: &Kto,
    config: &RunConfig,
    dir: &Path,
) -> anyhow::Result<(RunOutcome, Adapter)> {
    let (model, adapter) = with_adapter();
    let outcome = kto(&model.decoder, &adapter, data, loss, config, dir, "h")?;
    Ok((outcome, adapter))
}

#[test]
fn the_answer_alone_is_learnt_however_the_chat_is_cut() {
    let model = tiny();
    let turns = ["May I return it?", "Yes, within 30 days.", "And the kettle?", "The kettle too, of course."];
    let chats = [(chat("a", &turns), true), (chat("b", &turns[..2]), false)];
    let whole = tokenized(&model, &chats, 1024, Truncation::Right);
    let (long, short) = (&whole.examples[0], &whole.examples[1]);
    assert_eq!((long.desirable(), short.desirable()), (true, false));
    let said = |ids: &[u32]| model.tokenizer.decode(ids, false).unwrap();
    assert!(said(long.answer()).starts_with("The kettle too"), "{:?}", said(long.answer()));
    assert!(said(long.prompt()).contains("within 30 days"), "earlier answers are the prompt's");
    assert!(long.prompt().starts_with(short.prompt()) && short.prompt().len() < long.prompt().len());
    assert_eq!(whole.report.trained_tokens, long.answer().len() + short.answer().len());

    // Two tokens of the answer find room.
    let room = long.prompt().len() + 2;
    let cut = tokenized(&model, &chats[..1], room, Truncation::Right);
    assert_eq!(cut.examples[0].prompt(), long.prompt());
    assert_eq!(cut.examples[0].answer(), &long.answer()[..2]);
    assert_eq!((cut.report.truncated, cut.report.truncated_tokens), (1, long.answer().len() - 2));
    let ends = tokenized(&model, &chats[..1], room, Truncation::Left);
    assert_eq!(ends.examples[0].answer(), long.answer());
    assert_eq!(ends.report.truncated_tokens, long.answer().len() - 2);

    // None does: an earlier answer is not learnt in its place.
    let none = tokenized(&model, &chats, long.prompt().len(), Truncation::Right);
    assert_eq!(none.examples.iter().map(ThumbExample::id).collect::<Vec<_>>(), ["b"]);
    assert_eq!(none.report.dropped[&SkipReason::NoRoom], 1);
    assert!(none.report.to_string().contains("1 dropped: no_room"), "{}", none.report);
}

#[test]
fn rows_with_one_id_keep_their_own_labels() {
    let model = tiny();
    let chats = [(chat("q7", &["Is it?", "Yes."]), true), (chat("q7", &["Is it?", "No."]), false)];
    let labels: Vec<bool> = tokenized(&model, &chats, 1024, Truncation::Drop)
        .examples
        .iter()
        .map(ThumbExample::desirable)
        .collect();
    assert_eq!(labels, [true, false]);
}

#[test]
fn a_pairs_answers_are_not_neighbours() {
    let pair = |i: u32| PairExample::new(format!("p{i}"), vec![i], vec![i, 1], vec![i, 2]).unwrap();
    let pairs: Vec<PairExample> = (0..1003).map(pair).collect();
    let laid: Vec<(u32, bool)> =
        ThumbExample::of_pairs(&pairs).iter().map(|row| (row.prompt()[0], row.desirable())).collect();
    let both = |ids: std::ops::Range<u32>| {
        [true, false].into_iter().flat_map(move |up| ids.clone().map(move |i| (i, up)))
    };
    // TRL takes a thousand pairs apart at a time.
    assert_eq!(laid, both(0..1000).chain(both(1000..1003)).collect::<Vec<_>>());
    let rows = ThumbExample::of_pairs(&pairs[..1]);
    assert_eq!((rows[0].answer(), rows[1].answer()), (pairs[0].chosen(), pairs[0].rejected()));
}

#[test]
fn a_borrowed_answer_keeps_to_the_length_that_rows_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let config = RunConfig { steps: 1, batch: 2, shuffle: false, ..RunConfig::default() };
    // The tiny model reads 2,048 tokens; the second answer on the first prompt would be 4,000.
    let data = ThumbData { train: vec![thumb(0, 2000, 8), thumb(1, 8, 2000)], ..ThumbData::default() };
    let (outcome, _) = run(&data, &Kto::default(), &config, dir.path()).unwrap();
    assert!((outcome.losses[0] - 0.5).abs() < 1e-5, "{:?}", outcome.losses);
    let data = ThumbData { max_length: Some(2007), ..data };
    let error = run(&data, &Kto::default(), &config, dir.path()).unwrap_err().to_string();
    assert!(error.contains("t0: 2008 tokens, 2007 are allowed"), "{error}");
}

#[test]
fn every_row_is_learnt_and_one_without_a_neighbour_is_told_of() {
    let steps = |n: u32, loss_type: KtoLoss, batch: usize| {
        let dir = tempfile::tempdir().unwrap();
        let data = ThumbData { train: thumbs(0..n), validation: thumbs(40..41), ..ThumbData::default() };
        let config = RunConfig { batch, ..RunConfig::default() };
        let (outcome, _) = run(&data, &Kto { loss_type, ..Kto::default() }, &config, dir.path())?;
        anyhow::Ok((outcome.steps, outcome.validations.len()))
    };
    // The fifth row joins the second batch. The only held-out row has nothing to borrow.
    assert_eq!(steps(5, KtoLoss::Kto, 2).unwrap(), (2, 0));
    assert!(steps(1, KtoLoss::Kto, 2).unwrap_err().to_string().contains("takes 2"));
    assert!(steps(2, KtoLoss::Kto, 1).unwrap_err().to_string().contains("takes 2"));
    // APO-zero borrows nothing.
    assert_eq!(steps(5, KtoLoss::ApoZeroUnpaired, 2).unwrap(), (3, 2));
    assert_eq!(steps(1, KtoLoss::ApoZeroUnpaired, 1).unwrap(), (1, 2));
}

#[test]
fn weights_scale_the_losses_of_their_thumbs() {
    let first = |loss: Kto| {
        let dir = tempfile::tempdir().unwrap();
        let data = ThumbData { train: thumbs(0..4), ..ThumbData::default() };
        let config = RunConfig { steps: 1, ..RunConfig::default() };
        run(&data, &loss, &config, dir.path()).map(|(outcome, _)| outcome.losses[0])
    };
    // Two thumbs up and two down at the start, where each loss is λ/2.
    let weighted = Kto { desirable_weight: 3.0, undesirable_weight: 0.5, ..Kto::default() };
    assert!((first(weighted).unwrap() - 0.875).abs() < 1e-5);
    let negative = Kto { desirable_weight: -1.0, ..Kto::default() };
    assert!(first(negative).unwrap_err().to_string().contains("desirable_weight is -1"));
}

#[test]
fn a_kept_reference_is_the_models_and_this_runs() {
    let dir = tempfile::tempdir().unwrap();
    let data = ThumbData { train: thumbs(0..6), validation: thumbs(40..43), ..ThumbData::default() };
    let config = RunConfig { steps: 2, batch: 2, shuffle: false, ..RunConfig::default() };
    let start = |hash: &str| {
        let (model, adapter) = with_adapter();
        kto(&model.decoder, &adapter, &data, &Kto::default(), &config, dir.path(), hash)
    };
    let live = start("h").unwrap();
    let path = dir.path().join("reference.json");
    let kept = std::fs::read_to_string(&path).unwrap();
    let mut file: Value = serde_json::from_str(&kept).unwrap();
    // Two sums a row; the third batch is one that no step comes to, the fourth is held out.
    let known: Vec<usize> =
        file["batches"].as_array().unwrap().iter().map(|b| b.as_array().map_or(0, Vec::len)).collect();
    assert_eq!(known, [4, 4, 0, 6]);
    let cached = start("h").unwrap();
    assert_eq!((cached.losses, cached.validations), (live.losses, live.validations));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), kept);

    let error = start("another template").unwrap_err().to_string();
    assert!(error.contains("belongs to another model, data or settings"), "{error}");
    file["batches"][0][1] = json!(file["batches"][0][1].as_f64().unwrap() - 1.0);
    file["batches"][0][0] = json!(file["batches"][0][0].as_f64().unwrap() - 1.0);
    std::fs::write(&path, file.to_string()).unwrap();
    let error = start("h").unwrap_err().to_string();
    assert!(error.contains("before the first update"), "{error}");
    std::fs::write(&path, "{").unwrap();
    assert!(start("h").unwrap_err().to_string().contains("is broken"));
}

/// The reference is that of the start, not of the checkpoint; the best state and the order of the data go on.
#[test]
fn a_resumed_kto_run_is_the_uninterrupted_one() {
    let pair = |i: u32| {
        let text = |by: u32| (0..5).map(|t| 20 + (i + by * t) % 60).collect();
        PairExample::new(format!("p{i}"), text(1), text(2), text(5)).unwrap()
    };
    let data = ThumbData {
        train: thumbs(0..9),
        validation: thumbs(40..43),
        pairs: (0..3).map(pair).collect(),
        ..ThumbData::default()
    };
    let config = RunConfig {
        steps: 7,
        lr: 5e-3,
        batch: 2,
        checkpoint_every: 3,
        eval_every: 2,
        ..RunConfig::default()
    };
    let (whole, resumed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (expect, adapter) = run(&data, &Kto::default(), &config, whole.path()).unwrap();
    // At the start every thumb is half met, whatever its kind; the best step meets the most.
    let met: Vec<f64> = expect.validations.iter().map(|v| v.1["eval_thumbs_met"]).collect();
    assert_eq!(met[0], 0.5, "{met:?}");
    // Policy and reference are one at the start, and part.
    for (name, moves) in [("eval_rewards/chosen", true), ("eval_rewards/rejected", true), ("eval_kl", false)]
    {
        let [first, last] =
            [expect.validations.first(), expect.validations.last()].map(|v| v.unwrap().1[name]);
        assert!(first.abs() < 1e-5 && (!moves || last.abs() > 1e-3), "{name}: {first}, {last}");
    }
    let last = &expect.validations.last().unwrap().1;
    let margin = last["eval_rewards/chosen"] - last["eval_rewards/rejected"];
    assert!(
        (last["eval_rewards/margins"] - margin).abs() < 1e-9 && last["eval_logps/chosen"] < 0.0,
        "{last:?}"
    );
    let best = expect.validations.iter().find(|v| v.0 == expect.best_step).unwrap();
    assert_eq!(best.1["eval_thumbs_met"], met.iter().copied().fold(0.0, f64::max), "{met:?}");
    // What a run that was killed after its third step left.
    let (from, to) =
        (whole.path().join("checkpoints/step-000003"), resumed.path().join("checkpoints/step-000003"));
    std::fs::create_dir_all(&to).unwrap();
    for name in ["state.json", "tensors.safetensors"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let (found, again) = run(&data, &Kto::default(), &config, resumed.path()).unwrap();
    assert_eq!((found.steps, &found.losses), (7, &expect.losses));
    assert_eq!((found.validations, found.best_step), (expect.validations, expect.best_step));
    assert_eq!(found.step_seconds.len(), 4, "three steps were not taken again");
    for ((name, a), (_, b)) in adapter.parameters().iter().zip(again.parameters()) {
        assert!(a.equal(&b), "{name} differs");
    }
}

/// Files for a command, and the command.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn with(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn rows(&self, name: &str, rows: &[Value]) -> String {
        self.with(name, &rows.iter().map(|row| format!("{row}\n")).collect::<String>())
    }

    /// `ferrotune dpo` for one step.
    fn dpo(&self, data: &str, more: &[&str]) -> Output {
        let (model, out) = (llama(), self.0.path().join("out").display().to_string());
        let args = ["dpo", "--model", &model, "--data", data, "--out", &out, "--steps", "1"];
        let args = [&args[..], &["--dtype", "fp32", "--json"], more].concat();
        Command::new(env!("CARGO_BIN_EXE_ferrotune")).args(args).output().unwrap()
    }

    /// What a run that must succeed says, and its outcome.
    fn said(&self, data: &str, more: &[&str]) -> (String, Value) {
        let out = self.dpo(data, more);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{more:?}: {stderr}");
        (stderr, serde_json::from_slice(&out.stdout).unwrap())
    }

    /// A run that must fail and say `expect`.
    fn fails(&self, data: &str, more: &[&str], expect: &str) {
        let out = self.dpo(data, more);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{more:?}: {stderr}");
        assert!(stderr.contains(expect) && !stderr.contains("panicked"), "{more:?}: {stderr}");
    }
}

#[test]
fn kto_thumbs_are_read_in_every_shape_and_format_that_curate_reads() {
    let files = Files::new();
    let turns = |answer: &str| json!([{"role": "user", "content": "May I?"}, {"role": "assistant", "content": answer}]);
    let check = |file: &str, expect: &[&str]| {
        let (said, _) = files.said(file, &["--loss", "kto"]);
        for expect in expect {
            assert!(said.contains(expect), "{file} should say {expect:?}: {said}");
        }
    };
    // Rows of one id keep their labels.
    let row = |answer: &str, label: bool| json!({"id": "q7", "prompt": "May I?", "completion": answer, "label": label});
    let same = [row("Yes.", true), row("Yes, do.", true), row("Sure.", true), row("No.", false)];
    check(
        &files.rows("same.jsonl", &same),
        &["4 of 4 rows", "3 thumbs up weigh 3 times what 1 thumbs down do"],
    );

    let tags = [
        json!({"messages": turns("Yes."), "kto_tag": true}),
        json!({"messages": turns("No."), "kto_tag": "false"}),
    ];
    check(&files.with("tags.json", &json!(tags).to_string()), &["2 of 2 rows", "1 thumbs up weigh 1 times"]);
    let csv = "prompt,completion,label\nMay I?,Yes.,true\nMay I?,Never.,false\nMay I?,No.,0\n";
    check(
        &files.with("thumbs.csv", csv),
        &["3 of 3 rows", "1 thumbs up weigh 0.5 times what 2 thumbs down do"],
    );

    // The label of the first row may be the bad one; what cannot be used is told with its line.
    let bad = [
        json!({"prompt": "May I?", "completion": "Yes.", "label": "perhaps"}),
        row("Yes.", true),
        json!({"messages": [{"role": "user", "content": "May I?"}], "label": true}),
        row("No.", false),
    ];
    let bad = files.rows("bad.jsonl", &bad);
    check(
        &bad,
        &[
            "2 of 2 rows",
            &format!("{bad}:1: bad_value (`label` must be true or false, it is \"perhaps\")"),
            &format!("{bad}:3: the last turn is no answer"),
        ],
    );
    let unlabelled = files.rows("unlabelled.jsonl", &[json!({"prompt": "May I?", "completion": "Yes."})]);
    files.fails(
        &unlabelled,
        &["--loss", "kto"],
        "unlabelled.jsonl holds neither answers with a label nor preference pairs",
    );
    files.fails("absent.jsonl", &["--loss", "kto"], "absent.jsonl");

    // Pairs to learn from and thumbs held out, and the other way round.
    let pairs =
        [0, 1, 2].map(|i| json!({"prompt": format!("May I {i}?"), "chosen": "Yes.", "rejected": "No."}));
    let (pairs, thumbs) = (files.rows("pairs.jsonl", &pairs), files.rows("thumbs.jsonl", &same));
    for (data, held) in [(&pairs, &thumbs), (&thumbs, &pairs)] {
        let (_, outcome) = files.said(data, &["--loss", "kto", "--validation", held]);
        let figures = &outcome["validations"][1][1];
        assert!(figures["eval_thumbs_met"].is_number(), "{figures}");
        assert_eq!(figures["eval_drift/kl"].is_number(), held == &pairs, "{figures}");
    }
}

#[test]
fn kto_settings_come_from_the_file_of_settings() {
    let files = Files::new();
    let row = |i: usize| json!({"prompt": format!("q {i}"), "completion": "Yes.", "label": i > 0});
    let thumbs = files.rows("thumbs.jsonl", &[0, 1, 2, 3].map(row));
    let pairs = [0, 1].map(|i| json!({"prompt": format!("May I {i}?"), "chosen": "Yes.", "rejected": "No."}));
    let pairs = files.rows("pairs.jsonl", &pairs);
    let config = |text: &str| files.with("c.toml", text);

    // The loss stands in the file; at the start it is λ/2 for each row.
    let settings = config("loss = 'kto'\nundesirable_weight = 3.0\ndesirable_weight = 1.0\n");
    let (said, outcome) = files.said(&thumbs, &["--config", &settings]);
    assert!(said.contains("3 thumbs up weigh 1 times what 1 thumbs down do"), "{said}");
    assert!((outcome["losses"][0].as_f64().unwrap() - 0.75).abs() < 1e-5, "{outcome}");

    let apo = config("loss_type = 'apo_zero_unpaired'\n");
    files.said(&thumbs, &["--loss", "kto", "--config", &apo, "--batch", "1"]);
    let (_, outcome) = files.said(&pairs, &["--config", &config("loss = 'orpo'\nbeta = 0.2\n")]);
    assert!(
        outcome["validations"].is_array() && outcome["reference"].is_null(),
        "ORPO has no reference: {outcome}"
    );

    let orpo = config("loss = 'orpo'\n");
    files.fails(&pairs, &["--config", &orpo, "--reference", "base"], "orpo has none");
    let gamma = config("loss = 'kto'\nsimpo_gamma = 1.0\n");
    files.fails(&thumbs, &["--config", &gamma], "kto does not read simpo_gamma");
    let unknown = config("loss = 'kto'\n\ndesirable_wieght = 1.0\n");
    files.fails(
        &thumbs,
        &["--config", &unknown],
        "c.toml:3: unknown key `desirable_wieght`: did you mean `desirable_weight`?",
    );
    files.fails(&thumbs, &["--config", &config("loss = \n")], "c.toml:1:");
}
