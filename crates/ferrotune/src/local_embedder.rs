//! An encoder in this process behind the trait that retrieval sees.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, bail};
use ferrotune_model::checkpoint::{LoadedEncoder, load_encoder};
use ferrotune_tokenizer::Tokenizer;
use ferrotune_types::{Embed, ModelError};

use crate::files::content_hash;
use crate::model_store::{self, Place};
use crate::sentence::Sentences;

/// An encoder with its tokenizer.
#[derive(Debug)]
pub struct LocalEmbedder {
    /// Made when an index asks for it: the weights are read for it.
    name: OnceLock<String>,
    path: PathBuf,
    loaded: LoadedEncoder,
    tokenizer: Tokenizer,
    sentences: Sentences,
}

impl LocalEmbedder {
    /// A folder, a hub id or a known name.
    ///
    /// # Errors
    /// Whatever is missing or broken, named.
    pub fn load(id: &str, place: Place) -> Result<Self> {
        let source = model_store::resolve(id)?;
        model_store::refuse_t5(id, &source)?;
        let loaded = load_encoder(&source, place.kind, place.device)?;
        let path = source.path().to_owned();
        let sentences = Sentences::read(&path)?;
        if !loaded.pools_prompt && !sentences.prompt.is_empty() {
            bail!("{id} leaves its prompt out of the pooling (include_prompt), which is not known here");
        }
        let tokenizer = Tokenizer::from_dir(&path)?;
        Ok(LocalEmbedder { name: OnceLock::new(), path, loaded, tokenizer, sentences })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One vector a text, in order, as sentence-transformers gives them: of unit length only where the model says so.
    ///
    /// # Errors
    /// A text that the tokenizer cannot say, or without a token.
    pub fn vectors(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.run(texts, self.loaded.normalise)
    }

    fn run(&self, texts: &[&str], normalise: bool) -> Result<Vec<Vec<f32>>, ModelError> {
        let texts: Vec<String> = texts.iter().map(|text| self.sentences.prepare(text)).collect();
        let encoded = self.tokenizer.encode_batch(&texts, true).map_err(ModelError::failed)?;
        let context = self.loaded.encoder.config.max_position_embeddings;
        let (before, after) = self.tokenizer.around();
        // As tokenizers do, one that leaves no room for the special tokens cuts nothing.
        let asked = self.sentences.max_tokens.filter(|&n| n > 0 && n >= before.len() + after.len());
        let max_tokens = asked.unwrap_or(context).min(context);
        let cut: Vec<Vec<u32>> =
            encoded.into_iter().map(|ids| cut_to(ids, max_tokens, after.len())).collect();
        let ids: Vec<&[u32]> = cut.iter().map(Vec::as_slice).collect();
        self.loaded.encoder.embed(&ids, self.loaded.pooling, normalise).map_err(ModelError::failed)
    }
}

/// For retrieval, which compares vectors of unit length.
impl Embed for LocalEmbedder {
    /// What it is, wherever it lies and whatever it is called: vectors of another encoder cannot be compared with its own.
    fn name(&self) -> &str {
        self.name.get_or_init(|| {
            let config = &self.loaded.encoder.config;
            let hash = content_hash(&self.path).map_or_else(
                |_| self.path.display().to_string(),
                |content| {
                    content.iter().take(6).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
                },
            );
            let name = format!("{} of {} numbers, {hash}", config.model_type, config.hidden_size);
            // An index that was made when prompts were not read is another's.
            let prompt = &self.sentences.prompt;
            if prompt.is_empty() { name } else { format!("{name}, after {prompt:?}") }
        })
    }

    fn dim(&self) -> usize {
        self.loaded.encoder.config.hidden_size
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.run(texts, true)
    }
}

/// The first tokens of a text that is too long, and its last `n_after`, which end it (`[SEP]`).
fn cut_to(mut ids: Vec<u32>, max_tokens: usize, n_after: usize) -> Vec<u32> {
    if ids.len() > max_tokens {
        let end = ids.split_off(ids.len() - n_after.min(max_tokens));
        ids.truncate(max_tokens - end.len());
        ids.extend(end);
    }
    ids
}
