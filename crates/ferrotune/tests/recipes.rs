//! Every recipe on the tiny model: it learns what is planted, and says what is wrong.
#![cfg(feature = "torch")]

use std::collections::BTreeSet;
use std::path::Path;

use ferrotune::local_model::LocalModel;
use ferrotune::model_store::{self, LoadedModel, Place};
use ferrotune::recipes::{
    Best, CptTexts, DpoConfig, FreeLoss, HeldPairs, Labelled, Labels, RunConfig, RunOutcome, SftConfig,
    SftData, ThumbData, ThumbExample, Trained, answer_tokens, class_head, classes, classify, cpt, dpo,
    examples, kto, lora_config, orpo, pair_examples, reward, reward_head, sft, text_perplexity, whole_model,
};
use ferrotune_model::generate::score;
use ferrotune_peft::{Adapter, inject, quantize_base};
use ferrotune_preference::Kto;
use ferrotune_tokenizer::Limits;
use ferrotune_train::Freeze;
use ferrotune_types::{
    Conversation, Example, GenerateParams, LanguageModel, Message, PairExample, PreferencePair, Role,
};
use tch::Tensor;

fn tiny() -> (LoadedModel, Adapter) {
    tch::set_num_threads(1); // the model is too small to share
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
    let place = Place::parse("cpu", "fp32").unwrap();
    let mut model = model_store::load(&path.display().to_string(), place, "").unwrap();
    let lora = lora_config(8, 16.0, 0.0, "all-linear", "tiny").unwrap();
    let adapter = inject(&mut model.decoder, &lora, 0).unwrap();
    (model, adapter)
}

fn turn(role: Role, text: impl Into<String>) -> Message {
    Message::new(role, text)
}

/// The chosen answer speaks of days, the rejected one does not.
fn pairs(model: &LoadedModel, ids: std::ops::Range<usize>) -> Vec<PairExample> {
    let pairs: Vec<PreferencePair> = ids
        .map(|i| PreferencePair {
            id: format!("p{i}"),
            prompt: vec![turn(Role::User, format!("May I return item {i}?"))],
            chosen: vec![turn(Role::Assistant, "Yes, within 30 days.")],
            rejected: vec![turn(Role::Assistant, "No, never ask me that.")],
            meta: serde_json::Map::new(),
        })
        .collect();
    pair_examples(&pairs, model.template().unwrap(), &model.tokenizer, &Limits::default()).unwrap().examples
}

fn settings(steps: usize, lr: f64) -> RunConfig {
    RunConfig { steps, lr, schedule: "constant".to_owned(), eval_every: steps / 2, ..RunConfig::default() }
}

/// A figure of the last validation.
fn last(outcome: &RunOutcome, name: &str) -> f64 {
    outcome.validations.last().unwrap().1[name]
}

#[test]
fn one_example_is_learnt_by_heart_and_said() {
    let (model, adapter) = tiny();
    // The tiny model's hidden states are too short for a sure answer: its logits never differ by more than 4.
    let _ = tch::no_grad(|| model.decoder.norm.weight().shallow_clone().g_mul_scalar_(8.0));
    let sentence = "It left us on Monday.";
    let chat = Conversation {
        id: "one".to_owned(),
        messages: vec![turn(Role::User, "Where is it?"), turn(Role::Assistant, sentence)],
        tools: Vec::new(),
        meta: serde_json::Map::new(),
    };
    let made = examples(&[chat], model.template().unwrap(), &model.tokenizer, &Limits::default()).unwrap();
    let data = SftData { train: vec![made.examples], validation: Vec::new() };
    let config = SftConfig { steps: 150, batch: 1, lr: 4e-3, ..SftConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let outcome = sft(&model.decoder, &adapter, &data, &config, dir.path(), "h").unwrap();
    let loss = outcome.losses.last().unwrap();
    assert!(*loss < 0.05, "the loss is still {loss}");
    let said = LocalModel::new("tiny", model)
        .chat(
            &[turn(Role::User, "Where is it?")],
            &GenerateParams { temperature: 0.0, ..GenerateParams::default() },
        )
        .unwrap();
    assert_eq!(said.text, sentence);
}

#[test]
fn a_quantised_base_is_tuned_too() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
    let mut model =
        model_store::load(&path.display().to_string(), Place::parse("cpu", "fp32").unwrap(), "").unwrap();
    quantize_base(&mut model.decoder, true).unwrap();
    let adapter =
        inject(&mut model.decoder, &lora_config(4, 8.0, 0.0, "all-linear", "tiny").unwrap(), 0).unwrap();
    let example = Example::new("e", (5..25).collect(), (0..20).map(|t| t > 0).collect()).unwrap();
    let data = SftData { train: vec![vec![example]], validation: Vec::new() };
    let config = SftConfig { steps: 10, batch: 1, lr: 1e-2, ..SftConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let losses = sft(&model.decoder, &adapter, &data, &config, dir.path(), "h").unwrap().losses;
    assert!(losses[9] < losses[0] * 0.95, "{losses:?}");
}

#[test]
fn preferences_are_learnt_without_a_reference() {
    for name in ["orpo", "simpo", "cpo"] {
        let (model, adapter) = tiny();
        let (train, held) = (pairs(&model, 0..8), pairs(&model, 20..24));
        let loss = FreeLoss::from_name(name, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let outcome =
            orpo(&model.decoder, &adapter, [&train, &held], &loss, &settings(12, 5e-3), dir.path(), "h")
                .unwrap();
        let accuracy = last(&outcome, "eval_rewards/accuracies");
        assert!(accuracy > 0.99, "{name}: held-out accuracy {accuracy}");
        let first = outcome.validations[0].1["eval_loss"];
        assert!(last(&outcome, "eval_loss") < first, "{name}: no better than {first}");
    }
    assert!(FreeLoss::from_name("orp", None).unwrap_err().to_string().contains("known: orpo, simpo, cpo"));
}

#[test]
fn thumbs_are_learnt() {
    let (model, adapter) = tiny();
    let thumbs = |ids| ThumbExample::of_pairs(&pairs(&model, ids));
    let data = ThumbData {
        train: thumbs(0..8),
        validation: thumbs(20..24),
        pairs: pairs(&model, 20..24),
        ..ThumbData::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let config = settings(16, 5e-3);
    let run =
        |config: &RunConfig| kto(&model.decoder, &adapter, &data, &Kto::default(), config, dir.path(), "h");
    let error = run(&RunConfig { batch: 1, ..config.clone() }).unwrap_err().to_string();
    assert!(error.contains("takes 2"), "{error}");
    let outcome = run(&config).unwrap();
    // Before the first update nothing has drifted: every loss is 1 − σ(0).
    assert!((outcome.losses[0] - 0.5).abs() < 1e-5, "{}", outcome.losses[0]);
    assert!(last(&outcome, "eval_drift/accuracy") > 0.9, "{:?}", outcome.validations);
    assert!(last(&outcome, "eval_thumbs_met") > 0.9, "{:?}", outcome.validations);
}

#[test]
fn a_reward_model_scores_the_chosen_answer_higher() {
    let (model, adapter) = tiny();
    let head = reward_head(&model.decoder);
    let (train, held) = (pairs(&model, 0..8), pairs(&model, 20..24));
    let dir = tempfile::tempdir().unwrap();
    let config = settings(16, 1e-2);
    let outcome =
        reward(&model.decoder, &adapter, &head, [&train, &held], Some(0.01), &config, dir.path(), "h")
            .unwrap();
    assert!((outcome.losses[0] - std::f64::consts::LN_2).abs() < 1e-6);
    assert_eq!((outcome.validations[0].1["eval_accuracy"], last(&outcome, "eval_accuracy")), (0.5, 1.0));
}

/// A text may be as long as the model reads.
#[test]
fn heads_take_texts_of_the_whole_context() {
    let (mut model, adapter) = tiny();
    model.decoder.config.max_position_embeddings = 32;
    let ids = |n: u32| (0..n).map(|t| 20 + t % 40).collect::<Vec<u32>>();
    let pair = PairExample::new("p", ids(20), ids(12), ids(7)).unwrap();
    let (head, dir) = (reward_head(&model.decoder), tempfile::tempdir().unwrap());
    let (config, data) = (settings(2, 1e-3), [&[pair][..], &[]]);
    reward(&model.decoder, &adapter, &head, data, None, &config, dir.path(), "h").unwrap();

    let (head, dir) = (class_head(&model.decoder, 2), tempfile::tempdir().unwrap());
    let rows = [
        Labelled { ids: ids(32), labels: Labels::Text(1) },
        Labelled { ids: ids(32), labels: Labels::Tokens([vec![Some(0); 31], vec![Some(1)]].concat()) },
    ];
    let config = RunConfig { best: Some(Best::Accuracy), ..config };
    let data = [&rows[..], &rows[..]];
    classify(&model.decoder, Some((&adapter).into()), &head, data, &config, dir.path(), "h").unwrap();
    assert_eq!(classes(&model.decoder, &head, &rows).unwrap().len(), 33);
}

#[test]
fn texts_and_tokens_are_classified() {
    let text = |i: u32| Labelled {
        ids: (0..6).map(|t| 20 + (i * 7 + t * 3) % 40 + 100 * (i % 2)).collect(),
        labels: Labels::Text((i % 2) as usize),
    };
    // A token's class is whether it is large.
    let tokens = |i: u32| {
        let ids: Vec<u32> = (0..8).map(|t| 20 + (i * 5 + t * 7) % 30).collect();
        let of = ids.iter().enumerate().map(|(t, &id)| (t != 3).then_some(usize::from(id > 34)));
        Labelled { labels: Labels::Tokens(of.collect()), ids }
    };
    for (name, make) in [("texts", &text as &dyn Fn(u32) -> Labelled), ("tokens", &tokens)] {
        let (train, held): (Vec<_>, Vec<_>) = ((0..24).map(make).collect(), (40..48).map(make).collect());
        let (model, adapter) = tiny();
        let head = class_head(&model.decoder, 2);
        let dir = tempfile::tempdir().unwrap();
        let (config, data) = (settings(40, 3e-3), [train.as_slice(), held.as_slice()]);
        let outcome =
            classify(&model.decoder, Some((&adapter).into()), &head, data, &config, dir.path(), "h").unwrap();
        assert!(last(&outcome, "eval_accuracy") > 0.85, "{name}: {:?}", outcome.validations);
        assert_eq!(
            classes(&model.decoder, &head, &held[..1]).unwrap().len(),
            if name == "texts" { 1 } else { 7 }
        );
    }
    let (model, _) = tiny();
    let wrong = Labelled { ids: vec![1], labels: Labels::Text(2) };
    let dir = tempfile::tempdir().unwrap();
    let head = class_head(&model.decoder, 2);
    let error = classify(&model.decoder, None, &head, [&[wrong], &[]], &settings(1, 1e-3), dir.path(), "h");
    assert!(error.unwrap_err().to_string().contains("the head has 2 classes"));
}

#[test]
fn reading_on_learns_the_own_text_and_reports_on_general_text() {
    let (model, adapter) = tiny();
    let own = |i: usize| format!("The parcel number {i} left the depot on Monday and arrives on Friday.");
    let general = |i: usize| format!("Once upon a time {i} kings sat under an old tree.");
    let texts = CptTexts {
        own: (0..12).map(own).collect(),
        own_held: (20..24).map(own).collect(),
        general: (0..12).map(general).collect(),
        general_held: (20..24).map(general).collect(),
    };
    let config = SftConfig { steps: 30, batch: 4, lr: 1e-2, ..SftConfig::default() };
    let run = |replay: f64| {
        let dir = tempfile::tempdir().unwrap();
        cpt(&model.decoder, &adapter, &model.tokenizer, &texts, (64, replay), &config, dir.path(), "h")
    };
    let outcome = run(0.25).unwrap();
    let (own_windows, general_windows) = outcome.windows;
    assert_eq!(general_windows, (own_windows as f64 / 3.0).round() as usize);
    let (before, after) = outcome.own.unwrap();
    assert!(after < 0.5 * before, "own text: {before} to {after}");
    assert!(outcome.general.is_some() && outcome.words().contains("general text"), "{}", outcome.words());
    assert!(run(1.0).unwrap_err().to_string().contains("replay share"));
}

#[test]
fn a_stale_reference_is_refused() {
    let (model, adapter) = tiny();
    let train = pairs(&model, 0..4);
    let dir = tempfile::tempdir().unwrap();
    let config = DpoConfig { steps: 1, reference: "base".to_owned(), ..DpoConfig::default() };
    let run = |hash: &str| dpo(&model.decoder, &adapter, &train, &[], &config, dir.path(), hash);
    assert!(run("model, data and template").unwrap().reference_seconds > 0.0);
    // The same run again finds its reference cached; any other is told so.
    assert_eq!(run("model, data and template").unwrap().reference_seconds, 0.0);
    let error = run("another template").unwrap_err().to_string();
    assert!(error.contains("belongs to another model, data or settings"), "{error}");
}

#[test]
fn accumulation_takes_as_many_passes_as_are_asked_for() {
    let (model, adapter) = tiny();
    let (train, dir) = (pairs(&model, 0..5), tempfile::tempdir().unwrap());
    let config = DpoConfig { epochs: 6.0, batch: 1, accumulation: 4, ..DpoConfig::default() };
    let outcome = dpo(&model.decoder, &adapter, &train, &[], &config, dir.path(), "h").unwrap();
    assert_eq!(outcome.steps, 8, "6 passes over 5 batches, 4 a step");
}

#[test]
fn a_cached_reference_is_the_live_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = DpoConfig { steps: 3, batch: 2, lr: 1e-2, shuffle: false, ..DpoConfig::default() };
    let run = || {
        let (model, adapter) = tiny();
        let train = pairs(&model, 0..4);
        dpo(&model.decoder, &adapter, &train, &[], &config, dir.path(), "h").unwrap()
    };
    let (live, cached) = (run(), run());
    assert!(live.reference_seconds > 0.0 && cached.reference_seconds == 0.0);
    assert_eq!(live.losses, cached.losses);
    assert_eq!(live.margins, cached.margins);

    // And it is what the model says of each answer in a pass of its own.
    let (model, _) = tiny();
    let text = std::fs::read_to_string(dir.path().join("reference.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (i, pair) in pairs(&model, 0..4).iter().enumerate() {
        for (side, answer) in [("chosen", pair.chosen()), ("rejected", pair.rejected())] {
            let alone = score(&model.decoder, pair.prompt(), &[answer]).unwrap()[0].total().sum;
            let kept = file["batches"][i / 2][side][i % 2].as_f64().unwrap();
            assert!((alone - kept).abs() < 1e-4 * alone.abs(), "{side} of pair {i}: {kept}, alone {alone}");
        }
    }
}

#[test]
fn a_batch_larger_than_the_data_counts_the_pairs_that_there_are() {
    let (model, adapter) = tiny();
    let dir = tempfile::tempdir().unwrap();
    let config = DpoConfig { steps: 3, batch: 64, ..DpoConfig::default() };
    let outcome = dpo(&model.decoder, &adapter, &pairs(&model, 0..4), &[], &config, dir.path(), "h").unwrap();
    let seconds: f64 = outcome.step_seconds.iter().sum();
    assert!(outcome.pairs_per_s > 0.0 && outcome.pairs_per_s * seconds < 4.0 * 3.0 + 1e-6);
}

#[test]
fn held_out_pairs_tell_how_far_a_run_has_gone() {
    let (model, adapter) = tiny();
    let (train, held) = (pairs(&model, 0..8), pairs(&model, 20..24));
    let dir = tempfile::tempdir().unwrap();
    let config = DpoConfig { steps: 12, batch: 4, lr: 5e-3, eval_every: 6, ..DpoConfig::default() };
    let batch = |pairs: &[&PairExample]| Ok(ferrotune_types::Batch::from_pairs(pairs)?);
    let reference = HeldPairs::new(&model.decoder, &held, 2, batch).unwrap();
    let unmoved = reference.drift(&model.decoder).unwrap();
    assert_eq!((unmoved.n_pairs, unmoved.accuracy, unmoved.margin), (4, 0.5, 0.0));
    assert!(unmoved.kl.unwrap().abs() < 1e-6);

    let outcome = dpo(&model.decoder, &adapter, &train, &held, &config, dir.path(), "h").unwrap();
    let steps: Vec<usize> = outcome.validations.iter().map(|v| v.0).collect();
    assert_eq!(steps, [0, 6, 12]);
    let (_, last) = outcome.validations[2];
    assert_eq!(last.accuracy, 1.0);
    // The reward is β times the log-ratio.
    assert!((last.margin - 0.1 * last.drift.margin).abs() < 1e-6, "{last:?}");
    assert!((last.drift.chosen - last.drift.rejected - last.drift.margin).abs() < 1e-6, "{last:?}");
    assert!(last.drift.kl.unwrap() > 1e-4, "{last:?}");
    // Of validations with the same accuracy the one with the lowest loss is kept, and its adapter is put back.
    let kept = outcome.validations.iter().find(|v| v.0 == outcome.best_step).unwrap().1;
    let now = reference.drift(&model.decoder).unwrap();
    assert!((now.margin - kept.drift.margin).abs() < 1e-4, "{now:?} {kept:?}");
    let lengths = answer_tokens(&model.decoder, &[held[0].prompt().to_vec()], &model.eos_ids, 5).unwrap();
    assert!(lengths.n == 1 && lengths.mean <= 5.0);
}

#[test]
fn the_whole_model_is_aligned_too() {
    let whole = |freeze: &str| {
        let (mut model, adapter) = tiny();
        adapter.detach(&mut model.decoder);
        let params = whole_model(&model.decoder, &Freeze::parse(freeze)).unwrap();
        (model, params)
    };
    let (model, params) = whole("1");
    let frozen: Vec<(String, Tensor)> = model.decoder.named_tensors();
    let before: Vec<Tensor> = frozen.iter().map(|(_, t)| t.detach().copy()).collect();
    let (train, held) = (pairs(&model, 0..8), pairs(&model, 20..24));
    let dir = tempfile::tempdir().unwrap();
    let config = DpoConfig { steps: 8, batch: 4, lr: 1e-3, ..DpoConfig::default() };
    let outcome =
        dpo(&model.decoder, Trained::Model(&params), &train, &held, &config, dir.path(), "h").unwrap();
    assert!((outcome.losses[0] - std::f64::consts::LN_2).abs() < 1e-6, "{:?}", outcome.losses);
    assert!(outcome.losses[7] < 0.6, "{:?}", outcome.losses);
    let (_, last) = *outcome.validations.last().unwrap();
    assert_eq!(last.accuracy, 1.0);
    assert!(last.drift.kl.unwrap() > 1e-6, "{last:?}");
    // What was frozen is what it was, bit for bit; the rest has moved.
    let moves: BTreeSet<&str> = params.iter().map(|p| p.name.as_str()).collect();
    for ((name, now), before) in frozen.iter().zip(&before) {
        assert_eq!(now.equal(before), !moves.contains(name.as_str()), "{name}");
    }

    // The head moves with it where it is the embedding: the drift is still that from the reference's own head.
    let (model, params) = whole("");
    let batch = |pairs: &[&PairExample]| Ok(ferrotune_types::Batch::from_pairs(pairs)?);
    let reference = HeldPairs::new(&model.decoder, &held, 2, batch).unwrap();
    let kl = || reference.drift(&model.decoder).unwrap().kl.unwrap();
    assert!(kl().abs() < 1e-6);
    let dir = tempfile::tempdir().unwrap();
    let orpo_loss = FreeLoss::from_name("orpo", None).unwrap();
    let settings = settings(4, 1e-3);
    let outcome = orpo(
        &model.decoder,
        Trained::Model(&params),
        [&train, &held],
        &orpo_loss,
        &settings,
        dir.path(),
        "h",
    )
    .unwrap();
    assert!(outcome.losses[3] < outcome.losses[0], "{:?}", outcome.losses);
    assert!(kl() > 1e-6);

    let base = DpoConfig { reference: "base".to_owned(), ..config };
    let error =
        dpo(&model.decoder, Trained::Model(&params), &train, &[], &base, dir.path(), "h").unwrap_err();
    assert!(error.to_string().contains("no adapter to switch off"), "{error}");
}

#[test]
fn unknown_settings_of_a_preference_run_are_refused() {
    let (model, adapter) = tiny();
    let train = pairs(&model, 0..2);
    let dir = tempfile::tempdir().unwrap();
    let check = |config: DpoConfig, expect: &str| {
        let error = dpo(&model.decoder, &adapter, &train, &[], &config, dir.path(), "h").unwrap_err();
        assert!(format!("{error:#}").contains(expect), "{error:#}");
    };
    let config = || DpoConfig { steps: 1, ..DpoConfig::default() };
    check(DpoConfig { loss: "dpo".to_owned(), ..config() }, "unknown loss");
    let error = serde_json::from_str::<DpoConfig>(r#"{"best": "margin"}"#).unwrap_err().to_string();
    assert!(error.contains("expected `accuracy` or `loss`"), "{error}");
    check(DpoConfig { ld_alpha: Some(2.0), ..config() }, "ld_alpha");
    check(DpoConfig { loss_weights: Some(vec![1.0, 0.5]), ..config() }, "2 loss_weights for 1");
    check(DpoConfig { reference: "bas".to_owned(), ..config() }, "the reference is start, base or a model");
    let folder = Some("adapter".into());
    check(DpoConfig { reference_adapter: folder, ..config() }, "name the model it belongs on");
    let mixed = DpoConfig { loss: "sigmoid, sft".to_owned(), loss_weights: Some(vec![1.0, 0.5]), ..config() };
    assert_eq!(mixed.objective().unwrap().loss_type.len(), 2);
}

/// As where weights are too large for fp16.
#[test]
fn a_perplexity_that_is_no_number_is_an_error() {
    let (model, adapter) = tiny();
    let mut decoder = model.decoder;
    adapter.detach(&mut decoder);
    let norm = decoder.leaves().into_iter().find(|leaf| leaf.0 == "model.norm.weight").unwrap().1;
    let _ = tch::no_grad(|| norm.shallow_clone().fill_(f64::NAN));
    let error = text_perplexity(&decoder, &[3, 4, 5, 6], 4, None).unwrap_err().to_string();
    assert!(error.contains("no number") && error.contains("take bf16 or fp32"), "{error}");
}
