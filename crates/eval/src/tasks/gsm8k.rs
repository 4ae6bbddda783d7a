use std::sync::LazyLock;

use ferrotune_types::{GenerateParams, LanguageModel, Message, Role};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stats::mean;
use crate::{EvalError, standard_error};

/// GSM8K's result (Cobbe et al. 2021), by lm-eval's two ways to find the answer in a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GsmReport {
    /// Questions.
    pub n: usize,
    /// Share right where only a figure after `####` counts.
    pub strict_match: f64,
    /// Its standard error.
    pub strict_match_stderr: f64,
    /// Share right where the last figure counts.
    pub flexible_extract: f64,
    /// Its standard error.
    pub flexible_extract_stderr: f64,
    /// Each question.
    pub rows: Vec<GsmRow>,
}

/// One question's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GsmRow {
    /// The question.
    pub question: String,
    /// The right figure.
    pub gold: String,
    /// What the model said.
    pub reply: String,
    /// Right by the strict rule.
    pub strict: bool,
    /// Right by the flexible rule.
    pub flexible: bool,
}

/// Asks the first `limit` questions of a GSM8K file, each after `shots` (question, answer) pairs as earlier turns,
/// which is lm-eval's `--apply_chat_template --fewshot_as_multiturn`.
///
/// # Errors
/// [`EvalError::Record`] where the file is not GSM8K's, [`EvalError::Shape`] where it is empty; the model's own.
pub fn run_gsm8k(
    model: &dyn LanguageModel,
    file: &str,
    limit: usize,
    shots: &[(String, String)],
    params: &GenerateParams,
) -> Result<GsmReport, EvalError> {
    let items = read(file, limit)?;
    if items.is_empty() {
        return Err(EvalError::Shape { op: "run_gsm8k", reason: "there are no questions".to_owned() });
    }
    let asked = |question: &str| Message::new(Role::User, format!("Question: {question}\nAnswer:"));
    let prompts: Vec<Vec<Message>> = items
        .iter()
        .map(|(question, _)| {
            let earlier =
                shots.iter().flat_map(|(q, a)| [asked(q), Message::new(Role::Assistant, a.clone())]);
            earlier.chain([asked(question)]).collect()
        })
        .collect();
    let mut params = params.clone();
    params.stop.push("Question:".to_owned());
    let replies = model.chat_batch(&prompts, &params)?;
    let rows: Vec<GsmRow> = items
        .into_iter()
        .zip(replies)
        .map(|((question, answer), reply)| {
            let (strict, flexible) = gsm8k_answer(&reply.text);
            let gold = ignoring(&answer);
            let is_gold = |found: Option<String>| found.is_some_and(|f| ignoring(&f) == gold);
            GsmRow { strict: is_gold(strict), flexible: is_gold(flexible), question, gold, reply: reply.text }
        })
        .collect();
    let share = |of: &dyn Fn(&GsmRow) -> bool| rows.iter().map(|row| f64::from(of(row))).collect::<Vec<_>>();
    let (strict, flexible) = (share(&|row| row.strict), share(&|row| row.flexible));
    Ok(GsmReport {
        n: rows.len(),
        strict_match: mean(&strict),
        strict_match_stderr: standard_error(&strict),
        flexible_extract: mean(&flexible),
        flexible_extract_stderr: standard_error(&flexible),
        rows,
    })
}

/// The answer in a text, by lm-eval's strict rule (after `####`) and its flexible one (the last figure).
///
/// ```
/// use ferrotune_eval::gsm8k_answer;
/// let (strict, flexible) = gsm8k_answer("He pays $1,200 in 3 months.\n#### 1,200\nDone in 3.");
/// assert_eq!((strict.as_deref(), flexible.as_deref()), (Some("1,200"), Some("3.")));
/// ```
pub fn gsm8k_answer(text: &str) -> (Option<String>, Option<String>) {
    static STRICT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"#### (-?[0-9.,]+)").expect("a constant pattern"));
    static FLEXIBLE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"-?[$0-9.,]{2,}|-?[0-9]+").expect("a constant pattern"));
    let strict = STRICT.captures(text).map(|c| c[1].to_owned());
    let flexible = FLEXIBLE.find_iter(text).last().map(|m| m.as_str().trim().to_owned());
    (strict, flexible)
}

/// What `exact_match` compares: no commas, no dollar sign, nothing before `#### `, no closing stop, lower case.
fn ignoring(text: &str) -> String {
    let bare = text.replace([',', '$'], "");
    let bare = bare.rsplit("#### ").next().unwrap_or_default();
    bare.strip_suffix('.').unwrap_or(bare).to_lowercase()
}

fn read(file: &str, limit: usize) -> Result<Vec<(String, String)>, EvalError> {
    let failed =
        |i: usize, reason: String| EvalError::Record { task: "gsm8k".to_owned(), record: i + 1, reason };
    file.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .take(limit)
        .map(|(i, line)| {
            let value: Value = serde_json::from_str(line).map_err(|e| failed(i, e.to_string()))?;
            match (value["question"].as_str(), value["answer"].as_str()) {
                (Some(question), Some(answer)) => Ok((question.to_owned(), answer.to_owned())),
                _ => Err(failed(i, "question or answer is missing".to_owned())),
            }
        })
        .collect()
}
