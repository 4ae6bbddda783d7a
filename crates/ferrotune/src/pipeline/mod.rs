//! The main job: raw rows to a tuned model, a verdict and a report.
//!
//! Each stage reads what earlier stages left on disk and leaves its own result in `stages/NAME.json`, whole or
//! not at all. So a run that was stopped anywhere goes on with `--resume`, and what it ends with does not depend
//! on where it was stopped.

mod answers;
mod check;
mod config;
mod data;
mod facts;
mod html;
mod lengths;
mod planted;
mod report;
mod stage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_data::chat::ChatTemplate;
use ferrotune_peft::{LoadOptions, inject, load as load_adapter, save as save_adapter};
use ferrotune_tokenizer::{Limits, Packing, SkipReason, Skipped, Tokenizer, pack};
use ferrotune_types::{Conversation, Example, PairExample};

pub use config::{
    CurateConfig, DataPaths, JudgeConfig, LoraChoice, ModelChoice, PipelineConfig, RagConfig, SplitConfig,
    TokenizeConfig,
};
pub use report::*;

/// The recipe for a file by its shape: tickets are cleaned harder than instructions.
///
/// # Errors
/// A file that cannot be read, or whose shape cannot be told.
pub fn recipe_for(file: &Path) -> Result<&'static str> {
    data::recipe_for(file)
}

/// Questions with the documents that answer them, from a JSONL file.
///
/// # Errors
/// A file that cannot be read, or a row without a question.
pub fn rag_questions(file: &Path) -> Result<Vec<ferrotune_rag::RagQuestion>> {
    let asked = data::questions(file)?.into_iter();
    Ok(asked
        .map(|q| ferrotune_rag::RagQuestion { id: q.id, question: q.question, relevant: q.documents })
        .collect())
}

use crate::files::write_atomic;
use crate::model_store::{self, LoadedModel, Place};
use crate::recipes::{self, SftData, dpo, held_out_perplexity, lora_config, sft};
use stage::{Keys, Stages};

/// The stages, in order.
pub const STAGES: [&str; 10] =
    ["curate", "split", "tokenize", "sft", "dpo", "merge", "perplexity", "judge", "rag", "report"];

/// How to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// The folder that everything is written to.
    pub out: PathBuf,
    /// Keep what an earlier run of the same configuration finished.
    pub resume: bool,
    /// Run these stages again and no others; empty runs all.
    pub only: Vec<String>,
}

/// Runs the pipeline and gives the report, which it also writes as `report.json` and `report.html`.
///
/// # Errors
/// Whatever stops a stage, with the stage's name; [`crate::progress::Interrupted`].
pub fn run(config: &PipelineConfig, options: &RunOptions) -> Result<Report> {
    for name in &options.only {
        if !STAGES.contains(&name.as_str()) {
            bail!("unknown stage {name:?}; known: {}", STAGES.join(", "));
        }
    }
    let place = Place::parse(&config.model.device, &config.model.dtype)?;
    let keys = facts::stage_keys(config, place)?;
    check::check(config)?;
    let stages = Stages::open(options, &keys, &config.inputs())?;
    let run = Run { config, out: &options.out, place, keys: &keys };

    let curate = stages.run("curate", || run.curate())?;
    let split = stages.run("split", || run.split())?;
    let tokenize = stages.run("tokenize", || run.tokenize())?;
    // Where the stage was left out (--only), the settings alone say how long a row may be.
    let max_length = tokenize.as_ref().map_or(config.tokenize.max_length, |t| t.max_length);
    let limits = || run.limits(max_length);
    let sft = stages.run("sft", || run.sft(&limits()?))?;
    let dpo = match config.data.preference {
        Some(_) => stages.run("dpo", || run.dpo(&limits()?))?,
        None => Stages::skip("dpo", "there are no preference pairs"),
    };
    let merge = stages.run("merge", || run.merge())?;
    let perplexity = stages.run("perplexity", || run.perplexity(&limits()?))?.flatten();
    let judge = stages.run("judge", || run.judge())?;
    let rag = match config.data.documents {
        Some(_) => stages.run("rag", || run.rag())?,
        None => Stages::skip("rag", "there are no documents"),
    };
    let mut report = Report {
        config_hash: keys["report"].clone(),
        seed: config.seed,
        title: config.title.clone(),
        model: run.model_facts(),
        versions: facts::versions(),
        stages: Vec::new(),
        curate,
        split,
        tokenize,
        sft,
        dpo,
        merge,
        perplexity,
        judge,
        rag,
        config: facts::settings(config)?,
    };
    stages.run("report", || run.report(&report, &stages))?;
    report.stages = stages.times();
    write_atomic(&options.out.join("report.json"), &serde_json::to_vec_pretty(&report)?)?;
    Ok(report)
}

/// What all stages share.
struct Run<'a> {
    config: &'a PipelineConfig,
    out: &'a Path,
    place: Place,
    keys: &'a Keys,
}

impl Run<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    fn load(&self, place: Place) -> Result<LoadedModel> {
        model_store::load(&self.config.model.id, place, &self.config.tokenize.template)
    }

    fn model_facts(&self) -> ModelFacts {
        ModelFacts {
            id: self.config.model.id.clone(),
            dtype: self.place.dtype_name().to_owned(),
            device: self.place.device_name(),
        }
    }

    /// Clean, filter, strip PII, deduplicate; kept and dropped both on disk.
    fn curate(&self) -> Result<CurateFacts> {
        data::curate(self.config, self.out)
    }

    /// By near-duplicate group, so that nothing held out was seen in training under another wording.
    fn split(&self) -> Result<SplitFacts> {
        data::split(self.config, self.out)
    }

    /// Template, mask, packing: counted here, made again where they are needed (it takes a second).
    fn tokenize(&self) -> Result<TokenizeFacts> {
        let source = model_store::resolve(&self.config.model.id)?;
        let words = model_store::load_words(&source, &self.config.tokenize.template)?;
        let chats = data::chats(&self.path("data/train.jsonl"))?;
        let pairs = match self.config.data.preference {
            Some(_) => data::pairs(&self.path("data/preference_train.jsonl"))?,
            None => Vec::new(),
        };
        let max_length =
            lengths::max_length(self.config.tokenize.max_length, &source, &chats, &pairs, &words)?;
        let limits = self.limits(max_length)?;
        let made = recipes::examples(&chats, &words.1, &words.0, &limits)?;
        eprintln!("{:>12}: {}", "tokenize", made.report);
        let made_pairs = recipes::pair_examples(&pairs, &words.1, &words.0, &limits)?;
        let skipped: Vec<&Skipped> = made.skipped.iter().chain(&made_pairs.skipped).collect();
        for row in skipped.iter().take(5) {
            eprintln!("{:>12}: skipped {} ({}): {}", "tokenize", row.id, row.reason, row.detail);
        }
        let skipped_file = self.path("data/skipped.jsonl");
        ferrotune_data::write::jsonl(&skipped_file, &skipped)?;
        if made.examples.is_empty() {
            bail!(
                "no conversation gave an example to train on; the reasons stand in {}",
                skipped_file.display()
            );
        }
        if !pairs.is_empty() {
            eprintln!("{:>12}: pairs: {}", "tokenize", made_pairs.report);
            if made_pairs.examples.is_empty() {
                bail!(
                    "no preference pair can be trained on; the reasons stand in {}",
                    skipped_file.display()
                );
            }
        }
        self.tokenize_held_out(&words, &limits)?;
        let packing = if self.config.tokenize.packing { Packing::BestFit } else { Packing::Padded };
        let (_, packed) = pack(made.examples, max_length, packing)?;
        let by_reason = |dropped: &BTreeMap<SkipReason, usize>| {
            dropped.iter().map(|(reason, &n)| (reason.to_string(), n)).collect()
        };
        Ok(TokenizeFacts {
            max_length,
            examples: made.report.examples,
            tokens: made.report.tokens,
            trained_tokens: made.report.trained_tokens,
            truncated: made.report.truncated,
            dropped: by_reason(&made.report.dropped),
            packing_efficiency: packed.efficiency,
            pairs: made_pairs.report.examples,
            pairs_truncated: made_pairs.report.truncated,
            pairs_dropped: by_reason(&made_pairs.report.dropped),
        })
    }

    /// What is held out goes through the same words, so that what is wrong with it is known before training.
    fn tokenize_held_out(&self, words: &(Tokenizer, ChatTemplate), limits: &Limits) -> Result<()> {
        let chats = data::chats(&self.path("data/validation.jsonl"))?;
        let made = recipes::examples(&chats, &words.1, &words.0, limits)?;
        if made.examples.is_empty() && !chats.is_empty() {
            eprintln!(
                "{:>12}: none of the {} held-out conversations can be measured: {}",
                "tokenize",
                chats.len(),
                made.report
            );
        }
        if self.config.data.preference.is_some() {
            let pairs = data::pairs(&self.path("data/preference_validation.jsonl"))?;
            recipes::pair_examples(&pairs, &words.1, &words.0, limits)?;
        }
        Ok(())
    }

    fn limits(&self, max_length: usize) -> Result<Limits> {
        if max_length == 0 {
            bail!("how long a row may be is found by the stage tokenize, which has not run: run it first");
        }
        let truncation = check::truncation(&self.config.tokenize.truncation)?;
        Ok(Limits { max_length, truncation, ..Limits::default() })
    }

    fn examples(&self, model: &LoadedModel, name: &str, limits: &Limits) -> Result<Vec<Example>> {
        let chats = data::chats(&self.path(&format!("data/{name}.jsonl")))?;
        Ok(recipes::examples(&chats, model.template()?, &model.tokenizer, limits)?.examples)
    }

    fn pairs(&self, model: &LoadedModel, name: &str, limits: &Limits) -> Result<Vec<PairExample>> {
        let pairs = data::pairs(&self.path(&format!("data/{name}.jsonl")))?;
        let made = recipes::pair_examples(&pairs, model.template()?, &model.tokenizer, limits)?;
        for (reason, n) in &made.report.dropped {
            eprintln!("{:>12}: {n} pairs of {name} skipped: {reason}", "dpo");
        }
        Ok(made.examples)
    }

    /// LoRA on the conversations.
    fn sft(&self, limits: &Limits) -> Result<SftFacts> {
        let mut model = self.load(self.place)?;
        let train = self.examples(&model, "train", limits)?;
        let packing = if self.config.tokenize.packing { Packing::BestFit } else { Packing::Padded };
        let (train, _) = pack(train, limits.max_length, packing)?;
        let data = SftData { train, validation: self.examples(&model, "validation", limits)? };
        let choice = &self.config.lora;
        let lora =
            lora_config(choice.r, choice.alpha, choice.dropout, &choice.targets, &self.config.model.id)?;
        let adapter = inject(&mut model.decoder, &lora, self.config.seed)?;
        let table = adapter.parameter_table(&model.decoder);
        eprintln!(
            "{:>12}: {} of {} numbers train ({:.2}%)",
            "sft",
            table.trainable,
            table.trainable + table.base_parameters,
            100.0 * table.share()
        );
        let settings = recipes::SftConfig { seed: self.config.seed, ..self.config.sft.clone() };
        let outcome = sft(&model.decoder, &adapter, &data, &settings, &self.path("sft"), &self.keys["sft"])?;
        save_adapter(&adapter, &self.path("sft/adapter"))?;
        let first_val = outcome.validations.first().map_or(f64::NAN, |v| v.1);
        let best_val = outcome.validations.iter().map(|v| v.1).fold(f64::NAN, f64::min);
        Ok(SftFacts {
            steps: outcome.steps,
            loss_first: outcome.losses.first().copied().unwrap_or(f64::NAN),
            loss_last: outcome.losses.last().copied().unwrap_or(f64::NAN),
            val_loss_before: first_val,
            val_loss_best: best_val,
            best_step: outcome.best_step,
            tokens_per_s: outcome.real_tokens_per_s,
            peak_rss_mib: outcome.peak_rss_mib,
            trainable_params: table.trainable,
            total_params: table.trainable + table.base_parameters,
            losses: outcome.losses,
            validations: outcome.validations,
            note: outcome.note,
        })
    }

    /// Goes on training the SFT adapter; the reference is its frozen state at the start.
    fn dpo(&self, limits: &Limits) -> Result<DpoFacts> {
        let mut model = self.load(self.place)?;
        let train = self.pairs(&model, "preference_train", limits)?;
        let held = self.pairs(&model, "preference_validation", limits)?;
        let adapter = recipes::adapter_to_train(&mut model.decoder, &self.path("sft/adapter"))?;
        let settings = recipes::DpoConfig { seed: self.config.seed, ..self.config.dpo.clone() };
        let dir = self.path("dpo");
        let outcome = dpo(&model.decoder, &adapter, &train, &held, &settings, &dir, &self.keys["dpo"])?;
        save_adapter(&adapter, &self.path("adapter"))?;
        let before = outcome.validations.first().map(|v| v.1).unwrap_or_default();
        let kept =
            outcome.validations.iter().find(|v| v.0 == outcome.best_step).or(outcome.validations.last());
        let after = kept.map(|v| v.1).unwrap_or_default();
        Ok(DpoFacts {
            loss: settings.loss,
            reference: outcome.reference,
            pairs: train.len(),
            steps: outcome.steps,
            loss_step0: outcome.losses.first().copied().unwrap_or(f64::NAN),
            loss_last: outcome.losses.last().copied().unwrap_or(f64::NAN),
            accuracy_before: before.accuracy,
            accuracy_after: after.accuracy,
            margin_after: after.margin,
            losses: outcome.losses,
            accuracies: outcome.validations.iter().map(|(step, held)| (*step, held.accuracy)).collect(),
        })
    }

    /// The adapter that the run ends with: DPO's, or SFT's where there are no pairs.
    fn final_adapter(&self) -> Result<PathBuf> {
        if self.config.data.preference.is_none() {
            copy_folder(&self.path("sft/adapter"), &self.path("adapter"))?;
        }
        Ok(self.path("adapter"))
    }

    fn merge(&self) -> Result<MergeFacts> {
        let adapter = self.final_adapter()?;
        let outcome = recipes::merge(
            &self.config.model.id,
            &adapter,
            &self.path("model"),
            &self.config.tokenize.template,
        )?;
        eprintln!("{:>12}: logits differ by at most {:.2e}", "merge", outcome.max_abs_logit_diff);
        Ok(MergeFacts { max_abs_logit_diff: outcome.max_abs_logit_diff })
    }

    /// Of base, SFT and final model on the held-out answers; none where nothing is held out.
    fn perplexity(&self, limits: &Limits) -> Result<Option<PerplexityFacts>> {
        let mut model = self.load(self.place)?;
        let held_out = self.examples(&model, "validation", limits)?;
        if held_out.is_empty() {
            return Ok(Stages::skip("perplexity", "nothing is held out"));
        }
        let micro_tokens = self.config.sft.micro_tokens;
        let base = held_out_perplexity(&model.decoder, &held_out, micro_tokens)?;
        let mut with = |folder: PathBuf| -> Result<f64> {
            let adapter = load_adapter(&mut model.decoder, &folder, &LoadOptions::default())?;
            let outcome = held_out_perplexity(&model.decoder, &held_out, micro_tokens)?;
            adapter.detach(&mut model.decoder);
            Ok(outcome.perplexity)
        };
        Ok(Some(PerplexityFacts {
            base: base.perplexity,
            sft: with(self.path("sft/adapter"))?,
            dpo: with(self.path("adapter"))?,
            tokens: base.tokens,
        }))
    }

    /// Base against tuned on questions that neither saw.
    fn judge(&self) -> Result<JudgeFacts> {
        answers::judge(self)
    }

    /// Index the documents, answer the questions grounded and cited, measure.
    fn rag(&self) -> Result<RagFacts> {
        answers::rag(self)
    }

    fn report(&self, report: &Report, stages: &Stages) -> Result<()> {
        join_metrics(self.out)?;
        let svg = std::fs::read(self.path("sft/loss.svg")).context("the sft stage left no loss.svg")?;
        write_atomic(&self.path("loss.svg"), &svg)?;
        let mut report = report.clone();
        report.stages = stages.times();
        write_atomic(
            &self.path("report.html"),
            html::page(&report, &String::from_utf8_lossy(&svg))?.as_bytes(),
        )
    }

    /// The merged model, loaded as a user would load it.
    fn tuned(&self) -> Result<LoadedModel> {
        let path = self.path("model");
        let path = path.to_str().context("the output folder's name is not UTF-8")?;
        model_store::load(path, self.place, &self.config.tokenize.template)
    }

    /// Held-out questions, or the openings of held-out conversations.
    fn questions(&self, limit: usize) -> Result<Vec<data::Question>> {
        let mut questions = match &self.config.data.questions {
            Some(file) => data::questions(file)?,
            None => {
                let chats: Vec<Conversation> = data::chats(&self.path("data/validation.jsonl"))?;
                chats.into_iter().filter_map(data::Question::from_chat).collect()
            }
        };
        if questions.is_empty() {
            bail!("there is no question to ask");
        }
        questions.truncate(limit.max(1));
        Ok(questions)
    }
}

/// `metrics.jsonl` of the training stages, one after another.
fn join_metrics(out: &Path) -> Result<()> {
    let mut joined = Vec::new();
    for stage in ["sft", "dpo"] {
        if let Ok(bytes) = std::fs::read(out.join(stage).join("metrics.jsonl")) {
            joined.extend(bytes);
        }
    }
    write_atomic(&out.join("metrics.jsonl"), &joined)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        if entry.path().is_file() {
            write_atomic(&to.join(entry.file_name()), &std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
