//! Commands that run a model; `ferrotune-torch` has them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ferrotune_data::Item;
use ferrotune_model::{catch_out_of_memory, quantize_int8};
use ferrotune_preference::pairs::{PairCheck, check_pairs};
use ferrotune_rag::{
    ChunkConfig, GroundConfig, RagQuestion, RetrieveConfig, Splitter, SqliteStore, answer, evaluate, index,
    remove_others, retrieve, unknown_documents,
};
use ferrotune_tokenizer::{Limits, Packing, Truncation, pack};
use ferrotune_types::{Embed, Example, GenerateParams, LanguageModel, PairExample, PreferencePair};
use serde_json::{Value, json};

use crate::cli::data::{conversations, render, rows_of};
use crate::cli::{
    Command, CptArgs, DpoArgs, EmbedArgs, MergeArgs, Output, PerplexityArgs, PipelineArgs, RagAskArgs,
    RagCommand, RagEvalArgs, RagIndexArgs, RagModelArgs, RewardArgs, SftArgs, TokenizeArgs, TuneArgs,
    WholeArgs,
};
use crate::files::{content_hash, hash_parts, json_lines, lies_in, write_atomic};
use crate::local_embedder::LocalEmbedder;
use crate::local_model::LocalModel;
use crate::model_store::{self, LoadedModel, Place};
use crate::pair_commands::{Thumbs, thumbs};
use crate::pipeline::{self, PipelineConfig, RunOptions};
use crate::recipes::{
    self, AnswerTokens, CptTexts, DpoConfig, RelativeConfig, RelativeLoss, RunConfig, SftConfig, SftData,
    ThumbData, ThumbExample,
};
use crate::settings::from_toml;
use crate::template::template_source;
use crate::tune_commands::{Tuned, save_rows};

/// Whether a command stops between two steps when it is asked to, and can be gone on with. The others end at once.
pub fn stops_between_steps(command: &Command) -> bool {
    use Command::{Classify, Cpt, Dpo, Mlm, Pipeline, Reward, Sft};
    matches!(command, Pipeline(_) | Sft(_) | Cpt(_) | Mlm(_) | Classify(_) | Dpo(_) | Reward(_))
}

/// Runs any command that is not light.
///
/// # Errors
/// The command's own.
pub fn run(command: &Command) -> Result<Output> {
    let advice = "a smaller --batch, --max-length or --window, or --dtype bf16, needs less";
    catch_out_of_memory(advice, || run_with_torch(command))
}

fn run_with_torch(command: &Command) -> Result<Output> {
    match command {
        Command::Pipeline(args) => run_pipeline(args),
        Command::Render(args) => {
            let (_, template) =
                model_store::load_words(&model_store::resolve(&args.model)?, &args.words.template)?;
            render(&template, args)
        }
        Command::Tokenize(args) => tokenize(args),
        Command::Generate(args) => crate::generate_command::generate(args),
        Command::Perplexity(args) => perplexity(args),
        Command::Sft(args) => sft(args),
        Command::Cpt(args) => cpt(args),
        Command::Mlm(args) => crate::tune_commands::mlm(args),
        Command::Classify(args) => crate::tune_commands::classify(args),
        Command::Reward(args) => reward(args),
        Command::Dpo(args) if is_relative_of_dpo(args)? => relative_of_dpo(args),
        Command::Dpo(args) => dpo(args),
        Command::Pairs(args) => crate::pair_commands::pairs(args),
        Command::Rlaif(args) => crate::pair_commands::rlaif(args),
        Command::Merge(args) => merge(args),
        Command::Embed(args) => embed(args),
        Command::Rag(RagCommand::Index(args)) => rag_index(args),
        Command::Rag(RagCommand::Ask(args)) => rag_ask(args),
        Command::Rag(RagCommand::Eval(args)) => rag_eval(args),
        light => crate::cli::data::run(light),
    }
}

fn run_pipeline(args: &PipelineArgs) -> Result<Output> {
    let mut config = match (&args.config, &args.sft) {
        (Some(file), Some(sft)) => PipelineConfig::read(file)?.with_data(sft),
        (Some(file), None) => PipelineConfig::read(file)?,
        (None, Some(sft)) => PipelineConfig::for_data(sft),
        (None, None) => PipelineConfig::read(Path::new("fixtures/bluesky/pipeline.toml"))?,
    };
    if let Some(sft) = &args.sft {
        pipeline::recipe_for(sft)?.clone_into(&mut config.curate.recipe);
    }
    for (given, place) in [
        (&args.preference, &mut config.data.preference),
        (&args.documents, &mut config.data.documents),
        (&args.questions, &mut config.data.questions),
    ] {
        if given.is_some() {
            place.clone_from(given);
        }
    }
    let choice = &mut config.model;
    for (given, place) in
        [(&args.model, &mut choice.id), (&args.dtype, &mut choice.dtype), (&args.device, &mut choice.device)]
    {
        if let Some(value) = given {
            place.clone_from(value);
        }
    }
    if let (Some(url), Some(model)) = (&args.judge_url, &args.judge_model) {
        config.judge.url.clone_from(url);
        config.judge.model.clone_from(model);
    }
    let options = RunOptions { out: args.out.clone(), resume: args.resume, only: args.only.clone() };
    let report = pipeline::run(&config, &options)?;
    let verdict = report.judge.as_ref().map_or_else(String::new, |j| {
        let verdict = match j.verdict.as_str() {
            "better" | "worse" => format!("The tuned model is {}", j.verdict),
            _ => "The tuned model is not clearly better than its base".to_owned(),
        };
        format!("{verdict} ({} of {} won, {} tied; {} judge).\n", j.tuned, j.n, j.tie, j.kind)
    });
    let text = format!("{verdict}Report: {}", args.out.join("report.html").display());
    Output::one(&report, text)
}

fn tokenize(args: &TokenizeArgs) -> Result<Output> {
    let file = match (&args.show, &args.chat_file) {
        (Some(text), _) => return crate::show_tokens::show_tokens(args, text),
        (None, Some(file)) => file,
        (None, None) => bail!("give --chat-file FILE or --show TEXT"),
    };
    let [model] = args.models.as_slice() else {
        bail!("--chat-file takes one model; several are compared with --show TEXT");
    };
    let (tokenizer, template) = model_store::load_words(&model_store::resolve(model)?, &args.words.template)?;
    let chats = conversations(file)?;
    let limits = Limits { max_length: usize::MAX, ..Limits::default() };
    let made = recipes::examples(&chats, &template, &tokenizer, &limits)?;
    for skipped in &made.skipped {
        eprintln!("warning: {}: row {}: {} ({})", file.display(), skipped.id, skipped.reason, skipped.detail);
    }
    let row = |e: &Example| {
        let mask: Vec<u8> = e.loss_mask().iter().map(|&m| u8::from(m)).collect();
        json!({"id": e.id(), "ids": e.ids(), "loss_mask": mask})
    };
    Ok(Output { json: made.examples.iter().map(row).collect(), text: made.report.to_string() })
}

/// A model with an adapter on it, where one is named; `template` as in [`model_store::load`].
pub(crate) fn load_with_adapter(
    id: &str,
    adapter: Option<&Path>,
    place: Place,
    template: &str,
) -> Result<LoadedModel> {
    with_adapter(model_store::load(id, place, template)?, adapter)
}

/// The model with an adapter on it, where there is one.
pub(crate) fn with_adapter(mut model: LoadedModel, adapter: Option<&Path>) -> Result<LoadedModel> {
    if let Some(folder) = adapter {
        recipes::adapter_on(&mut model.decoder, folder)?;
    }
    Ok(model)
}

fn perplexity(args: &PerplexityArgs) -> Result<Output> {
    let place = Place::parse(&args.device, &args.dtype)?;
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let mut model = load_with_adapter(&args.model, args.adapter.as_deref(), place, "")?;
    if args.int8 {
        quantize_int8(&mut model.decoder);
    }
    let context = model.decoder.config.max_position_embeddings;
    let window = args.window.unwrap_or(context.min(1024));
    if window > context {
        bail!("--window is {window}, but the model reads at most {context} tokens");
    }
    let ids = model.tokenizer.encode(&text, true)?;
    let outcome = recipes::text_perplexity(&model.decoder, &ids, window, args.max_tokens)?;
    Output::one(&outcome, format!("{:.4}", outcome.perplexity))
}

/// What a tuning run is, for its checkpoints: its settings, and what lies in its model (`base`), its data and whatever other
/// files it reads.
pub(crate) fn run_hash<'a>(
    args: &'a TuneArgs,
    place: Place,
    settings: &Value,
    base: &'a Path,
    more: impl IntoIterator<Item = Option<&'a Path>>,
) -> Result<String> {
    let files = [Some(base), Some(args.data.as_path()), args.adapter.as_deref()].into_iter().chain(more);
    let files: Vec<Vec<u8>> =
        files.map(|file| file.map_or(Ok(Vec::new()), content_hash)).collect::<Result<_>>()?;
    let base = args.quantize.as_deref().unwrap_or_default();
    let lora = format!("{} {} {} {} {base}", args.lora_r, args.lora_alpha, args.lora_dropout, args.targets);
    let kind =
        format!("{} {} {} {} {:?}", args.dora, args.rslora, args.init, args.bias, args.modules_to_save);
    let settings = settings.to_string();
    let max_length = args.max_length.unwrap_or_default().to_le_bytes();
    let template = match args.words.template.as_str() {
        "" => String::new(),
        name => template_source(name)?,
    };
    let mut parts = vec![
        place.dtype_name().as_bytes(),
        settings.as_bytes(),
        lora.as_bytes(),
        kind.as_bytes(),
        max_length.as_slice(),
        args.truncation.as_deref().unwrap_or_default().as_bytes(),
        template.as_bytes(),
    ];
    parts.extend(files.iter().map(Vec::as_slice));
    Ok(hash_parts(&parts))
}

/// Refuses settings of validation where nothing is held out.
pub(crate) fn check_validation(whole: &WholeArgs, validation: Option<&Path>) -> Result<()> {
    check_held_out(
        (whole.eval_every, whole.patience),
        validation.is_some(),
        "rows held out: give --validation FILE",
    )
}

/// As [`check_validation`], where the text is held out that `--held-out` says.
pub(crate) fn check_share(asked: (Option<usize>, Option<usize>), held: &[String]) -> Result<()> {
    check_held_out(asked, !held.is_empty(), "text held out: give a --held-out that is enough for a document")
}

fn check_held_out(
    (eval_every, patience): (Option<usize>, Option<usize>),
    is_held_out: bool,
    needs: &str,
) -> Result<()> {
    let named = [("--eval-every", eval_every), ("--patience", patience)];
    match named.into_iter().find(|(_, n)| n.is_some()) {
        Some((option, _)) if !is_held_out => bail!("{option} needs {needs}"),
        _ => Ok(()),
    }
}

/// Tokens of a row at most: as asked, else 1,024, and never more than the model reads.
pub(crate) fn max_length(args: &TuneArgs, model: &LoadedModel) -> Result<usize> {
    let context = model.decoder.config.max_position_embeddings;
    match args.max_length {
        Some(asked) if asked > context => {
            bail!("--max-length is {asked}, but the model reads at most {context} tokens")
        }
        Some(asked) => Ok(asked),
        None => Ok(context.min(1024)),
    }
}

/// What becomes of longer rows: as asked, else as `default` says.
pub(crate) fn truncation(args: &TuneArgs, default: Truncation) -> Truncation {
    match args.truncation.as_deref() {
        Some("keep_start") => Truncation::Right,
        Some("keep_end") => Truncation::Left,
        Some(_) => Truncation::Drop,
        None => default,
    }
}

/// Clears an earlier run's state away unless it is to be gone on with. Called when the run is about to start: a command
/// that fails before that takes nothing away.
pub(crate) fn prepare(out: &Path, resume: bool) -> Result<()> {
    if resume && !out.join("checkpoints").is_dir() {
        eprintln!("warning: {} holds no checkpoint to go on from: starting anew", out.display());
    }
    if !resume {
        for name in ["checkpoints", "reference.json", "metrics.jsonl"] {
            let path = out.join(name);
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))
}

/// What stands in `--config`, or nothing.
fn config_file<T: serde::de::DeserializeOwned>(args: &TuneArgs) -> Result<T> {
    let Some(path) = &args.config else { return from_toml("", Path::new("--config")) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    from_toml(&text, path)
}

/// One key of `--config`, where it is there.
pub(crate) fn config_key(args: &TuneArgs, key: &str) -> Result<Option<toml::Value>> {
    Ok(config_file::<toml::Table>(args)?.remove(key))
}

/// A number of the command line, which takes NaN and infinities for numbers.
fn finite(option: &str, value: Option<f64>) -> Result<Option<f64>> {
    match value {
        Some(value) if !value.is_finite() => bail!("{option} is {value}, not a number"),
        value => Ok(value),
    }
}

/// The settings of `--config` with what the command line says put over them.
pub(crate) fn settings<T: serde::de::DeserializeOwned + serde::Serialize>(
    args: &TuneArgs,
    more: &[(&str, Value)],
) -> Result<T> {
    let from_file: T = config_file(args)?;
    let mut value = serde_json::to_value(from_file)?;
    let given = [
        ("steps", args.steps.map(Value::from)),
        ("batch", args.batch.map(Value::from)),
        ("lr", finite("--lr", args.lr)?.map(Value::from)),
        ("schedule", args.schedule.clone().map(Value::from)),
        ("warmup_steps", args.warmup_steps.map(Value::from)),
        ("seed", args.seed.map(Value::from)),
        ("shuffle", args.no_shuffle.then_some(Value::Bool(false))),
    ];
    let more = more.iter().map(|(name, value)| (*name, Some(value.clone())));
    for (name, setting) in given.into_iter().chain(more) {
        if let Some(setting) = setting {
            value[name] = setting;
        }
    }
    // What is interrupted can be gone on with.
    if value["checkpoint_every"] == 0 {
        value["checkpoint_every"] = Value::from(50);
    }
    Ok(serde_json::from_value(value)?)
}

fn sft(args: &SftArgs) -> Result<Output> {
    let tune = &args.tune;
    let place = Place::parse(&tune.device, &tune.dtype)?;
    let config: SftConfig = settings(tune, &args.whole.settings())?;
    config.check()?;
    check_validation(&args.whole, args.validation.as_deref())?;
    let mut model = model_store::load(&tune.model, place, &tune.words.template)?;
    let max_length = max_length(tune, &model)?;
    let limits = Limits { max_length, truncation: truncation(tune, Truncation::Drop), ..Limits::default() };
    let examples = |file: &Path| -> Result<Vec<Example>> {
        let chats = conversations(file)?;
        let made = recipes::examples(&chats, model.template()?, &model.tokenizer, &limits)?;
        eprintln!("{:>12}: {}: {}", "sft", file.display(), made.report);
        Ok(made.examples)
    };
    let packing = if args.packing { Packing::BestFit } else { Packing::Padded };
    let (train, packed) = pack(examples(&tune.data)?, max_length, packing)?;
    eprintln!("{:>12}: {packed}", "sft");
    let validation = args.validation.as_deref().map(&examples).transpose()?.unwrap_or_default();
    let tuned = Tuned::start(tune, &args.whole, &mut model)?;
    tuned.say(&model.decoder);
    let data = SftData { train, validation };
    if args.find_lr {
        let sweep = (1e-6, 1.0, tune.steps.unwrap_or(80));
        let found = recipes::find_lr(&model.decoder, tuned.trained(), &data, &config, sweep, &tune.out)?;
        return Output::one(&found, found.words());
    }
    let named = json!({
        "config": serde_json::to_value(&config)?, "whole": args.whole.named(), "packing": args.packing,
    });
    let hash = run_hash(tune, place, &named, &model.path, [args.validation.as_deref()])?;
    prepare(&tune.out, tune.resume)?;
    let outcome = recipes::sft(&model.decoder, tuned.trained(), &data, &config, &tune.out, &hash)?;
    let folder = tuned.save(&model, &tune.out)?;
    let (trained, all) = tuned.counts(&model.decoder);
    let mut json = serde_json::to_value(&outcome)?;
    json["trainable_params"] = Value::from(trained);
    json["total_params"] = Value::from(all);
    Ok(Output { json: vec![json], text: folder.display().to_string() })
}

fn dpo(args: &DpoArgs) -> Result<Output> {
    let tune = &args.tune;
    let place = Place::parse(&tune.device, &tune.dtype)?;
    let mut more = args.whole.settings();
    more.extend(finite("--beta", args.beta)?.map(|beta| ("beta", Value::from(beta))));
    more.extend(args.loss.clone().map(|loss| ("loss", Value::from(loss))));
    more.extend(args.reference.clone().map(|id| ("reference", Value::from(id))));
    more.extend(args.reference_adapter.clone().map(|folder| ("reference_adapter", json!(folder))));
    let config: DpoConfig = settings(tune, &more)?;
    config.check()?;
    check_validation(&args.whole, args.validation.as_deref())?;
    let mut model = model_store::load(&tune.model, place, &tune.words.template)?;
    let [train, validation] = tokenized_pairs("dpo", tune, args.validation.as_deref(), &model)?;
    let tuned = Tuned::start(tune, &args.whole, &mut model)?;
    tuned.say(&model.decoder);
    let named = json!({"config": serde_json::to_value(&config)?, "whole": args.whole.named()});
    let hash = run_hash(tune, place, &named, &model.path, [args.validation.as_deref()])?;
    let before = answer_lengths(args, &model, &validation)?;
    prepare(&tune.out, tune.resume)?;
    let trained = tuned.trained();
    let outcome = recipes::dpo(&model.decoder, trained, &train, &validation, &config, &tune.out, &hash)?;
    let folder = tuned.save(&model, &tune.out)?;
    let json = with_answer_lengths(serde_json::to_value(&outcome)?, args, &model, &validation, before)?;
    Output::one(&json, folder.display().to_string())
}

/// How long greedy answers to the first held-out prompts are, where that was asked for.
fn answer_lengths(args: &DpoArgs, model: &LoadedModel, held: &[PairExample]) -> Result<Option<AnswerTokens>> {
    if args.answers == 0 {
        return Ok(None);
    }
    let prompts: Vec<Vec<u32>> = held.iter().take(args.answers).map(|p| p.prompt().to_vec()).collect();
    recipes::answer_tokens(&model.decoder, &prompts, &model.eos_ids, args.answer_tokens).map(Some)
}

/// Adds to a run's figures how long its answers were before and are now.
fn with_answer_lengths(
    mut outcome: Value,
    args: &DpoArgs,
    model: &LoadedModel,
    held: &[PairExample],
    before: Option<AnswerTokens>,
) -> Result<Value> {
    if let Some((before, after)) = before.zip(answer_lengths(args, model, held)?) {
        eprintln!("{:>12}: {:.1} tokens before, {:.1} after", "answers", before.mean, after.mean);
        outcome["answer_tokens"] = json!({"before": before, "after": after});
    }
    Ok(outcome)
}

/// The pairs to train on and those held out, as a step reads them.
fn tokenized_pairs(
    name: &str,
    tune: &TuneArgs,
    validation: Option<&Path>,
    model: &LoadedModel,
) -> Result<[Vec<PairExample>; 2]> {
    let limits = Limits {
        max_length: max_length(tune, model)?,
        truncation: truncation(tune, Truncation::Right),
        ..Limits::default()
    };
    let examples = |file: &Path| tokenized_pairs_of(name, file, &limits, model);
    Ok([examples(&tune.data)?, validation.map(examples).transpose()?.unwrap_or_default()])
}

/// A file's pairs, checked in words and tokenised.
fn tokenized_pairs_of(
    name: &str,
    file: &Path,
    limits: &Limits,
    model: &LoadedModel,
) -> Result<Vec<PairExample>> {
    let pairs = preference_pairs(file)?;
    let tokens = recipes::pair_tokens(&pairs, model.template()?, &model.tokenizer);
    let check = PairCheck { max_length: Some(limits.max_length), ..PairCheck::default() };
    crate::pair_commands::say_check(name, &check_pairs(&pairs, Some(&tokens), &check));
    let mut made = recipes::pair_examples(&pairs, model.template()?, &model.tokenizer, limits)?;
    eprintln!("{name:>12}: {}: {}", file.display(), made.report);
    let n = made.examples.len();
    made.examples.retain(|pair| pair.chosen() != pair.rejected());
    if made.examples.len() < n {
        eprintln!("{name:>12}: {} of them left out: both answers are the same", n - made.examples.len());
    }
    Ok(made.examples)
}

/// Whether the loss that is asked for, by `--loss` or in the file of settings, is none of DPO's own.
fn is_relative_of_dpo(args: &DpoArgs) -> Result<bool> {
    let in_file = || Ok(config_key(&args.tune, "loss")?.and_then(|loss| loss.as_str().map(str::to_owned)));
    let name: Option<String> = args.loss.clone().map_or_else(in_file, |name| anyhow::Ok(Some(name)))?;
    Ok(name.is_some_and(|name| RelativeConfig::LOSSES.contains(&name.as_str())))
}

/// ORPO, SimPO, CPO and KTO.
fn relative_of_dpo(args: &DpoArgs) -> Result<Output> {
    let tune = &args.tune;
    let place = Place::parse(&tune.device, &tune.dtype)?;
    let mut more = args.whole.settings();
    more.extend(finite("--beta", args.beta)?.map(|beta| ("beta", Value::from(beta))));
    more.extend(args.loss.clone().map(|loss| ("loss", Value::from(loss))));
    let config: RelativeConfig = settings(tune, &more)?;
    if let Some(reference) = &args.reference {
        bail!("--reference {reference} goes with DPO; {} has none, or the model as it is now", config.loss);
    }
    let (loss, run) = (config.loss()?, config.run());
    run.check()?;
    check_validation(&args.whole, args.validation.as_deref())?;
    let mut model = model_store::load(&tune.model, place, &tune.words.template)?;
    let thumbs = matches!(loss, RelativeLoss::Kto(_)).then(|| thumb_data(args, &model)).transpose()?;
    let [train, held] = match &thumbs {
        Some(data) => [Vec::new(), data.pairs.clone()],
        None => tokenized_pairs("pairs", tune, args.validation.as_deref(), &model)?,
    };
    let tuned = Tuned::start(tune, &args.whole, &mut model)?;
    tuned.say(&model.decoder);
    let named = json!({"config": serde_json::to_value(&config)?, "whole": args.whole.named()});
    let hash = run_hash(tune, place, &named, &model.path, [args.validation.as_deref()])?;
    let before = answer_lengths(args, &model, &held)?;
    prepare(&tune.out, tune.resume)?;
    let outcome = match &loss {
        RelativeLoss::Kto(loss) => {
            let data = thumbs.unwrap_or_default();
            recipes::kto(&model.decoder, tuned.trained(), &data, loss, &run, &tune.out, &hash)?
        }
        RelativeLoss::Free(loss) => {
            recipes::orpo(&model.decoder, tuned.trained(), [&train, &held], loss, &run, &tune.out, &hash)?
        }
    };
    let folder = tuned.save(&model, &tune.out)?;
    let json = with_answer_lengths(serde_json::to_value(&outcome)?, args, &model, &held, before)?;
    Output::one(&json, folder.display().to_string())
}

/// Single answers with a thumb each, as a file holds them or out of its pairs; the held-out file may be of the other
/// kind.
fn thumb_data(args: &DpoArgs, model: &LoadedModel) -> Result<ThumbData> {
    let tune = &args.tune;
    let limits = Limits {
        max_length: max_length(tune, model)?,
        truncation: truncation(tune, Truncation::Right),
        ..Limits::default()
    };
    let examples = |file: &Path| -> Result<(Vec<ThumbExample>, Vec<PairExample>)> {
        let Some(Thumbs { chats: thumbs, .. }) = thumbs(file)? else {
            let pairs = tokenized_pairs_of("pairs", file, &limits, model)?;
            return Ok((ThumbExample::of_pairs(&pairs), pairs));
        };
        let made = recipes::thumb_examples(&thumbs, model.template()?, &model.tokenizer, &limits)?;
        eprintln!("{:>12}: {}: {}", "kto", file.display(), made.report);
        Ok((made.examples, Vec::new()))
    };
    let (train, _) = examples(&tune.data)?;
    let (validation, pairs) = args.validation.as_deref().map(examples).transpose()?.unwrap_or_default();
    Ok(ThumbData { train, validation, pairs, max_length: Some(limits.max_length) })
}

fn reward(args: &RewardArgs) -> Result<Output> {
    let tune = &args.tune;
    let place = Place::parse(&tune.device, &tune.dtype)?;
    let config: RunConfig = settings(tune, &args.whole.settings())?;
    config.check()?;
    check_validation(&args.whole, args.validation.as_deref())?;
    let mut model = model_store::load(&tune.model, place, &tune.words.template)?;
    let [train, held] = tokenized_pairs("pairs", tune, args.validation.as_deref(), &model)?;
    let tuned = Tuned::start(tune, &args.whole, &mut model)?;
    tuned.say(&model.decoder);
    let head = recipes::reward_head(&model.decoder);
    let centering = Some(args.centering).filter(|&c| c != 0.0);
    let named = json!({
        "config": serde_json::to_value(&config)?, "centering": centering, "whole": args.whole.named(),
    });
    let hash = run_hash(tune, place, &named, &model.path, [args.validation.as_deref()])?;
    prepare(&tune.out, tune.resume)?;
    let outcome = recipes::reward(
        &model.decoder,
        tuned.trained(),
        &head,
        [&train, &held],
        centering,
        &config,
        &tune.out,
        &hash,
    )?;
    let folder = tuned.save(&model, &tune.out)?;
    save_rows(&head, &tune.out.join("score.safetensors"))?;
    Output::one(&outcome, format!("{} and score.safetensors", folder.display()))
}

fn cpt(args: &CptArgs) -> Result<Output> {
    let tune = &args.tune;
    let place = Place::parse(&tune.device, &tune.dtype)?;
    let config: SftConfig = settings(tune, &args.whole.settings())?;
    config.check()?;
    let mut model = model_store::load(&tune.model, place, &tune.words.template)?;
    let (own, own_held) = documents(&tune.data, args.held_out)?;
    check_share((args.whole.eval_every, args.whole.patience), &own_held)?;
    let (general, general_held) = match &args.general {
        Some(file) => documents(file, args.held_out)?,
        None => (Vec::new(), Vec::new()),
    };
    if let Some(file) = args.general.as_deref().filter(|_| args.replay > 0.0 && general.is_empty()) {
        bail!("{} holds no text to replay: leave out --general, or give another file", file.display());
    }
    let texts = CptTexts { own, own_held, general, general_held };
    let tuned = Tuned::start(tune, &args.whole, &mut model)?;
    tuned.say(&model.decoder);
    let named = json!({
        "config": serde_json::to_value(&config)?, "replay": args.replay, "held_out": args.held_out,
        "whole": args.whole.named(),
    });
    let hash = run_hash(tune, place, &named, &model.path, [args.general.as_deref()])?;
    let window = (max_length(tune, &model)?, args.replay);
    prepare(&tune.out, tune.resume)?;
    let outcome = recipes::cpt(
        &model.decoder,
        tuned.trained(),
        &model.tokenizer,
        &texts,
        window,
        &config,
        &tune.out,
        &hash,
    )?;
    let folder = tuned.save(&model, &tune.out)?;
    let text = format!("{}\n{}", outcome.words(), folder.display());
    Output::one(&outcome, text)
}

/// A file's documents, the last `held_out` of them apart: the rows of a dataset, or the paragraphs of a text.
pub(crate) fn documents(file: &Path, held_out: f64) -> Result<(Vec<String>, Vec<String>)> {
    let is_text = file.extension().is_some_and(|e| e == "txt" || e == "md");
    if !(0.0..1.0).contains(&held_out) {
        bail!("--held-out is {held_out}, not a share of at least 0 and below 1");
    }
    let mut all: Vec<String> = if is_text {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = text.replace("\r\n", "\n");
        text.split("\n\n").map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()
    } else {
        let text =
            |item| if let Item::Document(document) = item { Ok(document.text) } else { Err(Box::new(item)) };
        let rows = rows_of(file, "text", text)?;
        rows.warn();
        rows.wanted
    };
    let n_held = (all.len() as f64 * held_out) as usize;
    let held = all.split_off(all.len() - n_held);
    Ok((all, held))
}

pub(crate) fn preference_pairs(file: &Path) -> Result<Vec<PreferencePair>> {
    let rows = rows_of(file, "preference pair", pair)?;
    rows.warn();
    Ok(rows.wanted)
}

/// A preference pair, or what else it is.
pub(crate) fn pair(item: Item) -> Result<PreferencePair, Box<Item>> {
    if let Item::Pair(pair) = item { Ok(pair) } else { Err(Box::new(item)) }
}

fn merge(args: &MergeArgs) -> Result<Output> {
    let outcome = recipes::merge(&args.base, &args.adapter, &args.out, &args.words.template)?;
    let text =
        format!("{} (logits differ by at most {:.2e})", args.out.display(), outcome.max_abs_logit_diff);
    Output::one(&outcome, text)
}

fn embed(args: &EmbedArgs) -> Result<Output> {
    let place = Place::parse(&args.device, &args.dtype)?;
    let rows = text_column(&args.file, &args.field)?;
    let embedder = LocalEmbedder::load(&args.model, place)?;
    check_not_read(&args.out, &args.file, embedder.path())?;
    let texts: Vec<&str> = rows.iter().map(String::as_str).collect();
    let started = Instant::now();
    let vectors = embedder.vectors(&texts)?;
    let rate = texts.len() as f64 / started.elapsed().as_secs_f64();
    let dim = embedder.dim();
    let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![vectors.len(), dim], &bytes)?;
    write_atomic(&args.out, &safetensors::serialize([("embeddings", view)], None)?)?;
    let json = json!({"rows": vectors.len(), "dim": dim, "docs_per_s": rate, "peak_rss_mib": crate::progress::peak_rss_mib()});
    let text = format!("{} rows of {dim} numbers in {}", vectors.len(), args.out.display());
    Ok(Output { json: vec![json], text })
}

/// Refuses an `--out` that is the file of texts, or that lies with the model, whatever links lead there.
fn check_not_read(out: &Path, texts: &Path, model: &Path) -> Result<()> {
    if lies_in(out, texts) {
        bail!("--out {} is the file that is read: name another", out.display());
    }
    // In the hub's cache a model's files are links to elsewhere.
    let files = std::fs::read_dir(model).into_iter().flatten().flatten().map(|entry| entry.path());
    if std::iter::once(model.to_owned()).chain(files).any(|path| lies_in(out, &path)) {
        bail!("--out {} lies with the model that is read: name a file elsewhere", out.display());
    }
    Ok(())
}

fn text_column(file: &Path, field: &str) -> Result<Vec<String>> {
    json_lines(file, "", |line, row: Value| {
        let text = row.get(field).and_then(Value::as_str);
        let at = || format!("{}:{line}: no text in the column {field:?}", file.display());
        Ok(text.with_context(at)?.to_owned())
    })
}

fn rag_index(args: &RagIndexArgs) -> Result<Output> {
    let documents = crate::documents::read_folder(&args.folder)?;
    let embedder = load_embedder(&args.encoder, "auto", "auto")?;
    let mut store = SqliteStore::open_or_create(&args.out, ferrotune_rag::Language::English)?;
    let chunks =
        ChunkConfig { splitter: Splitter::Markdown, size: args.chunk_chars, overlap: args.overlap_chars };
    let report = index(&mut store, &documents, &chunks, embedder.as_ref().map(|e| e as &dyn Embed))?;
    let gone = if args.keep { Vec::new() } else { remove_others(&mut store, &documents)? };
    let text = format!(
        "{} documents, {} chunks written to {}, {} documents that are gone removed",
        report.documents,
        report.chunks,
        args.out.display(),
        gone.len()
    );
    let mut json = serde_json::to_value(report)?;
    json["gone"] = json!(gone);
    Output::one(&json, text)
}

fn load_embedder(name: &str, device: &str, dtype: &str) -> Result<Option<LocalEmbedder>> {
    if name == "none" {
        return Ok(None);
    }
    Ok(Some(LocalEmbedder::load(name, Place::parse(device, dtype)?)?))
}

struct RagParts {
    store: SqliteStore,
    embedder: Option<LocalEmbedder>,
    model: Option<LocalModel>,
    find: RetrieveConfig,
    how: GroundConfig,
}

fn rag_parts(file: &PathBuf, with: &RagModelArgs) -> Result<RagParts> {
    if !file.is_file() {
        bail!("{} is not there; make it by `ferrotune rag index`", file.display());
    }
    let place = Place::parse(&with.device, &with.dtype)?;
    let model = match with.model.as_str() {
        "none" => None,
        id => Some(LocalModel::new(
            id,
            load_with_adapter(id, with.adapter.as_deref(), place, &with.words.template)?,
        )),
    };
    Ok(RagParts {
        store: SqliteStore::open(file)?,
        embedder: load_embedder(&with.encoder, &with.device, &with.dtype)?,
        model,
        find: RetrieveConfig { k: with.k, ..RetrieveConfig::default() },
        how: GroundConfig {
            sources: with.k,
            params: GenerateParams { max_new_tokens: with.max_new_tokens, ..GenerateParams::default() },
            ..GroundConfig::default()
        },
    })
}

impl RagParts {
    fn embedder(&self) -> Option<&dyn Embed> {
        self.embedder.as_ref().map(|e| e as &dyn Embed)
    }

    fn model(&self) -> Option<&dyn LanguageModel> {
        self.model.as_ref().map(|m| m as &dyn LanguageModel)
    }
}

fn rag_ask(args: &RagAskArgs) -> Result<Output> {
    let parts = rag_parts(&args.index, &args.with)?;
    let hits = retrieve(&parts.store, parts.embedder(), &args.question, &parts.find)?;
    let found = answer(parts.model(), parts.embedder(), &args.question, &hits, &parts.how)?;
    let mut text = found.text.clone();
    for citation in &found.citations {
        text.extend([format!("\n  [{}] {}", citation.number, citation.doc_id)]);
    }
    Output::one(&found, text)
}

fn rag_eval(args: &RagEvalArgs) -> Result<Output> {
    let parts = rag_parts(&args.index, &args.with)?;
    let questions: Vec<RagQuestion> = pipeline::rag_questions(&args.questions)?;
    if questions.is_empty() {
        bail!("{} holds no question", args.questions.display());
    }
    let unknown = unknown_documents(&parts.store, &questions)?;
    if !unknown.is_empty() {
        bail!(
            "{} names documents that the index does not hold: {}",
            args.questions.display(),
            unknown.join(", ")
        );
    }
    let report =
        evaluate(&parts.store, parts.embedder(), parts.model(), &questions, &parts.find, &parts.how)?;
    let figures = [
        ("recall_at_1", report.recall_at_1),
        ("recall_at_3", report.recall_at_3),
        ("mrr", report.mrr),
        ("ndcg_at_10", report.ndcg_at_10),
        ("answered", report.answered),
        ("citation_precision", report.citation_precision),
    ];
    let said = |(name, value): (&str, f64)| {
        let measured = report.not_measured.iter().all(|n| n != name);
        if measured { format!("{name} {value:.3}") } else { format!("{name} not measured") }
    };
    let supported = report.supported.map(|share| format!("supported {share:.3}"));
    let figures: Vec<String> = figures.into_iter().map(said).chain(supported).collect();
    let text = format!("{} questions: {}", report.n, figures.join(", "));
    Output::one(&report, text)
}
