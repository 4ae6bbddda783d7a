use std::io::{BufRead, BufReader, Read};

use ferrotune_types::{Completion, Finish};
use serde_json::Value;

use crate::{LlmError, wire};

/// Reads server-sent events to their end.
///
/// Each event is a line `data: {…}`; other lines (comments that keep the line open, event names) are passed over.
/// The stream must end with `[DONE]` or a finish reason: one that just stops was cut off, and is an error.
pub(crate) fn read(
    url: &str,
    body: impl Read,
    on_text: &mut dyn FnMut(&str),
) -> Result<Completion, LlmError> {
    let mut out = Completion {
        text: String::new(),
        ids: Vec::new(),
        finish: Finish::Stop,
        prompt_tokens: 0,
        completion_tokens: 0,
        logprobs: Vec::new(),
    };
    let failed = |last: String| LlmError::GaveUp {
        url: url.to_owned(),
        attempts: 1,
        last: format!("the stream broke: {last}"),
    };
    let mut is_whole = false;
    for line in BufReader::new(body).lines() {
        let line = line.map_err(|e| failed(e.to_string()))?;
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            is_whole = true;
            break;
        }
        let event: Value = serde_json::from_str(data).map_err(|e| failed(e.to_string()))?;
        if let Some(error) = event.get("error").filter(|e| !e.is_null()) {
            return Err(failed(error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned)));
        }
        if let Some((prompt, completion)) = wire::usage(&event) {
            (out.prompt_tokens, out.completion_tokens) = (prompt as usize, completion as usize);
        }
        let choice = &event["choices"][0];
        let text = wire::text_of(&choice["delta"]["content"]);
        if !text.is_empty() {
            out.text.push_str(&text);
            on_text(&text);
        }
        if !choice["finish_reason"].is_null() {
            out.finish = wire::finish(&choice["finish_reason"]);
            is_whole = true;
        }
    }
    if is_whole { Ok(out) } else { Err(failed("it ended in the middle".to_owned())) }
}
