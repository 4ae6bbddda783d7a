use std::slice;

use serde::{Deserialize, Serialize};
use tokenizers::AddedToken;

use crate::config_tokens::add_tokens;
use crate::encoded::Encoded;
use crate::{Tokenizer, TokenizerError};

/// What a model must do after its tokenizer got new tokens: grow its embedding and output rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizePlan {
    /// Rows before: one more than the highest id.
    pub old_size: usize,
    /// Rows after.
    pub new_size: usize,
    /// The new tokens, by id.
    pub added: Vec<NewToken>,
    /// Tokens that were asked for and were there already.
    pub known: Vec<String>,
}

/// A new token, and how its rows may begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its id, which is its row.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Ids that spelled the text before: the mean of their rows is a better start than noise. May be empty.
    pub pieces: Vec<u32>,
}

impl ResizePlan {
    /// Rows to allocate: the ids, rounded up to a multiple that matrix products like (64, 128; 1 for none).
    pub fn rows(&self, multiple: usize) -> usize {
        self.new_size.next_multiple_of(multiple.max(1))
    }
}

impl Tokenizer {
    /// The same tokenizer with more tokens, and what the model must do. `special`: control tokens, never made of a
    /// person's words.
    ///
    /// # Errors
    /// [`TokenizerError::Config`] for an empty token and where the new ids are taken, [`TokenizerError::Coding`] where the tokenizer cannot be
    /// rebuilt.
    pub fn with_tokens(
        self,
        tokens: &[&str],
        special: bool,
    ) -> Result<(Tokenizer, ResizePlan), TokenizerError> {
        let old_size = self.vocab_size();
        let mut plan = ResizePlan { old_size, new_size: old_size, added: Vec::new(), known: Vec::new() };
        let mut fresh: Vec<(&str, Vec<u32>)> = Vec::new();
        for &token in tokens {
            if token.is_empty() {
                return Err(TokenizerError::Config("an added token must not be empty".into()));
            }
            if self.token_to_id(token).is_some() || fresh.iter().any(|(text, _)| *text == token) {
                plan.known.push(token.to_owned());
                continue;
            }
            let mut pieces = Encoded::default();
            self.encode_into(token, slice::from_ref(&(0..token.len())), &mut pieces)?;
            fresh.push((token, pieces.ids));
        }
        let mut parts = self.into_parts();
        // Known tokens too: a plain one may be made a control token.
        let added = tokens.iter().map(|&token| AddedToken::from(token, special).normalized(false));
        add_tokens(&mut parts.inner, added.collect()).map_err(TokenizerError::Config)?;
        let tokenizer = Tokenizer::from_parts(parts)?;
        for (text, pieces) in fresh {
            let id = tokenizer.token_to_id(text).ok_or_else(|| TokenizerError::Coding {
                op: "encode",
                reason: format!("{text:?} was not added"),
            })?;
            plan.added.push(NewToken { id, text: text.to_owned(), pieces });
        }
        plan.added.sort_by_key(|token| token.id);
        plan.new_size = tokenizer.vocab_size();
        Ok((tokenizer, plan))
    }
}
