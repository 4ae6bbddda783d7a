//! What goes over the line, in OpenAI's words.

use ferrotune_types::{Completion, Finish, GenerateParams, LogLikelihood, Message, ModelError};
use serde_json::{Map, Value, json};

use crate::{ClientConfig, LlmError};

/// The body of a chat request.
pub(crate) fn chat_body(
    config: &ClientConfig,
    messages: &[Message],
    params: &GenerateParams,
) -> Result<Value, ModelError> {
    let traits = config.provider.traits();
    let mut body = Map::new();
    body.insert("model".to_owned(), config.model.clone().into());
    body.insert("messages".to_owned(), serde_json::to_value(messages).map_err(ModelError::failed)?);
    body.insert(traits.max_tokens_field.to_owned(), params.max_new_tokens.into());
    body.insert("temperature".to_owned(), params.temperature.into());
    if let Some(top_p) = params.top_p {
        body.insert("top_p".to_owned(), top_p.into());
    }
    if !traits.seed_field.is_empty() {
        body.insert(traits.seed_field.to_owned(), params.seed.into());
    }
    if !params.stop.is_empty() {
        body.insert("stop".to_owned(), params.stop.clone().into());
    }
    let wants_more = params.top_k.is_some() || params.repetition_penalty != 1.0;
    if wants_more && !traits.samples_freely {
        // Left out silently, the same settings would mean something else here than on another model.
        let reason = format!("{:?} takes neither top_k nor repetition_penalty", config.provider);
        return Err(ModelError::BadRequest(reason));
    }
    if let Some(top_k) = params.top_k {
        body.insert("top_k".to_owned(), top_k.into());
    }
    if params.repetition_penalty != 1.0 {
        body.insert("repetition_penalty".to_owned(), params.repetition_penalty.into());
    }
    Ok(with_extra(body, config))
}

/// The body that asks for a prompt's own log-probabilities.
///
/// One token is generated and ignored, because some servers refuse to generate none.
pub(crate) fn echo_body(config: &ClientConfig, prompt: &str) -> Value {
    let body = json!({
        "model": config.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0, "echo": true, "logprobs": 1,
    });
    match body {
        Value::Object(body) => with_extra(body, config),
        other => other,
    }
}

pub(crate) fn embed_body(config: &ClientConfig, texts: &[&str]) -> Value {
    let mut body = Map::new();
    body.insert("model".to_owned(), config.model.clone().into());
    body.insert("input".to_owned(), texts.into());
    with_extra(body, config)
}

fn with_extra(mut body: Map<String, Value>, config: &ClientConfig) -> Value {
    for (key, value) in &config.extra_body {
        if value.is_null() {
            body.shift_remove(key);
        } else {
            body.insert(key.clone(), value.clone());
        }
    }
    Value::Object(body)
}

/// Tokens of prompt and reply, where the server counts them.
pub(crate) fn usage(reply: &Value) -> Option<(u64, u64)> {
    let usage = reply.get("usage")?;
    let count = |key: &str| usage.get(key).and_then(Value::as_u64);
    Some((count("prompt_tokens")?, count("completion_tokens").unwrap_or(0)))
}

pub(crate) fn completion(url: &str, reply: &Value) -> Result<Completion, LlmError> {
    let choice = &reply["choices"][0];
    let message = choice.get("message").ok_or_else(|| unexpected(url, "choices[0].message", reply))?;
    let (prompt_tokens, completion_tokens) = usage(reply).unwrap_or_default();
    Ok(Completion {
        text: text_of(&message["content"]),
        ids: Vec::new(),
        finish: finish(&choice["finish_reason"]),
        prompt_tokens: prompt_tokens as usize,
        completion_tokens: completion_tokens as usize,
        logprobs: Vec::new(),
    })
}

/// A text, or the texts of a list of parts.
pub(crate) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|p| p.as_str().or(p["text"].as_str())).collect(),
        _ => String::new(),
    }
}

/// The two names of the bound on generated tokens.
const LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// The body with the bound on generated tokens under its other name; nothing where it has none, or both.
pub(crate) fn swap_limit(body: &Value) -> Option<Value> {
    let fields = body.as_object()?;
    let [old, new] = LIMITS.map(|name| fields.contains_key(name));
    let (from, to) = match (old, new) {
        (true, false) => (LIMITS[0], LIMITS[1]),
        (false, true) => (LIMITS[1], LIMITS[0]),
        _ => return None,
    };
    let renamed = |(key, value): (&String, &Value)| {
        (if key == from { to.to_owned() } else { key.clone() }, value.clone())
    };
    Some(Value::Object(fields.iter().map(renamed).collect()))
}

/// Whether the server refuses the name under which the body bounds the generated tokens, not its value.
pub(crate) fn refuses_limit(body: &Value, error: &LlmError) -> bool {
    let LlmError::Refused { status: 400 | 422, message, .. } = error else { return false };
    let lower = message.to_lowercase();
    let is_unknown = ["unrecogni", "unknown", "unsupported", "not supported", "not permitted", "unexpected"]
        .iter()
        .any(|word| lower.contains(word));
    lower.contains(LIMITS[1]) && (body.get(LIMITS[0]).is_some() || is_unknown)
}

/// Whether a refusal says that the prompt does not fit: the codes and words of OpenAI, vLLM, llama.cpp, Anthropic, Gemini,
/// Groq, Mistral, LM Studio and text-generation-inference.
pub(crate) fn is_about_length(refusal: &str) -> bool {
    let lower = refusal.to_lowercase();
    [
        "context_length_exceeded",
        "exceed_context_size",
        "context length",
        "context size",
        "context window",
        "prompt is too long",
        "prompt too long",
        "context too long",
        "input is too long",
        "maximum number of tokens allowed",
        "reduce the length of",
        "string_above_max_length",
        "`max_new_tokens` must be <=",
    ]
    .iter()
    .any(|words| lower.contains(words))
}

/// The tokens that a prompt has and that fit, out of a refusal: its first two large numbers, in whichever order.
pub(crate) fn sizes(message: &str) -> Option<(usize, usize)> {
    let plain = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).replace(',', "");
    let mut numbers = message.split_whitespace().filter_map(|word| plain(word).parse().ok());
    let mut large = || numbers.find(|n: &usize| *n >= 100);
    let (one, other) = (large()?, large()?);
    (one != other).then(|| (one.max(other), one.min(other)))
}

pub(crate) fn finish(reason: &Value) -> Finish {
    if reason == "length" { Finish::Length } else { Finish::Stop }
}

/// Sums the tokens of the echoed prompt that reach past its first `skip` characters.
///
/// A token that lies on the border belongs to what follows it. The very first token has no log-probability,
/// since nothing precedes it, and is not counted.
pub(crate) fn echoed(url: &str, prompt: &str, skip: usize, reply: &Value) -> Result<LogLikelihood, LlmError> {
    let logprobs = &reply["choices"][0]["logprobs"];
    let list = |key: &'static str| logprobs[key].as_array();
    let (Some(tokens), Some(values), Some(offsets)) =
        (list("tokens"), list("token_logprobs"), list("text_offset"))
    else {
        return Err(unexpected(url, "choices[0].logprobs of the prompt", reply));
    };
    let end = prompt.chars().count() as u64;
    let mut out = LogLikelihood { sum: 0.0, n_tokens: 0, is_greedy: true };
    for (i, (value, offset)) in values.iter().zip(offsets).enumerate() {
        let start = offset.as_u64().unwrap_or(0);
        let next = offsets.get(i + 1).and_then(Value::as_u64).unwrap_or(end).max(start);
        let (Some(value), true) = (value.as_f64(), start < end && next > skip as u64) else { continue };
        out.sum += value;
        out.n_tokens += 1;
        let top = logprobs["top_logprobs"][i].as_object().and_then(|top| {
            top.iter().filter_map(|(token, p)| Some((token, p.as_f64()?))).max_by(|a, b| a.1.total_cmp(&b.1))
        });
        // The token itself may be listed beside the likeliest; equal probability counts as likeliest.
        let is_top = top.is_some_and(|(token, p)| Some(token.as_str()) == tokens[i].as_str() || value >= p);
        out.is_greedy &= is_top;
    }
    if out.n_tokens == 0 {
        return Err(unexpected(url, "log-probabilities of the prompt", reply));
    }
    Ok(out)
}

/// Vectors in the order of the texts, each of unit length.
pub(crate) fn vectors(url: &str, n: usize, reply: &Value) -> Result<Vec<Vec<f32>>, LlmError> {
    let data = reply["data"].as_array().filter(|data| data.len() == n);
    let data = data.ok_or_else(|| unexpected(url, "a vector for each text", reply))?;
    let mut rows: Vec<Option<Vec<f32>>> = vec![None; n];
    for (i, item) in data.iter().enumerate() {
        let at = item["index"].as_u64().map_or(i, |at| at as usize);
        let numbers: Option<Vec<f64>> =
            item["embedding"].as_array().and_then(|v| v.iter().map(Value::as_f64).collect());
        let norm = numbers.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
        let unit = numbers.filter(|_| norm > 0.0 && norm.is_finite());
        if let (Some(unit), Some(row)) = (unit, rows.get_mut(at)) {
            *row = Some(unit.into_iter().map(|x| (x / norm) as f32).collect());
        }
    }
    rows.into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| unexpected(url, "a vector for each text", reply))
}

pub(crate) fn unexpected(url: &str, what: &'static str, reply: &Value) -> LlmError {
    LlmError::Reply { url: url.to_owned(), what, reply: reply.to_string() }
}

/// A rough count, for budgets only: four characters a token, which English exceeds seldom, and a few a turn.
pub(crate) fn estimate_tokens(body: &Value) -> u64 {
    fn chars(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(|item| chars(item) + 12).sum(),
            Value::Object(fields) => fields.values().map(chars).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
    }
    (chars(body) / 3 + 8) as u64
}
