use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Budget, LlmError, Prices, Provider};

/// Which model, where, and under what limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Who serves it.
    pub provider: Provider,
    /// The model's name there.
    pub model: String,
    /// Another address than the provider's.
    #[serde(default)]
    pub base_url: Option<String>,
    /// Another environment variable for the key than the provider's. The key itself never stands in a file.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Seconds for one attempt, from connecting to the reply's last byte.
    #[serde(default = "default_timeout")]
    pub timeout_s: u64,
    /// Requests under way at once in a batch.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// When to try again.
    #[serde(default)]
    pub retry: RetryConfig,
    /// What may be spent.
    #[serde(default)]
    pub budget: Budget,
    /// What tokens cost, for a budget in money.
    #[serde(default)]
    pub prices: Prices,
    /// A folder that keeps replies, so that the same request is not paid for twice.
    #[serde(default)]
    pub cache: Option<PathBuf>,
    /// Fields added to every request's body; null takes a field out (`{"temperature": null}`).
    #[serde(default)]
    pub extra_body: Map<String, Value>,
}

fn default_timeout() -> u64 {
    120
}

fn default_concurrency() -> usize {
    8
}

impl ClientConfig {
    /// A model under the default limits: 120 s, 8 at once, 5 attempts, no budget, no cache.
    pub fn new(provider: Provider, model: impl Into<String>) -> Self {
        ClientConfig {
            provider,
            model: model.into(),
            base_url: None,
            api_key_env: None,
            timeout_s: default_timeout(),
            concurrency: default_concurrency(),
            retry: RetryConfig::default(),
            budget: Budget::default(),
            prices: Prices::default(),
            cache: None,
            extra_body: Map::new(),
        }
    }

    /// A model behind any OpenAI-compatible address, with or without `/v1` at its end, such as `--judge-url` names.
    /// The key, if any, is read from `FERROTUNE_API_KEY`, else `OPENAI_API_KEY`; neither need be set, and an empty
    /// one counts as not set.
    pub fn at(url: &str, model: impl Into<String>) -> Self {
        let key = first_set(&["FERROTUNE_API_KEY", "OPENAI_API_KEY"], |name| std::env::var(name).ok());
        ClientConfig {
            base_url: Some(url.to_owned()),
            api_key_env: key,
            ..ClientConfig::new(Provider::Custom, model)
        }
    }

    /// The API's address without a slash at its end.
    pub(crate) fn address(&self) -> Result<String, LlmError> {
        let bad = |reason: &str| LlmError::Config { setting: "base_url", reason: reason.to_owned() };
        let given = self.base_url.as_deref().unwrap_or(self.provider.traits().base_url).trim_end_matches('/');
        let rest = given
            .strip_prefix("https://")
            .or_else(|| given.strip_prefix("http://"))
            .ok_or_else(|| bad("must be given and start with http:// or https://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || host.contains('@') {
            return Err(bad("must name a host, and no user or password"));
        }
        // A bare host means the API's usual place.
        Ok(if path.is_empty() { format!("{given}/v1") } else { given.to_owned() })
    }

    pub(crate) fn key(&self) -> Result<Option<Secret>, LlmError> {
        let name = self.key_env();
        if name.is_empty() {
            return Ok(None);
        }
        Secret::new(name, std::env::var(name).as_deref().unwrap_or_default()).map(Some)
    }

    pub(crate) fn key_env(&self) -> &str {
        self.api_key_env.as_deref().unwrap_or(self.provider.traits().api_key_env)
    }
}

/// When a request is tried again, and after how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Attempts in all; 1 tries once.
    pub attempts: u32,
    /// The first wait; each next one is twice as long.
    pub base_ms: u64,
    /// No wait is longer, whatever the server asks: it is an error then.
    pub max_ms: u64,
    /// Draws the jitter.
    pub seed: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig { attempts: 5, base_ms: 500, max_ms: 60_000, seed: 0 }
    }
}

/// The first of these variables that is set to more than white space.
fn first_set(names: &[&str], read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let is_set = |name: &&&str| read(name).is_some_and(|value| !value.trim().is_empty());
    names.iter().find(is_set).map(|name| (*name).to_owned())
}

/// A text that must not be shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl Secret {
    /// A key as the variable `name` holds it.
    fn new(name: &str, value: &str) -> Result<Self, LlmError> {
        let bad = |reason: String| LlmError::Config { setting: "api_key_env", reason };
        let key = value.trim();
        if key.is_empty() {
            return Err(bad(format!("set the variable {name} to the API key")));
        }
        if key.contains(char::is_control) {
            return Err(bad(format!(
                "the key in the variable {name} holds a line break or another control character: set it anew, on one line"
            )));
        }
        Ok(Secret(key.to_owned()))
    }

    /// The text without the key, be it written plainly or as a part of JSON. (A key of up to three characters would
    /// take half of the text with it, and protects nothing.)
    pub(crate) fn taken_out_of(&self, text: &str) -> String {
        if self.0.len() < 4 {
            return text.to_owned();
        }
        let quoted = serde_json::Value::from(self.0.as_str()).to_string();
        let in_json = quoted.trim_matches('"');
        [&self.0, in_json, &in_json.replace('/', "\\/")]
            .into_iter()
            .fold(text.to_owned(), |text, form| text.replace(form, "[hidden]"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let check = |set: &[(&str, &str)], expect: Option<&str>| {
            let read = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            assert_eq!(first_set(&["ONE", "TWO"], read).as_deref(), expect, "{set:?}");
        };
        check(&[], None);
        check(&[("ONE", ""), ("TWO", " ")], None);
        check(&[("ONE", ""), ("TWO", "k")], Some("TWO"));
        check(&[("ONE", "k"), ("TWO", "k")], Some("ONE"));
    }

    #[test]
    fn a_key_is_one_line() {
        let check = |value: &str, expect: Result<&str, &str>| match (Secret::new("KEY", value), expect) {
            (Ok(key), Ok(expect)) => assert_eq!(key.0, expect),
            (Err(error), Err(expect)) => {
                let text = error.to_string();
                assert!(text.contains(expect) && text.contains("KEY") && !text.contains("sk-"), "{text}");
            }
            (found, _) => panic!("{found:?} of {value:?}"),
        };
        check(" sk-1\n", Ok("sk-1"));
        check("sk-1\nsk-2", Err("line break"));
        check(" ", Err("set the variable"));
        check("", Err("set the variable"));
    }

    #[test]
    fn a_key_is_found_however_it_is_written() {
        let key = Secret("a/b\"c".to_owned());
        for text in ["a/b\"c", "a/b\\\"c", "a\\/b\\\"c"] {
            assert_eq!(key.taken_out_of(&format!("<{text}>")), "<[hidden]>");
        }
        assert_eq!(Secret("abc".to_owned()).taken_out_of("abc"), "abc");
    }
}
