//! From the tokens that a model writes to the text that a person reads, as it comes.

use ferrotune_model::generate::{Flow, Generated};
use ferrotune_tokenizer::Tokenizer;
use ferrotune_types::{Completion, ModelError, TokenLogprob};
use serde::Serialize;

/// A token with how likely it was, and which others were.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredToken {
    /// Its id.
    pub id: u32,
    /// Its text; characters that it holds a part of show as U+FFFD.
    pub text: String,
    /// ln p under the model itself: before temperature, penalties and filters.
    pub logprob: f32,
    /// The likeliest tokens in its place, best first.
    pub top: Vec<TokenLogprob>,
}

impl ScoredToken {
    pub(crate) fn new(tokenizer: &Tokenizer, id: u32, logprob: f32, top: &[(u32, f32)]) -> Self {
        let text = |id: u32| tokenizer.decode(&[id], false).unwrap_or_default();
        let one = |&(id, logprob): &(u32, f32)| TokenLogprob {
            id: Some(id),
            text: text(id),
            logprob: f64::from(logprob),
        };
        ScoredToken { id, text: text(id), logprob, top: top.iter().map(one).collect() }
    }

    fn plain(&self) -> TokenLogprob {
        TokenLogprob { id: Some(self.id), text: self.text.clone(), logprob: f64::from(self.logprob) }
    }
}

/// The ids of those stop strings that are control tokens, which no text shows.
pub(crate) fn stop_tokens(tokenizer: &Tokenizer, stop: &[String]) -> Vec<u32> {
    let id = |stop: &String| {
        let id = tokenizer.token_to_id(stop)?;
        tokenizer.decode(&[id], true).is_ok_and(|text| text.is_empty()).then_some(id)
    };
    stop.iter().filter_map(id).collect()
}

/// What comes of every prompt. `generate` does the work and tells of each token; the text is given out as it comes, but for
/// what could be the beginning of a stop string.
pub(crate) fn complete(
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    stop: &[String],
    mut on_text: Option<&mut dyn FnMut(&str)>,
    generate: impl FnOnce(
        &mut dyn FnMut(usize, &[u32]) -> Flow,
    ) -> Result<Vec<Generated>, ferrotune_model::ModelError>,
) -> Result<Vec<(Completion, Vec<ScoredToken>)>, ModelError> {
    let decode = |ids: &[u32]| tokenizer.decode(ids, true).unwrap_or_default();
    let mut shown = 0;
    let mut on_token = |_: usize, ids: &[u32]| {
        if stop.is_empty() && on_text.is_none() {
            return Flow::Continue;
        }
        let text = decode(ids);
        if let Some(show) = &mut on_text {
            let ready = ready_text(&text, stop);
            if let Some(new) = text.get(shown..ready).filter(|new| !new.is_empty()) {
                show(new);
                shown = ready;
            }
        }
        if stop.iter().any(|stop| text.contains(stop)) { Flow::Stop } else { Flow::Continue }
    };
    let generated = generate(&mut on_token).map_err(ModelError::failed)?;
    let mut all = Vec::with_capacity(generated.len());
    for (row, prompt) in generated.into_iter().zip(prompts) {
        let mut text = decode(&row.ids);
        if let Some(at) = stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(at);
        }
        if let (Some(show), Some(rest)) = (&mut on_text, text.get(shown..)) {
            show(rest);
        }
        let tokens = row.ids.iter().zip(&row.logprobs);
        let tokens: Vec<ScoredToken> =
            tokens.map(|(&id, t)| ScoredToken::new(tokenizer, id, t.logprob, &t.top)).collect();
        let completion = Completion {
            text,
            finish: row.finish,
            prompt_tokens: prompt.len(),
            completion_tokens: row.ids.len(),
            ids: row.ids,
            logprobs: tokens.iter().map(ScoredToken::plain).collect(),
        };
        all.push((completion, tokens));
    }
    Ok(all)
}

/// How much of a growing text may be shown: not a character of which a part is missing, and nothing that a stop string
/// begins with.
fn ready_text(text: &str, stop: &[String]) -> usize {
    // A character may need several tokens; until it is whole, decoding ends in replacement marks.
    let whole = text.trim_end_matches('\u{fffd}').len();
    let begun = |stop: &String| {
        if let Some(at) = text.find(stop.as_str()) {
            return at;
        }
        let parts = (1..stop.len()).rev().filter(|&n| stop.is_char_boundary(n));
        parts
            .map(|n| &stop[..n])
            .find(|part| text[..whole].ends_with(part))
            .map_or(whole, |part| whole - part.len())
    };
    stop.iter().map(begun).fold(whole, usize::min)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_control_token_ends_a_text_by_its_id() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
        let tokenizer = Tokenizer::from_dir(&folder).unwrap();
        let end = tokenizer.token_to_id("<|im_end|>").unwrap();
        let stop = ["the", "<|im_end|>", "no such token"].map(str::to_owned);
        assert_eq!(stop_tokens(&tokenizer, &stop), [end]);
    }

    #[test]
    fn what_may_begin_a_stop_string_is_held_back() {
        let check = |text: &str, stop: &[&str], expect: &str| {
            let stop: Vec<String> = stop.iter().map(|&s| s.to_owned()).collect();
            assert_eq!(&text[..ready_text(text, &stop)], expect, "{text:?} {stop:?}");
        };
        check("hello", &[], "hello");
        check("hello\u{fffd}", &[], "hello");
        check("hello\nUs", &["\nUser:"], "hello");
        check("hello\nUs", &["User:"], "hello\n");
        check("hello\nUsual", &["\nUser:"], "hello\nUsual");
        check("a STOP b", &["STOP"], "a ");
        check("aéb", &["éb", "b!"], "a");
        // The next character of the stop string is not whole yet.
        check("a STO\u{fffd}", &["STOé"], "a ");
    }
}
