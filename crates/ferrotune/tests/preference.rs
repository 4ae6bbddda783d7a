//! What preference runs promise: the reference is checked, the best step is the most accurate, margins count.
#![cfg(feature = "torch")]

use std::path::Path;

use ferrotune::model_store::{self, LoadedModel, Place};
use ferrotune::recipes::{
    Best, DpoConfig, FreeLoss, RunConfig, dpo, lora_config, orpo, pair_examples, pair_tokens, reward,
    reward_head,
};
use ferrotune_peft::{Adapter, inject};
use ferrotune_preference::pairs::{PairCheck, check_pairs};
use ferrotune_tokenizer::Limits;
use ferrotune_types::{Message, PairExample, PreferencePair, Role};
use serde_json::{Value, json};

fn tiny() -> (LoadedModel, Adapter) {
    tch::set_num_threads(1); // the model is too small to share
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
    let mut model =
        model_store::load(&path.display().to_string(), Place::parse("cpu", "fp32").unwrap(), "").unwrap();
    let lora = lora_config(8, 16.0, 0.0, "all-linear", "tiny").unwrap();
    let adapter = inject(&mut model.decoder, &lora, 0).unwrap();
    (model, adapter)
}

fn words(i: usize, margin: Option<f64>) -> PreferencePair {
    let turn = |role, text: String| vec![Message::new(role, text)];
    PreferencePair {
        id: format!("p{i}"),
        prompt: turn(Role::User, format!("May I return item {i}?")),
        chosen: turn(Role::Assistant, "Yes, within 30 days.".to_owned()),
        rejected: turn(Role::Assistant, "No, never ask me that.".to_owned()),
        meta: margin.map(|margin| ("margin".to_owned(), json!(margin))).into_iter().collect(),
    }
}

fn pairs(model: &LoadedModel, ids: std::ops::Range<usize>, margin: Option<f64>) -> Vec<PairExample> {
    let pairs: Vec<PreferencePair> = ids.map(|i| words(i, margin)).collect();
    pair_examples(&pairs, model.template().unwrap(), &model.tokenizer, &Limits::default()).unwrap().examples
}

/// A cache that says something else than the model is caught before the first update, with a fresh adapter whatever the
/// reference is called.
#[test]
fn a_reference_that_is_not_the_models_stops_the_run() {
    for reference in ["start", "base"] {
        let dir = tempfile::tempdir().unwrap();
        let config =
            DpoConfig { steps: 1, batch: 2, reference: reference.to_owned(), ..DpoConfig::default() };
        let run = || {
            let (model, adapter) = tiny();
            dpo(&model.decoder, &adapter, &pairs(&model, 0..4, None), &[], &config, dir.path(), "h")
        };
        assert!((run().unwrap().losses[0] - std::f64::consts::LN_2).abs() < 1e-5);
        let cache = dir.path().join("reference.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(&cache).unwrap()).unwrap();
        for batch in file["batches"].as_array_mut().unwrap() {
            // Null is a batch that no step comes to.
            if let Some(sum) = batch.pointer_mut("/chosen/0") {
                *sum = json!(sum.as_f64().unwrap() - 0.5);
            }
        }
        std::fs::write(&cache, file.to_string()).unwrap();
        let error = run().unwrap_err().to_string();
        assert!(error.contains("0.69"), "{reference}: {error}");
    }
}

/// IPO's loss begins at 0.25 / β², which is no reason to stop.
#[test]
fn a_small_beta_is_no_divergence() {
    let (model, adapter) = tiny();
    let dir = tempfile::tempdir().unwrap();
    let config =
        DpoConfig { steps: 2, batch: 2, loss: "ipo".to_owned(), beta: 0.001, ..DpoConfig::default() };
    let outcome =
        dpo(&model.decoder, &adapter, &pairs(&model, 0..4, None), &[], &config, dir.path(), "h").unwrap();
    assert!((outcome.losses[0] - 250_000.0).abs() < 1.0, "{:?}", outcome.losses);
}

/// On pairs that all say the opposite of what is learnt, every step is worse than the start, and patience ends the run.
#[test]
fn the_most_accurate_step_is_kept_and_patience_counts_by_it() {
    let dir = || tempfile::tempdir().unwrap();
    let contrary = |model: &LoadedModel| -> Vec<PairExample> {
        let turned = |p: PairExample| {
            PairExample::new(p.id(), p.prompt().to_vec(), p.rejected().to_vec(), p.chosen().to_vec()).unwrap()
        };
        pairs(model, 20..24, None).into_iter().map(turned).collect()
    };
    let settings = |steps| RunConfig {
        steps,
        batch: 2,
        lr: 1e-2,
        schedule: "constant".to_owned(),
        eval_every: 2,
        patience: 2,
        ..RunConfig::default()
    };
    let check = |what: &str, steps: usize, best: usize, note: Option<String>| {
        assert!(steps < 40, "{what}: {steps} steps");
        assert!(best < steps, "{what}: {best}");
        assert!(note.is_some_and(|note| !note.contains("loss of -")), "{what}");
    };
    let (model, adapter) = tiny();
    let (train, held) = (pairs(&model, 0..8, None), contrary(&model));
    let config = DpoConfig {
        steps: 40,
        batch: 2,
        lr: 1e-2,
        schedule: "constant".to_owned(),
        eval_every: 2,
        patience: 2,
        ..DpoConfig::default()
    };
    let out = dpo(&model.decoder, &adapter, &train, &held, &config, dir().path(), "h").unwrap();
    check("dpo", out.steps, out.best_step, out.note);
    let (model, adapter) = tiny();
    let loss = FreeLoss::from_name("simpo", None).unwrap();
    let by_accuracy = RunConfig { best: Some(Best::Accuracy), ..settings(40) };
    let out =
        orpo(&model.decoder, &adapter, [&train, &held], &loss, &by_accuracy, dir().path(), "h").unwrap();
    check("simpo", out.steps, out.best_step, out.note);
    let (model, adapter) = tiny();
    let head = reward_head(&model.decoder);
    let run = settings(40);
    let out =
        reward(&model.decoder, &adapter, &head, [&train, &held], None, &run, dir().path(), "h").unwrap();
    check("reward", out.steps, out.best_step, out.note);
}

/// −ln σ(s⁺ − s⁻ − m): with a head of zeros, −ln σ(−m).
#[test]
fn a_margin_reaches_the_reward_models_loss() {
    let first = |margin: Option<f64>| {
        let (model, adapter) = tiny();
        let (head, dir) = (reward_head(&model.decoder), tempfile::tempdir().unwrap());
        let config = RunConfig { steps: 1, batch: 2, ..RunConfig::default() };
        let train = pairs(&model, 0..2, margin);
        assert_eq!(train[0].margin(), margin);
        let out = reward(&model.decoder, &adapter, &head, [&train, &train], None, &config, dir.path(), "h")
            .unwrap();
        assert!((out.losses[0] - out.validations[0].1["eval_loss"]).abs() < 1e-6);
        out.losses[0]
    };
    assert!((first(None) - std::f64::consts::LN_2).abs() < 1e-6);
    assert!((first(Some(1.5)) - (1.0 + 1.5f64.exp()).ln()).abs() < 1e-5);
}

#[test]
fn prompts_that_leave_no_room_are_flagged_by_their_tokens() {
    let (model, _) = tiny();
    let all: Vec<PreferencePair> = (0..3).map(|i| words(i, None)).collect();
    let tokens = pair_tokens(&all, model.template().unwrap(), &model.tokenizer);
    let made = pairs(&model, 0..3, None);
    for (tokens, made) in tokens.iter().zip(&made) {
        let lengths = (made.prompt().len(), made.chosen().len(), made.rejected().len());
        assert_eq!((tokens.prompt, tokens.chosen, tokens.rejected), lengths);
    }
    let flags = |max_length| {
        let check = PairCheck { max_length: Some(max_length), ..PairCheck::default() };
        check_pairs(&all, Some(&tokens), &check).counts.get("no_room").copied().unwrap_or(0)
    };
    assert_eq!((flags(tokens[0].prompt), flags(tokens[0].prompt + 1)), (3, 0));
}
