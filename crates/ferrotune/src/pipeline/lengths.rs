//! How long a row may be, where the settings leave it to the data.

use anyhow::{Result, bail};
use ferrotune_data::chat::ChatTemplate;
use ferrotune_model::checkpoint::{Source, load_config};
use ferrotune_model::families::decoder_config;
use ferrotune_tokenizer::{Limits, Tokenizer};
use ferrotune_types::{Conversation, PreferencePair};

use crate::recipes;

/// Rows are not made longer than this unless the settings say so: a step's time and memory grow with it.
const MOST: usize = 2048;

/// Tokens of an example, a pair and a packed row at most: `asked`, or with 0 so many that 99% of the conversations and
/// pairs fit. Never more than the model's context.
///
/// # Errors
/// A longer row asked for than the model can read; a config or template that cannot be used.
pub(super) fn max_length(
    asked: usize,
    source: &Source,
    chats: &[Conversation],
    pairs: &[PreferencePair],
    (tokenizer, template): &(Tokenizer, ChatTemplate),
) -> Result<usize> {
    let context = context(asked, source)?;
    if asked > 0 {
        return Ok(asked);
    }
    let all = Limits { max_length: usize::MAX, ..Limits::default() };
    let examples = recipes::examples(chats, template, tokenizer, &all)?.examples;
    let pairs = recipes::pair_examples(pairs, template, tokenizer, &all)?.examples;
    let sets = [
        examples.iter().map(ferrotune_types::Example::n_tokens).collect(),
        pairs.iter().map(|p| p.prompt().len() + p.chosen().len().max(p.rejected().len())).collect(),
    ];
    let fits = sets.into_iter().map(room_for_most).max().unwrap_or(0);
    let chosen = fits.clamp(256, MOST).min(context);
    eprintln!("{:>12}: rows of at most {chosen} tokens (99% would need {fits})", "tokenize");
    Ok(chosen)
}

/// Tokens that the model reads at most.
///
/// # Errors
/// A longer row asked for; a config that cannot be used.
pub(super) fn context(asked: usize, source: &Source) -> Result<usize> {
    let context = decoder_config(&load_config(source)?)?.max_position_embeddings;
    if asked > context {
        bail!("tokenize.max_length is {asked}, but the model reads at most {context} tokens: lower it");
    }
    Ok(context)
}

/// The smallest multiple of 128 that 99% of the lengths do not exceed.
fn room_for_most(mut lengths: Vec<usize>) -> usize {
    lengths.sort_unstable();
    let at = (lengths.len() * 99).div_ceil(100).saturating_sub(1);
    lengths.get(at).map_or(0, |n| n.next_multiple_of(128))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_in_a_hundred_may_be_longer() {
        let check = |lengths: Vec<usize>, expect: usize| assert_eq!(room_for_most(lengths), expect);
        check(vec![], 0);
        check(vec![130], 256);
        check((1..=100).map(|i| if i == 100 { 9000 } else { 300 }).collect(), 384);
        check((1..=100).map(|i| if i >= 99 { 9000 } else { 300 }).collect(), 9088);
    }
}
