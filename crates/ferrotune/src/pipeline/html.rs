//! `report.html`: the report as one page that needs nothing else. No script, no outside resource, and every
//! text is escaped, since questions and answers come from strangers.
//!
//! The template lays the page out; this file decides what it says. [`view`] gathers what the report does not
//! hold as such (the verdict's sentence, the answers worth showing, the points of a curve), and the filters
//! write numbers as people read them.

mod curve;
mod numbers;

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value as Json;

use self::curve::{Curve, accuracy_curve, dpo_curve, sft_curve};
use self::numbers::share;
use super::report::{JudgeFacts, JudgedRow, PerplexityFacts, Report};

/// Answers shown at once; the others are folded.
const SHOWN: usize = 12;
/// Of those, at most this many that the base won, and as many ties, where there are wins to fill the rest.
const SHOWN_NOT_WON: usize = 3;

/// The page. `loss_svg` is the file `loss.svg`, which is shown as a picture: whatever it holds, nothing in it runs.
pub(super) fn page(report: &Report, loss_svg: &str) -> Result<String> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    numbers::add_filters(&mut env);
    env.add_template("page", include_str!("report.html.j2")).context("the report's template")?;
    let context = minijinja::context! {
        report => value(serde_json::to_value(report)?),
        view => value(serde_json::to_value(view(report))?),
        loss_svg => percent_encoded(loss_svg),
        css => Value::from_safe_string(include_str!("report.css").to_owned()),
    };
    env.get_template("page")?.render(context).context("the report's template")
}

/// What the template needs beside the report.
#[derive(Serialize)]
struct View<'a> {
    verdict: Verdict,
    judge: String,
    shown: Vec<&'a JudgedRow>,
    folded: Vec<&'a JudgedRow>,
    funnel: Vec<Fall>,
    edits: Vec<(String, usize)>,
    sft: Option<Curve>,
    dpo: Option<Curve>,
    accuracy: Option<Curve>,
    /// The final model's: DPO's, or SFT's where there was no DPO.
    perplexity: f64,
    seconds: f64,
    slowest: f64,
    settings: Vec<(String, String)>,
}

fn view(report: &Report) -> View<'_> {
    let rows = report.judge.as_ref().map_or(&[][..], |judge| &judge.rows);
    let (shown, folded) = choose(rows);
    View {
        verdict: verdict(report),
        judge: report.judge.as_ref().map(|judge| judge_in_words(&judge.kind)).unwrap_or_default(),
        shown,
        folded,
        funnel: funnel(report),
        edits: report.curate.as_ref().map_or_else(Vec::new, |c| most_first(&c.edits)),
        sft: report.sft.as_ref().and_then(sft_curve),
        dpo: report.dpo.as_ref().and_then(dpo_curve),
        accuracy: report.dpo.as_ref().and_then(accuracy_curve),
        perplexity: last_perplexity(report),
        seconds: report.stages.iter().map(|s| s.seconds).sum(),
        slowest: report.stages.iter().map(|s| s.seconds).fold(0.0, f64::max),
        settings: flattened("", &report.config),
    }
}

fn last_perplexity(report: &Report) -> f64 {
    let of = |p: &PerplexityFacts| if report.dpo.is_some() { p.dpo } else { p.sft };
    report.perplexity.as_ref().map_or(f64::NAN, of)
}

/// One sentence, its weighty part first.
#[derive(Serialize)]
struct Verdict {
    /// `better`, `worse`, `level` or `none`: the page's colour.
    tone: &'static str,
    headline: String,
    rest: String,
}

fn verdict(report: &Report) -> Verdict {
    let Some(judge) = &report.judge else {
        let headline = "Whether the tuned model is better than its base was not judged";
        let rest = match &report.perplexity {
            Some(p) => format!(
                "the judge stage was skipped. On held-out answers perplexity went from {} to {}.",
                numbers::significant(p.base, 3),
                numbers::significant(last_perplexity(report), 3)
            ),
            None => "the judge stage was skipped.".to_owned(),
        };
        return Verdict { tone: "none", headline: headline.to_owned(), rest };
    };
    let (tone, headline) = match judge.verdict.as_str() {
        "better" => ("better", "The tuned model is better than its base"),
        "worse" => ("worse", "The tuned model is worse than its base"),
        _ => ("level", "The tuned model is not clearly better than its base"),
    };
    Verdict { tone, headline: headline.to_owned(), rest: how_sure(judge) }
}

fn how_sure(judge: &JudgeFacts) -> String {
    let questions = if judge.n == 1 { "question" } else { "questions" };
    let ties = if judge.tie == 0 { "" } else { ", ties counted half" };
    format!(
        "it wins {} of {} held-out {questions}{ties} (95% interval {} to {}), says {}.",
        share(judge.win_rate),
        numbers::count(judge.n),
        share(judge.ci95[0]),
        share(judge.ci95[1]),
        judge_in_words(&judge.kind)
    )
}

/// `reference`, or `llm` with or without `:` and a model's name.
fn judge_in_words(kind: &str) -> String {
    match kind.split_once(':') {
        None if kind == "reference" => "the offline reference judge".to_owned(),
        None => "an LLM judge that saw each pair in both orders".to_owned(),
        Some((_, model)) => format!("an LLM judge ({model}) that saw each pair in both orders"),
    }
}

/// A dozen answers that show all three outcomes, spread evenly over the questions, wins first; and the rest.
fn choose(rows: &[JudgedRow]) -> (Vec<&JudgedRow>, Vec<&JudgedRow>) {
    let of = |winner: &str| -> Vec<usize> { (0..rows.len()).filter(|&i| rows[i].winner == winner).collect() };
    let (tuned, base, tie) = (of("tuned"), of("base"), of("tie"));
    let room_beside_wins = SHOWN.saturating_sub(tuned.len());
    let n_base =
        base.len().min(SHOWN_NOT_WON.max(room_beside_wins.saturating_sub(tie.len().min(SHOWN_NOT_WON))));
    let n_tie = tie.len().min(SHOWN_NOT_WON.max(room_beside_wins.saturating_sub(n_base)));
    let n_tuned = tuned.len().min(SHOWN - n_base - n_tie);
    let mut shown = Vec::new();
    for (indices, n) in [(&tuned, n_tuned), (&base, n_base), (&tie, n_tie)] {
        shown.extend((0..n).map(|i| indices[i * indices.len() / n]));
    }
    let folded = (0..rows.len()).filter(|i| !shown.contains(i)).map(|i| &rows[i]).collect();
    (shown.into_iter().map(|i| &rows[i]).collect(), folded)
}

/// A step of the funnel: what was taken away, and what was left.
#[derive(Serialize)]
struct Fall {
    reason: String,
    n: usize,
    /// Of the rows read, those left after this step, 0 to 1.
    left: f64,
    /// Of the rows read, those taken away here.
    share: f64,
}

fn funnel(report: &Report) -> Vec<Fall> {
    let Some(curate) = &report.curate else { return Vec::new() };
    let read = curate.read.max(1) as f64;
    let mut left = curate.read;
    let mut falls = Vec::new();
    for (reason, n) in most_first(&curate.dropped) {
        left = left.saturating_sub(n);
        falls.push(Fall { reason, n, left: left as f64 / read, share: n as f64 / read });
    }
    falls
}

/// Most frequent first, names in order where counts are equal.
fn most_first(counts: &BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let mut rows: Vec<(String, usize)> = counts.iter().map(|(name, &n)| (name.clone(), n)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.1));
    rows
}

/// `{"sft": {"lr": 2}}` becomes `sft.lr`, `2`.
fn flattened(prefix: &str, json: &Json) -> Vec<(String, String)> {
    match json {
        Json::Object(map) => map
            .iter()
            .flat_map(|(key, json)| {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flattened(&name, json)
            })
            .collect(),
        Json::String(text) => vec![(prefix.to_owned(), text.clone())],
        Json::Null if prefix.is_empty() => Vec::new(),
        other => vec![(prefix.to_owned(), other.to_string())],
    }
}

/// For a `data:` URL.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 5 / 4);
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9'
            | b'a'..=b'z'
            | b'A'..=b'Z'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b' '
            | b'='
            | b':'
            | b',' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// JSON as the template sees it; minijinja reads serde's types only under a feature that nothing else here needs.
fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(b),
        Json::Number(n) => match n.as_u64() {
            Some(n) => Value::from(n),
            None => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.into_iter().map(value).collect(),
        Json::Object(map) => {
            Value::from(map.into_iter().map(|(key, json)| (key, value(json))).collect::<BTreeMap<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests;
