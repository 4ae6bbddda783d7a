use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::budget::Reservation;
use crate::config::Secret;
use crate::{ClientConfig, Ledger, LlmError, RetryConfig, wire};

/// No reply is read beyond this: a server gone mad must not fill the memory.
const MAX_REPLY_BYTES: u64 = 64 << 20;

/// The line to one server.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) address: String,
    agent: Agent,
    key: Option<Secret>,
    key_header: &'static str,
    key_env: String,
    retry: RetryConfig,
}

/// How an attempt went wrong.
enum Fault {
    /// It may go right next time, after at least this wait where the server says so.
    Passing { last: String, wait: Option<Duration> },
    /// It will not.
    Lasting(LlmError),
}

impl Line {
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, LlmError> {
        let address = config.address()?;
        let mut settings = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(config.timeout_s.max(1))))
            .timeout_connect(Some(Duration::from_secs(config.timeout_s.clamp(1, 10))))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("ferrotune/", env!("CARGO_PKG_VERSION")));
        if ["://127.", "://localhost", "://[::1]", "://0.0.0.0"].iter().any(|host| address.contains(host)) {
            // A server on this machine is not reached through a proxy.
            settings = settings.proxy(None);
        }
        Ok(Line {
            address,
            agent: settings.build().into(),
            key: config.key()?,
            key_header: config.provider.traits().key_header,
            key_env: config.key_env().to_owned(),
            retry: config.retry,
        })
    }

    /// Posts a request until it is answered or given up, paying each attempt from the ledger.
    pub(crate) fn post(
        &self,
        path: &str,
        body: &Value,
        max_reply_tokens: u64,
        ledger: &Ledger,
    ) -> Result<Value, LlmError> {
        let url = format!("{}/{path}", self.address);
        let prompt = wire::estimate_tokens(body);
        self.retrying(&url, || {
            let held = ledger.reserve(prompt, max_reply_tokens).map_err(Fault::Lasting)?;
            let reply = self.attempt(&url, body).and_then(|response| read_json(&url, response));
            let used =
                reply.as_ref().ok().map(|reply| wire::usage(reply).unwrap_or((prompt, max_reply_tokens)));
            ledger.settle(held, used);
            reply
        })
    }

    /// Posts a request and hands over the open reply, for streams, with what is set aside for it. Retries, each paid
    /// for, end where the reply begins.
    pub(crate) fn open(
        &self,
        path: &str,
        body: &Value,
        max_reply_tokens: u64,
        ledger: &Ledger,
    ) -> Result<(Response<Body>, Reservation), LlmError> {
        let url = format!("{}/{path}", self.address);
        let prompt = wire::estimate_tokens(body);
        self.retrying(&url, || {
            let held = ledger.reserve(prompt, max_reply_tokens).map_err(Fault::Lasting)?;
            let reply = self.attempt(&url, body).inspect_err(|_| ledger.settle(held, None))?;
            Ok((reply, held))
        })
    }

    fn retrying<T>(&self, url: &str, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, LlmError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.retry.seed);
        let attempts = self.retry.attempts.max(1);
        let mut number = 1;
        loop {
            let (last, asked) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Fault::Lasting(error)) => return Err(error),
                Err(Fault::Passing { last, wait }) => (last, wait),
            };
            if number >= attempts {
                return Err(LlmError::GaveUp { url: url.to_owned(), attempts, last });
            }
            let limit = Duration::from_millis(self.retry.max_ms);
            if let Some(asked) = asked.filter(|asked| *asked > limit) {
                let (asked_s, limit_s) = (asked.as_secs(), limit.as_secs());
                return Err(LlmError::WaitTooLong { url: url.to_owned(), asked_s, limit_s });
            }
            let doubled = self.retry.base_ms.saturating_mul(1 << (number - 1).min(20));
            // Half of the wait is drawn, so that clients that failed together do not come back together.
            let jittered = Duration::from_millis(doubled).mul_f64(rng.random_range(0.5..1.0)).min(limit);
            std::thread::sleep(asked.map_or(jittered, |asked| asked.max(jittered)));
            number += 1;
        }
    }

    fn attempt(&self, url: &str, body: &Value) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.post(url).header("content-type", "application/json");
        if let Some(Secret(key)) = &self.key {
            let value =
                if self.key_header == "authorization" { format!("Bearer {key}") } else { key.clone() };
            request = request.header(self.key_header, value);
        }
        match request.send(body.to_string()) {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(self.refusal(url, response)),
            Err(error) => Err(broken(url, &error)),
        }
    }

    fn refusal(&self, url: &str, mut response: Response<Body>) -> Fault {
        let status = response.status();
        let wait = wait_asked(response.headers());
        let asks_to_wait =
            ["retry-after", "retry-after-ms"].iter().any(|name| response.headers().contains_key(*name));
        let text = response.body_mut().with_config().limit(1 << 16).lossy_utf8(true).read_to_string();
        let text = text.unwrap_or_default();
        let message = told(&text);
        let url = url.to_owned();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let key_from = if self.key.is_some() { self.key_env.clone() } else { "nowhere".to_owned() };
                Fault::Lasting(LlmError::Denied { url, status: status.as_u16(), message, key_from })
            }
            // A used-up account answers 429 like a busy one, and waiting does not fill it.
            StatusCode::TOO_MANY_REQUESTS if !asks_to_wait && is_spent(&text) => {
                Fault::Lasting(LlmError::Refused { url, status: 429, message })
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Fault::Passing { last: format!("{status}: {message}"), wait }
            }
            _ if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
                Fault::Passing { last: format!("{status}: {message}"), wait }
            }
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY
                if wire::is_about_length(&text) =>
            {
                let sizes = wire::sizes(&message);
                Fault::Lasting(LlmError::TooLong { url, status: status.as_u16(), message, sizes })
            }
            _ => Fault::Lasting(LlmError::Refused { url, status: status.as_u16(), message }),
        }
    }

    /// The text without the key, which some servers repeat in their complaints.
    pub(crate) fn hiding(&self, text: &str) -> String {
        self.key.iter().fold(text.to_owned(), |text, key| key.taken_out_of(&text))
    }
}

fn read_json(url: &str, mut response: Response<Body>) -> Result<Value, Fault> {
    let text = response
        .body_mut()
        .with_config()
        .limit(MAX_REPLY_BYTES)
        .read_to_string()
        .map_err(|error| broken(url, &error))?;
    serde_json::from_str(&text).map_err(|error| Fault::Passing {
        last: format!("the reply is no JSON ({error}): {text}"),
        wait: None,
    })
}

/// An error below HTTP: most may pass; a bad address or an oversized reply will not.
fn broken(url: &str, error: &ureq::Error) -> Fault {
    let last = error.to_string();
    match error {
        ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::BodyExceedsLimit(_)
        | ureq::Error::RequireHttpsOnly(_)
        | ureq::Error::InvalidProxyUrl => {
            Fault::Lasting(LlmError::Refused { url: url.to_owned(), status: 0, message: last })
        }
        _ => Fault::Passing { last, wait: None },
    }
}

/// The server's own words: `error.message`, `error`, `message` or `detail`, else the text.
fn told(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let found = [&value["error"]["message"], &value["error"], &value["message"], &value["detail"]];
    let message = found.into_iter().find_map(Value::as_str).unwrap_or(text);
    message.trim().to_owned()
}

/// Whether a refusal says that the account is used up. A link to the page for paying says nothing: some servers end any
/// refusal with one.
fn is_spent(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return text.contains("insufficient_quota") };
    let keys = [&value["error"]["code"], &value["error"]["type"], &value["code"], &value["type"]];
    let keys: Vec<&str> = keys.into_iter().filter_map(Value::as_str).collect();
    let says_spent = |key: &&str| {
        matches!(*key, "insufficient_quota" | "billing_hard_limit_reached" | "billing_not_active")
    };
    keys.iter().any(says_spent) && !keys.contains(&"rate_limit_exceeded")
}

/// `retry-after-ms`, or `retry-after` in seconds. A date there is left aside: our own wait is then as good.
fn wait_asked(headers: &ureq::http::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}
