//! T5 in this process: it reads a text and writes another.

use anyhow::Result;
use ferrotune_model::T5;
use ferrotune_model::checkpoint::{Source, load_config, load_t5};
use ferrotune_model::generate::{Sampling, generate_t5};
use ferrotune_tokenizer::Tokenizer;
use ferrotune_types::{Completion, ModelError};

use crate::completions::{ScoredToken, complete, stop_tokens};
use crate::model_store::{self, Place};

/// T5 with its tokenizer.
#[derive(Debug)]
pub struct LocalT5 {
    t5: T5,
    tokenizer: Tokenizer,
}

impl LocalT5 {
    /// Whether a checkpoint is a T5.
    ///
    /// # Errors
    /// A missing or broken config.
    pub fn is_at(source: &Source) -> Result<bool> {
        // A GGUF file holds none.
        Ok(matches!(source, Source::Directory(_)) && load_config(source)?["model_type"] == "t5")
    }

    /// From a folder.
    ///
    /// # Errors
    /// Whatever is missing or broken, named.
    pub fn load(source: &Source, place: Place) -> Result<Self> {
        let tokenizer = model_store::load_tokenizer(source)?;
        Ok(LocalT5 { t5: load_t5(source, place.kind, place.device)?, tokenizer })
    }

    /// Ids that end what it writes: the model's own, or the tokenizer's where the model names none.
    pub fn eos_ids(&self) -> Vec<u32> {
        match self.t5.config.eos_token_ids.as_slice() {
            [] => self.tokenizer.ids().eos.into_iter().collect(),
            own => own.to_vec(),
        }
    }

    /// Tokens that it knows.
    pub fn vocabulary(&self) -> usize {
        self.t5.config.vocab_size
    }

    /// What it writes for a text, and the tokens where `sampling.logprobs` asks. The text ends with EOS, as it was trained.
    ///
    /// # Errors
    /// A text that the tokenizer cannot say; settings out of range.
    pub fn write(
        &self,
        text: &str,
        sampling: &Sampling,
        stop: &[String],
    ) -> Result<(Completion, Vec<ScoredToken>), ModelError> {
        let mut ids = self.tokenizer.encode(text, true).map_err(ModelError::failed)?;
        if let Some(eos) = self.tokenizer.ids().eos.filter(|eos| ids.last() != Some(eos)) {
            ids.push(eos);
        }
        let texts = [ids];
        let mut sampling = sampling.clone();
        sampling.stop_ids.extend(stop_tokens(&self.tokenizer, stop));
        complete(&self.tokenizer, &texts, stop, None, |on_token| {
            generate_t5(&self.t5, &texts, &sampling, on_token)
        })
        .map(|mut all| all.remove(0))
    }
}
