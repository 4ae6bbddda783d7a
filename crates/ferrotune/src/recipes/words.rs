//! From what people wrote to what a step trains on.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrotune_data::chat::{ChatTemplate, RenderOptions};
use ferrotune_model::Decoder;
use ferrotune_peft::{Adapter, LoadOptions, LoraConfig, Targets, base_doubt, load};
use ferrotune_preference::pairs::PairTokens;
use ferrotune_tokenizer::{Limits, Made, SkipReason, Skipped, Tokenized, Tokenizer};
use ferrotune_types::{Conversation, Example, PairExample, PreferencePair};
use rayon::prelude::*;
use serde_json::Value;

/// Renders and tokenises conversations on all cores, in their order. A conversation that the template refuses is
/// skipped and counted, as one that is too long is.
///
/// # Errors
/// Where the policy is to stop at the first row that is too long.
pub fn examples(
    chats: &[Conversation],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    limits: &Limits,
) -> Result<Tokenized<Example>> {
    let options = RenderOptions::default();
    let made: Vec<Result<Made<Example>, Skipped>> = chats
        .par_iter()
        .map(|chat| match template.render(chat, &options) {
            Ok(rendered) => tokenizer.example(&rendered, &chat.id, limits),
            Err(error) => Err(not_rendered(&chat.id, &error)),
        })
        .collect();
    Ok(Tokenized::gather(made, limits)?)
}

/// As [`examples`], for preference pairs.
///
/// # Errors
/// Where a prompt is no prefix of its answers: then the template, not the row, is wrong.
pub fn pair_examples(
    pairs: &[PreferencePair],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    limits: &Limits,
) -> Result<Tokenized<PairExample>> {
    let options = RenderOptions::default();
    let made: Vec<Result<Made<PairExample>, Skipped>> = pairs
        .par_iter()
        .map(|pair| match template.render_pair(pair, &options) {
            Ok(r) => {
                tokenizer.pair_example(&r.prompt, &r.chosen, &r.rejected, &pair.id, limits).map(|made| {
                    let margin = pair.meta.get("margin").and_then(Value::as_f64);
                    Made { item: made.item.with_margin(margin), ..made }
                })
            }
            Err(error) => Err(not_rendered(&pair.id, &error)),
        })
        .collect();
    Ok(Tokenized::gather(made, limits)?)
}

/// How many tokens the parts of each pair have; none of a pair that cannot be rendered.
pub fn pair_tokens(
    pairs: &[PreferencePair],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
) -> Vec<PairTokens> {
    let count = |pair: &PreferencePair| {
        let r = template.render_pair(pair, &RenderOptions::default()).ok()?;
        let n = |rendered| Some(tokenizer.encode_rendered(rendered).ok()?.ids.len());
        let (prompt, chosen, rejected) = (n(&r.prompt)?, n(&r.chosen)?, n(&r.rejected)?);
        let after = |n: usize| n.saturating_sub(prompt);
        Some(PairTokens { prompt, chosen: after(chosen), rejected: after(rejected) })
    };
    pairs
        .par_iter()
        .map(|pair| count(pair).unwrap_or(PairTokens { prompt: 0, chosen: 0, rejected: 0 }))
        .collect()
}

fn not_rendered(id: &str, error: &ferrotune_data::DataError) -> Skipped {
    Skipped { id: id.to_owned(), reason: SkipReason::NotRendered, detail: error.to_string(), tokens: 0 }
}

/// A saved adapter on its base; where it says that it was trained on another kind of model, that is told.
///
/// # Errors
/// A folder without an adapter, or one that does not fit the model.
pub fn adapter_on(decoder: &mut Decoder, folder: &Path) -> Result<Adapter> {
    let adapter = load(decoder, folder, &LoadOptions::default())
        .with_context(|| format!("cannot load the adapter {}", folder.display()))?;
    if let Some(doubt) = base_doubt(&adapter.config, &decoder.config.model_type) {
        eprintln!("warning: {}: {doubt}", folder.display());
    }
    Ok(adapter)
}

/// As [`adapter_on`], ready to go on training.
///
/// # Errors
/// As [`adapter_on`].
pub fn adapter_to_train(decoder: &mut Decoder, folder: &Path) -> Result<Adapter> {
    let adapter = adapter_on(decoder, folder)?;
    for (_, tensor) in adapter.parameters() {
        let _ = tensor.set_requires_grad(true);
    }
    Ok(adapter)
}

/// An adapter's config from what the command line says: `targets` is `all-linear`, a comma-separated list of
/// suffixes (`q_proj,v_proj`), or a regex.
///
/// # Errors
/// A rank below 1.
pub fn lora_config(r: i64, alpha: f64, dropout: f64, targets: &str, base: &str) -> Result<LoraConfig> {
    if r < 1 {
        bail!("the rank is {r}; it must be at least 1");
    }
    let mut config = LoraConfig::all_linear(r, alpha);
    config.lora_dropout = dropout;
    config.base_model_name_or_path = Some(base.to_owned());
    let is_list = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_,. ".contains(c));
    if targets != "all-linear" {
        config.target_modules = Some(if is_list(targets) {
            let names: Vec<&str> = targets.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
            Targets::suffixes(&names)
        } else {
            Targets::Pattern(targets.to_owned())
        });
    }
    Ok(config)
}
