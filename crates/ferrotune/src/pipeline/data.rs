//! The data stages, and reading back what they wrote.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrotune_data::curate::{self, Recipe};
use ferrotune_data::read::{self, ReadOptions, Shape};
use ferrotune_data::{Item, Record, split as split_rows, write};
use ferrotune_types::{Conversation, Message, PreferencePair, Role};
use serde::Deserialize;
use serde_json::Value;

use super::{CurateFacts, PipelineConfig, SplitFacts, planted};
use crate::cli::data::{CurateProgress, recipe};
use crate::files::json_lines;

/// Curates the conversations by the configured recipe and the pairs by the recipe for preferences; personal data that
/// the first takes out goes from both.
pub(super) fn curate(config: &PipelineConfig, out: &Path) -> Result<CurateFacts> {
    let mut facts = CurateFacts::default();
    let chats_recipe = recipe(&config.curate.recipe)?;
    let outcome = run_recipe(&config.data.sft, &chats_recipe)?;
    facts.detection =
        outcome.report.inputs.iter().map(|(_, found)| found.as_str()).collect::<Vec<_>>().join("; ");
    facts.read = outcome.report.read;
    facts.kept = outcome.report.kept;
    facts.dropped.clone_from(&outcome.report.dropped);
    facts.edits.clone_from(&outcome.report.edits);
    if let Some(file) = &config.data.planted {
        (facts.planted, facts.clean_lost) = planted::count(file, &outcome.kept, &outcome.dropped)?;
        for (kind, found) in &facts.planted {
            eprintln!("{:>12}: {kind}: {} of {} caught", "curate", found.caught, found.planted);
        }
    }
    let mut kept = outcome.kept;
    let n_pairs = kept.iter_mut().map(chosen_as_chat).filter(|&was_pair| was_pair).count();
    if n_pairs > 0 {
        eprintln!(
            "{:>12}: {n_pairs} preference pairs are read as conversations: the prompt and the chosen answer",
            "curate"
        );
    }
    let (kept, no_chat): (Vec<Record>, Vec<Record>) =
        kept.into_iter().partition(|r| matches!(r.item, Item::Chat(_)));
    if kept.is_empty() {
        bail!(
            "{}: no conversation is left to train on ({} rows read, {} dropped, {} are not conversations); see {}",
            config.data.sft.display(),
            facts.read,
            outcome.dropped.len(),
            no_chat.len(),
            out.join("dropped.jsonl").display()
        );
    }
    write::records(&out.join("data/curated.jsonl"), &kept)?;
    let (mut dropped, mut edits) = (outcome.dropped, outcome.edits);
    if let Some(file) = &config.data.preference {
        let outcome = run_recipe(file, &recipe("preferences")?.with_pii_of(&chats_recipe)?)?;
        eprintln!(
            "{:>12}: {} of {} preference pairs kept",
            "curate", outcome.report.kept, outcome.report.read
        );
        let pairs: Vec<Record> =
            outcome.kept.into_iter().filter(|r| matches!(r.item, Item::Pair(_))).collect();
        if pairs.is_empty() {
            bail!("{}: no preference pair is left", file.display());
        }
        write::records(&out.join("data/preference.jsonl"), &pairs)?;
        dropped.extend(outcome.dropped);
        edits.extend(outcome.edits);
    }
    write::jsonl(&out.join("dropped.jsonl"), &dropped)?;
    write::jsonl(&out.join("data/edits.jsonl"), &edits)?;
    eprintln!("{:>12}: {} of {} rows kept", "curate", facts.kept, facts.read);
    Ok(facts)
}

/// A pair among what is to be learnt by imitation becomes the conversation that ends with its chosen answer, with the tools
/// that a pair keeps in its `meta`; tells whether it was one.
fn chosen_as_chat(record: &mut Record) -> bool {
    let Item::Pair(pair) = &mut record.item else { return false };
    let mut messages = std::mem::take(&mut pair.prompt);
    messages.append(&mut pair.chosen);
    let tools = pair.meta.get_mut("tools").and_then(Value::as_array_mut).map(std::mem::take);
    if tools.is_some() {
        pair.meta.shift_remove("tools");
    }
    record.item = Item::Chat(Conversation {
        id: std::mem::take(&mut pair.id),
        messages,
        tools: tools.unwrap_or_default(),
        meta: std::mem::take(&mut pair.meta),
    });
    true
}

fn run_recipe(file: &Path, recipe: &Recipe) -> Result<curate::Outcome> {
    let outcome = curate::run(&[file.to_owned()], recipe, &mut CurateProgress::new())
        .with_context(|| format!("cannot curate {}", file.display()))?;
    if !outcome.held_out.is_empty() {
        bail!(
            "the recipe {:?} splits, and so does the pipeline: take the step `split` out of it, and set [split] here",
            recipe.name
        );
    }
    for (name, found) in &outcome.report.inputs {
        eprintln!("{:>12}: {name}: {found}", "curate");
    }
    for warning in &outcome.report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(outcome)
}

/// The recipe for a file of a shape: tickets are cleaned harder than instructions.
pub(super) fn recipe_for(file: &Path) -> Result<&'static str> {
    let rows = read::stream(file, &ReadOptions::default())?;
    Ok(if rows.detection.shape == Shape::Tickets { "tickets" } else { "instructions" })
}

/// Holds out conversations and pairs by near-duplicate group.
pub(super) fn split(config: &PipelineConfig, out: &Path) -> Result<SplitFacts> {
    let settings = &config.split;
    let mut facts = SplitFacts::default();
    let mut pairs_held_out = None;
    if config.data.preference.is_some() {
        let rows = records(&out.join("data/preference.jsonl"))?;
        let how = split_rows::SplitConfig {
            validation: settings.preference_validation,
            seed: config.seed,
            ..split_rows::SplitConfig::default()
        };
        let mut sets = split_rows::split(rows, &how)?;
        if config.data.preference.as_ref() == Some(&config.data.sft) {
            // The same rows train both stages: what one holds out the other must not have seen.
            pairs_held_out = Some(sets.validation.iter().map(|r| r.id().to_owned()).collect::<BTreeSet<_>>());
        }
        for record in sets.train.iter_mut().chain(&mut sets.validation) {
            put_system(record, &config.curate.system);
        }
        (facts.preference_train, facts.preference_validation) = (sets.train.len(), sets.validation.len());
        write::records(&out.join("data/preference_train.jsonl"), &sets.train)?;
        write::records(&out.join("data/preference_validation.jsonl"), &sets.validation)?;
    }
    let rows = records(&out.join("data/curated.jsonl"))?;
    let n_rows = rows.len();
    let (mut train, validation) = match pairs_held_out {
        Some(held_out) => rows.into_iter().partition(|r| !held_out.contains(r.id())),
        None => {
            let how = split_rows::SplitConfig {
                validation: share(settings.validation, settings.max_validation, rows.len()),
                seed: config.seed,
                stratify_by: rows
                    .iter()
                    .all(|r| r.meta().contains_key("category"))
                    .then(|| "category".to_owned()),
                ..split_rows::SplitConfig::default()
            };
            let sets = split_rows::split(rows, &how)?;
            for note in &sets.report.notes {
                eprintln!("{:>12}: {note}", "split");
            }
            (sets.train, sets.validation)
        }
    };
    let mut validation = at_most(validation, settings.max_validation);
    train = at_most(train, settings.max_train);
    for record in train.iter_mut().chain(&mut validation) {
        put_system(record, &config.curate.system);
    }
    (facts.train, facts.validation) = (train.len(), validation.len());
    if config.data.questions.is_none() {
        check_askable(config, n_rows, &validation)?;
    }
    write::records(&out.join("data/train.jsonl"), &train)?;
    write::records(&out.join("data/validation.jsonl"), &validation)?;
    eprintln!(
        "{:>12}: {} conversations to train on, {} held out; {} pairs, {} held out",
        "split", facts.train, facts.validation, facts.preference_train, facts.preference_validation
    );
    Ok(facts)
}

/// Without questions of their own, the stages that ask take the last questions of what is held out.
///
/// # Errors
/// There is none: said now, and not after the training.
fn check_askable(config: &PipelineConfig, n_rows: usize, held_out: &[Record]) -> Result<()> {
    let question = |record: &Record| record.item.clone().into_chat().and_then(Question::from_chat);
    if held_out.iter().any(|record| question(record).is_some()) {
        return Ok(());
    }
    let same_file = config.data.preference.as_ref() == Some(&config.data.sft);
    let (name, share) = if same_file {
        ("split.preference_validation", config.split.preference_validation)
    } else {
        ("split.validation", config.split.validation)
    };
    let advice = "or name questions of your own (--questions, or data.questions)";
    if !held_out.is_empty() {
        bail!(
            "none of the {} conversations held out ends with a question and its answer, so there is nothing to ask: \
             raise {name}, {advice}",
            held_out.len()
        );
    }
    if share == 0.0 {
        bail!("{name} is 0, so nothing is held out and there is nothing to ask: raise it, {advice}");
    }
    bail!(
        "{n_rows} conversations are too few to hold out any at {name} = {share}, so there is nothing to ask: give at \
         least {} that are not alike (of each category, where all rows have one), raise it, {advice}",
        fewest_to_split(share)
    )
}

/// So many rows that do not belong together it takes until one of them is held out: a row goes where most are wanting, and
/// the last one is wanting in validation once share · n is above one half.
fn fewest_to_split(share: f64) -> usize {
    (0.5 / share).floor() as usize + 1
}

/// The asked share, or less where a limit says so: rows beyond the limit are better trained on.
fn share(asked: f64, limit: usize, n: usize) -> f64 {
    if limit == 0 || n == 0 { asked } else { asked.min(limit as f64 / n as f64) }
}

fn at_most(mut rows: Vec<Record>, limit: usize) -> Vec<Record> {
    if limit > 0 {
        rows.truncate(limit);
    }
    rows
}

/// Puts a system turn before a conversation or prompt that has none.
pub(super) fn put_system(record: &mut Record, system: &str) {
    let messages = match &mut record.item {
        Item::Chat(chat) => &mut chat.messages,
        Item::Pair(pair) => &mut pair.prompt,
        Item::Document(_) => return,
    };
    if !system.is_empty() && messages.first().is_none_or(|m| m.role != Role::System) {
        messages.insert(0, Message::new(Role::System, system));
    }
}

fn records(path: &Path) -> Result<Vec<Record>> {
    let (records, dropped, _) = read::open(path, &ReadOptions::default())?;
    if let Some(row) = dropped.first() {
        bail!(
            "{}:{}: {} ({}): the file was changed",
            path.display(),
            row.origin.line,
            row.reason,
            row.detail
        );
    }
    Ok(records)
}

/// The conversations that a stage wrote.
pub(super) fn chats(path: &Path) -> Result<Vec<Conversation>> {
    if empty(path) {
        return Ok(Vec::new());
    }
    Ok(records(path)?.into_iter().filter_map(|r| r.item.into_chat()).collect())
}

/// The pairs that a stage wrote.
pub(super) fn pairs(path: &Path) -> Result<Vec<PreferencePair>> {
    if empty(path) {
        return Ok(Vec::new());
    }
    Ok(records(path)?.into_iter().filter_map(|r| r.item.into_pair()).collect())
}

fn empty(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.len() == 0)
}

/// A held-out question.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Question {
    #[serde(default)]
    pub(super) id: String,
    pub(super) question: String,
    pub(super) reference: String,
    /// Documents that answer it.
    #[serde(default)]
    pub(super) documents: Vec<String>,
    /// Turns before the question, where it stands in a conversation.
    #[serde(skip)]
    pub(super) before: Vec<Message>,
}

impl Question {
    /// The last question of a held-out conversation, its answer as the reference.
    pub(super) fn from_chat(chat: Conversation) -> Option<Self> {
        let mut messages = chat.messages;
        let reference = messages.pop().filter(|m| m.role == Role::Assistant)?.content;
        let question = messages.pop().filter(|m| m.role == Role::User)?.content;
        Some(Question { id: chat.id, question, reference, documents: Vec::new(), before: messages })
    }

    /// What the model is asked.
    pub(super) fn messages(&self, system: &str) -> Vec<Message> {
        let mut messages = self.before.clone();
        if !system.is_empty() && messages.first().is_none_or(|m| m.role != Role::System) {
            messages.insert(0, Message::new(Role::System, system));
        }
        messages.push(Message::new(Role::User, self.question.clone()));
        messages
    }
}

/// Reads `questions.jsonl`.
pub(super) fn questions(path: &Path) -> Result<Vec<Question>> {
    json_lines(path, ": a question needs `question` and `reference`", |line, question: Question| {
        let id = if question.id.is_empty() { format!("question-{line}") } else { question.id };
        Ok(Question { id, ..question })
    })
}

#[cfg(test)]
mod tests {
    use ferrotune_data::Origin;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pair_read_as_a_chat_keeps_its_tools() {
        let tool = json!({"type": "function", "function": {"name": "find"}});
        let check = |meta: Value, tools: &[Value], left: Value| {
            let pair = json!({"id": "p", "prompt": [{"role": "user", "content": "Hi"}],
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}], "meta": meta});
            let item = Item::Pair(serde_json::from_value(pair).unwrap());
            let mut record = Record { item, origin: Origin::default() };
            assert!(chosen_as_chat(&mut record));
            let chat = record.item.into_chat().unwrap();
            assert_eq!((&chat.tools[..], json!(chat.meta)), (tools, left));
        };
        check(json!({"a": 1, "tools": [tool], "b": 2}), std::slice::from_ref(&tool), json!({"a": 1, "b": 2}));
        check(json!({"tools": "a hammer", "b": 2}), &[], json!({"tools": "a hammer", "b": 2}));
        check(json!({"b": 2}), &[], json!({"b": 2}));
    }

    #[test]
    fn so_many_rows_are_enough_and_one_less_is_not() {
        let words = |i: usize| (0..12).map(|k| format!("w{i}x{k}")).collect::<Vec<_>>().join(" ");
        let row = |i: usize| Record {
            item: Item::Chat(Conversation {
                id: format!("c{i}"),
                messages: vec![Message::new(Role::User, words(i)), Message::new(Role::Assistant, "Yes.")],
                tools: Vec::new(),
                meta: serde_json::Map::new(),
            }),
            origin: Origin::default(),
        };
        for share in [0.02, 0.1, 0.15, 0.3, 0.5, 0.7] {
            let n = fewest_to_split(share);
            let held_out = |n: usize| {
                let how = split_rows::SplitConfig { validation: share, ..split_rows::SplitConfig::default() };
                split_rows::split((0..n).map(row).collect(), &how).unwrap().validation.len()
            };
            assert!(held_out(n) > 0, "{n} rows at {share}");
            assert!(n == 1 || held_out(n - 1) == 0, "{} rows at {share}", n - 1);
        }
    }
}
