use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::TokenizerError;
use crate::encoded::Encoded;
use crate::fast::lies_in;
use crate::tokenizer::encode_with;

/// Reads texts in which some control tokens are plain characters, by the general path.
///
/// The text is cut at the control tokens that count, and only there, as `tokenizers` does; what lies between is read
/// whole, so that no word is broken and no space added where a literal range begins or ends.
#[derive(Debug)]
pub(crate) struct Literal {
    /// Finds control tokens, with their ids; `None` where there are none.
    controls: Option<(AhoCorasick, Vec<u32>)>,
    /// The tokenizer, to which control tokens are plain characters.
    beginning: tokenizers::Tokenizer,
    /// The same for what does not begin the text: some put a space before the first word of a text only.
    going_on: tokenizers::Tokenizer,
}

impl Literal {
    pub(crate) fn new(inner: &tokenizers::Tokenizer) -> Self {
        let mut beginning = inner.clone();
        beginning.set_encode_special_tokens(true);
        let going_on = without_first_space(&beginning).unwrap_or_else(|| beginning.clone());
        let mut special: Vec<(u32, String)> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort();
        let (ids, texts): (Vec<u32>, Vec<String>) = special.into_iter().unzip();
        let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok();
        Literal { controls: searcher.filter(|_| !ids.is_empty()).map(|s| (s, ids)), beginning, going_on }
    }

    /// Encodes a text. Special tokens that lie in a `literal` range are plain text.
    pub(crate) fn encode(
        &self,
        text: &str,
        literal: &[Range<usize>],
        out: &mut Encoded,
    ) -> Result<(), TokenizerError> {
        let mut at = 0;
        if let Some((searcher, ids)) = &self.controls {
            for found in searcher.find_iter(text).filter(|found| !lies_in(&found.range(), literal)) {
                self.stretch(text, at..found.start(), out)?;
                out.push(ids[found.pattern().as_usize()], found.start(), found.end());
                at = found.end();
            }
        }
        self.stretch(text, at..text.len(), out)
    }

    /// What lies between two control tokens.
    fn stretch(&self, text: &str, range: Range<usize>, out: &mut Encoded) -> Result<(), TokenizerError> {
        if range.is_empty() {
            return Ok(());
        }
        let inner = if range.start == 0 { &self.beginning } else { &self.going_on };
        out.push_encoding(&encode_with(inner, &text[range.clone()], false)?, range.start);
        Ok(())
    }
}

/// A tokenizer whose `Metaspace` puts a space before the first word of a text only, changed to put none; `None` for
/// any other one.
fn without_first_space(inner: &tokenizers::Tokenizer) -> Option<tokenizers::Tokenizer> {
    let mut words = serde_json::to_value(inner.get_pre_tokenizer()?).ok()?;
    let mut changed = false;
    let mut change = |part: &mut Value| {
        if part["type"] == "Metaspace" && part["prepend_scheme"] == "first" {
            part["prepend_scheme"] = "never".into();
            changed = true;
        }
    };
    match words.get_mut("pretokenizers").and_then(Value::as_array_mut) {
        Some(parts) => parts.iter_mut().for_each(change),
        None => change(&mut words),
    }
    if !changed {
        return None;
    }
    let words: tokenizers::PreTokenizerWrapper = serde_json::from_value(words).ok()?;
    let mut inner = inner.clone();
    inner.with_pre_tokenizer(Some(words));
    Some(inner)
}
