//! Commands that tune: what `sft` and `cpt` share of adapters and whole models, `classify`, and `mlm`.

mod class_rows;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_model::checkpoint::{LoadedEncoder, Source, load_encoder, save_encoder};
use ferrotune_model::{Decoder, Encoder};
use ferrotune_peft::{
    Adapter, BiasMode, Init, LoraConfig, OneOrMany, Targets, inject, quantize_base, save as save_adapter,
};
use ferrotune_tokenizer::{Encoded, Limits, Tokenizer, Truncation};
use ferrotune_train::{Freeze, Masking, Param, unfreeze};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::cli::{ClassifyArgs, MlmArgs, Output, TuneArgs, WholeArgs};
use crate::commands::{
    check_share, check_validation, config_key, documents, load_with_adapter, max_length, prepare, run_hash,
    settings, truncation,
};
use crate::files::{content_hash, hash_parts, lies_in, write_atomic, write_folder};
use crate::model_store::{self, LoadedModel, Place};
use crate::recipes::{
    self, Labelled, Labels, MlmConfig, RunConfig, RunOutcome, Trained, classify as train_classes,
};
use class_rows::{Beside, ClassRow, ClassRows, Classes};

/// What a command trains.
pub(crate) enum Tuned {
    /// An adapter, which hangs on the model.
    Adapter(Box<Adapter>),
    /// The model's own tensors.
    Model(Vec<Param>),
}

impl Tuned {
    /// As the options say: an adapter, new or one to go on with, or with `--full` the model itself.
    pub(crate) fn start(tune: &TuneArgs, whole: &WholeArgs, model: &mut LoadedModel) -> Result<Self> {
        let freeze = Freeze::parse(&whole.freeze_layers);
        if whole.full {
            model_store::check_replaceable(&tune.out.join("model"), &model.path)?;
            return Ok(Tuned::Model(recipes::whole_model(&model.decoder, &freeze)?));
        }
        Ok(Tuned::Adapter(Box::new(start_adapter(tune, &freeze, model)?)))
    }

    pub(crate) fn trained(&self) -> Trained<'_> {
        match self {
            Tuned::Adapter(adapter) => Trained::Adapter(adapter),
            Tuned::Model(params) => Trained::Model(params),
        }
    }

    /// Numbers that are trained, and all numbers.
    pub(crate) fn counts(&self, decoder: &Decoder) -> (usize, usize) {
        match self {
            Tuned::Adapter(adapter) => {
                let table = adapter.parameter_table(decoder);
                (table.trainable, table.trainable + table.base_parameters)
            }
            Tuned::Model(params) => (
                params.iter().map(|p| p.tensor.numel()).sum(),
                decoder.named_tensors().iter().map(|(_, t)| t.numel()).sum(),
            ),
        }
    }

    /// Says what is trained: the table of an adapter, or the share of a model.
    pub(crate) fn say(&self, decoder: &Decoder) {
        match self {
            Tuned::Adapter(adapter) => eprintln!("{}", adapter.parameter_table(decoder)),
            Tuned::Model(_) => {
                let (trained, all) = self.counts(decoder);
                eprintln!("{:>12}: {trained} of {all} numbers of the model itself", "trained");
            }
        }
    }

    /// Writes `out/adapter`, or `out/model`, which transformers loads; says which.
    pub(crate) fn save(&self, model: &LoadedModel, out: &Path) -> Result<PathBuf> {
        match self {
            Tuned::Adapter(adapter) => {
                let folder = out.join("adapter");
                save_adapter(adapter, &folder)?;
                Ok(folder)
            }
            Tuned::Model(_) => {
                let folder = out.join("model");
                model_store::save(model, &folder, model.decoder.kind)?;
                Ok(folder)
            }
        }
    }
}

impl WholeArgs {
    /// Those that are settings of a recipe.
    pub(crate) fn settings(&self) -> Vec<(&'static str, Value)> {
        let mut out: Vec<(&'static str, Value)> = Vec::new();
        out.extend(self.optimizer.clone().map(|o| ("optimizer", o.into())));
        out.extend(self.eval_every.map(|n| ("eval_every", n.into())));
        out.extend(self.patience.map(|n| ("patience", n.into())));
        out.extend(self.activation_checkpointing.then(|| ("activation_checkpointing", true.into())));
        out
    }

    /// Those that are not, for a run's name.
    pub(crate) fn named(&self) -> Value {
        json!({"full": self.full, "freeze": self.freeze_layers})
    }
}

/// The adapter that `tune` names, or a new one as it says. `freeze` by number leaves the first blocks without.
pub(crate) fn start_adapter(tune: &TuneArgs, freeze: &Freeze, model: &mut LoadedModel) -> Result<Adapter> {
    if tune.quantize.is_some() {
        quantize_base(&mut model.decoder, true)?;
    }
    let Some(folder) = &tune.adapter else {
        let config = adapter_config(tune, freeze, &model.decoder)?;
        return Ok(inject(&mut model.decoder, &config, seed(tune)?)?);
    };
    recipes::adapter_to_train(&mut model.decoder, folder)
}

/// As the command line says, else `--config`, else 0.
fn seed(tune: &TuneArgs) -> Result<u64> {
    let in_file = || Ok(config_key(tune, "seed")?.and_then(|seed| seed.as_integer()).unwrap_or(0) as u64);
    tune.seed.map_or_else(in_file, Ok)
}

fn adapter_config(tune: &TuneArgs, freeze: &Freeze, decoder: &Decoder) -> Result<LoraConfig> {
    let n_blocks = decoder.blocks.len();
    let mut config =
        recipes::lora_config(tune.lora_r, tune.lora_alpha, tune.lora_dropout, &tune.targets, &tune.model)?;
    config.use_dora = tune.dora;
    config.use_rslora = tune.rslora;
    config.init_lora_weights = match tune.init.as_str() {
        "gaussian" => Init::Gaussian,
        "pissa" => Init::Pissa,
        "olora" => Init::Olora,
        _ => Init::Default,
    };
    config.bias = match tune.bias.as_str() {
        "all" => BiasMode::All,
        "lora_only" => BiasMode::LoraOnly,
        _ => BiasMode::None,
    };
    if !tune.modules_to_save.is_empty() {
        config.modules_to_save = Some(tune.modules_to_save.clone());
    }
    match freeze {
        Freeze::Nothing => {}
        Freeze::Blocks(n) if *n < n_blocks => {
            config.layers_to_transform = Some(OneOrMany::Many((*n as u64..n_blocks as u64).collect()));
            // PEFT takes layers beside a list of names only, so what all-linear means is written out.
            if tune.targets == "all-linear" {
                let mut kinds: Vec<String> = Vec::new();
                for linear in decoder.linears() {
                    let kind = linear.name.rsplit('.').next().unwrap_or(&linear.name);
                    if !kinds.iter().any(|known| known == kind) {
                        kinds.push(kind.to_owned());
                    }
                }
                config.target_modules = Some(Targets::Suffixes(kinds));
            }
        }
        Freeze::Blocks(n) => bail!("--freeze-layers {n} leaves no block to adapt: the model has {n_blocks}"),
        Freeze::Names(_) => bail!("an adapter leaves everything frozen but --targets; names are for --full"),
    }
    Ok(config)
}

pub(crate) fn classify(args: &ClassifyArgs) -> Result<Output> {
    let tune = &args.tune;
    let place = Place::parse(&tune.device, &tune.dtype)?;
    let rows = ClassRows::read(&tune.data)?;
    if let Some(folder) = &args.apply {
        return apply_classifier(args, folder, &rows, place);
    }
    let config: RunConfig = settings(tune, &args.whole.settings())?;
    check_validation(&args.whole, args.validation.as_deref())?;
    let mut classes = rows.classes()?;
    let held = args.validation.as_deref().map(ClassRows::read).transpose()?;
    let mut model = model_store::load(&tune.model, place, &tune.words.template)?;
    let limits = class_limits(tune, &model)?;
    let label = |rows: &ClassRows| rows.labelled(&classes, &model.tokenizer, &limits);
    let (train, held) = (label(&rows)?, held.as_ref().map(label).transpose()?.unwrap_or_default());
    let head = recipes::class_head(&model.decoder, classes.names.len());
    let tuned = Tuned::start(tune, &args.whole, &mut model)?;
    tuned.say(&model.decoder);
    let named = json!({"config": serde_json::to_value(&config)?, "whole": args.whole.named()});
    let hash = run_hash(tune, place, &named, &model.path, [args.validation.as_deref()])?;
    prepare(&tune.out, tune.resume)?;
    let data = [train.as_slice(), held.as_slice()];
    let outcome =
        train_classes(&model.decoder, Some(tuned.trained()), &head, data, &config, &tune.out, &hash)?;
    classes.trained = Some(if args.whole.full { Beside::Model } else { Beside::Adapter });
    let folder = save_classifier(&tuned, &model, &head, &classes, tune)?;
    let accuracy = kept(&outcome, "eval_accuracy");
    let accuracy = accuracy.map_or_else(String::new, |(step, accuracy)| {
        format!("held-out accuracy {accuracy:.4}, of the weights kept (step {step})\n")
    });
    let text =
        format!("{accuracy}{} classes; {} and score.safetensors", classes.names.len(), folder.display());
    Output::one(&outcome, text)
}

/// How long a text may be, and what becomes of longer ones: their ends are cut off, unless something else was asked for.
fn class_limits(tune: &TuneArgs, model: &LoadedModel) -> Result<Limits> {
    let (max_length, truncation) = (max_length(tune, model)?, truncation(tune, Truncation::Right));
    Ok(Limits { max_length, truncation, ..Limits::default() })
}

/// The step whose weights were kept, and a figure of its validation.
fn kept(outcome: &RunOutcome, figure: &str) -> Option<(usize, f64)> {
    let (step, figures) = outcome.validations.iter().find(|(step, _)| *step == outcome.best_step)?;
    Some((*step, *figures.get(figure)?))
}

/// Writes what was trained and the head, and last `classes.json`, which makes them a classifier; what an earlier run into
/// the same folder trained in the other way is removed.
fn save_classifier(
    tuned: &Tuned,
    model: &LoadedModel,
    head: &Tensor,
    classes: &Classes,
    tune: &TuneArgs,
) -> Result<PathBuf> {
    let before = Classes::read(&tune.out).ok().and_then(|classes| classes.trained);
    let _ = std::fs::remove_file(Classes::path(&tune.out));
    let folder = tuned.save(model, &tune.out)?;
    save_rows(head, &tune.out.join("score.safetensors"))?;
    classes.write(&tune.out)?;
    let stale = before.filter(|_| before != classes.trained).map(|kind| kind.folder(&tune.out));
    if let Some(stale) = stale.filter(|stale| !lies_in(&model.path, stale)) {
        std::fs::remove_dir_all(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
    }
    Ok(folder)
}

/// Says the class of each row, or of each row's tokens, by what an earlier run left in `folder`.
fn apply_classifier(args: &ClassifyArgs, folder: &Path, rows: &ClassRows, place: Place) -> Result<Output> {
    let classes = Classes::read(folder)?;
    let beside = classes.beside(folder)?;
    let (id, adapter) = match beside {
        Beside::Model => (beside.folder(folder).display().to_string(), None),
        Beside::Adapter => (args.tune.model.clone(), Some(beside.folder(folder))),
    };
    let model = load_with_adapter(&id, adapter.as_deref(), place, "")?;
    let head = load_rows(&folder.join("score.safetensors"), model.decoder.device)?;
    let encoded = rows.encoded(&model.tokenizer, &class_limits(&args.tune, &model)?)?;
    let mut out = Vec::new();
    for (row, encoded) in rows.rows.iter().zip(encoded) {
        out.push(match encoded.filter(|encoded| !encoded.ids.is_empty()) {
            Some(encoded) => classified(row, encoded, &classes, &model.decoder, &head)?,
            None => {
                eprintln!("warning: {}: nothing to classify, its class is null", rows.at(row));
                json!({"text": row.text, classes.key(): null})
            }
        });
    }
    std::fs::create_dir_all(&args.tune.out)?;
    let lines: String = out.iter().map(|row| format!("{row}\n")).collect();
    let path = args.tune.out.join("predictions.jsonl");
    write_atomic(&path, lines.as_bytes())?;
    Ok(Output { json: out, text: format!("{} rows in {}", rows.rows.len(), path.display()) })
}

/// The text with its class, or its tokens with theirs.
fn classified(
    row: &ClassRow,
    encoded: Encoded,
    classes: &Classes,
    decoder: &Decoder,
    head: &Tensor,
) -> Result<Value> {
    let labels =
        if classes.tokens { Labels::Tokens(vec![Some(0); encoded.ids.len()]) } else { Labels::Text(0) };
    let found = recipes::classes(decoder, head, &[Labelled { ids: encoded.ids, labels }])?;
    let said: Value = if classes.tokens {
        let tokens = found.iter().zip(&encoded.offsets).filter(|(_, (start, end))| start < end);
        tokens
            .map(|(&class, &(start, end))| json!({"token": row.text.get(start..end), "label": classes.name(class)}))
            .collect()
    } else {
        classes.name(found.first().copied().unwrap_or(0)).into()
    };
    Ok(json!({"text": row.text, classes.key(): said}))
}

/// Writes a head of (classes, C) as `score.weight`.
pub(crate) fn save_rows(head: &Tensor, path: &Path) -> Result<()> {
    let (rows, width) = head.size2()?;
    let values = Vec::<f32>::try_from(head.detach().to_device(tch::Device::Cpu).flatten(0, 1))?;
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let shape = vec![rows as usize, width as usize];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes)?;
    write_atomic(path, &safetensors::serialize([("score.weight", view)], None)?)
}

fn load_rows(path: &Path, device: tch::Device) -> Result<Tensor> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).with_context(|| path.display().to_string())?;
    let view = file.tensor("score.weight").with_context(|| path.display().to_string())?;
    if view.dtype() != safetensors::Dtype::F32 {
        bail!("{}: score.weight is {:?}, not F32", path.display(), view.dtype());
    }
    let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    Ok(Tensor::f_from_data_size(view.data(), &size, Kind::Float)?.to_device(device))
}

pub(crate) fn mlm(args: &MlmArgs) -> Result<Output> {
    let place = Place::parse(&args.device, &args.dtype)?;
    let source = model_store::resolve(&args.model)?;
    let folder = args.out.join("model");
    check_encoder_folder(&folder, source.path())?;
    model_store::refuse_t5(&args.model, &source)?;
    let mut loaded = load_encoder(&source, place.kind, place.device)?;
    let had_head = loaded.encoder.head.is_some();
    loaded.encoder.ensure_masked_lm(args.seed)?;
    if !had_head {
        eprintln!("{:>12}: {} was saved without a masked-LM head: a new one begins", "mlm", args.model);
    }
    let tokenizer = Tokenizer::from_dir(source.path())?;
    let config = mlm_config(args);
    let (own, held) = documents(&args.data, args.held_out)?;
    check_share((args.eval_every, args.patience), &held)?;
    let window = args.max_length.unwrap_or(128).min(loaded.encoder.config.max_position_embeddings);
    let windows = |texts: &[String]| recipes::text_windows(texts, &tokenizer, window);
    let (train, held) = (windows(&own)?, windows(&held)?);
    let freeze = Freeze::parse(&args.freeze_layers);
    let params = unfreeze(trained_tensors(&loaded.encoder), &freeze)?;
    let settings = json!({
        "config": serde_json::to_value(&config)?, "freeze": args.freeze_layers, "window": window,
        "held_out": args.held_out,
    });
    let settings = settings.to_string();
    let (read, data) = (content_hash(source.path())?, content_hash(&args.data)?);
    let hash = hash_parts(&[place.dtype_name().as_bytes(), settings.as_bytes(), &read, &data]);
    prepare(&args.out, args.resume)?;
    let outcome =
        recipes::mlm(&loaded.encoder, params, &tokenizer, [&train, &held], &config, &args.out, &hash)?;
    save_with_words(&loaded, &source, &folder)?;
    let before = outcome.validations.first().and_then(|(_, figures)| figures.get("eval_perplexity"));
    let change = before.zip(kept(&outcome, "eval_perplexity"));
    let change = change.map_or_else(String::new, |(before, (step, after))| {
        format!("perplexity of hidden words, held out: {before:.2} to {after:.2}, of the weights kept (step {step})\n")
    });
    Output::one(&outcome, format!("{change}model: {}", folder.display()))
}

fn mlm_config(args: &MlmArgs) -> MlmConfig {
    let mut config = MlmConfig::default();
    config.masking = Masking { share: args.mask_share, ..config.masking };
    let run = &mut config.run;
    run.steps = args.steps.unwrap_or(0);
    run.batch = args.batch.unwrap_or(run.batch);
    run.lr = args.lr.unwrap_or(run.lr);
    run.warmup_steps = args.warmup_steps.unwrap_or(0);
    run.eval_every = args.eval_every.unwrap_or(0);
    run.patience = args.patience.unwrap_or(0);
    run.checkpoint_every = 50;
    run.seed = args.seed;
    if let Some(optimizer) = &args.optimizer {
        run.optimizer.clone_from(optimizer);
    }
    config
}

/// An encoder's tensors that masked language modelling reaches.
fn trained_tensors(encoder: &Encoder) -> Vec<(String, Tensor)> {
    encoder.named_tensors().into_iter().filter(|(_, t)| t.is_contiguous()).collect()
}

/// What is copied of an encoder's folder, by its ending; weights are written anew.
const WORDS: [&str; 3] = ["json", "txt", "model"];

/// Refuses a folder in which an encoder cannot be saved without harm: that of the one that was read, one inside it, one
/// that holds what no encoder leaves.
fn check_encoder_folder(folder: &Path, read: &Path) -> Result<()> {
    let out = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    if lies_in(out, read) || lies_in(read, folder) {
        bail!(
            "{} is where the model that is read lies: take another --out, so that it stays as it is",
            folder.display()
        );
    }
    match folder.is_dir().then(|| foreign(folder)).transpose()?.flatten() {
        Some(path) => {
            bail!("{} is no part of a saved encoder: move it away, or take another --out", path.display())
        }
        None => Ok(()),
    }
}

/// The first file in `folder` that no saved encoder has.
fn foreign(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let found = if path.is_dir() {
            foreign(&path)?
        } else {
            Some(path).filter(|path| !ends(path, &WORDS) && !ends(path, &["safetensors"]))
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn ends(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known))
}

/// Saves an encoder with what lay beside its weights; the folder appears whole or not at all.
fn save_with_words(loaded: &LoadedEncoder, source: &Source, folder: &Path) -> Result<()> {
    write_folder(folder, |partial| {
        copy_words(source.path(), partial)?;
        Ok(save_encoder(&loaded.encoder, source, &loaded.config_json, partial)?)
    })
}

/// Copies what lies beside an encoder's weights: its tokenizer, how it pools.
fn copy_words(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        if path.is_dir() {
            copy_words(&path, &to.join(&name))?;
        } else if ends(&path, &WORDS) && name != "model.safetensors.index.json" {
            std::fs::copy(&path, to.join(&name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_said_is_of_the_weights_that_were_kept() {
        let figures = |accuracy: f64| BTreeMap::from([("eval_accuracy".to_owned(), accuracy)]);
        let outcome = RunOutcome {
            validations: vec![(0, figures(0.1)), (4, figures(0.9)), (8, figures(0.5))],
            best_step: 4,
            ..RunOutcome::default()
        };
        assert_eq!(kept(&outcome, "eval_accuracy"), Some((4, 0.9)));
        assert_eq!(kept(&outcome, "eval_loss"), None);
        assert_eq!(kept(&RunOutcome::default(), "eval_accuracy"), None);
    }
}
