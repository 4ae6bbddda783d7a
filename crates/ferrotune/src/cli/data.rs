//! Commands that need no model.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferrotune_data::chat::{ChatTemplate, RenderOptions};
use ferrotune_data::curate;
use ferrotune_data::dedup::{DedupConfig, MinHashConfig, dedup};
use ferrotune_data::inspect::{self, InspectConfig, Review};
use ferrotune_data::pii::{PiiConfig, char_offsets, find};
use ferrotune_data::read::{self, ReadOptions};
use ferrotune_data::{Dropped, Edit, Item, Origin, Record};
use ferrotune_eval::{Case, Judge, JudgeReport, LlmJudge, ReferenceJudge, judge};
use ferrotune_llm::{Client, ClientConfig};
use ferrotune_types::{Conversation, Document};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ChatFileArgs, Command, CurateArgs, DedupArgs, FieldArgs, InspectArgs, JudgeArgs, Output};
use crate::files::{json_lines, write_atomic};
use crate::progress::Progress;
use crate::settings::from_toml;
use crate::template::template_alone;

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
        Command::Render(args) => render(&template_alone(&args.model, false)?, args),
        _ => bail!("this command needs a model"),
    }
}

/// A recipe file, or one that `ferrotune-data` ships.
///
/// # Errors
/// No such recipe (the known ones are listed), or a broken file.
pub fn recipe(name: &str) -> Result<curate::Recipe> {
    let path = Path::new(name);
    let is_path = path.is_file() || name.contains('/') || path.extension().is_some();
    Ok(if is_path { curate::Recipe::load(path)? } else { curate::Recipe::builtin(name)? })
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
    for (set, n) in &report.held_out {
        writeln!(text, "{n:>8} held out: {set}")?;
    }
    if report.repeats > 0 {
        writeln!(text, "{:>8} of the kept rows are repeats", report.repeats)?;
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    Output::one(&report, text.trim_end())
}

fn inspect_file(args: &InspectArgs) -> Result<Output> {
    let mut rows = read::stream(&args.file, &ReadOptions::default())?;
    let (records, dropped) = rows.gather()?;
    let (renamed, detection) = (rows.take_renamed(), rows.detection.clone());
    let name = args.file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let mut config = match &args.config {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            from_toml(&text, path)?
        }
        None => InspectConfig::default(),
    };
    if config.name == InspectConfig::default().name {
        config.name = name;
    }
    config.banned.extend(args.banned.iter().cloned());
    if let Some(name) = &args.signed_by {
        let rows = config.sample.min(records.len());
        config.reviews.push(Review { name: name.clone(), rows, date: String::new(), note: String::new() });
    }
    let (validation, lost_validation) = match &args.validation {
        Some(path) => {
            let (records, dropped, _) = read::open(path, &ReadOptions::default())?;
            warn(path, &unusable(&dropped));
            (Some(records), dropped)
        }
        None => (None, Vec::new()),
    };
    let template = args.template.as_deref().map(|name| template_alone(name, true)).transpose()?;
    let context = inspect::Context {
        validation: validation.as_deref(),
        files: vec![args.file.clone()],
        render: template.as_ref().map(|template| -> inspect::Render<'_> {
            Box::new(move |record| renders(template, record).map_err(|error| error.to_string()))
        }),
    };
    let lost = inspect::Lost { rows: &dropped, renamed: &renamed, validation: &lost_validation };
    let seen = inspect::inspect_read(&records, &lost, &context, &config)?;
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

fn pii(args: &FieldArgs) -> Result<Output> {
    if !(0.0..=1.0).contains(&args.min_score) {
        bail!("--min-score is between 0 and 1, not {}", args.min_score);
    }
    let (rows, dropped) = rows(&args.file, &args.field)?;
    warn(&args.file, &unusable(&dropped));
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
    warn(&args.file, &unusable(&dropped));
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

/// What a file holds of one kind.
pub struct RowsOf<T> {
    file: PathBuf,
    /// In the file's order.
    pub wanted: Vec<T>,
    /// What cannot be used: by its line, with the reason and the row as far as it was read.
    pub unusable: Vec<Unusable>,
    renamed: Vec<Edit>,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unusable {
    /// In its file, counted from 1.
    pub line: usize,
    /// Why not.
    pub reason: String,
    /// The row.
    pub row: Value,
}

impl From<Dropped> for Unusable {
    fn from(Dropped { reason, detail, origin, row, .. }: Dropped) -> Self {
        Unusable { line: origin.line, reason: format!("{reason} ({detail})"), row }
    }
}

fn unusable(dropped: &[Dropped]) -> Vec<Unusable> {
    dropped.iter().cloned().map(Unusable::from).collect()
}

/// Tells on stderr which rows of a file could not be used.
pub fn warn(file: &Path, unusable: &[Unusable]) {
    let file = file.display();
    for Unusable { line, reason, .. } in unusable.iter().take(5) {
        eprintln!("warning: {file}:{line}: {reason}");
    }
    if unusable.len() > 5 {
        eprintln!("warning: {} rows of {file} could not be used", unusable.len());
    }
}

impl<T> RowsOf<T> {
    /// Tells on stderr what could not be used, and which ids had to be made unique.
    pub fn warn(&self) {
        warn(&self.file, &self.unusable);
        let file = self.file.display();
        if let Some(first) = self.renamed.first() {
            let n = self.renamed.len();
            eprintln!(
                "warning: {file}: {n} rows have an id that stood before; the first is now {:?}",
                first.after
            );
        }
    }
}

/// The rows of a file that `pick` takes, in any shape and format; `what` names one of them in an error.
///
/// # Errors
/// An unreadable file, or one without such a row.
pub fn rows_of<T>(file: &Path, what: &str, pick: impl Fn(Item) -> Result<T, Box<Item>>) -> Result<RowsOf<T>> {
    let mut rows = read::stream(file, &ReadOptions::default())?;
    let mut found =
        RowsOf { file: file.to_owned(), wanted: Vec::new(), unusable: Vec::new(), renamed: Vec::new() };
    for row in &mut rows {
        let bad = match row? {
            read::Row::Dropped(dropped) => dropped.into(),
            read::Row::Record(Record { item, origin }) => {
                let other = match pick(item) {
                    Ok(wanted) => {
                        found.wanted.push(wanted);
                        continue;
                    }
                    Err(other) => other,
                };
                let reason = format!("{}, no {what}", kind(&other));
                Unusable { line: origin.line, reason, row: serde_json::to_value(&other)? }
            }
        };
        found.unusable.push(bad);
    }
    found.renamed = rows.take_renamed();
    if found.wanted.is_empty() {
        let why = found
            .unusable
            .first()
            .map_or_else(String::new, |bad| format!("; line {}: {}", bad.line, bad.reason));
        bail!("{} holds no {what}: {}{why}", file.display(), rows.detection);
    }
    Ok(found)
}

fn kind(item: &Item) -> &'static str {
    match item {
        Item::Pair(_) => "a preference pair",
        Item::Chat(_) => "a conversation",
        Item::Document(_) => "a text",
    }
}

fn chat(item: Item) -> Result<Conversation, Box<Item>> {
    if let Item::Chat(chat) = item { Ok(chat) } else { Err(Box::new(item)) }
}

/// The conversations of a file, in any shape; other rows are told on stderr.
///
/// # Errors
/// An unreadable file, or one without conversations.
pub fn conversations(file: &Path) -> Result<Vec<Conversation>> {
    let rows = rows_of(file, "conversation", chat)?;
    rows.warn();
    Ok(rows.wanted)
}

/// `{text, assistant_spans}` a conversation, spans in characters; one that the template refuses is told on stderr.
///
/// # Errors
/// An unreadable file; one of which the template refuses every conversation.
pub fn render(template: &ChatTemplate, args: &ChatFileArgs) -> Result<Output> {
    let (mut output, file) = (Output::default(), args.chat_file.display());
    for chat in conversations(&args.chat_file)? {
        let rendered = match template.render(&chat, &RenderOptions::default()) {
            Ok(rendered) => rendered,
            Err(error) => {
                eprintln!("warning: {file}: row {}: {error}", chat.id);
                continue;
            }
        };
        let spans: Vec<[usize; 2]> =
            rendered.assistant_chars().into_iter().map(|s| [s.start, s.end]).collect();
        output.json.push(json!({"id": chat.id, "text": rendered.text(), "assistant_spans": spans}));
        output.text.push_str(rendered.text());
        output.text.push('\n');
    }
    if output.json.is_empty() {
        bail!("{file}: the template refuses every conversation");
    }
    Ok(output)
}

fn judge_file(args: &JudgeArgs) -> Result<Output> {
    if args.judge_url.as_deref() == Some("") {
        bail!("--judge-url is empty: leave it out for the reference judge");
    }
    let cases: Vec<Case> = json_lines(&args.file, "", |_, case| Ok(case))?;
    let (url, model) = (args.judge_url.as_deref(), args.judge_model.as_deref());
    let report = judge_with(&cases, judge_server(url, model, args.judge_cache.as_deref()), args.seed)
        .with_context(|| args.file.display().to_string())?;
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
    let text = report.notes().into_iter().fold(text, |text, note| format!("{text}\n{note}"));
    Output::one(&report, text)
}

/// The offline reference judge, or an OpenAI-compatible one, both orders.
///
/// # Errors
/// The judge's own.
pub fn judge_with(cases: &[Case], server: Option<ClientConfig>, seed: u64) -> Result<JudgeReport> {
    let Some(server) = server else {
        return Ok(judge(&ReferenceJudge::default(), cases, seed)?);
    };
    let client = Client::new(server)?;
    let llm = LlmJudge::new(&client);
    eprintln!("{:>12}: {} judges {} answers, both orders", "judge", llm.kind(), cases.len());
    Ok(judge(&llm, cases, seed)?)
}

/// The server that judges, where one is named, and the folder in which its replies are kept.
pub fn judge_server(url: Option<&str>, model: Option<&str>, cache: Option<&Path>) -> Option<ClientConfig> {
    let (url, model) = url.zip(model).filter(|(url, _)| !url.is_empty())?;
    Some(ClientConfig { cache: cache.map(Path::to_owned), ..ClientConfig::at(url, model) })
}
