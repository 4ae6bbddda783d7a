//! The `ferrotune` command: every stage alone.
//!
//! Two binaries share this: `ferrotune` holds the commands that need no model and starts in milliseconds;
//! the others it hands to `ferrotune-torch` beside it, because loading libtorch takes a third of a second.

pub mod data;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand};

use crate::template::is_template;

/// Adapt a language model to your own data: curate, tune, align, measure, ground.
#[derive(Debug, Parser)]
#[command(name = "ferrotune", version, propagate_version = true)]
pub struct Args {
    /// Print the result as JSON on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The main job: raw data to a tuned model, a verdict and a report.
    #[command(
        after_help = "Example:\n  ferrotune pipeline --config fixtures/bluesky/pipeline.toml --out out"
    )]
    Pipeline(PipelineArgs),
    /// Clean, filter, strip PII and deduplicate files by a recipe; what is dropped is kept aside with its reason.
    #[command(after_help = "Example:\n  ferrotune curate tickets.jsonl --recipe tickets --out curated")]
    Curate(CurateArgs),
    /// A data-quality checklist with figures and distributions.
    #[command(after_help = "Example:\n  ferrotune inspect curated/kept.jsonl --html page.html")]
    Inspect(InspectArgs),
    /// Find personal data, row by row.
    #[command(after_help = "Example:\n  ferrotune pii rows.jsonl --field text --json")]
    Pii(FieldArgs),
    /// Find exact and near duplicates.
    #[command(after_help = "Example:\n  ferrotune dedup rows.jsonl --field text --threshold 0.7 --json")]
    Dedup(DedupArgs),
    /// Conversations as the model reads them, with the assistant's spans.
    #[command(after_help = "Example:\n  ferrotune render chatml --chat-file chats.jsonl --json")]
    Render(ChatFileArgs),
    /// Conversations as token ids with their loss mask; or a text, cut by one tokenizer or several.
    #[command(
        after_help = "Example:\n  ferrotune tokenize smollm2-135m-instruct --chat-file chats.jsonl --json\n  ferrotune tokenize smollm2-135m-instruct all-minilm-l6-v2 --show \"Where is my order?\""
    )]
    Tokenize(TokenizeArgs),
    /// Answer a message.
    #[command(
        after_help = "Example:\n  ferrotune generate smollm2-135m-instruct --chat \"What is the capital of France?\""
    )]
    Generate(GenerateArgs),
    /// How surprised a model is by a text.
    #[command(after_help = "Example:\n  ferrotune perplexity smollm2-135m-instruct book.txt --window 1024")]
    Perplexity(PerplexityArgs),
    /// Supervised fine-tuning of an adapter, or with --full of the model itself.
    #[command(
        after_help = "Example:\n  ferrotune sft --model smollm2-135m-instruct --data chats.jsonl --steps 50 --out tuned\n  ferrotune sft --model smollm2-135m-instruct --data chats.jsonl --find-lr --out sweep"
    )]
    Sft(SftArgs),
    /// Reading on in documents of your own, with general text replayed against forgetting.
    #[command(
        after_help = "Example:\n  ferrotune cpt --model smollm2-135m-instruct --data manual.txt --general wiki.txt --replay 0.2 --out read"
    )]
    Cpt(CptArgs),
    /// Masked language modelling: an encoder learns to guess hidden words of your own documents.
    #[command(after_help = "Example:\n  ferrotune mlm --model all-minilm-l6-v2 --data manual.txt --out read")]
    Mlm(MlmArgs),
    /// Classes for texts (rows of text and label) or for their tokens (rows of text and spans).
    #[command(
        after_help = "Example:\n  ferrotune classify --model smollm2-135m-instruct --data labelled.jsonl --validation held.jsonl --out classes\n  ferrotune classify --model smollm2-135m-instruct --data new.jsonl --apply classes --out said"
    )]
    Classify(ClassifyArgs),
    /// A reward model from preference pairs: an adapter and a row that scores answers.
    #[command(
        after_help = "Example:\n  ferrotune reward --model smollm2-135m-instruct --data pairs.jsonl --out reward"
    )]
    Reward(RewardArgs),
    /// Preference tuning of a LoRA adapter (DPO and its relatives; ORPO, SimPO, CPO and KTO by --loss).
    #[command(
        after_help = "Example:\n  ferrotune dpo --model smollm2-135m-instruct --data pairs.jsonl --beta 0.1 --out aligned"
    )]
    Dpo(DpoArgs),
    /// Preference pairs checked with figures, made out of scores, rankings, thumbs or logs, split by prompt.
    #[command(
        after_help = "Example:\n  ferrotune pairs pairs.jsonl --set-aside identical,conflict --held-out 0.2 --out pairs"
    )]
    Pairs(PairsArgs),
    /// Preference pairs from a judge: a model answers each prompt several times, the judge compares (RLAIF).
    #[command(
        after_help = "Example:\n  ferrotune rlaif --model smollm2-135m-instruct --prompts questions.jsonl --out pairs.jsonl"
    )]
    Rlaif(RlaifArgs),
    /// Base and adapter to one checkpoint, checked.
    #[command(after_help = "Example:\n  ferrotune merge smollm2-135m-instruct tuned/adapter --out merged")]
    Merge(MergeArgs),
    /// Texts to vectors.
    #[command(
        after_help = "Example:\n  ferrotune embed all-minilm-l6-v2 rows.jsonl --out vectors.safetensors"
    )]
    Embed(EmbedArgs),
    /// Is one model better than another? From answers in a file, offline or by an LLM.
    #[command(
        after_help = "Example:\n  ferrotune judge answers.jsonl --json\n  (rows: id, question, reference, base, tuned)"
    )]
    Judge(JudgeArgs),
    /// Answers from your own documents.
    #[command(subcommand)]
    Rag(RagCommand),
}

/// Answers from documents.
#[derive(Debug, Subcommand)]
pub enum RagCommand {
    /// Cut, embed and index a folder of documents.
    #[command(after_help = "Example:\n  ferrotune rag index docs --out index.sqlite")]
    Index(RagIndexArgs),
    /// Answer one question from an index, with citations.
    #[command(after_help = "Example:\n  ferrotune rag ask index.sqlite \"How long may I return things?\"")]
    Ask(RagAskArgs),
    /// Measure retrieval and answers on questions with known documents.
    #[command(after_help = "Example:\n  ferrotune rag eval index.sqlite questions.jsonl --json")]
    Eval(RagEvalArgs),
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct PipelineArgs {
    /// Settings [default: fixtures/bluesky/pipeline.toml, the shop that comes with the repository; with --sft, settings for
    /// data of any kind].
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Folder for everything that the run leaves.
    #[arg(long, default_value = "out")]
    pub out: PathBuf,
    /// Keep what an earlier run finished with the same settings and data, and go on.
    #[arg(long)]
    pub resume: bool,
    /// Run these stages again and no others (comma-separated).
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Your conversations instead of the configured ones.
    #[arg(long)]
    pub sft: Option<PathBuf>,
    /// Your preference pairs.
    #[arg(long)]
    pub preference: Option<PathBuf>,
    /// Your folder of documents.
    #[arg(long)]
    pub documents: Option<PathBuf>,
    /// Your held-out questions.
    #[arg(long)]
    pub questions: Option<PathBuf>,
    /// A folder, a GGUF file, a hub id or a known name.
    #[arg(long)]
    pub model: Option<String>,
    /// auto, fp32, bf16 or fp16.
    #[arg(long)]
    pub dtype: Option<String>,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long)]
    pub device: Option<String>,
    /// An OpenAI-compatible server that judges instead of the offline reference judge.
    #[arg(long, requires = "judge_model")]
    pub judge_url: Option<String>,
    /// Its model.
    #[arg(long, requires = "judge_url")]
    pub judge_model: Option<String>,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct CurateArgs {
    /// JSONL, JSON, CSV or Parquet, also .gz and .zst.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// A recipe file, or one that ships: tickets, instructions, web, preferences.
    #[arg(long, default_value = "instructions")]
    pub recipe: String,
    /// Folder for kept.jsonl, dropped.jsonl, edits.jsonl and report.json.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct InspectArgs {
    /// The dataset.
    pub file: PathBuf,
    /// Also write a page with histograms.
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Also write a dataset card.
    #[arg(long)]
    pub card: Option<PathBuf>,
    /// The held-out rows, none of whose prompts may be among the dataset's.
    #[arg(long)]
    pub validation: Option<PathBuf>,
    /// The target model's chat template, which every row must render with: a built-in name or a .jinja file.
    #[arg(long)]
    pub template: Option<String>,
    /// Words that must not occur, separated by commas: competitors, old product names.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    pub banned: Vec<String>,
    /// Your name, once you have read the rows of the page's sample: it then stands in the card.
    #[arg(long, allow_hyphen_values = true)]
    pub signed_by: Option<String>,
    /// TOML with any setting of the checklist, such as `sample`, `language` or `max_topic_share`.
    #[arg(long)]
    pub config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct FieldArgs {
    /// JSONL, JSON, CSV, Parquet or text, also .gz and .zst.
    pub file: PathBuf,
    /// The column to look at.
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Report spans of at least this score.
    #[arg(long, default_value_t = 0.5)]
    pub min_score: f32,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct DedupArgs {
    /// JSONL, JSON, CSV, Parquet or text, also .gz and .zst.
    pub file: PathBuf,
    /// The column to compare.
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Jaccard similarity from which two texts are near duplicates.
    #[arg(long, default_value_t = 0.7)]
    pub threshold: f64,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct ChatFileArgs {
    /// A model, or for `render` also a built-in template (chatml, llama3, …) or a .jinja file.
    pub model: String,
    /// JSONL with `messages`, or any shape that `curate` reads.
    #[arg(long)]
    pub chat_file: PathBuf,
    #[command(flatten)]
    pub words: TemplateArg,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct TemplateArg {
    /// A chat template instead of the model's own, which base models lack: a built-in one (chatml, llama3, …) or a
    /// .jinja file.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub template: String,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct TokenizeArgs {
    /// A model, or with --show several: folders (tokenizer.json is enough), GGUF files, hub ids or known names.
    #[arg(required = true)]
    pub models: Vec<String>,
    /// JSONL with `messages`, or any shape that `curate` reads.
    #[arg(long, required_unless_present = "show")]
    pub chat_file: Option<PathBuf>,
    #[command(flatten)]
    pub words: TemplateArg,
    /// Show how each tokenizer cuts this text, in colours on a terminal.
    #[arg(long, conflicts_with = "chat_file", allow_hyphen_values = true)]
    pub show: Option<String>,
    /// Tokens of the context to count against (default: the model's own).
    #[arg(long, requires = "show", value_parser = tokens())]
    pub context: Option<usize>,
    /// Tokens of the context to keep free for the answer.
    #[arg(long, default_value_t = 0, requires = "show", value_parser = tokens())]
    pub reserve: usize,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct GenerateArgs {
    /// A folder, a GGUF file, a hub id or a known name.
    pub model: String,
    /// A LoRA adapter to put on it.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// The message to answer; without it and --prompt, a chat in the terminal.
    #[arg(long, allow_hyphen_values = true)]
    pub chat: Option<String>,
    /// A plain text to go on with, without a chat template.
    #[arg(long, conflicts_with_all = ["chat", "system"], allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// A system turn.
    #[arg(long, allow_hyphen_values = true)]
    pub system: Option<String>,
    #[command(flatten)]
    pub words: TemplateArg,
    /// Tokens at most.
    #[arg(long, default_value_t = 256, value_parser = tokens())]
    pub max_new_tokens: usize,
    /// Do not end before so many tokens: until then no id that ends the text is chosen. What --stop names ends it all the same.
    #[arg(long, default_value_t = 0, value_parser = tokens())]
    pub min_new_tokens: usize,
    /// Stop before this text; may be given more than once.
    #[arg(long, allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Stop at this token id, besides the model's own; may be given more than once.
    #[arg(long)]
    pub stop_id: Vec<u32>,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Keep the smallest set of tokens whose probability reaches this.
    #[arg(long, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Keep the k likeliest tokens.
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Keep tokens at least this part as likely as the likeliest.
    #[arg(long, allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Keep the tokens, of this probability together, whose surprise is nearest to the expected one.
    #[arg(long, allow_negative_numbers = true)]
    pub typical_p: Option<f64>,
    /// Above 1 makes tokens already seen less likely.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f64,
    /// Taken off the logits of tokens that the answer already has.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f64,
    /// Taken off them once for each time they came.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f64,
    /// Tell how likely each token was, and this many others.
    #[arg(long)]
    pub logprobs: Option<usize>,
    /// Search with so many beams and show what they find, best first; without chance, penalties and stop strings.
    #[arg(long, conflicts_with_all = [
        "score", "logprobs", "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty",
        "presence_penalty", "frequency_penalty", "min_new_tokens", "stop", "seed",
    ], value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub beams: Option<usize>,
    /// Beam search: above 0 favours long texts.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, requires = "beams", value_parser = finite)]
    pub length_penalty: f64,
    /// Do not generate: tell how likely this text is after the prompt.
    #[arg(long, allow_hyphen_values = true, conflicts_with_all = [
        "max_new_tokens", "min_new_tokens", "stop", "stop_id", "temperature", "top_p", "top_k", "min_p", "typical_p",
        "repetition_penalty", "presence_penalty", "frequency_penalty", "logprobs", "length_penalty", "seed",
    ])]
    pub score: Option<String>,
    /// Same seed, same text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Round the weights to 8 bits: faster on CPUs, half of bf16's memory.
    #[arg(long)]
    pub int8: bool,
    /// auto, fp32, bf16 or fp16.
    #[arg(long, default_value = "auto")]
    pub dtype: String,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct PerplexityArgs {
    /// A folder, a GGUF file, a hub id or a known name.
    pub model: String,
    /// Plain text.
    pub file: PathBuf,
    /// A LoRA adapter to put on the model.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Tokens a window (default: 1024, or the model's context where that is shorter); windows do not overlap.
    #[arg(long)]
    pub window: Option<usize>,
    /// Only so many tokens.
    #[arg(long)]
    pub max_tokens: Option<usize>,
    /// Round the weights to 8 bits first.
    #[arg(long)]
    pub int8: bool,
    /// auto, fp32, bf16 or fp16.
    #[arg(long, default_value = "auto")]
    pub dtype: String,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct TuneArgs {
    /// A folder, a GGUF file, a hub id or a known name.
    #[arg(long)]
    pub model: String,
    /// Conversations, or for dpo preference pairs; any usual shape.
    #[arg(long)]
    pub data: PathBuf,
    /// Where the adapter or the model, its metrics and the loss plot go.
    #[arg(long)]
    pub out: PathBuf,
    /// TOML with the settings of the recipe; options on the command line win.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Optimiser steps (default: one pass over the data).
    #[arg(long)]
    pub steps: Option<usize>,
    /// Examples or pairs a step.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Tokens of an example at most (default: 1024, or the model's context where that is shorter).
    #[arg(long)]
    pub max_length: Option<usize>,
    /// What becomes of a longer one: drop, keep_start (its end is cut off; of a pair, both answers' ends) or keep_end
    /// (its beginning; of a pair, the prompt's). Default: keep_start for pairs, drop for conversations.
    #[arg(long, value_parser = ["drop", "keep_start", "keep_end"])]
    pub truncation: Option<String>,
    #[command(flatten)]
    pub words: TemplateArg,
    /// LoRA's rank.
    #[arg(long, default_value_t = 16)]
    pub lora_r: i64,
    /// LoRA's α.
    #[arg(long, default_value_t = 32.0)]
    pub lora_alpha: f64,
    /// LoRA's dropout.
    #[arg(long, default_value_t = 0.0)]
    pub lora_dropout: f64,
    /// Keep the frozen base in 4 bits (QLoRA): nf4.
    #[arg(long, value_parser = ["nf4"])]
    pub quantize: Option<String>,
    /// all-linear, a comma-separated list of suffixes, or a regex.
    #[arg(long, default_value = "all-linear")]
    pub targets: String,
    /// Weight-decomposed LoRA.
    #[arg(long)]
    pub dora: bool,
    /// Scale updates by α / √r instead of α / r.
    #[arg(long)]
    pub rslora: bool,
    /// How the adapter begins: default, gaussian, pissa or olora.
    #[arg(long, default_value = "default", value_parser = ["default", "gaussian", "pissa", "olora"])]
    pub init: String,
    /// Which biases are trained too: none, all or lora_only.
    #[arg(long, default_value = "none", value_parser = ["none", "all", "lora_only"])]
    pub bias: String,
    /// Modules trained whole and saved with the adapter: embed_tokens, lm_head, ….
    #[arg(long, value_delimiter = ',')]
    pub modules_to_save: Vec<String>,
    /// Go on with this adapter instead of a new one.
    #[arg(long, conflicts_with_all = ["lora_r", "lora_alpha", "lora_dropout", "targets", "dora", "rslora", "init", "bias",
        "modules_to_save"])]
    pub adapter: Option<PathBuf>,
    /// Peak learning rate.
    #[arg(long)]
    pub lr: Option<f64>,
    /// constant, linear, cosine or wsd.
    #[arg(long)]
    pub schedule: Option<String>,
    /// Steps of warm-up.
    #[arg(long)]
    pub warmup_steps: Option<usize>,
    /// Of every random choice (default: the one in --config, else 0).
    #[arg(long)]
    pub seed: Option<u64>,
    /// Examples in the order of the file.
    #[arg(long)]
    pub no_shuffle: bool,
    /// Go on from the newest checkpoint in --out.
    #[arg(long)]
    pub resume: bool,
    /// auto, fp32, bf16 or fp16.
    #[arg(long, default_value = "auto")]
    pub dtype: String,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct SftArgs {
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    pub whole: WholeArgs,
    /// Pack examples into rows of --max-length; attention stays inside each example.
    #[arg(long)]
    pub packing: bool,
    /// Held-out conversations to validate on.
    #[arg(long)]
    pub validation: Option<PathBuf>,
    /// Instead of training, sweep the learning rate, suggest one and draw lr_find.svg.
    #[arg(long)]
    pub find_lr: bool,
}

/// What is trained beside adapters, and how.
#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct WholeArgs {
    /// Train the model itself instead of an adapter; what comes out is a model folder.
    #[arg(long, conflicts_with_all = ["quantize", "adapter", "lora_r", "lora_alpha", "lora_dropout", "targets", "dora", "rslora",
        "init", "bias", "modules_to_save"])]
    pub full: bool,
    /// Leave the embeddings and the first N blocks as they are, or with --full what these names hold (with commas).
    #[arg(long, default_value = "", conflicts_with = "adapter")]
    pub freeze_layers: String,
    /// adamw, or adamw8bit, whose moments take 2 bytes a number instead of 8.
    #[arg(long, value_parser = ["adamw", "adamw8bit"])]
    pub optimizer: Option<String>,
    /// Steps between validations (default: at the start and the end).
    #[arg(long)]
    pub eval_every: Option<usize>,
    /// Stop after so many validations without a new best.
    #[arg(long)]
    pub patience: Option<usize>,
    /// Compute each block again in the backward pass: less memory, about a third more time.
    #[arg(long)]
    pub activation_checkpointing: bool,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct ClassifyArgs {
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    pub whole: WholeArgs,
    /// Held-out rows to validate on.
    #[arg(long)]
    pub validation: Option<PathBuf>,
    /// Instead of training, say the classes of --data by what an earlier run left in this folder.
    #[arg(long)]
    pub apply: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct MlmArgs {
    /// An encoder: a folder, a hub id or a known name.
    #[arg(long)]
    pub model: String,
    /// Documents: a text file, one a blank line apart, or any shape that `curate` reads.
    #[arg(long)]
    pub data: PathBuf,
    /// Where the model, its metrics and its checkpoints go.
    #[arg(long)]
    pub out: PathBuf,
    /// Optimiser steps (default: one pass over the data).
    #[arg(long)]
    pub steps: Option<usize>,
    /// Texts a step (default: 16).
    #[arg(long)]
    pub batch: Option<usize>,
    /// Tokens of a text at most; longer ones are cut into several (default: 128).
    #[arg(long)]
    pub max_length: Option<usize>,
    /// Share of the tokens that are to be guessed.
    #[arg(long, default_value_t = 0.15)]
    pub mask_share: f64,
    /// Share of the documents that is held out, to see what was learnt.
    #[arg(long, default_value_t = 0.1)]
    pub held_out: f64,
    /// Leave the embeddings and the first N layers as they are, or what these names hold (with commas).
    #[arg(long, default_value = "")]
    pub freeze_layers: String,
    /// adamw, or adamw8bit, whose moments take 2 bytes a number instead of 8.
    #[arg(long, value_parser = ["adamw", "adamw8bit"])]
    pub optimizer: Option<String>,
    /// Peak learning rate (default: 5e-5).
    #[arg(long)]
    pub lr: Option<f64>,
    /// Steps of warm-up.
    #[arg(long)]
    pub warmup_steps: Option<usize>,
    /// Steps between validations (default: at the start and the end).
    #[arg(long)]
    pub eval_every: Option<usize>,
    /// Stop after so many validations without a new best.
    #[arg(long)]
    pub patience: Option<usize>,
    /// Of every random choice.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Go on from the newest checkpoint in --out.
    #[arg(long)]
    pub resume: bool,
    /// auto, fp32, bf16 or fp16.
    #[arg(long, default_value = "auto")]
    pub dtype: String,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct CptArgs {
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    pub whole: WholeArgs,
    /// General text to replay: a text file, one document a blank line apart.
    #[arg(long)]
    pub general: Option<PathBuf>,
    /// Its share of all windows, at least 0 and below 1.
    #[arg(long, default_value_t = 0.2)]
    pub replay: f64,
    /// Share of both texts that is held out, to see what was learnt and what forgotten.
    #[arg(long, default_value_t = 0.1)]
    pub held_out: f64,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct RewardArgs {
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    pub whole: WholeArgs,
    /// Pulls scores towards zero; 0 does not.
    #[arg(long, default_value_t = 0.01)]
    pub centering: f64,
    /// Held-out pairs to validate on.
    #[arg(long)]
    pub validation: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct DpoArgs {
    #[command(flatten)]
    pub tune: TuneArgs,
    #[command(flatten)]
    pub whole: WholeArgs,
    /// How strongly the policy is held to the reference.
    #[arg(long)]
    pub beta: Option<f64>,
    /// sigmoid, ipo, hinge, … (several with commas between them are added up); without a reference orpo, simpo, cpo; on
    /// single answers kto. Their other settings stand in --config.
    #[arg(long)]
    pub loss: Option<String>,
    /// What the policy is held to: start (the model as it is now), base (without its adapter), or another model.
    #[arg(long)]
    pub reference: Option<String>,
    /// An adapter to put on a reference that is another model.
    #[arg(long, requires = "reference")]
    pub reference_adapter: Option<PathBuf>,
    /// Held-out pairs to validate on; with kto also single answers.
    #[arg(long)]
    pub validation: Option<PathBuf>,
    /// Answer so many held-out prompts before and after, to see whether answers grow longer.
    #[arg(long, default_value_t = 0, requires = "validation")]
    pub answers: usize,
    /// Tokens of such an answer at most.
    #[arg(long, default_value_t = 128)]
    pub answer_tokens: usize,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct PairsArgs {
    /// Pairs in any shape that `curate` reads; or with --from, JSONL or JSON of another kind.
    pub file: PathBuf,
    /// pairs; scores (prompt, answers, scores); ranking (prompt, answers, best first); thumbs (an answer with a
    /// label); log (prompt, shown: a list of answer, outcome
    /// and, for one that was edited, edited).
    #[arg(long, default_value = "pairs")]
    pub from: String,
    /// Which answers of a ranking are paired: all, best_against_rest, best_against_worst or neighbours.
    #[arg(long, default_value = "all")]
    pub pairing: String,
    /// Scores must differ by at least this much.
    #[arg(long, default_value_t = 0.0)]
    pub min_gap: f64,
    /// Count tokens with this model's tokenizer: how many pairs fit.
    #[arg(long)]
    pub model: Option<String>,
    #[command(flatten)]
    pub words: TemplateArg,
    /// Tokens of a prompt with one answer at most.
    #[arg(long, default_value_t = 1024, requires = "model")]
    pub max_length: usize,
    /// Flags by which pairs are set aside, separated by commas: empty, identical, near_identical, refusal_chosen,
    /// conflict, cycle, repeated, no_room.
    #[arg(long, value_delimiter = ',')]
    pub set_aside: Vec<String>,
    /// Share of the pairs to hold out; pairs with the same or nearly the same prompt stay together.
    #[arg(long, default_value_t = 0.0)]
    pub held_out: f64,
    /// Deals differently.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Folder for train.jsonl, held.jsonl, aside.jsonl and report.json.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct RlaifArgs {
    /// The model that answers.
    #[arg(long)]
    pub model: String,
    /// A LoRA adapter to put on it.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub words: TemplateArg,
    /// JSONL: question (or prompt, or messages), and perhaps reference.
    #[arg(long)]
    pub prompts: PathBuf,
    /// Only so many prompts.
    #[arg(long)]
    pub max_prompts: Option<usize>,
    /// The file of pairs.
    #[arg(long)]
    pub out: PathBuf,
    /// Answers to each prompt; every two are compared.
    #[arg(long, default_value_t = 2)]
    pub samples: usize,
    /// Of sampling.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Keep the smallest set of tokens whose probability reaches this.
    #[arg(long, default_value = "0.95", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 256, value_parser = tokens())]
    pub max_new_tokens: usize,
    /// Of sampling.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// An OpenAI-compatible server that judges, both orders.
    #[arg(long, requires = "judge_model")]
    pub judge_url: Option<String>,
    /// Its model; without --judge-url a model in this process. Without either, prompts need reference answers.
    #[arg(long)]
    pub judge_model: Option<String>,
    /// A folder that keeps the server's replies: what was asked before is not asked, nor paid, again.
    #[arg(long, requires = "judge_url")]
    pub judge_cache: Option<PathBuf>,
    /// auto, fp32, bf16 or fp16.
    #[arg(long, default_value = "auto")]
    pub dtype: String,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct MergeArgs {
    /// The model that the adapter was trained on.
    pub base: String,
    /// The adapter's folder.
    pub adapter: PathBuf,
    /// The merged model's folder.
    #[arg(long)]
    pub out: PathBuf,
    #[command(flatten)]
    pub words: TemplateArg,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct EmbedArgs {
    /// An encoder: a folder, a hub id or a known name.
    pub model: String,
    /// JSONL.
    pub file: PathBuf,
    /// The column to embed.
    #[arg(long, default_value = "text")]
    pub field: String,
    /// A safetensors file with `embeddings` (rows, dim), in the order of the rows.
    #[arg(long)]
    pub out: PathBuf,
    /// auto, fp32, bf16 or fp16.
    #[arg(long, default_value = "fp32")]
    pub dtype: String,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct JudgeArgs {
    /// JSONL: id, question, reference, base, tuned; perhaps before, the turns before the question.
    pub file: PathBuf,
    /// An OpenAI-compatible server that judges, both orders, instead of the offline reference judge.
    #[arg(long, requires = "judge_model")]
    pub judge_url: Option<String>,
    /// Its model.
    #[arg(long, requires = "judge_url")]
    pub judge_model: Option<String>,
    /// A folder that keeps the server's replies: what was asked before is not asked, nor paid, again.
    #[arg(long, requires = "judge_url")]
    pub judge_cache: Option<PathBuf>,
    /// Of the bootstrap.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct RagIndexArgs {
    /// A folder of .md and .txt files.
    pub folder: PathBuf,
    /// The index file.
    #[arg(long, default_value = "index.sqlite")]
    pub out: PathBuf,
    /// An encoder, or `none` for words alone.
    #[arg(long, default_value = "all-minilm-l6-v2")]
    pub encoder: String,
    /// Characters of a chunk at most.
    #[arg(long, default_value_t = 700)]
    pub chunk_chars: usize,
    /// Characters that neighbours share.
    #[arg(long, default_value_t = 80)]
    pub overlap_chars: usize,
    /// Keep documents of the index that the folder does not hold (any more): for an index of several folders.
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct RagAskArgs {
    /// The index file.
    pub index: PathBuf,
    /// The question.
    #[arg(allow_hyphen_values = true)]
    pub question: String,
    #[command(flatten)]
    pub with: RagModelArgs,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct RagEvalArgs {
    /// The index file.
    pub index: PathBuf,
    /// JSONL: id, question, documents.
    pub questions: PathBuf,
    #[command(flatten)]
    pub with: RagModelArgs,
}

#[derive(Debug, clap::Args)]
#[doc(hidden)]
pub struct RagModelArgs {
    /// The encoder that the index was made with, or `none`.
    #[arg(long, default_value = "all-minilm-l6-v2")]
    pub encoder: String,
    /// The model that answers, or `none` to quote the documents.
    #[arg(long, default_value = "smollm2-135m-instruct")]
    pub model: String,
    /// A LoRA adapter to put on it.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub words: TemplateArg,
    /// Chunks put before the model.
    #[arg(long, default_value_t = 3)]
    pub k: usize,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 96, value_parser = tokens())]
    pub max_new_tokens: usize,
    /// auto, fp32, bf16 or fp16.
    #[arg(long, default_value = "auto")]
    pub dtype: String,
    /// auto, cpu, cuda:0 or mps.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// A number of tokens: more than any model reads, and few enough to count with.
fn tokens() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=100_000_000)
}

/// A number, which NaN and infinities are not.
fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err("it must be finite".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Args {
    /// Refuses what the options say together and clap cannot know.
    ///
    /// # Errors
    /// Says what does not go together.
    pub fn check(&self) -> Result<()> {
        match &self.command {
            Command::Generate(args) if self.json && args.chat.is_none() && args.prompt.is_none() => {
                bail!("--json needs --chat TEXT or --prompt TEXT: a chat in the terminal is no JSON")
            }
            _ => Ok(()),
        }
    }
}

impl Command {
    /// Whether it runs without libtorch.
    pub fn is_light(&self) -> bool {
        match self {
            Command::Curate(_)
            | Command::Inspect(_)
            | Command::Pii(_)
            | Command::Dedup(_)
            | Command::Judge(_) => true,
            Command::Render(args) => args.words.template.is_empty() && is_template(&args.model),
            _ => false,
        }
    }
}

/// What a command gives: JSON for machines, a text for people.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// One document, or several that stand a line each.
    pub json: Vec<serde_json::Value>,
    /// For people.
    pub text: String,
}

impl Output {
    /// One JSON document.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn one(value: &impl serde::Serialize, text: impl Into<String>) -> Result<Self> {
        Ok(Output { json: vec![serde_json::to_value(value)?], text: text.into() })
    }
}

/// Prints a command's output, or its error on stderr; gives the exit code (0, or 1 for a failure).
pub fn finish(json: bool, result: Result<Output>) -> ExitCode {
    let printed = result.and_then(|output| {
        let mut stdout = std::io::stdout().lock();
        if json {
            for value in &output.json {
                writeln!(stdout, "{value}")?;
            }
        } else {
            writeln!(stdout, "{}", output.text)?;
        }
        Ok(stdout.flush()?)
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_words(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes; one that says its cause already is not followed by it.
fn in_words(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        said if said.ends_with(&cause) => said.to_owned(),
        said => format!("{said}: {cause}"),
    })
}

/// Whoever read our output has seen enough (`| head`).
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
