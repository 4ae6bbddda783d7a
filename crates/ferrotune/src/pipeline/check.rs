//! What would stop a late stage, looked at before the first: a run that is to fail after hours of training fails at once.

use anyhow::{Context, Result, bail};
use ferrotune_llm::{Client, ClientConfig};
use ferrotune_rag::{ChunkConfig, Splitter, chunk};
use ferrotune_tokenizer::Truncation;
use ferrotune_types::Document;

use super::{PipelineConfig, data, lengths};
use crate::model_store;
use crate::recipes::lora_config;

/// Every setting that a stage will read, and every file that only a late one reads.
///
/// # Errors
/// The first setting that no stage could use, with its section and the file that it stands in.
pub(super) fn check(config: &PipelineConfig) -> Result<()> {
    let in_section = |section: &str| match &config.file {
        Some(file) => format!("{}: [{section}]", file.display()),
        None => format!("[{section}]"),
    };
    shares(config).with_context(|| in_section("split"))?;
    words(config).with_context(|| in_section("tokenize"))?;
    adapter(config).with_context(|| in_section("lora"))?;
    config.sft.check().with_context(|| in_section("sft"))?;
    if config.data.preference.is_some() {
        preference(config).with_context(|| in_section("dpo"))?;
    }
    judge(config).with_context(|| in_section("judge"))?;
    if config.data.documents.is_some() {
        retrieval(config).with_context(|| in_section("rag"))?;
    }
    match &config.data.questions {
        Some(file) if data::questions(file)?.is_empty() => bail!("{} holds no question", file.display()),
        _ => Ok(()),
    }
}

fn shares(config: &PipelineConfig) -> Result<()> {
    let split = &config.split;
    let shares = [("validation", split.validation), ("preference_validation", split.preference_validation)];
    match shares.into_iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
        Some((name, share)) => bail!("{name} is {share}, not a share of at least 0 and below 1"),
        None => Ok(()),
    }
}

fn words(config: &PipelineConfig) -> Result<()> {
    truncation(&config.tokenize.truncation)?;
    let source = model_store::resolve(&config.model.id)?;
    lengths::context(config.tokenize.max_length, &source)?;
    model_store::load_words(&source, &config.tokenize.template)?;
    Ok(())
}

/// What becomes of rows that are too long, by name.
pub(super) fn truncation(name: &str) -> Result<Truncation> {
    Ok(match name {
        "drop" => Truncation::Drop,
        "left" => Truncation::Left,
        "right" => Truncation::Right,
        "error" => Truncation::Error,
        other => bail!("unknown truncation {other:?}; known: drop, left, right, error"),
    })
}

fn adapter(config: &PipelineConfig) -> Result<()> {
    let lora = &config.lora;
    Ok(lora_config(lora.r, lora.alpha, lora.dropout, &lora.targets, &config.model.id)?.check()?)
}

fn preference(config: &PipelineConfig) -> Result<()> {
    let dpo = &config.dpo;
    dpo.check()?;
    let is_other = !["start", "base"].contains(&dpo.reference.as_str());
    if is_other {
        model_store::resolve(&dpo.reference).context("the reference is start, base or a model")?;
    }
    match &dpo.reference_adapter {
        Some(folder) if !is_other => bail!(
            "reference_adapter {} goes with a reference that is another model: name the model it belongs on",
            folder.display()
        ),
        Some(folder) if !folder.is_dir() => bail!("reference_adapter {} is no folder", folder.display()),
        _ => Ok(()),
    }
}

fn judge(config: &PipelineConfig) -> Result<()> {
    let judge = &config.judge;
    match (judge.url.as_str(), judge.model.as_str()) {
        ("", "") => Ok(()),
        ("", model) => bail!("model is {model:?}, but url is empty: name the server that has it, or neither"),
        (url, "") => bail!("url is {url:?}, but model is empty: name the model that judges, or neither"),
        (url, model) => Ok(Client::new(ClientConfig::at(url, model)).map(drop)?),
    }
}

fn retrieval(config: &PipelineConfig) -> Result<()> {
    let rag = &config.rag;
    let chunks =
        ChunkConfig { splitter: Splitter::Markdown, size: rag.chunk_chars, overlap: rag.overlap_chars };
    chunk(&Document { id: String::new(), text: String::new(), meta: serde_json::Map::new() }, &chunks)?;
    if rag.k == 0 {
        bail!("k is 0: at least one chunk is put before the model");
    }
    if config.model.encoder != "none" {
        model_store::resolve(&config.model.encoder).context("model.encoder")?;
    }
    if let Some(folder) = &config.data.documents {
        crate::documents::read_folder(folder)?;
    }
    Ok(())
}
