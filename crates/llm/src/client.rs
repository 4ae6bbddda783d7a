use std::sync::Arc;

use ferrotune_types::{Completion, GenerateParams, LanguageModel, LogLikelihood, Message, ModelError};
use serde_json::Value;

use crate::batch::in_parallel;
use crate::send::Line;
use crate::{Cache, ClientConfig, Ledger, LlmError, Spent, stream, wire};

/// A language model behind an OpenAI-compatible API. Share it between threads by reference.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    line: Line,
    cache: Option<Cache>,
    ledger: Arc<Ledger>,
}

impl Client {
    /// Reads the key and prepares the line; sends nothing yet.
    ///
    /// # Errors
    /// [`LlmError::Config`] where the address is bad or the key's variable is not set.
    pub fn new(config: ClientConfig) -> Result<Self, LlmError> {
        let ledger = Arc::new(Ledger::new(config.budget, config.prices));
        Self::with_ledger(config, ledger)
    }

    /// A client that spends from an account shared with others; its own budget and prices are not used.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_ledger(config: ClientConfig, ledger: Arc<Ledger>) -> Result<Self, LlmError> {
        if config.model.trim().is_empty() {
            return Err(LlmError::Config { setting: "model", reason: "must be given".to_owned() });
        }
        let line = Line::new(&config)?;
        let cache = config.cache.as_ref().map(Cache::new);
        Ok(Client { config, line, cache, ledger })
    }

    /// Its settings.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// What it has spent, with all who share its account.
    pub fn spent(&self) -> Spent {
        self.ledger.spent()
    }

    /// Answers a conversation and hands each piece of text over as it comes. Not cached; what a broken stream has
    /// already said is not taken back, so it is not tried again.
    ///
    /// # Errors
    /// As [`LanguageModel::chat`].
    pub fn chat_stream(
        &self,
        messages: &[Message],
        params: &GenerateParams,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Completion, ModelError> {
        let mut body = wire::chat_body(&self.config, messages, params)?;
        body["stream"] = true.into();
        body["stream_options"] = serde_json::json!({"include_usage": true});
        let (prompt, reply) = (wire::estimate_tokens(&body), params.max_new_tokens as u64);
        let held = self.ledger.reserve(prompt, reply)?;
        let found = self.line.open("chat/completions", &body).and_then(|response| {
            stream::read(&self.line.address, response.into_body().into_reader(), on_text)
        });
        let used = found.as_ref().ok().map(|c| match (c.prompt_tokens, c.completion_tokens) {
            (0, 0) => (prompt, (c.text.len() / 3) as u64),
            (prompt, completion) => (prompt as u64, completion as u64),
        });
        self.ledger.settle(held, used);
        Ok(found?)
    }

    /// The reply to a request, from the cache where it is known.
    pub(crate) fn ask(&self, path: &str, body: &Value, max_reply_tokens: u64) -> Result<Value, LlmError> {
        let url = self.url(path);
        if let Some(reply) = self.cache.as_ref().and_then(|cache| cache.get(&url, body)) {
            self.ledger.count_cached();
            return Ok(reply);
        }
        let reply = self.line.post(path, body, max_reply_tokens, &self.ledger)?;
        // A complaint in the clothes of a success is not worth keeping.
        if let Some(cache) = self.cache.as_ref().filter(|_| reply.get("error").is_none()) {
            cache.put(&url, body, &reply)?;
        }
        Ok(reply)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.line.address)
    }

    fn likelihood(&self, context: &str, continuation: &str) -> Result<LogLikelihood, LlmError> {
        let prompt = format!("{context}{continuation}");
        let reply = self.ask("completions", &wire::echo_body(&self.config, &prompt), 1)?;
        wire::echoed(&self.url("completions"), &prompt, context.chars().count(), &reply)
    }

    fn likelihoods<T: Sync>(
        &self,
        items: &[T],
        split: impl Fn(&T) -> (&str, &str) + Sync,
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        if !self.config.provider.traits().echoes {
            return Err(ModelError::Unsupported {
                model: self.config.model.clone(),
                what: "give log-likelihoods",
            });
        }
        in_parallel(items, self.config.concurrency, |item| {
            let (context, continuation) = split(item);
            Ok(self.likelihood(context, continuation)?)
        })
    }
}

impl LanguageModel for Client {
    fn name(&self) -> &str {
        &self.config.model
    }

    fn chat(&self, messages: &[Message], params: &GenerateParams) -> Result<Completion, ModelError> {
        let body = wire::chat_body(&self.config, messages, params)?;
        let reply = self.ask("chat/completions", &body, params.max_new_tokens as u64)?;
        Ok(wire::completion(&self.url("chat/completions"), &reply)?)
    }

    fn chat_batch(
        &self,
        conversations: &[Vec<Message>],
        params: &GenerateParams,
    ) -> Result<Vec<Completion>, ModelError> {
        in_parallel(conversations, self.config.concurrency, |messages| self.chat(messages, params))
    }

    /// By `/completions` with `echo`: vLLM, Together and some others. A token on the border between context and
    /// continuation counts with the continuation.
    fn loglikelihood(&self, requests: &[(String, String)]) -> Result<Vec<LogLikelihood>, ModelError> {
        self.likelihoods(requests, |(context, continuation)| (context, continuation))
    }

    /// As [`Self::loglikelihood`], each text in one request: it must fit the server's context, and its first
    /// token, which has no probability, is not counted.
    fn loglikelihood_rolling(&self, texts: &[String]) -> Result<Vec<LogLikelihood>, ModelError> {
        self.likelihoods(texts, |text| ("", text))
    }
}
