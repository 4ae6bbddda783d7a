//! Rows that hold a better and a worse answer, and KTO rows that hold one answer and a verdict.
//!
//! Where a file holds two answers and a judgement instead, [`choice`] finds out which is the better one.

use ferrotune_types::{Conversation, Message, PreferencePair, Role};
use serde_json::{Value, json};

use super::chat::{
    fits_alpaca, fits_prompt_completion, map_alpaca, map_prompt_completion, map_turns, opening,
    take_instruction, take_said,
};
use super::{Row, add, choice, first_of, missing, pair, take_list, turns};
use crate::Drop;

/// The names under which the better and the worse answer stand.
const ANSWERS: [(&str, &str); 9] = [
    ("chosen", "rejected"),
    ("chosen", "reject"),
    ("preferred_output", "non_preferred_output"),
    ("response_j", "response_k"),
    ("preferred", "dispreferred"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("accepted", "rejected"),
    ("better", "worse"),
];

fn answers(row: &Row) -> Option<(&'static str, &'static str)> {
    ANSWERS.into_iter().find(|(better, worse)| row.contains_key(*better) && row.contains_key(*worse))
}

/// LLaMA-Factory's older ranking form: `output` is a list of two texts, the better first.
fn is_ranked_output(row: &Row) -> bool {
    row.contains_key("instruction")
        && row
            .get("output")
            .and_then(Value::as_array)
            .is_some_and(|o| o.len() == 2 && o.iter().all(Value::is_string))
}

pub(super) fn fits(row: &Row) -> bool {
    answers(row).is_some() || is_ranked_output(row) || choice::fits(row)
}

pub(super) fn map(id: String, mut row: Row) -> Result<PreferencePair, Drop> {
    if is_ranked_output(&row) {
        let mut ranked = take_list(&mut row, "output")?.into_iter();
        row.insert("chosen".into(), ranked.next().unwrap_or_default());
        row.insert("rejected".into(), ranked.next().unwrap_or_default());
    }
    if answers(&row).is_none() {
        choice::settle(&mut row)?;
    }
    let (better, worse) = answers(&row).unwrap_or(ANSWERS[0]);
    lay_input_open(&mut row);
    let tools = turns::take_tools(&mut row)?;
    if !tools.is_empty() {
        row.insert("tools".into(), Value::Array(tools));
    }
    if let Some([chosen, rejected]) = take_rounds(&mut row, better, worse)? {
        return split_shared(id, Vec::new(), chosen, rejected, row);
    }
    let are_texts = [better, worse].into_iter().all(|key| row.get(key).is_some_and(is_plain_text));
    let mut chosen = take_answer(&mut row, better)?;
    let mut rejected = take_answer(&mut row, worse)?;
    // Where an answer opens with the person's turn it is a whole chat, and the prompt is what both share.
    let is_whole = |answer: &[Message]| answer.first().is_some_and(|m| m.role != Role::Assistant);
    if is_whole(&chosen) && is_whole(&rejected) {
        let opening = take_prompts_opening(&mut row);
        return split_shared(id, opening, chosen, rejected, row);
    }
    let mut prompt = match take_prompt(&mut row)? {
        Some(prompt) => prompt,
        None if are_texts && !has_other_prompt(&row) => split_texts(&mut chosen, &mut rejected)?,
        None => return Err(missing(&row, "prompt")),
    };
    let tail = |answer: Vec<Message>| {
        // One side repeats the prompt and the other does not: cut it off.
        let n = if is_whole(&answer) { shared(&prompt, &answer) } else { 0 };
        answer.into_iter().skip(n).collect::<Vec<_>>()
    };
    let (chosen, rejected) = (tail(chosen), tail(rejected));
    if prompt.last().is_none_or(|m| m.role == Role::Assistant) {
        return Err(Drop::new("bad_value", "the prompt must end with a turn that is not the assistant's"));
    }
    if let Some(system) = super::take_optional(&mut row, "system")?.filter(|_| !is_standing(&prompt[0])) {
        prompt.insert(0, Message::new(Role::System, system));
    }
    Ok(pair(id, prompt, chosen, rejected, row))
}

fn is_standing(turn: &Message) -> bool {
    matches!(turn.role, Role::System | Role::Developer)
}

/// OpenAI's preference files hold `{"input": {"messages": [..], "tools": [..]}}`.
fn lay_input_open(row: &mut Row) {
    if row.get("input").is_none_or(|input| input.get("messages").is_none()) {
        return;
    }
    if let Some(Value::Object(mut input)) = row.shift_remove("input") {
        row.insert("messages".into(), input.shift_remove("messages").unwrap_or_default());
        for (key, value) in input {
            add(row, key, value);
        }
    }
}

/// LMSYS' rows, whose prompt and answers are lists of texts, one a round: two whole chats.
fn take_rounds(row: &mut Row, better: &str, worse: &str) -> Result<Option<[Vec<Message>; 2]>, Drop> {
    let prompt = first_of(row, &["prompt", "question", "query"]).unwrap_or("prompt");
    let keys = [prompt, better, worse];
    if !keys.iter().all(|key| row.get(*key).is_some_and(is_rounds)) {
        return Ok(None);
    }
    let [asked, chosen, rejected] = keys.map(|key| rounds(key, row.shift_remove(key).unwrap_or_default()));
    let (asked, chosen, rejected) = (asked?, chosen?, rejected?);
    if chosen.len() != asked.len() || rejected.len() != asked.len() {
        let n = [asked.len(), chosen.len(), rejected.len()];
        return Err(Drop::new(
            "bad_value",
            format!("{keys:?} hold {n:?} texts; each round needs one of each"),
        ));
    }
    let chat = |answers: Vec<String>| {
        let round =
            |(asked, answer)| [Message::new(Role::User, asked), Message::new(Role::Assistant, answer)];
        asked.iter().zip(answers).flat_map(round).collect()
    };
    Ok(Some([chat(chosen), chat(rejected)]))
}

/// A list of texts, as it stands or as a text of JSON.
fn is_rounds(value: &Value) -> bool {
    let is_text = |v: &Value| v.is_string() || v.is_null();
    match value {
        Value::Array(list) => !list.is_empty() && list.iter().all(is_text),
        Value::String(text) => text.ends_with(']') && (text.starts_with("[\"") || text.starts_with("[null")),
        _ => false,
    }
}

fn rounds(key: &str, value: Value) -> Result<Vec<String>, Drop> {
    let list = match value {
        Value::String(text) => serde_json::from_str(&text),
        value => serde_json::from_value(value),
    };
    list.map_err(|e| Drop::new("bad_value", format!("`{key}` must be a list of texts: {e}")))
}

/// An answer as turns: a text, a transcript, one turn, or a list of turns.
fn take_answer(row: &mut Row, key: &str) -> Result<Vec<Message>, Drop> {
    if let Some(Value::String(text)) = row.get(key)
        && let Some(messages) = turns::transcript(text)
    {
        row.shift_remove(key);
        return Ok(messages);
    }
    let said = take_said(row, key, Role::Assistant)?;
    if said.is_empty() {
        return Err(Drop::new("missing_field", format!("`{key}` holds no turns")));
    }
    Ok(said)
}

/// A text that is neither a transcript nor a list of turns written as JSON.
fn is_plain_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.starts_with("[{\"") && turns::transcript(text).is_none())
}

/// The prompt, where the row has a column for it.
fn take_prompt(row: &mut Row) -> Result<Option<Vec<Message>>, Drop> {
    if let Some(Value::String(text)) = row.get("prompt")
        && let Some(mut messages) = turns::transcript(text)
    {
        row.shift_remove("prompt");
        // "\n\nAssistant:" at the end only asks for the answer.
        if messages.last().is_some_and(|m| m.role == Role::Assistant && m.content.is_empty()) {
            messages.pop();
        }
        return Ok(Some(messages));
    }
    if let Some(key) = first_of(row, &["prompt", "question", "query"]) {
        return take_said(row, key, Role::User).map(Some);
    }
    if row.contains_key("instruction") {
        let mut prompt = opening(row)?;
        prompt.push(Message::new(Role::User, take_instruction(row)?));
        return Ok(Some(prompt));
    }
    let is_said = |key: &&str| row.get(*key).is_some_and(|said| said.is_string() || turns::is_list(said));
    if let Some(key) = ["input", "history", "post", "context"].into_iter().find(is_said) {
        return take_said(row, key, Role::User).map(Some);
    }
    let has_turns = turns::list(row, "role").or_else(|| turns::list(row, "from")).is_some();
    if has_turns || first_of(row, &["messages"]).is_some() { turns::take(row).map(Some) } else { Ok(None) }
}

/// Whether a text stands under a name that sounds like a prompt's. It is more likely the prompt than what two answers
/// happen to begin with, so such a row goes aside until the column is renamed.
fn has_other_prompt(row: &Row) -> bool {
    let sounds_like_one = |name: &str| {
        let name = name.to_lowercase();
        ["prompt", "question", "query", "instruction"].iter().any(|word| name.contains(word))
    };
    row.iter().any(|(name, value)| value.is_string() && sounds_like_one(name))
}

/// Two texts that hold their prompt: it is what both begin with, cut as TRL's `extract_prompt` does. A space before the
/// first difference belongs to the answers. Where one text is the beginning of the other, its last character does, so
/// that no answer is empty.
fn split_texts(chosen: &mut [Message], rejected: &mut [Message]) -> Result<Vec<Message>, Drop> {
    let no_prompt =
        || Drop::new("bad_value", "there is no prompt, and chosen and rejected share no beginning");
    let (Some(chosen), Some(rejected)) = (chosen.first_mut(), rejected.first_mut()) else {
        return Err(no_prompt());
    };
    let (better, worse) = (chosen.content.as_str(), rejected.content.as_str());
    let same = better.chars().zip(worse.chars()).take_while(|(a, b)| a == b);
    let shared: String = same.map(|(a, _)| a).collect();
    let is_whole = shared.len() == better.len().min(worse.len());
    let prompt = match shared.chars().next_back() {
        Some(last) if is_whole || last == ' ' => &shared[..shared.len() - last.len_utf8()],
        _ => shared.as_str(),
    };
    if prompt.trim().is_empty() {
        return Err(no_prompt());
    }
    chosen.content.drain(..prompt.len());
    rejected.content.drain(..prompt.len());
    Ok(vec![Message::new(Role::User, prompt)])
}

/// How many turns two chats share from the start.
fn shared(a: &[Message], b: &[Message]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a.role == b.role && a.content == b.content).count()
}

/// Takes the `prompt` out beside two whole chats, which repeat it, often without the standing instructions that open it;
/// these are given back.
fn take_prompts_opening(row: &mut Row) -> Vec<Message> {
    let prompt = take_said(row, "prompt", Role::User).unwrap_or_default();
    row.shift_remove("prompt");
    prompt.into_iter().take_while(is_standing).collect()
}

/// Two whole chats: what they share is the prompt, up to the last turn that is not the assistant's. Where it has no
/// standing instructions, `opening` or else the column `system` are put before it.
fn split_shared(
    id: String,
    mut opening: Vec<Message>,
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
    mut row: Row,
) -> Result<PreferencePair, Drop> {
    let mut n = shared(&chosen, &rejected).min(chosen.len() - 1).min(rejected.len() - 1);
    while n > 0 && chosen[n - 1].role == Role::Assistant {
        n -= 1;
    }
    if n == 0 {
        return Err(Drop::new("bad_value", "chosen and rejected share no prompt"));
    }
    let chosen_tail = chosen.split_off(n);
    let rejected_tail = rejected.split_off(n);
    if !is_standing(&chosen[0]) {
        if opening.is_empty() {
            let system = super::take_optional(&mut row, "system")?;
            opening.extend(system.map(|system| Message::new(Role::System, system)));
        }
        chosen.splice(..0, opening);
    }
    Ok(pair(id, chosen, chosen_tail, rejected_tail, row))
}

const LABELS: [&str; 2] = ["kto_tag", "label"];

pub(super) fn fits_kto(row: &Row) -> bool {
    let label = first_of(row, &LABELS).and_then(|k| row.get(k));
    label.and_then(verdict).is_some() && has_answer(row)
}

/// Whether a row holds an answer and a column for a verdict, whatever stands in it.
pub(in crate::read) fn is_labelled(row: &Row) -> bool {
    LABELS.iter().any(|key| row.contains_key(*key)) && has_answer(row)
}

fn has_answer(row: &Row) -> bool {
    let has_turns = turns::list(row, "role").is_some() || turns::list(row, "from").is_some();
    fits_prompt_completion(row) || is_alpaca(row) || has_turns
}

fn is_alpaca(row: &Row) -> bool {
    fits_alpaca(row) && !row.contains_key("prompt")
}

/// True or false, as JSON, as 0 and 1 (pandas writes 0.0 and 1.0), or as a spreadsheet writes them.
fn verdict(label: &Value) -> Option<bool> {
    let of_number = |n: f64| match n {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    };
    match label {
        Value::Bool(wanted) => Some(*wanted),
        Value::Number(n) => of_number(n.as_f64()?),
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "true" | "desirable" => Some(true),
            "false" | "undesirable" => Some(false),
            number => of_number(number.parse().ok()?),
        },
        _ => None,
    }
}

/// A chat whose `meta.label` tells whether its last answer was wanted.
pub(super) fn map_kto(id: String, mut row: Row) -> Result<Conversation, Drop> {
    let key = first_of(&row, &LABELS).unwrap_or("label");
    let label = row.shift_remove(key).filter(|label| !label.is_null()).ok_or_else(|| missing(&row, key))?;
    let wanted = verdict(&label)
        .ok_or_else(|| Drop::new("bad_value", format!("`{key}` must be true or false, it is {label}")))?;
    if let Some(other) = row.insert("label".into(), json!(wanted)) {
        add(&mut row, "label".into(), other);
    }
    if is_alpaca(&row) {
        map_alpaca(id, row)
    } else if fits_prompt_completion(&row) {
        map_prompt_completion(id, row)
    } else {
        map_turns(id, row)
    }
}
