//! The commands `pairs` and `rlaif`: preference data made and checked before anything is tuned on it.

use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use ferrotune_data::chat::ChatTemplate;
use ferrotune_data::read::{self, PlainRow, ReadOptions, Shape};
use ferrotune_data::split::{SplitConfig, split};
use ferrotune_data::write::{json as write_json, jsonl};
use ferrotune_data::{Item, Origin, Record};
use ferrotune_eval::{Judge, LlmJudge, ReferenceJudge};
use ferrotune_llm::Client;
use ferrotune_preference::pairs::{
    BadRow, PairCheck, PairReport, Pairing, RowKind, Thumb, check_pairs, from_thumbs, pairs_from_rows,
    set_aside,
};
use ferrotune_tokenizer::{Limits, Tokenizer};
use ferrotune_types::{Conversation, Message, PreferencePair, Role};
use serde_json::{Value, json};

use crate::cli::data::{Unusable, judge_server, rows_of, warn};
use crate::cli::{Output, PairsArgs, RlaifArgs};
use crate::commands::{load_with_adapter, pair};
use crate::local_model::LocalModel;
use crate::model_store::{self, Place};
use crate::recipes::{self, RlaifConfig, RlaifPrompt};

/// Makes pairs where a file holds something else, checks them, sets aside, splits by prompt, writes.
pub(crate) fn pairs(args: &PairsArgs) -> Result<Output> {
    let Found { pairs, unusable } = match args.from.as_str() {
        "pairs" => {
            let rows = rows_of(&args.file, "preference pair", pair)?;
            rows.warn();
            Found { pairs: rows.wanted, unusable: rows.unusable }
        }
        "thumbs" => of_thumbs(&args.file)?,
        kind => made(&args.file, kind, &args.pairing, args.min_gap)?,
    };
    let flags: Vec<&str> = args.set_aside.iter().map(String::as_str).collect();
    if let Some(unknown) = flags.iter().find(|flag| !FLAGS.contains(flag)) {
        bail!("unknown flag {unknown:?}; known: {}", FLAGS.join(", "));
    }
    let words = match &args.model {
        Some(model) => Some(model_store::load_words(&model_store::resolve(model)?, &args.words.template)?),
        None if flags.contains(&"no_room") => bail!("no_room is counted in tokens: name the --model"),
        None => None,
    };
    let tokens =
        words.as_ref().map(|(tokenizer, template)| recipes::pair_tokens(&pairs, template, tokenizer));
    let check = PairCheck { max_length: Some(args.max_length), ..PairCheck::default() };
    let report = check_pairs(&pairs, tokens.as_deref(), &check);
    let mut text = report.to_string();
    let fits = words.as_ref().map(|words| fit(&pairs, words, args.max_length)).transpose()?;
    if let Some((_, words)) = &fits {
        text.extend(["\n", words]);
    }

    let (kept, aside) = set_aside(pairs, &report, &flags);
    let mut written = json!({});
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let aside = aside.iter().map(|a| json!({"flag": a.flag, "pair": a.pair}));
        let lost = unusable
            .iter()
            .map(|row| json!({"flag": "unusable", "line": row.line, "reason": row.reason, "row": row.row}));
        let n_aside = jsonl(&out.join("aside.jsonl"), lost.chain(aside))?;
        let (train, held) = split_by_prompt(kept, args.held_out, args.seed)?;
        let (n_train, n_held) =
            (jsonl(&out.join("train.jsonl"), &train)?, jsonl(&out.join("held.jsonl"), &held)?);
        let mut figures = serde_json::to_value(&report)?;
        figures["unusable_rows"] = unusable.len().into();
        write_json(&out.join("report.json"), &figures)?;
        written = json!({"train": n_train, "held": n_held, "aside": n_aside});
        let folder = out.display();
        text = format!("{text}\n{folder}: {n_train} to train on, {n_held} held out, {n_aside} set aside");
    } else if args.held_out > 0.0 || !flags.is_empty() {
        bail!("--held-out and --set-aside write files: give --out FOLDER");
    }
    let fits = fits.map(|(figures, _)| figures);
    let n_unusable = unusable.len();
    if n_unusable > 0 {
        text = format!("{n_unusable} rows gave no pair\n{text}");
    }
    Output::one(&json!({"check": report, "fit": fits, "written": written, "unusable_rows": n_unusable}), text)
}

/// The flags by which a pair can be set aside.
const FLAGS: [&str; 8] =
    ["empty", "identical", "near_identical", "refusal_chosen", "conflict", "cycle", "repeated", "no_room"];

/// A file's pairs, and its rows that gave none.
struct Found {
    pairs: Vec<PreferencePair>,
    unusable: Vec<Unusable>,
}

fn made(file: &Path, kind: &str, pairing: &str, min_gap: f64) -> Result<Found> {
    let kind = RowKind::from_name(kind).with_context(|| {
        format!("unknown kind of rows {kind:?}; known: pairs, scores, ranking, thumbs, log")
    })?;
    let pairing: Pairing = serde_json::from_value(Value::from(pairing)).with_context(|| {
        format!("unknown pairing {pairing:?}; known: all, best_against_rest, best_against_worst, neighbours")
    })?;
    if min_gap.is_nan() || min_gap < 0.0 {
        bail!("--min-gap is {min_gap}, not 0 or above");
    }
    let (mut lines, mut rows, mut unusable) = (Vec::new(), Vec::new(), Vec::new());
    for PlainRow { line, columns, shown } in read::plain(file, &ReadOptions::default())? {
        match columns {
            Ok(columns) => {
                lines.push(line);
                rows.push(Value::Object(columns));
            }
            Err(reason) => unusable.push(Unusable { line, reason, row: shown }),
        }
    }
    let (pairs, bad) = pairs_from_rows(&rows, kind, pairing, min_gap);
    unusable.extend(bad.into_iter().map(|BadRow { row, reason }| Unusable {
        line: lines[row - 1],
        reason,
        row: rows[row - 1].clone(),
    }));
    unusable.sort_by_key(|row| row.line);
    warn(file, &unusable);
    if pairs.is_empty() {
        bail!("{}: no row gave a pair", file.display());
    }
    Ok(Found { pairs, unusable })
}

/// Every answer with a thumb up against every one with a thumb down on the same prompt.
fn of_thumbs(file: &Path) -> Result<Found> {
    let Some(Thumbs { chats, unusable }) = thumbs(file)? else {
        bail!("{} holds pairs already: leave --from out", file.display());
    };
    let thumb = |(Conversation { id, mut messages, .. }, label)| {
        let completion = messages.split_off(messages.len().saturating_sub(1));
        Thumb { id, prompt: messages, completion, label }
    };
    let pairs = from_thumbs(&chats.into_iter().map(thumb).collect::<Vec<_>>());
    if pairs.is_empty() {
        bail!("{}: no prompt has an answer with a thumb up and one with a thumb down", file.display());
    }
    Ok(Found { pairs, unusable })
}

/// Chats whose last turn is the answer that the thumb beside them is for, in the file's order, and what cannot be used.
pub(crate) struct Thumbs {
    pub(crate) chats: Vec<(Conversation, bool)>,
    unusable: Vec<Unusable>,
}

/// The answers of a file with a thumb each, in any shape and format that `curate` reads. None where the file holds pairs.
pub(crate) fn thumbs(file: &Path) -> Result<Option<Thumbs>> {
    let (records, dropped, detection) = read::open(file, &ReadOptions::default())?;
    let is_thumb = |record: &Record| matches!(&record.item, Item::Chat(c) if label(c).is_some());
    if detection.shape == Shape::Preference || !records.iter().any(is_thumb) {
        if records.iter().any(|record| matches!(record.item, Item::Pair(_))) {
            return Ok(None);
        }
        let why = dropped.first().map_or_else(String::new, |row| {
            format!("; line {}: {} ({})", row.origin.line, row.reason, row.detail)
        });
        bail!("{} holds neither answers with a label nor preference pairs: {detection}{why}", file.display());
    }
    let mut unusable: Vec<Unusable> = dropped.into_iter().map(Unusable::from).collect();
    let mut chats = Vec::new();
    for Record { item, origin } in records {
        let why = match &item {
            Item::Chat(chat) => match (label(chat), chat.messages.last().map(|m| m.role)) {
                (Some(up), Some(Role::Assistant)) if chat.messages.len() > 1 => {
                    chats.extend(item.into_chat().map(|chat| (chat, up)));
                    continue;
                }
                (Some(_), Some(Role::Assistant)) => "nothing stands before the answer",
                (Some(_), _) => "the last turn is no answer",
                (None, _) => "label is not true or false",
            },
            Item::Pair(_) => "a pair among answers with a label",
            Item::Document(_) => "a text among answers with a label",
        };
        let row = serde_json::to_value(&item)?;
        unusable.push(Unusable { line: origin.line, reason: why.to_owned(), row });
    }
    unusable.sort_by_key(|row| row.line);
    warn(file, &unusable);
    Ok(Some(Thumbs { chats, unusable }))
}

/// Whether the reader found a thumb, and which.
fn label(chat: &Conversation) -> Option<bool> {
    chat.meta.get("label")?.as_bool()
}

/// How many pairs a step could take at this length, and what becomes of the others.
fn fit(
    pairs: &[PreferencePair],
    (tokenizer, template): &(Tokenizer, ChatTemplate),
    max_length: usize,
) -> Result<(Value, String)> {
    let count = |max_length, truncation| {
        let limits = Limits { max_length, truncation, ..Limits::default() };
        recipes::pair_examples(pairs, template, tokenizer, &limits)
    };
    let (whole, cut) = (
        count(max_length, ferrotune_tokenizer::Truncation::Drop)?,
        count(max_length, ferrotune_tokenizer::Truncation::Right)?,
    );
    let (n, fit, usable) = (pairs.len(), whole.examples.len(), cut.examples.len());
    let words = format!(
        "{fit} of {n} pairs fit into {max_length} tokens whole, {} with answers cut off; {} leave no room for an \
         answer or cannot be rendered",
        usable - fit,
        n - usable
    );
    Ok((json!({"max_length": max_length, "whole": fit, "cut": usable - fit, "lost": n - usable}), words))
}

/// Pairs whose prompts are the same or nearly so stay together.
fn split_by_prompt(
    pairs: Vec<PreferencePair>,
    share: f64,
    seed: u64,
) -> Result<(Vec<PreferencePair>, Vec<PreferencePair>)> {
    if share == 0.0 {
        return Ok((pairs, Vec::new()));
    }
    let record =
        |(line, pair)| Record { item: Item::Pair(pair), origin: Origin { line, ..Origin::default() } };
    let records = pairs.into_iter().enumerate().map(record).collect();
    let sets = split(records, &SplitConfig { validation: share, seed, ..SplitConfig::default() })?;
    for note in &sets.report.notes {
        eprintln!("{:>12}: {note}", "pairs");
    }
    let pairs = |records: Vec<Record>| records.into_iter().filter_map(|r| r.item.into_pair()).collect();
    Ok((pairs(sets.train), pairs(sets.validation)))
}

/// What a tuning command says of its pairs before it starts.
pub(crate) fn say_check(name: &str, report: &PairReport) {
    eprintln!("{name:>12}: {report}");
    // What leaves no room is cut or left out by the run itself.
    let doubtful =
        report.counts.iter().filter(|(flag, _)| flag.as_str() != "no_room").map(|(_, n)| n).sum::<usize>();
    if doubtful > 0 {
        eprintln!("{name:>12}: `ferrotune pairs FILE --set-aside FLAG,… --out FOLDER` takes such pairs out");
    }
}

/// Samples answers, has a judge compare them, writes what it decides as pairs.
pub(crate) fn rlaif(args: &RlaifArgs) -> Result<Output> {
    let place = Place::parse(&args.device, &args.dtype)?;
    let mut prompts = prompts(&args.prompts)?;
    prompts.truncate(args.max_prompts.unwrap_or(usize::MAX));
    let model = LocalModel::new(
        &args.model,
        load_with_adapter(&args.model, args.adapter.as_deref(), place, &args.words.template)?,
    );
    let config = RlaifConfig {
        samples: args.samples,
        temperature: args.temperature,
        top_p: args.top_p,
        max_new_tokens: args.max_new_tokens,
        seed: args.seed,
    };
    let run = |judge: &dyn Judge| recipes::rlaif(&model, judge, &prompts, &config);
    let server =
        judge_server(args.judge_url.as_deref(), args.judge_model.as_deref(), args.judge_cache.as_deref());
    let (pairs, report) = match (server, &args.judge_model) {
        (Some(server), _) => run(&LlmJudge::new(&Client::new(server)?))?,
        (None, Some(id)) => run(&LlmJudge::new(&LocalModel::new(id, model_store::load(id, place, "")?)))?,
        _ if prompts.iter().all(|p| p.reference.as_deref().is_some_and(|r| !r.trim().is_empty())) => {
            run(&ReferenceJudge::default())?
        }
        _ => bail!(
            "a prompt has no reference answer: name a judge by --judge-model, with or without --judge-url"
        ),
    };
    jsonl(&args.out, &pairs)?;
    let text = format!("{report} in {}\n{}", args.out.display(), report.check);
    Output::one(&report, text)
}

/// Rows with `question` or `prompt` and perhaps `reference`, or `messages`, whose last answer is then the reference.
fn prompts(file: &Path) -> Result<Vec<RlaifPrompt>> {
    let prompt = |PlainRow { line, columns, .. }: PlainRow| -> Result<RlaifPrompt> {
        let at = || format!("{}:{line}", file.display());
        let row = Value::Object(columns.map_err(Error::msg).with_context(at)?);
        let id = row["id"].as_str().map_or_else(|| format!("prompt-{line}"), str::to_owned);
        let mut reference = row["reference"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let asked = ["question", "prompt"].iter().find_map(|key| row[*key].as_str());
        let messages = match asked {
            Some(text) => vec![Message::new(Role::User, text)],
            None => {
                let turns = ["messages", "prompt"].iter().map(|key| &row[*key]).find(|v| v.is_array());
                let turns = turns.with_context(|| format!("{}: no question, prompt or messages", at()))?;
                let mut turns: Vec<Message> = serde_json::from_value(turns.clone()).with_context(at)?;
                if let Some(last) = turns.pop_if(|m| m.role == Role::Assistant) {
                    reference = reference.or(Some(last.content));
                }
                turns
            }
        };
        Ok(RlaifPrompt { id, messages, reference })
    };
    read::plain(file, &ReadOptions::default())?.into_iter().map(prompt).collect()
}
