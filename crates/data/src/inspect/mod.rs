//! Looks at a dataset before anyone trains on it: a checklist with figures, histograms, topics, rows to read, a
//! dataset card and a page.
//!
//! [`inspect`] returns an [`Inspection`], plain data that serialises; [`card`] writes it as a Markdown dataset
//! card and [`html`] as one self-contained page. Nothing is changed and nothing is fetched.
//!
//! Every [`Check`] has a [`Verdict`]: `Pass`, `Fail` or, where what it needs was not given, `Unknown`. A dataset
//! is ready where every check passes: what was not checked is not taken for good.
//!
//! ```
//! use ferrotune_data::{inspect::{inspect, Context, InspectConfig, Verdict}, Item, Origin, Record};
//! use ferrotune_types::{Conversation, Message, Role};
//! let row = |id: &str, question: &str, answer: &str| Record {
//!     item: Item::Chat(Conversation {
//!         id: id.into(),
//!         messages: vec![Message::new(Role::User, question), Message::new(Role::Assistant, answer)],
//!         tools: vec![],
//!         meta: Default::default(),
//!     }),
//!     origin: Origin::default(),
//! };
//! let rows = [
//!     row("a", "When do you open?", "We open at nine, every day but Sunday."),
//!     row("b", "When do you open?", "We open at nine, every day but Sunday."),
//! ];
//! let seen = inspect(&rows, &Context::default(), &InspectConfig::default()).unwrap();
//! let check = seen.check("deduplicated").unwrap();
//! assert_eq!(check.verdict, Verdict::Fail);
//! assert_eq!(check.rows, ["b"]);
//! ```

mod card;
mod checks;
mod distribution;
mod html;
mod kmeans;
mod topics;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::dedup::DedupConfig;
use crate::filter::toxicity::ToxicConfig;
use crate::pii::PiiConfig;

use crate::{DataError, Dropped, Edit, Item, Record, Spoken};

pub use card::card;
pub use checks::{Check, Verdict};
pub use distribution::{Bin, Distribution};
pub use html::html;
pub use topics::{Topic, TopicConfig, topics};

/// What a dataset should look like. The defaults fit a help desk's tickets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InspectConfig {
    /// The dataset's name.
    pub name: String,
    /// What it is, in a sentence or two, for the card.
    pub description: String,
    /// Its licence, for the card.
    pub license: String,
    /// ISO 639-1 code of its language, such as `en`; the commonest one found if unset.
    pub language: Option<String>,
    /// The column that names a row's category.
    pub category: String,
    /// What counts as a duplicate.
    pub dedup: DedupConfig,
    /// What counts as personal data.
    pub pii: PiiConfig,
    /// What counts as toxic.
    pub toxic: ToxicConfig,
    /// Words and phrases that must not occur, in any case: competitors, old product names, slurs.
    pub banned: Vec<String>,
    /// How topics are found.
    pub topics: TopicConfig,
    /// A topic may hold at most this share of the rows.
    pub max_topic_share: f64,
    /// Share of the rows that must be in the main language.
    pub min_language_share: f64,
    /// The 90th percentile of the answers' lengths must be at least this many times the 10th.
    pub min_length_spread: f64,
    /// Share of rows whose answer says it does not know or will not help: at least, at most.
    pub honest_gaps: [f64; 2],
    /// Rows that people must have read.
    pub min_read: usize,
    /// Who read how many.
    pub reviews: Vec<Review>,
    /// Rows to show for reading.
    pub sample: usize,
    /// Chooses them.
    pub seed: u64,
}

impl Default for InspectConfig {
    fn default() -> Self {
        InspectConfig {
            name: "dataset".to_owned(),
            description: String::new(),
            license: String::new(),
            language: None,
            category: "category".to_owned(),
            dedup: DedupConfig { max_source_loss: 1.0, ..DedupConfig::default() },
            pii: PiiConfig::default(),
            toxic: ToxicConfig::default(),
            banned: Vec::new(),
            topics: TopicConfig::default(),
            max_topic_share: 0.4,
            min_language_share: 0.98,
            min_length_spread: 1.5,
            honest_gaps: [0.01, 0.2],
            min_read: 50,
            reviews: Vec::new(),
            sample: 50,
            seed: 42,
        }
    }
}

/// A person's word that they read rows of this dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Who.
    pub name: String,
    /// How many rows.
    pub rows: usize,
    /// When, as they write it.
    #[serde(default)]
    pub date: String,
    /// What they saw.
    #[serde(default)]
    pub note: String,
}

/// Renders a row with the target model's chat template.
pub type Render<'a> = Box<dyn Fn(&Record) -> Result<(), String> + Sync + 'a>;

/// What lies around the rows. What is left out makes its check [`Verdict::Unknown`].
#[derive(Default)]
pub struct Context<'a> {
    /// The held-out rows.
    pub validation: Option<&'a [Record]>,
    /// The files that will be trained from, expected to be JSONL.
    pub files: Vec<PathBuf>,
    /// Renders a row for the target model.
    pub render: Option<Render<'a>>,
}

/// What reading the files lost or changed before anybody looked at the rows: the parts of what [`crate::read::open`]
/// and [`crate::read::Rows::take_renamed`] tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lost<'a> {
    /// Rows that cannot be used.
    pub rows: &'a [Dropped],
    /// Ids that stood twice and were made unique.
    pub renamed: &'a [Edit],
    /// Held-out rows that cannot be used.
    pub validation: &'a [Dropped],
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The dataset's name.
    pub name: String,
    /// Rows in all.
    pub rows: usize,
    /// Rows of the files that cannot be used and are not among `rows`, by reason.
    #[serde(default)]
    pub unusable: BTreeMap<String, usize>,
    /// Rows whose id stood twice and was made unique.
    #[serde(default)]
    pub renamed: usize,
    /// The checklist, in reading order.
    pub checklist: Vec<Check>,
    /// Lengths and turns.
    pub distributions: Vec<Distribution>,
    /// Rows by kind of row, file, language, category, ….
    pub counts: BTreeMap<String, BTreeMap<String, usize>>,
    /// What the rows are about, largest first.
    pub topics: Vec<Topic>,
    /// Rows to read, drawn by the seed.
    pub sample: Vec<SampleRow>,
}

/// A row to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRow {
    /// Its id.
    pub id: String,
    /// Its texts with who says them.
    pub texts: Vec<(String, String)>,
}

impl Inspection {
    /// A check by its key.
    pub fn check(&self, key: &str) -> Option<&Check> {
        self.checklist.iter().find(|check| check.key == key)
    }

    /// What reading lost, in a sentence; `None` where it lost nothing.
    pub(crate) fn told_lost(&self) -> Option<String> {
        let reasons: Vec<String> = self.unusable.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        let rows: usize = self.unusable.values().sum();
        let unusable =
            (rows > 0).then(|| format!("{rows} more rows cannot be used: {}.", reasons.join(", ")));
        let renamed = (self.renamed > 0).then(|| format!("{} ids stood twice.", self.renamed));
        let told: Vec<String> = unusable.into_iter().chain(renamed).collect();
        (!told.is_empty()).then(|| told.join(" "))
    }

    /// Whether every check passes.
    pub fn is_ready(&self) -> bool {
        self.checklist.iter().all(|check| check.verdict == Verdict::Pass)
    }
}

/// Looks at `records`. The same rows and settings give the same inspection.
///
/// # Errors
/// [`DataError::Config`] for settings out of range, [`DataError::Io`] where a word list or classifier cannot be
/// read. A file of the dataset that cannot be read fails its check.
pub fn inspect(
    records: &[Record],
    context: &Context<'_>,
    config: &InspectConfig,
) -> Result<Inspection, DataError> {
    inspect_read(records, &Lost::default(), context, config)
}

/// As [`inspect`], for rows that were read from files: what reading lost counts against the dataset.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_read(
    records: &[Record],
    lost: &Lost<'_>,
    context: &Context<'_>,
    config: &InspectConfig,
) -> Result<Inspection, DataError> {
    let topics = topics(records, &config.topics);
    let languages = checks::languages(records);
    let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut count = |what: &str, value: String| {
        *counts.entry(what.to_owned()).or_default().entry(value).or_default() += 1;
    };
    for (record, language) in records.iter().zip(&languages) {
        let kind = match record.item {
            Item::Chat(_) => "chat",
            Item::Pair(_) => "preference pair",
            Item::Document(_) => "document",
        };
        count("kind", kind.to_owned());
        count("source", record.origin.file.clone());
        count("language", language.clone());
        match record.meta().get(&config.category) {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::String(text)) => count(&config.category, text.clone()),
            Some(other) => count(&config.category, other.to_string()),
        }
    }
    let mut unusable: BTreeMap<String, usize> = BTreeMap::new();
    for dropped in lost.rows {
        *unusable.entry(dropped.reason.clone()).or_default() += 1;
    }
    Ok(Inspection {
        name: config.name.clone(),
        rows: records.len(),
        unusable,
        renamed: lost.renamed.len(),
        checklist: checks::run(records, lost, &languages, &topics, context, config)?,
        distributions: distribution::all(records),
        counts,
        topics,
        sample: sample(records, config),
    })
}

/// The first texts of a row: what is asked, and what is answered. Empty where a row has no such part.
pub(super) fn asked_and_answered(record: &Record) -> (Vec<&str>, Vec<&str>) {
    use ferrotune_types::{Message, Role};
    fn said(messages: &[Message], who: Role) -> Vec<&str> {
        messages.iter().filter(|m| m.role == who).map(|m| m.content.as_str()).collect()
    }
    match &record.item {
        Item::Chat(c) => (said(&c.messages, Role::User), said(&c.messages, Role::Assistant)),
        Item::Pair(p) => (said(&p.prompt, Role::User), said(&p.chosen, Role::Assistant)),
        Item::Document(d) => (Vec::new(), vec![&d.text]),
    }
}

fn sample(records: &[Record], config: &InspectConfig) -> Vec<SampleRow> {
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut rows = index::sample(&mut rng, records.len(), config.sample.min(records.len())).into_vec();
    rows.sort_unstable();
    let show = |row: usize| {
        let texts = records[row].spoken().into_iter().map(|s| (speaker(&s), s.text.to_owned())).collect();
        SampleRow { id: records[row].id().to_owned(), texts }
    };
    rows.into_iter().map(show).collect()
}

/// Who speaks; of a pair's answers, which one it is.
fn speaker(spoken: &Spoken<'_>) -> String {
    match (spoken.field.split('[').next(), spoken.role) {
        (Some(answer @ ("chosen" | "rejected")), _) => answer.to_owned(),
        (_, Some(role)) => role.to_string(),
        (_, None) => "text".to_owned(),
    }
}
