use ferrotune_types::{Message, PreferencePair, Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::make::{Outcome, Pairing, from_log, from_ranking, from_scores};

/// What a row that is no pair yet tells of its answers. Prompts and answers are texts, messages or lists of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// `prompt`, `answers`, `scores` (or each answer an object with its `score`): higher is better.
    Scores,
    /// `prompt`, `answers`, best first.
    Ranking,
    /// `prompt`, `shown`: answers in time order, each with `answer` and `outcome`: `accepted` (or `copied`),
    /// `regenerated`, `edited` (then `edited` holds the new text), `unknown`.
    Log,
}

impl RowKind {
    /// By name.
    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(Value::from(name)).ok()
    }

    /// Why a row that can be read gives no pair.
    fn no_pair(self, min_gap: f64) -> String {
        match self {
            RowKind::Scores => format!("no two scores differ, or not by {min_gap}"),
            RowKind::Ranking => "fewer than two answers".to_owned(),
            RowKind::Log => "no answer was taken over another".to_owned(),
        }
    }
}

/// A row that gives no pair, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Its number, counted from 1.
    pub row: usize,
    /// What is wrong.
    pub reason: String,
}

/// Rows → pairs, in order; rows that give none come back with the reason. `min_gap` is read for scores,
/// `pairing` for scores and rankings. A row without an `id` is called by its number.
pub fn pairs_from_rows(
    rows: &[Value],
    kind: RowKind,
    pairing: Pairing,
    min_gap: f64,
) -> (Vec<PreferencePair>, Vec<BadRow>) {
    let (mut out, mut bad) = (Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        let id = id(row, i);
        let made = match kind {
            RowKind::Scores => scored(row).map(|(prompt, a)| from_scores(&id, &prompt, &a, min_gap, pairing)),
            RowKind::Ranking => answers(row).map(|(prompt, a)| from_ranking(&id, &prompt, &a, pairing)),
            RowKind::Log => shown(row).map(|(prompt, log)| from_log(&id, &prompt, &log)),
        };
        match made {
            Ok(pairs) if pairs.is_empty() => bad.push(BadRow { row: i + 1, reason: kind.no_pair(min_gap) }),
            Ok(pairs) => out.extend(pairs),
            Err(reason) => bad.push(BadRow { row: i + 1, reason }),
        }
    }
    (out, bad)
}

fn id(row: &Value, i: usize) -> String {
    match &row["id"] {
        Value::String(id) if !id.is_empty() => id.clone(),
        Value::Number(id) => id.to_string(),
        _ => format!("row-{}", i + 1),
    }
}

fn prompt(row: &Value) -> Result<Vec<Message>, String> {
    messages(&row["prompt"], Role::User).ok_or_else(|| "prompt is missing".to_owned())
}

/// A prompt with what is known of its answers, or what is wrong with the row.
type Of<T> = Result<(Vec<Message>, Vec<T>), String>;

fn answers(row: &Value) -> Of<Vec<Message>> {
    let list = row["answers"].as_array().ok_or("answers is not a list")?;
    let answers = list.iter().map(|a| messages(a, Role::Assistant)).collect::<Option<Vec<_>>>();
    Ok((prompt(row)?, answers.ok_or("an answer is no text")?))
}

fn scored(row: &Value) -> Of<(Vec<Message>, f64)> {
    let (prompt, answers) = answers(row)?;
    let list = row["answers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let score = |value: &Value| match value {
        Value::String(text) => text.trim().parse().unwrap_or(f64::NAN),
        other => other.as_f64().unwrap_or(f64::NAN),
    };
    let scores: Vec<f64> = match row["scores"].as_array() {
        Some(scores) => scores.iter().map(score).collect(),
        None => list.iter().map(|a| score(&a["score"])).collect(),
    };
    if scores.len() != answers.len() {
        return Err(format!("{} scores for {} answers", scores.len(), answers.len()));
    }
    if scores.iter().all(|s| s.is_nan()) {
        return Err("no answer has a score".to_owned());
    }
    Ok((prompt, answers.into_iter().zip(scores).collect()))
}

fn shown(row: &Value) -> Of<(Vec<Message>, Outcome)> {
    let list = row["shown"].as_array().ok_or("shown is not a list")?;
    let one = |entry: &Value| -> Result<_, String> {
        let answer =
            messages(&entry["answer"], Role::Assistant).ok_or("an entry of shown has no `answer`")?;
        let outcome = match entry["outcome"].as_str() {
            Some("accepted" | "copied") => Outcome::Accepted,
            Some("regenerated") => Outcome::Regenerated,
            Some("edited") => Outcome::Edited(
                messages(&entry["edited"], Role::Assistant)
                    .ok_or("an edited answer has no new text under `edited`")?,
            ),
            Some("unknown") | None => Outcome::Unknown,
            Some(other) => return Err(format!("unknown outcome {other:?}")),
        };
        Ok((answer, outcome))
    };
    Ok((prompt(row)?, list.iter().map(one).collect::<Result<_, _>>()?))
}

/// A text, a message, or a list of messages; what has no role speaks as `role`.
fn messages(value: &Value, role: Role) -> Option<Vec<Message>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(Message::new(role, text.as_str())),
        Value::Object(_) if value["role"].is_string() => serde_json::from_value(value.clone()).ok(),
        Value::Object(_) => {
            let text = ["content", "text"].iter().find_map(|key| value[*key].as_str())?;
            Some(Message::new(role, text))
        }
        _ => None,
    };
    match value {
        Value::Array(list) if !list.is_empty() => list.iter().map(one).collect(),
        other => Some(vec![one(other)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Pairs as `chosen>rejected`, and the reasons of bad rows.
    fn check(rows: &[Value], kind: RowKind, expect: &[&str], reasons: &[&str]) {
        let (pairs, bad) = pairs_from_rows(rows, kind, Pairing::All, 1.0);
        let found: Vec<String> =
            pairs.iter().map(|p| format!("{}>{}", p.chosen[0].content, p.rejected[0].content)).collect();
        assert_eq!(found, expect);
        assert_eq!(bad.iter().map(|b| b.reason.as_str()).collect::<Vec<_>>(), reasons);
        assert!(pairs.iter().all(|p| p.prompt[0].role == Role::User && p.chosen[0].role == Role::Assistant));
    }

    #[test]
    fn rows_become_pairs() {
        let apart = json!({"id": "a", "prompt": "q", "answers": ["x", "y", "z"], "scores": [1, 5, 1.5]});
        let inside =
            json!({"prompt": "q", "answers": [{"text": "x", "score": 0}, {"text": "y", "score": 1}]});
        let short = json!({"prompt": "q", "answers": ["x", "y"], "scores": [1]});
        let none = json!({"prompt": "q", "answers": ["x"]});
        let reasons = ["1 scores for 2 answers", "no answer has a score", "answers is not a list"];
        check(&[apart, inside, short, none, json!(3)], RowKind::Scores, &["y>z", "y>x", "y>x"], &reasons);

        let turns = json!([{"role": "user", "content": "q"}]);
        let ranked = json!({"prompt": turns, "answers": ["x", {"role": "assistant", "content": "y"}]});
        check(&[ranked], RowKind::Ranking, &["x>y"], &[]);

        let log = json!({"prompt": "q", "shown": [
            {"answer": "a", "outcome": "regenerated"}, {"answer": "b", "outcome": "copied"},
            {"answer": "c", "outcome": "edited", "edited": "d"}]});
        let odd = json!({"prompt": "q", "shown": [{"answer": "a", "outcome": "liked"}]});
        check(&[log, odd], RowKind::Log, &["b>a", "d>c"], &["unknown outcome \"liked\""]);
    }

    #[test]
    fn kinds_have_names() {
        assert_eq!(RowKind::from_name("log"), Some(RowKind::Log));
        assert_eq!(RowKind::from_name("logs"), None);
    }
}
