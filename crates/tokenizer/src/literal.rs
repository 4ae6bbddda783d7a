use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::AddedToken;
use unicode_normalization::char::is_combining_mark;

use crate::TokenizerError;
use crate::encoded::Encoded;
use crate::fast::lies_in;
use crate::tokenizer::encode_with;

/// Reads texts in which some control tokens are plain characters, by the general path.
///
/// The text is cut at the control tokens that count, and only there, as `tokenizers` does; what lies between is read
/// whole, so that no word is broken and no space added where a literal range begins or ends. A token with `lstrip` or
/// `rstrip` takes the space beside it along, which is then no longer read.
#[derive(Debug)]
pub(crate) struct Literal {
    /// Finds added tokens, with their ids; `None` where there are none.
    added: Option<(AhoCorasick, Vec<(u32, AddedToken)>)>,
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
        // Plain tokens that are looked for in the normalised text are left to the tokenizer, which finds them there.
        let mut added: Vec<(u32, AddedToken)> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| (token.special || !token.normalized) && !token.content.is_empty())
            .collect();
        added.sort_by_key(|(id, _)| *id);
        let texts = added.iter().map(|(_, token)| &token.content);
        let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok();
        Literal { added: searcher.filter(|_| !added.is_empty()).map(|s| (s, added)), beginning, going_on }
    }

    /// Encodes a text. Special tokens that lie in a `literal` range are plain text.
    pub(crate) fn encode(
        &self,
        text: &str,
        literal: &[Range<usize>],
        out: &mut Encoded,
    ) -> Result<(), TokenizerError> {
        let mut at = 0;
        if let Some((searcher, added)) = &self.added {
            for found in searcher.find_iter(text) {
                let (id, token) = &added[found.pattern().as_usize()];
                if token.special && lies_in(&found.range(), literal) {
                    continue;
                }
                let (before, after) = (&text[..found.start()], &text[found.end()..]);
                if token.single_word && (before.ends_with(is_in_word) || after.starts_with(is_in_word)) {
                    continue;
                }
                // The token before may have taken the same space.
                let start = if token.lstrip {
                    before.trim_end().len().max(at.min(before.len()))
                } else {
                    before.len()
                };
                let end = text.len() - if token.rstrip { after.trim_start().len() } else { after.len() };
                self.stretch(text, at..start, out)?;
                out.push(*id, start, end);
                at = end;
            }
        }
        self.stretch(text, at..text.len(), out)
    }

    /// What lies between two added tokens.
    fn stretch(&self, text: &str, range: Range<usize>, out: &mut Encoded) -> Result<(), TokenizerError> {
        if range.is_empty() {
            return Ok(());
        }
        let inner = if range.start == 0 { &self.beginning } else { &self.going_on };
        out.push_encoding(&encode_with(inner, &text[range.clone()], false)?, range.start);
        Ok(())
    }
}

/// Whether a character can be part of a word, beside which no `single_word` token stands.
fn is_in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || is_combining_mark(c)
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
