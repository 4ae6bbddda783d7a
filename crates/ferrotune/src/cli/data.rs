//! Commands that need no model.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrotune_data::chat::{BUILTIN, ChatTemplate, RenderOptions};
use ferrotune_data::curate;
use ferrotune_data::dedup::{DedupConfig, MinHashConfig, dedup};
use ferrotune_data::inspect::{self, InspectConfig, Review};
use ferrotune_data::pii::{PiiConfig, char_offsets, find};
use ferrotune_data::read::{self, ReadOptions};
use ferrotune_data::{Dropped, Item, Origin, Record};
use ferrotune_eval::{Case, Judge, JudgeReport, LlmJudge, ReferenceJudge, judge};
use ferrotune_llm::{Client, ClientConfig};
use ferrotune_types::{Conversation, Document, SpecialTokens};
use serde_json::{Value, json};

use super::{ChatFileArgs, Command, CurateArgs, DedupArgs, FieldArgs, InspectArgs, JudgeArgs, Output};
use crate::files::{json_lines, write_atomic};
use crate::progress::Progress;
use crate::settings::from_toml;

/// Runs a command for which [`Command::is_light`] holds.
///
/// # Errors
/// The command's own.
pub fn run(command: &Command) -> Result<Output> {
    match command {
        Command::Curate(args) => curate_files(args),
        Command::Inspect(args) => inspect_file(args),
        Command::Pii(args) => pii(args),
        Command::Dedup(args) => dedup_file(args),
        Command::Judge(args) => judge_file(args),
        Command::Render(args) => render(&plain_template(&args.model)?, args),
        _ => bail!("this command needs a model"),
    }
}

/// A recipe file, or one that `ferrotune-data` ships.
///
/// # Errors
/// No such recipe (the known ones are listed), or a broken file.
pub fn recipe(name: &str) -> Result<curate::Recipe> {
    let path = Path::new(name);
    Ok(if path.is_file() { curate::Recipe::load(path)? } else { curate::Recipe::builtin(name)? })
}

/// Shows a curation's progress.
pub struct CurateProgress(Option<Progress>);

impl CurateProgress {
    /// Nothing shown yet.
    pub fn new() -> Self {
        CurateProgress(None)
    }
}

impl Default for CurateProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl curate::Progress for CurateProgress {
    fn begin(&mut self, step: &str, rows: Option<usize>) {
        self.0 = Some(Progress::new(step, rows.unwrap_or(0)));
    }

    fn advance(&mut self, rows: usize) {
        if let Some(progress) = &mut self.0 {
            progress.step(rows, String::new);
        }
    }
}

fn curate_files(args: &CurateArgs) -> Result<Output> {
    let recipe = recipe(&args.recipe)?;
    let report = curate::run_to(&args.out, &args.files, &recipe, &mut CurateProgress::new())?;
    let mut text = String::new();
    for (file, detection) in &report.inputs {
        writeln!(text, "{file}: {detection}")?;
    }
    writeln!(text, "{} of {} rows kept, in {}", report.kept, report.read, args.out.display())?;
    let mut reasons: Vec<_> = report.dropped.iter().collect();
    reasons.sort_by_key(|(reason, n)| (usize::MAX - **n, (*reason).clone()));
    for (reason, n) in reasons {
        writeln!(text, "{n:>8} dropped: {reason}")?;
    }
    Output::one(&report, text.trim_end())
}

fn inspect_file(args: &InspectArgs) -> Result<Output> {
    let (records, dropped, detection) = read::open(&args.file, &ReadOptions::default())?;
    let name = args.file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let mut config = match &args.config {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            from_toml(&text, path)?
        }
        None => InspectConfig { name, ..InspectConfig::default() },
    };
    config.banned.extend(args.banned.iter().cloned());
    if let Some(name) = &args.signed_by {
        let rows = config.sample.min(records.len());
        config.reviews.push(Review { name: name.clone(), rows, date: String::new(), note: String::new() });
    }
    let validation = match &args.validation {
        Some(path) => Some(read::open(path, &ReadOptions::default())?.0),
        None => None,
    };
    let template = args.template.as_deref().map(plain_template).transpose()?;
    let context = inspect::Context {
        validation: validation.as_deref(),
        files: vec![args.file.clone()],
        render: template.as_ref().map(|template| -> inspect::Render<'_> {
            Box::new(move |record| renders(template, record).map_err(|error| error.to_string()))
        }),
    };
    let seen = inspect::inspect(&records, &context, &config)?;
    if let Some(path) = &args.html {
        write_atomic(path, inspect::html(&seen, &config).as_bytes())?;
    }
    if let Some(path) = &args.card {
        write_atomic(path, inspect::card(&seen, &config).as_bytes())?;
    }
    let mut text = format!("{detection}\n{} rows, {} malformed\n", records.len(), dropped.len());
    for check in &seen.checklist {
        let verdict = match check.verdict {
            inspect::Verdict::Pass => "pass",
            inspect::Verdict::Fail => "FAIL",
            inspect::Verdict::Unknown => "unknown",
        };
        writeln!(text, "{verdict:>8}  {:<44} {}", check.title, check.figures)?;
    }
    Output::one(&seen, text.trim_end())
}

fn renders(template: &ChatTemplate, record: &Record) -> Result<()> {
    let options = RenderOptions::default();
    match &record.item {
        Item::Chat(chat) => drop(template.render(chat, &options)?),
        Item::Pair(pair) => drop(template.render_pair(pair, &options)?),
        Item::Document(_) => {}
    }
    Ok(())
}

/// A row's id and the text of one column.
type Row = (String, String);

/// Rows of a file with the text of one column; broken rows come apart.
///
/// # Errors
/// An unreadable file, or one in which no row has the column.
fn rows(file: &Path, field: &str) -> Result<(Vec<Row>, Vec<Dropped>)> {
    let columns = read::Columns { text: Some(field.to_owned()), ..read::Columns::default() };
    let options = ReadOptions { shape: Some(read::Shape::Document), columns, ..ReadOptions::default() };
    let (records, dropped, _) = read::open(file, &options)?;
    let texts = records.into_iter().filter_map(|r| match r.item {
        Item::Document(Document { id, text, .. }) => Some((id, text)),
        _ => None,
    });
    let texts: Vec<Row> = texts.collect();
    if let (true, Some(first)) = (texts.is_empty(), dropped.first()) {
        bail!(
            "{}: no row can be used; line {}: {}. --field names the column of the texts",
            file.display(),
            first.origin.line,
            first.detail
        );
    }
    Ok((texts, dropped))
}

/// Tells on stderr which rows of a file could not be used.
fn warn(file: &Path, dropped: &[Dropped]) {
    for row in dropped.iter().take(5) {
        eprintln!("warning: {}:{}: {} ({})", file.display(), row.origin.line, row.reason, row.detail);
    }
    if dropped.len() > 5 {
        eprintln!("warning: {} rows of {} could not be used", dropped.len(), file.display());
    }
}

fn pii(args: &FieldArgs) -> Result<Output> {
    if !(0.0..=1.0).contains(&args.min_score) {
        bail!("--min-score is between 0 and 1, not {}", args.min_score);
    }
    let (rows, dropped) = rows(&args.file, &args.field)?;
    warn(&args.file, &dropped);
    let config = PiiConfig { min_score: args.min_score, ..PiiConfig::everything() };
    let mut output = Output::default();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, text) in &rows {
        let spans = find(text, &config);
        let chars = char_offsets(text, &spans);
        let found: Vec<Value> = spans
            .iter()
            .zip(chars)
            .map(|(span, at)| {
                *counts.entry(span.kind.label()).or_default() += 1;
                let score = (f64::from(span.score) * 1000.0).round() / 1000.0;
                json!({"start": at.start, "end": at.end, "kind": span.kind.label(), "score": score})
            })
            .collect();
        output.json.push(json!({"id": id, "spans": found}));
    }
    writeln!(output.text, "{} rows", rows.len())?;
    for (kind, n) in counts {
        writeln!(output.text, "{n:>8} {kind}")?;
    }
    Ok(output)
}

fn dedup_file(args: &DedupArgs) -> Result<Output> {
    let (rows, dropped) = rows(&args.file, &args.field)?;
    warn(&args.file, &dropped);
    let records: Vec<Record> = rows
        .into_iter()
        .enumerate()
        .map(|(i, (id, text))| Record {
            item: Item::Document(Document { id, text, meta: serde_json::Map::new() }),
            origin: Origin { file: String::new(), line: i + 1 },
        })
        .collect();
    let config = DedupConfig {
        minhash: MinHashConfig { threshold: args.threshold, ..MinHashConfig::default() },
        max_source_loss: 1.0,
        ..DedupConfig::default()
    };
    let done = dedup(records, &config)?;
    let clusters: Vec<Vec<&str>> = done
        .report
        .clusters
        .iter()
        .map(|c| std::iter::once(c.kept.as_str()).chain(c.dropped.iter().map(|l| l.id.as_str())).collect())
        .collect();
    let text = format!(
        "{}\n{} kept, {} dropped in {} clusters",
        done.report.banding,
        done.kept.len(),
        done.dropped.len(),
        clusters.len()
    );
    Output::one(&json!({"clusters": clusters, "kept": done.kept.len(), "dropped": done.dropped.len()}), text)
}

/// Whether `render` can be done without a model: a built-in template's name or a .jinja file.
pub fn is_plain_template(name: &str) -> bool {
    is_jinja(name) || BUILTIN.contains(&name)
}

fn is_jinja(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == "jinja" || e == "jinja2") && Path::new(name).is_file()
}

fn plain_template(name: &str) -> Result<ChatTemplate> {
    if is_jinja(name) {
        let source = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
        return Ok(ChatTemplate::new(&source, &SpecialTokens::default())?);
    }
    Ok(ChatTemplate::builtin(name)?)
}

/// The conversations of a file, in any shape; other rows are told on stderr.
///
/// # Errors
/// An unreadable file, or one without conversations.
pub fn conversations(file: &Path) -> Result<Vec<Conversation>> {
    let (records, dropped, detection) = read::open(file, &ReadOptions::default())?;
    warn(file, &dropped);
    let n = records.len();
    let chats: Vec<Conversation> = records.into_iter().filter_map(|r| r.item.into_chat()).collect();
    if chats.is_empty() {
        bail!("{} holds no conversation: {n} rows of {detection}", file.display());
    }
    Ok(chats)
}

/// `{text, assistant_spans}` a conversation, spans in characters.
///
/// # Errors
/// A conversation that the template refuses, named.
pub fn render(template: &ChatTemplate, args: &ChatFileArgs) -> Result<Output> {
    let mut output = Output::default();
    for chat in conversations(&args.chat_file)? {
        let rendered = template
            .render(&chat, &RenderOptions::default())
            .with_context(|| format!("{}: row {}", args.chat_file.display(), chat.id))?;
        let spans: Vec<[usize; 2]> =
            rendered.assistant_chars().into_iter().map(|s| [s.start, s.end]).collect();
        output.json.push(json!({"id": chat.id, "text": rendered.text(), "assistant_spans": spans}));
        output.text.push_str(rendered.text());
        output.text.push('\n');
    }
    Ok(output)
}

fn judge_file(args: &JudgeArgs) -> Result<Output> {
    let cases: Vec<Case> = json_lines(&args.file, "", |_, case| Ok(case))?;
    let report = judge_with(&cases, args.judge_url.as_deref(), args.judge_model.as_deref(), args.seed)?;
    let text = format!(
        "tuned {}, base {}, tie {} of {}: {} (win rate {:.3}, 95% interval {:.3} to {:.3}, p = {:.4}; {} judge)",
        report.tuned,
        report.base,
        report.tie,
        report.n,
        report.verdict,
        report.win_rate,
        report.ci95[0],
        report.ci95[1],
        report.p_value,
        report.kind
    );
    Output::one(&report, text)
}

/// The offline reference judge, or an OpenAI-compatible one, both orders.
///
/// # Errors
/// The judge's own.
pub fn judge_with(cases: &[Case], url: Option<&str>, model: Option<&str>, seed: u64) -> Result<JudgeReport> {
    let Some((url, model)) = url.zip(model).filter(|(url, _)| !url.is_empty()) else {
        return Ok(judge(&ReferenceJudge::default(), cases, seed)?);
    };
    let client = Client::new(ClientConfig::at(url, model))?;
    let llm = LlmJudge::new(&client);
    eprintln!("{:>12}: {} judges {} answers, both orders", "judge", llm.kind(), cases.len());
    Ok(judge(&llm, cases, seed)?)
}
