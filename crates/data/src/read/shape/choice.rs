//! Two answers and a judgement, or a list of ranked ones: which is the better, which the worse.

use serde_json::Value;

use super::Row;
use crate::Drop;

/// Two columns of answers. The number is what a judgement calls the first by.
const PAIRS: [(&str, &str, i64); 9] = [
    ("response_0", "response_1", 0),
    ("answer_0", "answer_1", 0),
    ("output_1", "output_2", 1),
    ("response_1", "response_2", 1),
    ("response_a", "response_b", 0),
    ("answer_a", "answer_b", 0),
    ("completion_a", "completion_b", 0),
    ("human_ref_A", "human_ref_B", 0),
    ("conversation_a", "conversation_b", 0),
];

/// Columns that name the better one.
const JUDGEMENTS: [&str; 7] =
    ["better_response_id", "winner", "preference", "choice", "chosen_index", "labels", "label"];

/// A number for each answer; the larger wins.
const SCORES: [(&str, &str); 5] = [
    ("score_0", "score_1"),
    ("score_a", "score_b"),
    ("score_1", "score_2"),
    ("rating_1", "rating_2"),
    ("winner_model_a", "winner_model_b"),
];

/// Lists of ranked answers.
const LISTS: [&str; 3] = ["answers", "responses", "completions"];

/// Which of two.
enum Side {
    First,
    Second,
    Neither,
}

pub(super) fn fits(row: &Row) -> bool {
    let judged = two(row).is_some_and(|(first, ..)| judgement(row, first).is_some());
    judged || ranked(row).is_some()
}

/// Puts the answers under `chosen` and `rejected`.
pub(super) fn settle(row: &mut Row) -> Result<(), Drop> {
    let (better, worse) = if let Some((first, second, _)) = two(row)
        && let Some(side) = judgement(row, first)
    {
        match side {
            Side::First => (take(row, first), take(row, second)),
            Side::Second => {
                let second = take(row, second);
                (second, take(row, first))
            }
            Side::Neither => {
                return Err(Drop::new("no_preference", format!("`{first}` and `{second}` are judged equal")));
            }
        }
    } else if let Some((key, ends)) = ranked(row) {
        let Some((best, worst)) = ends else {
            return Err(Drop::new("no_preference", format!("all of `{key}` are ranked equal")));
        };
        let mut answers = take(row, key);
        let mut text = |i: usize| said(answers[i].take());
        (text(best), text(worst))
    } else {
        return Ok(());
    };
    row.insert("chosen".to_owned(), better);
    row.insert("rejected".to_owned(), worse);
    Ok(())
}

fn two(row: &Row) -> Option<(&'static str, &'static str, i64)> {
    PAIRS.into_iter().find(|(a, b, _)| row.contains_key(*a) && row.contains_key(*b))
}

fn take(row: &mut Row, key: &str) -> Value {
    row.shift_remove(key).unwrap_or_default()
}

fn judgement(row: &Row, first: &str) -> Option<Side> {
    let number_of_first = PAIRS.iter().find(|(a, ..)| *a == first).map_or(0, |p| p.2);
    // Stanford's SHP says 1 where the first is better.
    if first == "human_ref_A" {
        return match number(row.get("labels")?)? {
            1.0 => Some(Side::First),
            _ => Some(Side::Second),
        };
    }
    let scores = SCORES.iter().find_map(|(a, b)| number(row.get(*a)?).zip(number(row.get(*b)?)));
    let named = JUDGEMENTS.iter().find_map(|key| side(row.get(*key)?, number_of_first));
    named.or_else(|| {
        let (a, b) = scores?;
        Some(match a.total_cmp(&b) {
            std::cmp::Ordering::Greater => Side::First,
            std::cmp::Ordering::Less => Side::Second,
            std::cmp::Ordering::Equal => Side::Neither,
        })
    })
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|n| !n.is_nan())
}

fn side(value: &Value, number_of_first: i64) -> Option<Side> {
    let of_number = |n: i64| match n - number_of_first {
        0 => Some(Side::First),
        1 => Some(Side::Second),
        _ => None,
    };
    match value {
        Value::Number(n) => of_number(n.as_f64().filter(|n| n.fract() == 0.0)? as i64),
        Value::String(text) => {
            let text = text.trim().to_lowercase();
            match text.as_str() {
                "a" | "model_a" | "response_a" | "answer_a" | "left" | "first" => Some(Side::First),
                "b" | "model_b" | "response_b" | "answer_b" | "right" | "second" => Some(Side::Second),
                _ if text.starts_with("tie") || text == "equal" => Some(Side::Neither),
                number => of_number(number.parse().ok()?),
            }
        }
        _ => None,
    }
}

/// The list, and the places of its best and worst answers: by a rank in each (1 is best) or a score in each, or by
/// a list of scores or ranks beside it. There are no places where all are equal.
fn ranked(row: &Row) -> Option<(&'static str, Option<(usize, usize)>)> {
    LISTS.into_iter().find_map(|key| {
        let list = row.get(key)?.as_array().filter(|l| l.len() > 1)?;
        let inside = |name: &str| -> Option<Vec<f64>> { list.iter().map(|a| number(a.get(name)?)).collect() };
        let beside = |name: &str| -> Option<Vec<f64>> {
            let numbers: Vec<f64> = row.get(name)?.as_array()?.iter().map(number).collect::<Option<_>>()?;
            (numbers.len() == list.len()).then_some(numbers)
        };
        let ranks = inside("rank").or_else(|| beside("ranks")).or_else(|| beside("rank"));
        let points = ranks.map(|r| r.into_iter().map(|n| -n).collect()).or_else(|| {
            let scores = ["score", "rating", "overall_score"].into_iter().find_map(inside);
            scores.or_else(|| ["scores", "ratings"].into_iter().find_map(beside))
        })?;
        let best = (0..points.len()).reduce(|a, b| if points[b] > points[a] { b } else { a })?;
        let worst = (0..points.len()).reduce(|a, b| if points[b] <= points[a] { b } else { a })?;
        Some((key, (points[best] > points[worst]).then_some((best, worst))))
    })
}

/// An answer of a list: a text, or an object that holds one.
fn said(answer: Value) -> Value {
    let Value::Object(mut answer) = answer else { return answer };
    let text = ["answer", "response", "text", "output"].into_iter().find_map(|key| answer.shift_remove(key));
    text.unwrap_or(Value::Object(answer))
}
