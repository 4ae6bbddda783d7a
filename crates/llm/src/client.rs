use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Whether the server was found to know the bound on generated tokens by its other name only.
    renames_limit: AtomicBool,
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
        Ok(Client { config, line, cache, ledger, renames_limit: AtomicBool::new(false) })
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
        let prompt = wire::estimate_tokens(&body);
        let open = |body: &Value| {
            self.line.open("chat/completions", body, params.max_new_tokens as u64, &self.ledger)
        };
        let found = self.under_either_limit(&body, open).and_then(|(response, held)| {
            let found = stream::read(&self.line.address, response.into_body().into_reader(), on_text);
            let used = found.as_ref().ok().map(|c| match (c.prompt_tokens, c.completion_tokens) {
                (0, 0) => (prompt, (c.text.len() / 3) as u64),
                (prompt, completion) => (prompt as u64, completion as u64),
            });
            self.ledger.settle(held, used);
            found
        });
        Ok(self.hiding(found)?)
    }

    /// What `read` makes of the reply to a request, at its address, from the cache where it is known.
    pub(crate) fn ask<T>(
        &self,
        path: &str,
        body: &Value,
        max_reply_tokens: u64,
        read: impl Fn(&str, &Value) -> Result<T, LlmError>,
    ) -> Result<T, LlmError> {
        let url = format!("{}/{path}", self.line.address);
        let kept = self.cache.as_ref().and_then(|cache| cache.get(&url, body));
        if let Some(found) = kept.and_then(|reply| read(&url, &reply).ok()) {
            self.ledger.count_cached();
            return Ok(found);
        }
        let post = |body: &Value| self.line.post(path, body, max_reply_tokens, &self.ledger);
        let found = self.under_either_limit(body, post).and_then(|reply| {
            let found = read(&url, &reply)?;
            self.keep(&url, body, &reply)?;
            Ok(found)
        });
        self.hiding(found)
    }

    /// Puts a reply into the cache, unless it is a complaint in the clothes of a success or tells the key.
    fn keep(&self, url: &str, body: &Value, reply: &Value) -> Result<(), LlmError> {
        let Some(cache) = self.cache.as_ref().filter(|_| reply.get("error").is_none()) else { return Ok(()) };
        let text = reply.to_string();
        if self.line.hiding(&text) == text { cache.put(url, body, reply) } else { Ok(()) }
    }

    /// Every error of a request leaves the crate through here.
    fn hiding<T>(&self, found: Result<T, LlmError>) -> Result<T, LlmError> {
        found.map_err(|error| error.hiding(|text| self.line.hiding(text)))
    }

    /// Sends, and where the server refuses the name of the bound on generated tokens, once more under the other;
    /// later requests then begin with that. (The cache knows a request as it was first made.)
    fn under_either_limit<T>(
        &self,
        body: &Value,
        send: impl Fn(&Value) -> Result<T, LlmError>,
    ) -> Result<T, LlmError> {
        let swapped = self.renames_limit.load(Ordering::Relaxed).then(|| wire::swap_limit(body)).flatten();
        let body = swapped.as_ref().unwrap_or(body);
        let error = match send(body) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let Some(other) = wire::swap_limit(body).filter(|_| wire::refuses_limit(body, &error)) else {
            return Err(error);
        };
        let found = send(&other)?;
        self.renames_limit.store(swapped.is_none(), Ordering::Relaxed);
        Ok(found)
    }

    fn likelihood(&self, context: &str, continuation: &str) -> Result<LogLikelihood, LlmError> {
        let prompt = format!("{context}{continuation}");
        self.ask("completions", &wire::echo_body(&self.config, &prompt), 1, |url, reply| {
            wire::echoed(url, &prompt, context.chars().count(), reply)
        })
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
        Ok(self.ask("chat/completions", &body, params.max_new_tokens as u64, wire::completion)?)
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
