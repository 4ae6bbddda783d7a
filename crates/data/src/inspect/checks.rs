//! The checklist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use ferrotune_types::{Message, Role};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Context, Distribution, InspectConfig, Lost, Topic, asked_and_answered};
use crate::dedup::{MinHashConfig, dedup};
use crate::filter::{Engine, Refusal, Toxic, Turns, identify};
use crate::split::{leaks, near};
use crate::{DataError, Drop, Dropped, Item, Record, RecordStep, clean, pii};

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// What the check needs was not given.
    Unknown,
}

/// A line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Stable name.
    pub key: String,
    /// What should be so, in words.
    pub title: String,
    /// Whether it is.
    pub verdict: Verdict,
    /// The figures that decided.
    pub figures: String,
    /// Ids of rows to look at, twenty at most.
    pub rows: Vec<String>,
}

impl Check {
    fn new(key: &str, title: &str, passes: bool, figures: String) -> Self {
        let verdict = if passes { Verdict::Pass } else { Verdict::Fail };
        Check { key: key.to_owned(), title: title.to_owned(), verdict, figures, rows: Vec::new() }
    }

    fn unknown(key: &str, title: &str, needs: &str) -> Self {
        let verdict = Verdict::Unknown;
        Check {
            key: key.to_owned(),
            title: title.to_owned(),
            verdict,
            figures: needs.to_owned(),
            rows: Vec::new(),
        }
    }

    /// Passes where no row is found.
    fn none(key: &str, title: &str, found: &[(&Record, String)], of: usize) -> Self {
        let figures = match found.first() {
            None => format!("none of {of} rows"),
            Some((_, what)) => format!("{} of {of} rows, the first: {what}", found.len()),
        };
        let mut check = Check::new(key, title, found.is_empty(), figures);
        check.rows = found.iter().take(20).map(|(record, _)| record.id().to_owned()).collect();
        check
    }
}

/// Each row's language as an ISO 639-1 code, `unknown` where none can be told.
pub(super) fn languages(records: &[Record]) -> Vec<String> {
    let of = |record: &Record| {
        let text: Vec<&str> = record.texts().into_iter().map(|(_, text)| text).collect();
        identify(&text.join("\n"), Engine::Fast).code.unwrap_or("unknown").to_owned()
    };
    records.par_iter().map(of).collect()
}

/// What a filter of the curation says against a row.
fn refused(step: &impl RecordStep, record: &Record) -> Option<Drop> {
    step.apply(&mut record.clone(), &mut Vec::new()).err()
}

pub(super) fn run(
    records: &[Record],
    lost: &Lost<'_>,
    languages: &[String],
    topics: &[Topic],
    context: &Context<'_>,
    config: &InspectConfig,
) -> Result<Vec<Check>, DataError> {
    Ok(vec![
        deduplicated(records, config)?,
        topics_balanced(topics, records.len(), config),
        encoding(records),
        not_toxic(records, config)?,
        on_brand(records, config),
        no_pii(records, config),
        one_language(records, languages, config),
        well_formed(records, lost),
        both_lengths(records, config),
        honest_gaps(records, config),
        template(records, context),
        jsonl(context),
        apart(records, lost, context)?,
        read_by_a_person(config),
    ])
}

/// The rows where `wrong` has something to say.
fn find(records: &[Record], wrong: impl Fn(&Record) -> Option<String> + Sync) -> Vec<(&Record, String)> {
    records.par_iter().filter_map(|record| Some((record, wrong(record)?))).collect()
}

fn deduplicated(records: &[Record], config: &InspectConfig) -> Result<Check, DataError> {
    let result = dedup(records.to_vec(), &config.dedup)?;
    let (exact, near) = (result.report.exact_duplicates, result.report.near_duplicates);
    let threshold = config.dedup.minhash.threshold;
    let figures =
        format!("{exact} exact and {near} near duplicates (Jaccard {threshold}) of {} rows", records.len());
    let mut check = Check::new("deduplicated", "No row says what another says", exact + near == 0, figures);
    check.rows = result.dropped.into_iter().take(20).map(|d| d.id).collect();
    Ok(check)
}

fn topics_balanced(topics: &[Topic], n: usize, config: &InspectConfig) -> Check {
    let (key, title) = ("topics_balanced", "No topic crowds out the others");
    let Some(largest) = topics.first() else { return Check::unknown(key, title, "there are no rows") };
    let share = largest.rows as f64 / n as f64;
    let words =
        if largest.words.is_empty() { "no telling words".to_owned() } else { largest.words.join(", ") };
    let figures = format!(
        "{} topics; the largest ({words}) has {:.0}% of the rows, at most {:.0}% wanted",
        topics.len(),
        share * 100.0,
        config.max_topic_share * 100.0
    );
    let mut check = Check::new(key, title, share <= config.max_topic_share, figures);
    if check.verdict == Verdict::Fail {
        check.rows.clone_from(&largest.examples);
    }
    check
}

fn encoding(records: &[Record]) -> Check {
    let wrong = |text: &str| {
        let control = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r'));
        if text.contains('\u{fffd}') {
            Some("a replacement character".to_owned())
        } else if let Some(c) = control {
            Some(format!("control character U+{:04X}", u32::from(c)))
        } else {
            clean::is_mojibake(text).then(|| "text decoded with the wrong encoding".to_owned())
        }
    };
    let found = find(records, |record| record.texts().into_iter().find_map(|(_, text)| wrong(text)));
    Check::none("encoding", "No encoding errors", &found, records.len())
}

fn not_toxic(records: &[Record], config: &InspectConfig) -> Result<Check, DataError> {
    let step = Toxic::new(&config.toxic)?;
    let found = find(records, |record| refused(&step, record).map(|drop| drop.detail));
    Ok(Check::none("not_toxic", "Nothing toxic", &found, records.len()))
}

fn on_brand(records: &[Record], config: &InspectConfig) -> Check {
    let (key, title) = ("on_brand", "Nothing off-brand");
    if config.banned.is_empty() {
        return Check::unknown(key, title, "no banned words were given");
    }
    let banned: Vec<String> = config.banned.iter().map(|b| b.to_lowercase()).collect();
    let found = find(records, |record| {
        let said = record.texts().into_iter().map(|(_, text)| text.to_lowercase());
        said.into_iter().find_map(|text| banned.iter().find(|b| has_word(&text, b)).map(|b| format!("{b:?}")))
    });
    Check::none(key, title, &found, records.len())
}

/// Whether `phrase` stands in `text` with no letter or digit on either side.
fn has_word(text: &str, phrase: &str) -> bool {
    !phrase.is_empty()
        && text.match_indices(phrase).any(|(at, _)| {
            let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            !is_part(text[..at].chars().next_back()) && !is_part(text[at + phrase.len()..].chars().next())
        })
}

fn no_pii(records: &[Record], config: &InspectConfig) -> Check {
    let found = find(records, |record| {
        record.texts().into_iter().find_map(|(_, text)| {
            // The value itself is not repeated: reports travel further than data.
            pii::find(text, &config.pii).first().map(|span| format!("{:?} at byte {}", span.kind, span.start))
        })
    });
    Check::none("no_pii", "No personal data", &found, records.len())
}

fn one_language(records: &[Record], languages: &[String], config: &InspectConfig) -> Check {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for language in languages.iter().filter(|l| *l != "unknown") {
        *counts.entry(language).or_default() += 1;
    }
    let known: usize = counts.values().sum();
    let commonest = counts.iter().max_by_key(|&(language, n)| (n, std::cmp::Reverse(language)));
    let main =
        config.language.clone().or_else(|| commonest.map(|(l, _)| (*l).to_owned())).unwrap_or_default();
    if known == 0 {
        return Check::unknown("one_language", "One language", "no row has enough text to tell");
    }
    let share = counts.get(main.as_str()).map_or(0.0, |&n| n as f64 / known as f64);
    let figures = format!(
        "{:.1}% of {known} rows with enough text are {main}, at least {:.0}% wanted",
        share * 100.0,
        config.min_language_share * 100.0
    );
    let mut check = Check::new("one_language", "One language", share >= config.min_language_share, figures);
    let others = records.iter().zip(languages).filter(|(_, l)| **l != main && *l != "unknown");
    check.rows = others.take(20).map(|(record, _)| record.id().to_owned()).collect();
    check
}

/// How many rows of how many a file lost, and the first of them.
fn told_unusable(dropped: &[Dropped], usable: usize) -> Option<String> {
    let first = dropped.first()?;
    let place = format!("{}:{}", first.origin.file, first.origin.line);
    let (n, of) = (dropped.len(), usable + dropped.len());
    Some(format!("{n} of {of} rows cannot be used, the first: {place}: {} ({})", first.reason, first.detail))
}

fn well_formed(records: &[Record], lost: &Lost<'_>) -> Check {
    let mut seen = BTreeSet::new();
    let repeated: BTreeSet<&str> = records.iter().map(Record::id).filter(|id| !seen.insert(*id)).collect();
    let found = find(records, |record| {
        if repeated.contains(record.id()) {
            return Some(format!("id {:?} occurs more than once", record.id()));
        }
        let bad_turns =
            || refused(&Turns::default(), record).map(|drop| format!("{} ({})", drop.reason, drop.detail));
        malformed(record).map(str::to_owned).or_else(bad_turns)
    });
    let mut check = Check::none("well_formed", "Every row is well-formed", &found, records.len());
    let renamed = lost.renamed.first().map(|first| {
        format!("{} ids stood twice and were made unique, the first: {:?}", lost.renamed.len(), first.before)
    });
    let told: Vec<String> = told_unusable(lost.rows, records.len()).into_iter().chain(renamed).collect();
    if !told.is_empty() {
        let found = (!found.is_empty()).then_some(check.figures);
        check.figures = told.into_iter().chain(found).collect::<Vec<_>>().join("; ");
        check.verdict = Verdict::Fail;
        let ids = lost.rows.iter().map(|d| &d.id).chain(lost.renamed.iter().map(|e| &e.id)).take(20).cloned();
        check.rows = ids.chain(check.rows).take(20).collect();
    }
    check
}

/// What is wrong with a row's shape, beside what [`Turns`] refuses.
fn malformed(record: &Record) -> Option<&'static str> {
    let is_silent = |m: &Message| m.content.trim().is_empty() && m.tool_calls.is_empty();
    match &record.item {
        Item::Document(d) => d.text.trim().is_empty().then_some("an empty text"),
        Item::Chat(c) => {
            let mut turns = c.messages.iter().filter(|m| !matches!(m.role, Role::System | Role::Developer));
            if turns.clone().any(|m| m.role != Role::Tool && is_silent(m)) {
                Some("an empty turn")
            } else if turns.next().is_some_and(|m| m.role != Role::User) {
                Some("the first turn is not the user's")
            } else if turns.next_back().is_some_and(|m| m.role != Role::Assistant) {
                Some("the last turn is not the assistant's")
            } else {
                None
            }
        }
        Item::Pair(p) => {
            if p.prompt.iter().all(is_silent) {
                Some("no prompt")
            } else if p.chosen.iter().all(is_silent) || p.rejected.iter().all(is_silent) {
                Some("an empty answer")
            } else {
                None
            }
        }
    }
}

fn answer_lengths(records: &[Record]) -> Option<Distribution> {
    let words = |text: &str| text.split_whitespace().count();
    let answers = records.iter().flat_map(|r| asked_and_answered(r).1);
    Distribution::of("words in an answer", answers.map(words).collect())
}

fn both_lengths(records: &[Record], config: &InspectConfig) -> Check {
    let (key, title) = ("short_and_long", "Short and long answers are both there");
    let Some(lengths) = answer_lengths(records) else {
        return Check::unknown(key, title, "there are no answers");
    };
    let [_, short, middle, long, _] = lengths.quantiles;
    let spread = long as f64 / short.max(1) as f64;
    let figures = format!(
        "{short} words at the 10th percentile, {middle} at the middle, {long} at the 90th: {spread:.1} times, at \
         least {} wanted",
        config.min_length_spread
    );
    Check::new(key, title, spread >= config.min_length_spread, figures)
}

fn honest_gaps(records: &[Record], config: &InspectConfig) -> Check {
    let (key, title) = ("honest_gaps", "Refusals and \u{201c}I don't know\u{201d} are there, in measure");
    let rows: Vec<&Record> = records.iter().filter(|r| !matches!(r.item, Item::Document(_))).collect();
    if rows.is_empty() {
        return Check::unknown(key, title, "there are no answers");
    }
    let step = Refusal { says_nothing: false, no_information: true, ..Refusal::default() };
    let verdicts: Vec<_> = rows.par_iter().filter_map(|record| refused(&step, record)).collect();
    let gaps = verdicts.iter().filter(|drop| drop.reason == "no_information").count();
    let refusals = verdicts.len() - gaps;
    let share = verdicts.len() as f64 / rows.len() as f64;
    let [least, most] = config.honest_gaps;
    let figures = format!(
        "{gaps} rows do not know and {refusals} refuse, of {} ({:.1}%; {:.0}% to {:.0}% wanted)",
        rows.len(),
        share * 100.0,
        least * 100.0,
        most * 100.0
    );
    Check::new(key, title, (least..=most).contains(&share), figures)
}

fn template(records: &[Record], context: &Context<'_>) -> Check {
    let (key, title) = ("template", "Every row renders with the target model's chat template");
    let Some(render) = &context.render else { return Check::unknown(key, title, "no template was given") };
    let found = find(records, |record| render(record).err());
    Check::none(key, title, &found, records.len())
}

fn jsonl(context: &Context<'_>) -> Check {
    let (key, title) = ("jsonl", "The files are JSONL");
    if context.files.is_empty() {
        return Check::unknown(key, title, "no files were given");
    }
    let (mut lines, mut wrong) = (0, Vec::new());
    for path in &context.files {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let file = match unpacked(path) {
            Ok(file) => file,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (number, line) in file.split(b'\n').enumerate() {
            let fault = match line {
                Err(error) => error.to_string(),
                Ok(line) if line.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(line) => match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&line)
                {
                    Ok(_) => {
                        lines += 1;
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
            };
            wrong.push(format!("{name}:{}: {fault}", number + 1));
        }
    }
    let figures = match wrong.first() {
        None => format!("{lines} lines in {} files", context.files.len()),
        Some(first) => format!("{} lines are not objects, the first: {first}", wrong.len()),
    };
    Check::new(key, title, wrong.is_empty() && lines > 0, figures)
}

/// A file's bytes, unpacked where its first bytes say gzip or Zstandard.
fn unpacked(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::new(File::open(path)?);
    let head = file.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(file)?))
    } else {
        Box::new(file)
    })
}

fn apart(records: &[Record], lost: &Lost<'_>, context: &Context<'_>) -> Result<Check, DataError> {
    let (key, title) = ("held_out_apart", "Training and validation share no prompt");
    let Some(held_out) = context.validation else {
        return Ok(Check::unknown(key, title, "no validation rows were given"));
    };
    // Another seed than the split's: what its bands missed, these may find.
    let found = leaks(records, held_out, &MinHashConfig { seed: 1, ..near() })?;
    let figures = match found.first() {
        None => format!("none of {} held-out prompts is a near duplicate of a trained one", held_out.len()),
        Some(leak) => format!(
            "{} of {} held-out prompts, the first: {} like {} (Jaccard {:.2})",
            found.len(),
            held_out.len(),
            leak.held_out,
            leak.train,
            leak.similarity
        ),
    };
    let unread = told_unusable(lost.validation, held_out.len());
    let passes = found.is_empty() && unread.is_none();
    let figures = unread.into_iter().chain([figures]).collect::<Vec<_>>().join("; ");
    let mut check = Check::new(key, title, passes, figures);
    check.rows = found.into_iter().take(20).map(|leak| leak.held_out).collect();
    Ok(check)
}

fn read_by_a_person(config: &InspectConfig) -> Check {
    let signed: Vec<String> = (config.reviews.iter())
        .filter(|r| !r.name.trim().is_empty())
        .map(|r| format!("{} read {}", r.name.trim(), r.rows))
        .collect();
    let rows: usize = config.reviews.iter().filter(|r| !r.name.trim().is_empty()).map(|r| r.rows).sum();
    let who = if signed.is_empty() { "nobody has signed".to_owned() } else { signed.join(", ") };
    let figures = format!("{who}; at least {} rows wanted", config.min_read);
    Check::new("read_by_a_person", "A person has read the rows and signed", rows >= config.min_read, figures)
}
