//! Models in this process behind the traits that evaluation and retrieval see.

use std::collections::BTreeMap;

use anyhow::Result;
use ferrotune_data::chat::RenderOptions;
use ferrotune_model::generate::{
    BeamSearch, Hypothesis, Sampling, Score, beam_search, generate, rolling_loglikelihood, score,
};
use ferrotune_types::{
    Completion, Conversation, GenerateParams, LanguageModel, LogLikelihood, Message, ModelError,
};
use serde_json::Map;

use crate::completions::{ScoredToken, complete, stop_tokens};
use crate::model_store::LoadedModel;

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

    /// Ids that end the model's turn.
    pub fn eos_ids(&self) -> &[u32] {
        &self.model.eos_ids
    }

    /// Tokens that it reads and writes at most.
    pub fn context(&self) -> usize {
        self.model.decoder.config.max_position_embeddings
    }

    /// Tokens that it knows.
    pub fn vocabulary(&self) -> usize {
        self.model.decoder.config.vocab_size
    }

    /// The ids that ask for an answer to these turns.
    ///
    /// # Errors
    /// A chat that the template refuses.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        let chat = Conversation {
            id: String::new(),
            messages: messages.to_vec(),
            tools: Vec::new(),
            meta: Map::new(),
        };
        let rendered = self
            .model
            .template()
            .map_err(ModelError::failed)?
            .render_prompt(&chat, &RenderOptions::default())
            .map_err(ModelError::failed)?;
        Ok(self.model.tokenizer.encode_rendered(&rendered).map_err(ModelError::failed)?.ids)
    }

    /// The ids of a text to go on with, no chat: with BOS where the tokenizer puts it, and never without a token.
    ///
    /// # Errors
    /// A text that the tokenizer cannot say.
    pub fn plain_prompt(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut ids = self.model.tokenizer.encode(text, true).map_err(ModelError::failed)?;
        if ids.is_empty() {
            ids.extend(self.first_token());
        }
        Ok(ids)
    }

    /// Goes on from a prompt with every setting of generation, and gives the text out as it comes. What could be the
    /// beginning of a stop string is held back until it is none. Tokens are given where `sampling.logprobs` asks.
    ///
    /// # Errors
    /// [`ModelError::TooLong`]; [`ModelError::Failed`] for settings out of range.
    pub fn continue_prompt(
        &self,
        prompt: &[u32],
        sampling: &Sampling,
        stop: &[String],
        on_text: Option<&mut dyn FnMut(&str)>,
    ) -> Result<(Completion, Vec<ScoredToken>), ModelError> {
        self.continue_all(&[prompt.to_vec()], sampling, stop, on_text).map(|mut all| all.remove(0))
    }

    /// The likeliest texts that beam search finds, best first.
    ///
    /// # Errors
    /// As [`Self::continue_prompt`].
    pub fn beams(
        &self,
        prompt: &[u32],
        search: &BeamSearch,
    ) -> Result<Vec<(String, Hypothesis)>, ModelError> {
        self.check_length(prompt)?;
        let found = beam_search(&self.model.decoder, prompt, search).map_err(ModelError::failed)?;
        Ok(found.into_iter().map(|found| (self.decode(&found.ids), found)).collect())
    }

    /// How likely a text is after a prompt, in all and token by token.
    ///
    /// # Errors
    /// As [`Self::continue_prompt`].
    pub fn score(&self, prompt: &[u32], text: &str) -> Result<(LogLikelihood, Vec<ScoredToken>), ModelError> {
        let ids = self.model.tokenizer.encode(text, false).map_err(ModelError::failed)?;
        let (tokens, limit) = (prompt.len() + ids.len(), self.context());
        if tokens > limit {
            return Err(ModelError::BadRequest(format!(
                "the prompt and the text to score have {tokens} tokens, more than the model's context of {limit}"
            )));
        }
        let scores = score(&self.model.decoder, prompt, &[&ids]).map_err(ModelError::failed)?;
        let tokens = ids.iter().zip(&scores[0].logprobs);
        let tokens =
            tokens.map(|(&id, &logprob)| ScoredToken::new(&self.model.tokenizer, id, logprob, &[])).collect();
        Ok((scores[0].total(), tokens))
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.model.tokenizer.decode(ids, true).unwrap_or_default()
    }

    fn check_length(&self, prompt: &[u32]) -> Result<(), ModelError> {
        let limit = self.context();
        if prompt.len() >= limit {
            return Err(ModelError::TooLong { tokens: prompt.len(), limit });
        }
        Ok(())
    }

    /// `streams` are the rows' streams of random numbers.
    fn answer(
        &self,
        conversations: &[Vec<Message>],
        streams: &[usize],
        params: &GenerateParams,
    ) -> Result<Vec<Completion>, ModelError> {
        let prompts = conversations.iter().map(|c| self.prompt(c)).collect::<Result<Vec<_>, _>>()?;
        let sampling = Sampling {
            max_new_tokens: params.max_new_tokens,
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            repetition_penalty: params.repetition_penalty,
            stop_ids: self.model.eos_ids.clone(),
            seed: params.seed,
            streams: streams.iter().map(|&i| i as u64).collect(),
            ..Sampling::default()
        };
        let all = self.continue_all(&prompts, &sampling, &params.stop, None)?;
        Ok(all.into_iter().map(|(completion, _)| completion).collect())
    }

    fn continue_all(
        &self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        stop: &[String],
        on_text: Option<&mut dyn FnMut(&str)>,
    ) -> Result<Vec<(Completion, Vec<ScoredToken>)>, ModelError> {
        prompts.iter().try_for_each(|prompt| self.check_length(prompt))?;
        let mut sampling = sampling.clone();
        sampling.stop_ids.extend(stop_tokens(&self.model.tokenizer, stop));
        complete(&self.model.tokenizer, prompts, stop, on_text, |on_token| {
            generate(&self.model.decoder, prompts, &sampling, on_token)
        })
    }
}

impl LanguageModel for LocalModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn chat(&self, messages: &[Message], params: &GenerateParams) -> Result<Completion, ModelError> {
        self.answer(&[messages.to_vec()], &[0], params).map(|mut all| all.remove(0))
    }

    /// In groups of prompts of like length; what one draws depends on its place among all.
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
            answers.extend(rows.iter().copied().zip(self.answer(&group, rows, params)?));
            progress.step(rows.len(), String::new);
        }
        Ok(answers.into_values().collect())
    }

    fn loglikelihood(&self, requests: &[(String, String)]) -> Result<Vec<LogLikelihood>, ModelError> {
        let encode = |text: &str| self.model.tokenizer.encode(text, false).map_err(ModelError::failed);
        let cut = |(context, continuation): &(String, String)| {
            // As lm-eval: white space at the seam belongs to the continuation, and the whole is tokenised once.
            let before = encode(context.trim_end())?;
            let mut whole = encode(&format!("{context}{continuation}"))?;
            if before.is_empty() {
                whole.splice(0..0, self.first_token());
                return Ok((1.min(whole.len()), whole));
            }
            Ok((before.len().min(whole.len().saturating_sub(1)), whole))
        };
        let cut: Vec<(usize, Vec<u32>)> = requests.iter().map(cut).collect::<Result<_, ModelError>>()?;
        let mut out = Vec::with_capacity(cut.len());
        // Neighbours with one context, such as the answers to a question, have it computed once.
        let groups = cut.chunk_by(|(n, a), (m, b)| a[..*n] == b[..*m]);
        for group in groups.flat_map(|group| group.chunks(ROWS)) {
            let continuations: Vec<&[u32]> = group.iter().map(|(n, whole)| &whole[*n..]).collect();
            let context = &group[0].1[..group[0].0];
            let scores = score(&self.model.decoder, context, &continuations).map_err(ModelError::failed)?;
            out.extend(scores.iter().map(Score::total));
        }
        Ok(out)
    }

    fn loglikelihood_rolling(&self, texts: &[String]) -> Result<Vec<LogLikelihood>, ModelError> {
        let window = self.context();
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
