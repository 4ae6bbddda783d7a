//! `tokenize --show`: how tokenizers cut a text, and how much of a context it takes.

use std::fmt::Write;
use std::io::IsTerminal;

use anyhow::{Context, Result};
use ferrotune_model::checkpoint::{Source, load_config};
use ferrotune_model::families::decoder_config;
use ferrotune_tokenizer::Budget;
use serde_json::json;

use crate::cli::{Output, TokenizeArgs};
use crate::model_store;

/// A block for each tokenizer: the count, the text with its tokens apart, and what is left of the context.
///
/// # Errors
/// A tokenizer that cannot be loaded.
pub(crate) fn show_tokens(args: &TokenizeArgs, text: &str) -> Result<Output> {
    let colours = std::io::stdout().is_terminal();
    let mut output = Output::default();
    for model in &args.models {
        let source = model_store::resolve(model)?;
        let tokenizer = model_store::load_tokenizer(&source)
            .with_context(|| format!("cannot load the tokenizer of {model:?}"))?;
        let shown = tokenizer.explain(text)?;
        let n = shown.n_tokens();
        let budget = args.context.or_else(|| context_of(&source)).map(|c| shown.budget(c, args.reserve));
        let per_token = shown.n_chars as f64 / n.max(1) as f64;
        let _ = write!(output.text, "{model}: {n} tokens, {per_token:.2} characters a token");
        if let Some(budget) = &budget {
            let _ = write!(output.text, "; {}", told(budget));
        }
        let cut = if colours { shown.ansi() } else { shown.plain() };
        let _ = writeln!(output.text, "\n{cut}\n");
        let budget = budget
            .map(|b| json!({"used": b.used, "reserved": b.reserved, "context": b.context, "left": b.left()}));
        output.json.push(json!({
            "model": model,
            "tokens": n,
            "characters": shown.n_chars,
            "pieces": shown.pieces,
            "budget": budget,
        }));
    }
    output.text.truncate(output.text.trim_end().len());
    Ok(output)
}

fn told(budget: &Budget) -> String {
    let kept = match budget.reserved {
        0 => String::new(),
        n => format!(" beside {n} for the answer"),
    };
    match budget.left() {
        left @ 0.. => format!("{left} of a context of {} left{kept}", budget.context),
        over => format!("{} too many for a context of {}{kept}", -over, budget.context),
    }
}

/// The context that the model's config names; none where there is only a tokenizer.
fn context_of(source: &Source) -> Option<usize> {
    let config = load_config(source).ok()?;
    if let Ok(decoder) = decoder_config(&config) {
        return Some(decoder.max_position_embeddings);
    }
    let named = ["max_position_embeddings", "n_positions"].iter().find_map(|key| config.get(*key)?.as_u64());
    named.map(|n| n as usize)
}
