use crate::{Tokenizer, TokenizerError};

/// Decodes ids one by one, as they are generated. What [`Self::push`] gives is always whole characters; put
/// together, with [`Self::finish`], it is what [`Tokenizer::decode`] gives of all ids.
///
/// A window of the last ids is decoded each time: a token's text may depend on the one before it (SentencePiece
/// writes the space between words in front of a token, but not in front of the first).
#[derive(Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    window: Vec<u32>,
    /// Bytes of the window's text that were given out.
    given: usize,
    /// Ids of the window whose text was given out.
    settled: usize,
}

impl Tokenizer {
    /// A stream of decoded text. `skip_special` leaves control tokens out.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special, window: Vec::new(), given: 0, settled: 0 }
    }
}

impl DecodeStream<'_> {
    /// The text that `id` adds; empty while a character is not whole.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        if text.ends_with('\u{FFFD}') || text.len() <= self.given {
            return Ok(String::new());
        }
        let Some(new) = text.get(self.given..).map(str::to_owned) else { return Ok(String::new()) };
        // The window begins again at the ids settled before this one: enough to tell a space from a first word.
        self.window.drain(..self.settled);
        self.settled = self.window.len();
        self.given = self.tokenizer.decode(&self.window, self.skip_special)?.len();
        Ok(new)
    }

    /// What is left when generation ends in the middle of a character.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the decoder fails.
    pub fn finish(self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(text.get(self.given..).unwrap_or_default().to_owned())
    }
}
