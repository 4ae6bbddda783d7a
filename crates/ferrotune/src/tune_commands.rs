//! Commands that tune: what `sft` and `cpt` share of adapters and whole models, `classify`, and `mlm`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_model::checkpoint::{load_encoder, save_encoder};
use ferrotune_model::{Decoder, Encoder};
use ferrotune_peft::{
    Adapter, BiasMode, Init, LoraConfig, OneOrMany, Targets, inject, quantize_base, save as save_adapter,
};
use ferrotune_tokenizer::Tokenizer;
use ferrotune_train::{Freeze, Masking, Param, unfreeze};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::cli::{ClassifyArgs, MlmArgs, Output, TuneArgs, WholeArgs};
use crate::commands::{documents, load_with_adapter, max_length, prepare, run_hash, settings};
use crate::files::{hash_parts, json_lines, write_atomic};
use crate::model_store::{self, LoadedModel, Place};
use crate::recipes::{self, Labelled, Labels, MlmConfig, RunConfig, Trained, classify as train_classes};

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
        return Ok(inject(&mut model.decoder, &config, tune.seed)?);
    };
    recipes::adapter_to_train(&mut model.decoder, folder)
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

/// What stands beside a classifier's adapter or model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Classes {
    version: u32,
    /// Whether every token has a class, or every text.
    tokens: bool,
    /// Names of the classes, in the order of the head's rows.
    names: Vec<String>,
}

/// A row as it is read.
#[derive(Debug, Deserialize)]
struct ClassRow {
    text: String,
    #[serde(default)]
    label: Option<Value>,
    #[serde(default)]
    spans: Option<Vec<ClassSpan>>,
}

#[derive(Debug, Deserialize)]
struct ClassSpan {
    /// In characters.
    start: usize,
    end: usize,
    label: String,
}

/// The class of tokens outside every span.
const OUTSIDE: &str = "O";

pub(crate) fn classify(args: &ClassifyArgs) -> Result<Output> {
    let tune = &args.tune;
    let place = Place::parse(&tune.device, &tune.dtype)?;
    let rows = class_rows(&tune.data)?;
    if let Some(folder) = &args.apply {
        return apply_classifier(args, folder, &rows, place);
    }
    let config: RunConfig = settings(tune, &args.whole.settings())?;
    let held = args.validation.as_deref().map(class_rows).transpose()?.unwrap_or_default();
    let classes = class_names(&rows, &tune.data)?;
    prepare(&tune.out, tune.resume)?;
    let mut model = model_store::load(&tune.model, place, "")?;
    let length = max_length(tune, &model)?;
    let label = |rows: &[ClassRow]| -> Result<Vec<Labelled>> {
        rows.iter().enumerate().map(|(i, row)| labelled(row, i, &classes, &model.tokenizer, length)).collect()
    };
    let (train, held) = (label(&rows)?, label(&held)?);
    let head = recipes::class_head(&model.decoder, classes.names.len());
    let tuned = Tuned::start(tune, &args.whole, &mut model)?;
    tuned.say(&model.decoder);
    let named = json!({"config": serde_json::to_value(&config)?, "whole": args.whole.named()});
    let hash = run_hash(tune, place, &named, &model.path, [args.validation.as_deref()])?;
    let data = [train.as_slice(), held.as_slice()];
    let outcome =
        train_classes(&model.decoder, Some(tuned.trained()), &head, data, &config, &tune.out, &hash)?;
    let folder = tuned.save(&model, &tune.out)?;
    save_rows(&head, &tune.out.join("score.safetensors"))?;
    write_atomic(&tune.out.join("classes.json"), serde_json::to_string_pretty(&classes)?.as_bytes())?;
    let accuracy = outcome.validations.last().and_then(|(_, figures)| figures.get("eval_accuracy").copied());
    let accuracy = accuracy.map_or_else(String::new, |a| format!("held-out accuracy {a:.4}\n"));
    let text =
        format!("{accuracy}{} classes; {} and score.safetensors", classes.names.len(), folder.display());
    Output::one(&outcome, text)
}

/// Says the class of each row, or of each row's tokens, by what an earlier run left in `folder`.
fn apply_classifier(args: &ClassifyArgs, folder: &Path, rows: &[ClassRow], place: Place) -> Result<Output> {
    let text = std::fs::read_to_string(folder.join("classes.json"))
        .with_context(|| format!("{} holds no classifier", folder.display()))?;
    let classes: Classes = serde_json::from_str(&text).context("classes.json")?;
    let whole = folder.join("model");
    let id = if whole.is_dir() { whole.display().to_string() } else { args.tune.model.clone() };
    let adapter = Some(folder.join("adapter")).filter(|f| f.is_dir());
    let model = load_with_adapter(&id, adapter.as_deref(), place, "")?;
    let head = load_rows(&folder.join("score.safetensors"), model.decoder.device)?;
    let length = max_length(&args.tune, &model)?;
    let mut out = Vec::new();
    for row in rows {
        let mut encoded = model.tokenizer.encode_with_offsets(&row.text, true)?;
        encoded.ids.truncate(length);
        let labels =
            if classes.tokens { Labels::Tokens(vec![Some(0); encoded.ids.len()]) } else { Labels::Text(0) };
        let found = recipes::classes(&model.decoder, &head, &[Labelled { ids: encoded.ids, labels }])?;
        let name = |class: i64| classes.names.get(class as usize).cloned().unwrap_or_default();
        out.push(if classes.tokens {
            let tokens = found.iter().zip(&encoded.offsets).filter(|(_, (start, end))| start < end);
            let tokens: Vec<Value> = tokens
                .map(|(&class, &(start, end))| json!({"token": row.text.get(start..end), "label": name(class)}))
                .collect();
            json!({"text": row.text, "tokens": tokens})
        } else {
            json!({"text": row.text, "label": name(found.first().copied().unwrap_or(0))})
        });
    }
    std::fs::create_dir_all(&args.tune.out)?;
    let lines: String = out.iter().map(|row| format!("{row}\n")).collect();
    let path = args.tune.out.join("predictions.jsonl");
    write_atomic(&path, lines.as_bytes())?;
    Ok(Output { json: out, text: format!("{} rows in {}", rows.len(), path.display()) })
}

fn class_rows(file: &Path) -> Result<Vec<ClassRow>> {
    json_lines(file, ": wanted {\"text\", \"label\"} or {\"text\", \"spans\"}", |_, row| Ok(row))
}

/// The classes of a file, in the order of their names; for tokens, [`OUTSIDE`] first.
fn class_names(rows: &[ClassRow], file: &Path) -> Result<Classes> {
    let mut names = std::collections::BTreeSet::new();
    let tokens = rows.iter().any(|row| row.spans.is_some());
    for row in rows {
        names.extend(row.spans.iter().flatten().map(|span| span.label.clone()));
        names.extend(row.label.as_ref().filter(|_| !tokens).map(label_name));
    }
    let mut names: Vec<String> = names.into_iter().filter(|name| !tokens || name != OUTSIDE).collect();
    if tokens {
        names.insert(0, OUTSIDE.to_owned());
    }
    if names.len() < 2 {
        bail!("{} names {} classes; a classifier needs at least 2", file.display(), names.len());
    }
    Ok(Classes { version: 1, tokens, names })
}

fn label_name(label: &Value) -> String {
    label.as_str().map_or_else(|| label.to_string(), str::to_owned)
}

fn labelled(
    row: &ClassRow,
    i: usize,
    classes: &Classes,
    tokenizer: &Tokenizer,
    length: usize,
) -> Result<Labelled> {
    let class = |name: &str| {
        let found = classes.names.iter().position(|known| known == name);
        found.with_context(|| format!("row {i}: no class {name:?}; known: {}", classes.names.join(", ")))
    };
    let mut encoded = tokenizer.encode_with_offsets(&row.text, true)?;
    encoded.ids.truncate(length);
    encoded.offsets.truncate(length);
    if !classes.tokens {
        let label = row.label.as_ref().with_context(|| format!("row {i} has no label"))?;
        return Ok(Labelled { ids: encoded.ids, labels: Labels::Text(class(&label_name(label))?) });
    }
    // Spans count characters, tokens bytes.
    let bytes: BTreeMap<usize, usize> =
        row.text.char_indices().map(|(b, _)| b).chain([row.text.len()]).enumerate().collect();
    let mut spans = Vec::new();
    for span in row.spans.iter().flatten() {
        let (Some(&start), Some(&end)) = (bytes.get(&span.start), bytes.get(&span.end)) else {
            bail!("row {i}: the span {}..{} lies outside its text", span.start, span.end);
        };
        spans.push((start, end, class(&span.label)?));
    }
    let of_token = |&(start, end): &(usize, usize)| {
        let inside = spans.iter().find(|(from, to, _)| start < *to && *from < end);
        (start < end).then(|| inside.map_or(0, |span| span.2))
    };
    Ok(Labelled { labels: Labels::Tokens(encoded.offsets.iter().map(of_token).collect()), ids: encoded.ids })
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
    let mut loaded = load_encoder(&source, place.kind, place.device)?;
    let had_head = loaded.encoder.head.is_some();
    loaded.encoder.ensure_masked_lm(args.seed)?;
    if !had_head {
        eprintln!("{:>12}: {} was saved without a masked-LM head: a new one begins", "mlm", args.model);
    }
    let tokenizer = Tokenizer::from_dir(source.path())?;
    let config = mlm_config(args);
    let (own, held) = documents(&args.data, args.held_out)?;
    let window = args.max_length.unwrap_or(128).min(loaded.encoder.config.max_position_embeddings);
    let windows = |texts: &[String]| recipes::text_windows(texts, &tokenizer, window);
    let (train, held) = (windows(&own)?, windows(&held)?);
    let freeze = Freeze::parse(&args.freeze_layers);
    let params = unfreeze(trained_tensors(&loaded.encoder), &freeze)?;
    prepare(&args.out, args.resume)?;
    let data = std::fs::read(&args.data)?;
    let settings =
        json!({"config": serde_json::to_value(&config)?, "freeze": args.freeze_layers, "window": window});
    let settings = settings.to_string();
    let hash =
        hash_parts(&[args.model.as_bytes(), place.dtype_name().as_bytes(), settings.as_bytes(), &data]);
    let outcome =
        recipes::mlm(&loaded.encoder, params, &tokenizer, [&train, &held], &config, &args.out, &hash)?;
    let folder = args.out.join("model");
    copy_words(source.path(), &folder)?;
    save_encoder(&loaded.encoder, &source, &loaded.config_json, &folder)?;
    let perplexity = |v: &(usize, BTreeMap<String, f64>)| v.1.get("eval_perplexity").copied();
    let change =
        outcome.validations.first().and_then(perplexity).zip(outcome.validations.last().and_then(perplexity));
    let change = change.map_or_else(String::new, |(before, after)| {
        format!("perplexity of hidden words, held out: {before:.2} to {after:.2}\n")
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

/// Copies what lies beside an encoder's weights: its tokenizer, how it pools.
fn copy_words(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        if path.is_dir() {
            copy_words(&path, &to.join(&name))?;
        } else if path.extension().is_some_and(|e| e == "json" || e == "txt" || e == "model")
            && name != "model.safetensors.index.json"
        {
            std::fs::copy(&path, to.join(&name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}
