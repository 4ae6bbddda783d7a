//! Models in this process behind the traits that evaluation and retrieval see.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use ferrotune_data::chat::RenderOptions;
use ferrotune_model::checkpoint::{LoadedEncoder, load_encoder};
use ferrotune_model::generate::{Flow, Sampling, generate, rolling_loglikelihood, score};
use ferrotune_tokenizer::Tokenizer;
use ferrotune_types::{
    Completion, Conversation, Embed, GenerateParams, LanguageModel, LogLikelihood, Message, ModelError,
};
use serde_json::Map;

use crate::model_store::{self, LoadedModel, Place};

/// Prompts that are generated for at once: enough to share each weight's way from memory, few enough to fit.
const ROWS: usize = 16;

/// A causal language model with its tokenizer and chat template.
#[derive(Debug)]
pub struct LocalModel {
    name: String,
    model: LoadedModel,
}

impl LocalModel {
    /// `name` is what logs and reports call it.
    pub fn new(name: &str, model: LoadedModel) -> Self {
        LocalModel { name: name.to_owned(), model }
    }

    /// As [`LanguageModel::chat`], with the text given out as it comes.
    ///
    /// # Errors
    /// As [`LanguageModel::chat`].
    pub fn chat_streaming(
        &self,
        messages: &[Message],
        params: &GenerateParams,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Completion, ModelError> {
        self.answer(&[messages.to_vec()], params, 0, Some(on_text)).map(|mut all| all.remove(0))
    }

    /// As [`LanguageModel::chat`], going on for at least `min_new_tokens` (for timing).
    ///
    /// # Errors
    /// As [`LanguageModel::chat`].
    pub fn chat_at_least(
        &self,
        messages: &[Message],
        params: &GenerateParams,
        min_new_tokens: usize,
    ) -> Result<Completion, ModelError> {
        self.answer(&[messages.to_vec()], params, min_new_tokens, None).map(|mut all| all.remove(0))
    }

    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        let chat = Conversation {
            id: String::new(),
            messages: messages.to_vec(),
            tools: Vec::new(),
            meta: Map::new(),
        };
        let rendered = self
            .model
            .template
            .render_prompt(&chat, &RenderOptions::default())
            .map_err(ModelError::failed)?;
        Ok(self.model.tokenizer.encode_rendered(&rendered).map_err(ModelError::failed)?.ids)
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.model.tokenizer.decode(ids, true).unwrap_or_default()
    }

    fn answer(
        &self,
        conversations: &[Vec<Message>],
        params: &GenerateParams,
        min_new_tokens: usize,
        mut on_text: Option<&mut dyn FnMut(&str)>,
    ) -> Result<Vec<Completion>, ModelError> {
        let prompts = conversations.iter().map(|c| self.prompt(c)).collect::<Result<Vec<_>, _>>()?;
        let limit = self.model.decoder.config.max_position_embeddings;
        if let Some(long) = prompts.iter().find(|p| p.len() >= limit) {
            return Err(ModelError::TooLong { tokens: long.len(), limit });
        }
        let sampling = Sampling {
            max_new_tokens: params.max_new_tokens,
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            repetition_penalty: params.repetition_penalty,
            stop_ids: if min_new_tokens > 0 { Vec::new() } else { self.model.eos_ids.clone() },
            seed: params.seed,
            ..Sampling::default()
        };
        let mut shown = String::new();
        let mut on_token = |_: usize, ids: &[u32]| {
            if params.stop.is_empty() && on_text.is_none() {
                return Flow::Continue;
            }
            let text = self.decode(ids);
            if let Some(show) = &mut on_text {
                // A character may need several tokens; until it is whole, decoding ends in a replacement mark.
                if !text.ends_with('\u{fffd}') && text.len() > shown.len() && text.starts_with(&shown) {
                    show(&text[shown.len()..]);
                    shown.clone_from(&text);
                }
            }
            if params.stop.iter().any(|stop| text.contains(stop)) { Flow::Stop } else { Flow::Continue }
        };
        let generated =
            generate(&self.model.decoder, &prompts, &sampling, &mut on_token).map_err(ModelError::failed)?;
        Ok(generated
            .into_iter()
            .zip(&prompts)
            .map(|(row, prompt)| {
                let mut text = self.decode(&row.ids);
                if let Some(at) = params.stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
                    text.truncate(at);
                }
                Completion {
                    text,
                    finish: row.finish,
                    prompt_tokens: prompt.len(),
                    completion_tokens: row.ids.len(),
                    ids: row.ids,
                    logprobs: Vec::new(),
                }
            })
            .collect())
    }
}

impl LanguageModel for LocalModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn chat(&self, messages: &[Message], params: &GenerateParams) -> Result<Completion, ModelError> {
        self.chat_at_least(messages, params, 0)
    }

    /// In groups of prompts of like length.
    fn chat_batch(
        &self,
        conversations: &[Vec<Message>],
        params: &GenerateParams,
    ) -> Result<Vec<Completion>, ModelError> {
        let lengths =
            conversations.iter().map(|c| self.prompt(c).map(|p| p.len())).collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<usize> = (0..conversations.len()).collect();
        order.sort_by_key(|&i| (lengths[i], i));
        let mut answers = BTreeMap::new();
        let mut progress = crate::progress::Progress::new("generate", conversations.len());
        for rows in order.chunks(ROWS) {
            let group: Vec<Vec<Message>> = rows.iter().map(|&i| conversations[i].clone()).collect();
            answers.extend(rows.iter().copied().zip(self.answer(&group, params, 0, None)?));
            progress.step(rows.len(), String::new);
        }
        Ok(answers.into_values().collect())
    }

    fn loglikelihood(&self, requests: &[(String, String)]) -> Result<Vec<LogLikelihood>, ModelError> {
        let encode = |text: &str| self.model.tokenizer.encode(text, false).map_err(ModelError::failed);
        requests
            .iter()
            .map(|(context, continuation)| {
                // As lm-eval: white space at the seam belongs to the continuation, and the whole is tokenised once.
                let trimmed = context.trim_end();
                let whole = encode(&format!("{context}{continuation}"))?;
                let mut prefix = encode(trimmed)?;
                if prefix.is_empty() {
                    prefix.extend(self.first_token());
                }
                let n = prefix.len().min(whole.len().saturating_sub(1));
                let (before, after) = whole.split_at(n);
                let before = if before.is_empty() { &prefix[..] } else { before };
                let scores = score(&self.model.decoder, before, &[after]).map_err(ModelError::failed)?;
                Ok(scores[0].total())
            })
            .collect()
    }

    fn loglikelihood_rolling(&self, texts: &[String]) -> Result<Vec<LogLikelihood>, ModelError> {
        let window = self.model.decoder.config.max_position_embeddings;
        let first = self.first_token().ok_or_else(|| ModelError::Unsupported {
            model: self.name.clone(),
            what: "begin a text: its tokenizer has neither BOS nor EOS",
        })?;
        texts
            .iter()
            .map(|text| {
                let ids = self.model.tokenizer.encode(text, false).map_err(ModelError::failed)?;
                let logprobs = rolling_loglikelihood(&self.model.decoder, first, &ids, window)
                    .map_err(ModelError::failed)?;
                let sum = logprobs.iter().map(|&x| f64::from(x)).sum();
                Ok(LogLikelihood { sum, n_tokens: logprobs.len(), is_greedy: false })
            })
            .collect()
    }
}

impl LocalModel {
    /// What stands before a text without context: BOS, or EOS where there is none (as lm-eval does).
    fn first_token(&self) -> Option<u32> {
        let ids = self.model.tokenizer.ids();
        ids.bos.or(ids.eos)
    }
}

/// An encoder with its tokenizer.
#[derive(Debug)]
pub struct LocalEmbedder {
    name: String,
    loaded: LoadedEncoder,
    tokenizer: Tokenizer,
    max_tokens: usize,
}

impl LocalEmbedder {
    /// A folder, a hub id or a known name.
    ///
    /// # Errors
    /// Whatever is missing or broken, named.
    pub fn load(id: &str, place: Place) -> Result<Self> {
        let source = model_store::resolve(id)?;
        let loaded = load_encoder(&source, place.kind, place.device)?;
        let tokenizer = Tokenizer::from_dir(source.path())?;
        let context = loaded.encoder.config.max_position_embeddings;
        let max_tokens = sentence_length(source.path()).unwrap_or(context).min(context);
        Ok(LocalEmbedder { name: id.to_owned(), loaded, tokenizer, max_tokens })
    }
}

impl Embed for LocalEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.loaded.encoder.config.hidden_size
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let encoded = self.tokenizer.encode_batch(texts, true).map_err(ModelError::failed)?;
        let cut: Vec<Vec<u32>> = encoded.into_iter().map(|ids| cut_to(ids, self.max_tokens)).collect();
        let ids: Vec<&[u32]> = cut.iter().map(Vec::as_slice).collect();
        self.loaded.encoder.embed(&ids, self.loaded.pooling, true).map_err(ModelError::failed)
    }
}

/// `max_seq_length` of sentence-transformers' own file, where there is one.
fn sentence_length(folder: &Path) -> Option<usize> {
    let text = std::fs::read_to_string(folder.join("sentence_bert_config.json")).ok()?;
    let file: serde_json::Value = serde_json::from_str(&text).ok()?;
    file.get("max_seq_length")?.as_u64().map(|n| n as usize)
}

/// The first tokens of a text that is too long, and its last one, which ends it (`[SEP]`).
fn cut_to(mut ids: Vec<u32>, max_tokens: usize) -> Vec<u32> {
    if ids.len() > max_tokens && max_tokens > 0 {
        let last = ids[ids.len() - 1];
        ids.truncate(max_tokens);
        ids[max_tokens - 1] = last;
    }
    ids
}
