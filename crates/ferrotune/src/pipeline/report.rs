//! `report.json`: what the main job found, one struct a stage, in the order of the stages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The report. Two runs of one configuration and seed differ in times, memory and paths only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of the configuration, the data and the model.
    pub config_hash: String,
    /// From which every random choice came.
    pub seed: u64,
    /// The report's title.
    pub title: String,
    /// Model, dtype and device.
    pub model: ModelFacts,
    /// Programs and libraries.
    pub versions: BTreeMap<String, String>,
    /// What ran, in order.
    pub stages: Vec<StageTime>,
    /// Curation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curate: Option<CurateFacts>,
    /// The split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitFacts>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenize: Option<TokenizeFacts>,
    /// Supervised fine-tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftFacts>,
    /// Preference tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpo: Option<DpoFacts>,
    /// The merge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeFacts>,
    /// On held-out assistant tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<PerplexityFacts>,
    /// Base against tuned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeFacts>,
    /// Retrieval and grounded answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rag: Option<RagFacts>,
    /// The settings, as they were used.
    pub config: serde_json::Value,
}

/// JSON has no NaN: a figure that is none (nothing was held out) is written as null.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}

/// Which model ran, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// As the user named it.
    pub id: String,
    /// `fp32`, `bf16`, …
    pub dtype: String,
    /// `cpu`, `cuda:0`, …
    pub device: String,
}

/// How long a stage took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// Its name.
    pub name: String,
    /// Wall-clock seconds, in the run that did it.
    pub seconds: f64,
}

/// The curate stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CurateFacts {
    /// Rows read, broken ones counted.
    pub read: usize,
    /// Rows kept.
    pub kept: usize,
    /// Rows set aside, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Changes made to texts, by step.
    pub edits: BTreeMap<String, usize>,
    /// Of each planted kind of defect: how many there are, how many were caught.
    pub planted: BTreeMap<String, Planted>,
    /// Share of the clean rows that were lost, where it is known which are clean.
    pub clean_lost: f64,
    /// How the format was told.
    pub detection: String,
}

/// One kind of planted defect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planted {
    /// How many there are.
    pub planted: usize,
    /// How many were dropped or mended as they should.
    pub caught: usize,
}

/// The split stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitFacts {
    /// Conversations to train on.
    pub train: usize,
    /// Conversations held out.
    pub validation: usize,
    /// Pairs to train on.
    pub preference_train: usize,
    /// Pairs held out.
    pub preference_validation: usize,
}

/// The tokenize stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenizeFacts {
    /// Tokens of an example or pair at most, as configured or found from the data.
    pub max_length: usize,
    /// Examples made.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those that are trained on.
    pub trained_tokens: usize,
    /// Examples cut short.
    pub truncated: usize,
    /// Rows that gave no example, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Real tokens over the tokens of the packed rows.
    pub packing_efficiency: f64,
    /// Preference pairs to train on.
    pub pairs: usize,
    /// Pairs cut short.
    pub pairs_truncated: usize,
    /// Pairs that could not be used, by reason.
    pub pairs_dropped: BTreeMap<String, usize>,
}

/// The sft stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SftFacts {
    /// Optimiser steps.
    pub steps: usize,
    /// Of the first step.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_first: f64,
    /// Of the last step.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_last: f64,
    /// Before the first step.
    #[serde(deserialize_with = "null_is_nan")]
    pub val_loss_before: f64,
    /// Of the state that was kept.
    #[serde(deserialize_with = "null_is_nan")]
    pub val_loss_best: f64,
    /// The step that was kept.
    pub best_step: usize,
    /// Tokens a second.
    pub tokens_per_s: f64,
    /// The most memory held.
    pub peak_rss_mib: f64,
    /// Numbers that train.
    pub trainable_params: usize,
    /// Numbers in all.
    pub total_params: usize,
    /// Loss of every step.
    pub losses: Vec<f64>,
    /// (step, loss) of every validation.
    pub validations: Vec<(usize, f64)>,
    /// In words, where validation has turned.
    pub note: Option<String>,
}

/// The dpo stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DpoFacts {
    /// Which loss.
    pub loss: String,
    /// What the policy is measured against, in words.
    pub reference: String,
    /// Pairs trained on.
    pub pairs: usize,
    /// Optimiser steps.
    pub steps: usize,
    /// Before the first update: ln 2 for the sigmoid loss.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_step0: f64,
    /// Of the last step.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_last: f64,
    /// Held-out share of pairs whose chosen answer gained more on the reference; ties count half, so 0.5 here.
    #[serde(deserialize_with = "null_is_nan")]
    pub accuracy_before: f64,
    /// The same after training.
    #[serde(deserialize_with = "null_is_nan")]
    pub accuracy_after: f64,
    /// Mean held-out reward margin after training.
    #[serde(deserialize_with = "null_is_nan")]
    pub margin_after: f64,
    /// Loss of every step.
    pub losses: Vec<f64>,
    /// Held-out accuracy by step.
    pub accuracies: Vec<(usize, f64)>,
}

/// The merge stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MergeFacts {
    /// Largest difference of a logit between adapter and merged model, fp32.
    pub max_abs_logit_diff: f64,
}

/// The perplexity stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PerplexityFacts {
    /// Of the base model.
    pub base: f64,
    /// After SFT.
    pub sft: f64,
    /// After DPO.
    pub dpo: f64,
    /// Tokens measured on.
    pub tokens: usize,
}

/// The judge stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeFacts {
    /// `reference`, or `llm:` and a model's name.
    pub kind: String,
    /// Questions judged.
    pub n: usize,
    /// Won by the tuned model.
    pub tuned: usize,
    /// Won by the base.
    pub base: usize,
    /// Neither.
    pub tie: usize,
    /// Share won by the tuned model, ties counted half.
    pub win_rate: f64,
    /// 95% bootstrap interval of the win rate.
    pub ci95: [f64; 2],
    /// Exact sign test, ties left out.
    pub p_value: f64,
    /// `better`, `worse` or `no clear difference`.
    pub verdict: String,
    /// Mean score of the tuned model's answers, 0 to 1, where the judge scores answers one by one.
    #[serde(default)]
    pub tuned_mean: Option<f64>,
    /// Mean score of the base model's answers.
    #[serde(default)]
    pub base_mean: Option<f64>,
    /// What to know before believing it: answers that were not judged, replies that could not be read, and how often the judge
    /// held to its decision in the other order.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Every question with both answers.
    pub rows: Vec<JudgedRow>,
}

/// One judged question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgedRow {
    /// The question's id.
    pub id: String,
    /// The question.
    pub question: String,
    /// What a good answer says.
    pub reference: String,
    /// The base model's answer.
    pub base: String,
    /// The tuned model's answer.
    pub tuned: String,
    /// `tuned`, `base` or `tie`.
    pub winner: String,
    /// Why, in the judge's words or figures.
    pub reason: String,
}

/// The rag stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RagFacts {
    /// Questions asked.
    pub n: usize,
    /// Of them, those for which no right document is known: they count in no retrieval figure.
    #[serde(default)]
    pub unanswerable: usize,
    /// Share with a right document first.
    pub recall_at_1: f64,
    /// Share of the right documents among the first three.
    pub recall_at_3: f64,
    /// Mean reciprocal rank of the first right document.
    pub mrr: f64,
    /// Normalised discounted cumulative gain at 10.
    pub ndcg_at_10: f64,
    /// Share answered (not "I don't know").
    pub answered: f64,
    /// Always 1: a sentence that no source supports is not shown. `supported` says how much was not shown.
    pub cited: f64,
    /// Share of the sentences that the model wrote which a source supports.
    #[serde(default)]
    pub supported: Option<f64>,
    /// Share of citations that name a relevant document.
    pub citation_precision: f64,
    /// Figures that stand at 0 because the questions give nothing to measure them by.
    #[serde(default)]
    pub not_measured: Vec<String>,
    /// A few answers with their sources.
    pub rows: Vec<GroundedRow>,
}

/// One grounded answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroundedRow {
    /// The question.
    pub question: String,
    /// The answer, with its citations.
    pub answer: String,
    /// Names of the cited documents.
    pub sources: Vec<String>,
    /// Whether a right document was among the first three.
    pub hit: Option<bool>,
}
