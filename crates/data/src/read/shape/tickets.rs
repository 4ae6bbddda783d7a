//! Rows of a help desk: a question, an answer, and what the desk knows about them.

use ferrotune_types::{Conversation, Message, Role};
use serde_json::Value;

use super::{Columns, Row, column, conversation, missing, take_text};
use crate::Drop;

const QUESTION: [&str; 26] = [
    "question",
    "customer_message",
    "customer_question",
    "query",
    "inquiry",
    "request",
    "description",
    "issue",
    "user_message",
    "ticket_description",
    "ticket_text",
    "customer_query",
    "message",
    "body",
    "problem",
    "frage",
    "kundenfrage",
    "anfrage",
    "demande",
    "pregunta",
    "consulta",
    "domanda",
    "pergunta",
    "vraag",
    "anliegen",
    "context",
];
const ANSWER: [&str; 22] = [
    "answer",
    "agent_reply",
    "agent_response",
    "agent_answer",
    "agent_message",
    "reply",
    "resolution",
    "response",
    "best_answer",
    "ticket_resolution",
    "support_reply",
    "staff_reply",
    "agent_text",
    "solution",
    "antwort",
    "lösung",
    "réponse",
    "reponse",
    "respuesta",
    "risposta",
    "resposta",
    "antwoord",
];

/// Answers that may be a number or a boolean. A desk's `reply` or `resolution` may be a flag or a figure instead.
const PLAIN_ANSWERS: [&str; 11] = [
    "answer",
    "best_answer",
    "solution",
    "antwort",
    "lösung",
    "réponse",
    "reponse",
    "respuesta",
    "risposta",
    "resposta",
    "antwoord",
];

/// What the other columns are called in `meta`, and the names they are found under.
fn known(columns: &Columns) -> [(&'static str, Option<&str>, &'static [&'static str]); 4] {
    [
        (
            "satisfaction",
            columns.satisfaction.as_deref(),
            &[
                "satisfaction",
                "satisfaction_score",
                "satisfaction_rating",
                "customer_satisfaction_rating",
                "customer_satisfaction",
                "csat",
                "csat_score",
                "rating",
            ],
        ),
        ("category", columns.category.as_deref(), &["category", "topic", "queue", "ticket_type"]),
        (
            "created_at",
            columns.created_at.as_deref(),
            &["created_at", "created", "created_on", "opened_at", "date_created", "date", "timestamp"],
        ),
        (
            "resolution_hours",
            columns.resolution_hours.as_deref(),
            &["resolution_hours", "hours_to_resolution", "resolution_time_hours", "time_to_resolution_hours"],
        ),
    ]
}

fn question<'a>(row: &'a Row, columns: &Columns) -> Option<&'a str> {
    column(row, columns.question.as_deref(), &QUESTION)
}

/// The column that holds the answer. A `reference` is one beside a `question` only: a desk's is a number to quote.
fn answer<'a>(row: &'a Row, columns: &Columns) -> Option<&'a str> {
    column(row, columns.answer.as_deref(), &ANSWER).or_else(|| {
        let is_quiz = columns.answer.is_none() && column(row, None, &["question"]).is_some();
        column(row, None, &["reference"]).filter(|_| is_quiz)
    })
}

pub(super) fn fits(row: &Row, columns: &Columns) -> bool {
    let is_text = |key: &str| row.get(key).is_some_and(|v| v.is_string() || v.is_null());
    let is_plain = |key: &str| columns.answer.is_some() || column(row, None, &PLAIN_ANSWERS) == Some(key);
    let is_said =
        |key: &str| row.get(key).is_some_and(|v| (v.is_number() || v.is_boolean()) && is_plain(key));
    question(row, columns).is_some_and(is_text)
        && answer(row, columns).is_some_and(|key| is_text(key) || is_said(key))
}

/// Whether a row is a question and holds no other text that could be its answer under an unusual name.
pub(super) fn fits_question(row: &Row, columns: &Columns) -> bool {
    let has_answer = columns.answer.is_some() || answer(row, columns).is_some();
    let Some(asked) = asked_alone(row, columns).filter(|_| !has_answer) else {
        return false;
    };
    let ids = column(row, columns.id.as_deref(), &["id", "ticket_id", "row_id", "uuid"]);
    let known: Vec<&str> = known(columns)
        .into_iter()
        .filter_map(|(_, named, usual)| column(row, named, usual))
        .chain(ids)
        .collect();
    let may_answer = |(key, value): (&String, &Value)| {
        let sounds_like_one =
            ["answer", "response", "reply"].iter().any(|word| key.to_lowercase().contains(word));
        sounds_like_one || value.is_string()
    };
    row[asked].is_string()
        && !row.iter().filter(|(key, _)| *key != asked && !known.contains(&key.as_str())).any(may_answer)
}

fn asked_alone<'a>(row: &'a Row, columns: &Columns) -> Option<&'a str> {
    column(row, columns.question.as_deref(), &["question"])
}

/// A chat that ends with the question.
pub(super) fn map_question(id: String, mut row: Row, columns: &Columns) -> Result<Conversation, Drop> {
    let asked = asked_alone(&row, columns).ok_or_else(|| missing(&row, "question"))?.to_owned();
    let messages = vec![Message::new(Role::User, take_text(&mut row, &asked)?)];
    tidy(&mut row, columns);
    Ok(conversation(id, messages, Vec::new(), row))
}

/// How the row's columns were understood, to be printed.
pub(super) fn mapping(row: &Row, columns: &Columns) -> Vec<String> {
    let texts = [("question", question(row, columns)), ("answer", answer(row, columns))];
    let others = known(columns).map(|(name, named, usual)| (name, column(row, named, usual)));
    let found = texts.into_iter().chain(others);
    found
        .filter_map(|(name, key)| {
            key.map(|k| if k == name { format!("`{k}`") } else { format!("{name} from `{k}`") })
        })
        .collect()
}

pub(super) fn map(id: String, mut row: Row, columns: &Columns) -> Result<Conversation, Drop> {
    let asked = question(&row, columns).ok_or_else(|| missing(&row, "question"))?.to_owned();
    let answered = answer(&row, columns).ok_or_else(|| missing(&row, "answer"))?.to_owned();
    let asked = take_text(&mut row, &asked)?;
    let answered = take_text(&mut row, &answered)?;
    tidy(&mut row, columns);
    let messages = vec![Message::new(Role::User, asked), Message::new(Role::Assistant, answered)];
    Ok(conversation(id, messages, Vec::new(), row))
}

/// Gives the other columns their names in `meta`, and takes a named id out.
fn tidy(row: &mut Row, columns: &Columns) {
    for (name, named, usual) in known(columns) {
        let Some(key) = column(row, named, usual).map(str::to_owned) else { continue };
        let value = row.shift_remove(&key).unwrap_or(Value::Null);
        row.insert(name.to_owned(), value);
    }
    if let Some(key) = columns.id.as_deref() {
        row.shift_remove(key);
    }
}
