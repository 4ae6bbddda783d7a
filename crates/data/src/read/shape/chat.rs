//! Rows that are one chat: lists of turns, Alpaca, prompt and completion.

use ferrotune_types::{Conversation, Message, Role};
use serde_json::Value;

use super::{Row, conversation, first_of, take_list, take_optional, take_text, turns};
use crate::Drop;

/// `messages` or `conversations`, with `system` and `tools` beside them where there are any.
pub(super) fn map_turns(id: String, mut row: Row) -> Result<Conversation, Drop> {
    turns::straighten(&mut row)?;
    let mut messages = turns::take(&mut row)?;
    let has_system = matches!(messages[0].role, Role::System | Role::Developer);
    if !has_system && let Some(system) = take_optional(&mut row, "system")? {
        messages.insert(0, Message::new(Role::System, system));
    }
    let tools = turns::take_tools(&mut row)?;
    Ok(conversation(id, messages, tools, row))
}

/// What an instruction's answer is called.
const OUTPUTS: [&str; 4] = ["output", "response", "answer", "completion"];

pub(super) fn fits_alpaca(row: &Row) -> bool {
    row.contains_key("instruction") && first_of(row, &OUTPUTS).is_some()
}

/// The user says the instruction, then the input after a blank line.
pub(super) fn map_alpaca(id: String, mut row: Row) -> Result<Conversation, Drop> {
    let mut messages = opening(&mut row)?;
    messages.push(Message::new(Role::User, take_instruction(&mut row)?));
    let answer = first_of(&row, &OUTPUTS).unwrap_or("output");
    messages.push(Message::new(Role::Assistant, take_text(&mut row, answer)?));
    let tools = turns::take_tools(&mut row)?;
    Ok(conversation(id, messages, tools, row))
}

/// `system` and LLaMA-Factory's `history` (a list of question and answer) as the turns that come first.
pub(super) fn opening(row: &mut Row) -> Result<Vec<Message>, Drop> {
    let mut messages = Vec::new();
    if let Some(system) = take_optional(row, "system")? {
        messages.push(Message::new(Role::System, system));
    }
    if row.get("history").is_some_and(|h| !h.is_null()) {
        for turn in take_list(row, "history")? {
            let texts = turn.as_array().map(Vec::as_slice);
            let Some([Value::String(question), Value::String(answer)]) = texts else {
                return Err(Drop::new("bad_value", "`history` must be a list of question and answer"));
            };
            messages.push(Message::new(Role::User, question));
            messages.push(Message::new(Role::Assistant, answer));
        }
    }
    Ok(messages)
}

/// The instruction and, after a blank line, the input.
pub(super) fn take_instruction(row: &mut Row) -> Result<String, Drop> {
    let mut instruction = take_text(row, "instruction")?;
    let input = first_of(row, &["input", "context"]).unwrap_or("input");
    if let Some(input) = take_optional(row, input)? {
        instruction.push_str("\n\n");
        instruction.push_str(&input);
    } else {
        // An empty input holds nothing.
        row.shift_remove(input);
    }
    Ok(instruction)
}

/// What is asked, and what its answer is called then.
const ASKED: [(&str, &[&str]); 7] = [
    ("prompt", &["completion", "response", "output", "answer", "generation"]),
    ("input", &["output", "target", "response", "completion", "answer"]),
    ("inputs", &["targets", "outputs"]),
    ("user", &["assistant", "bot"]),
    ("human", &["assistant", "bot", "gpt"]),
    ("problem", &["solution", "generated_solution", "answer"]),
    ("source", &["target"]),
];

fn asked_and_answered(row: &Row) -> Option<(&'static str, &'static str)> {
    ASKED.into_iter().find_map(|(asked, answers)| {
        let is_said = row.get(asked).is_some_and(|v| v.is_string() || v.is_array());
        Some((asked, first_of(row, answers).filter(|_| is_said)?))
    })
}

pub(super) fn fits_prompt_completion(row: &Row) -> bool {
    asked_and_answered(row).is_some()
}

/// `prompt` and `completion`, each a text or messages.
pub(super) fn map_prompt_completion(id: String, mut row: Row) -> Result<Conversation, Drop> {
    let mut messages = Vec::new();
    if let Some(system) = take_optional(&mut row, "system")? {
        messages.push(Message::new(Role::System, system));
    }
    let (asked, answered) = asked_and_answered(&row).unwrap_or(("prompt", "completion"));
    for (key, role) in [(asked, Role::User), (answered, Role::Assistant)] {
        messages.extend(take_said(&mut row, key, role)?);
    }
    let tools = turns::take_tools(&mut row)?;
    Ok(conversation(id, messages, tools, row))
}

/// A text said by `role`, one turn, or a list of turns.
pub(super) fn take_said(row: &mut Row, key: &str, role: Role) -> Result<Vec<Message>, Drop> {
    match row.get(key) {
        Some(Value::Object(_)) => {
            let turn = row.shift_remove(key).unwrap_or_default();
            Ok(vec![turns::message(turn, key)?])
        }
        Some(Value::Array(_)) => {
            let said = take_list(row, key)?;
            said.into_iter().enumerate().map(|(i, t)| turns::message(t, &format!("{key}[{i}]"))).collect()
        }
        // CSV holds a list of turns as JSON.
        Some(Value::String(text)) if text.starts_with("[{\"") => {
            if let Ok(list) = serde_json::from_str::<Vec<Value>>(text)
                && let Ok(said) = list.into_iter().map(|t| turns::message(t, key)).collect()
            {
                row.shift_remove(key);
                return Ok(said);
            }
            Ok(vec![Message::new(role, take_text(row, key)?)])
        }
        _ => Ok(vec![Message::new(role, take_text(row, key)?)]),
    }
}
