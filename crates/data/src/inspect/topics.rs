//! What the rows are about: k-means over tf-idf vectors, each topic named by its weightiest words.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::asked_and_answered;
use super::kmeans::{Sparse, kmeans};
use crate::Record;

/// How topics are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicConfig {
    /// How many to look for; by the number of rows (√n, 2 to 24) if unset.
    pub k: Option<usize>,
    /// Words kept, the commonest ones.
    pub vocabulary: usize,
    /// A word in more than this share of the rows tells no topic.
    pub max_share: f64,
    /// Seeds the start.
    pub seed: u64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig { k: None, vocabulary: 4000, max_share: 0.9, seed: 42 }
    }
}

/// A group of rows about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// The words that weigh most in it.
    pub words: Vec<String>,
    /// How many rows.
    pub rows: usize,
    /// The ids of up to five of them.
    pub examples: Vec<String>,
}

/// The topics of `records`, largest first. Rows without a telling word are a topic without words.
pub fn topics(records: &[Record], config: &TopicConfig) -> Vec<Topic> {
    let words: Vec<BTreeMap<String, u32>> = records.par_iter().map(count_words).collect();
    let mut df: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words.iter().flat_map(BTreeMap::keys) {
        *df.entry(word).or_default() += 1;
    }
    let n = records.len();
    let most = ((config.max_share * n as f64) as usize).max(2);
    let mut vocabulary: Vec<(&str, usize)> =
        df.into_iter().filter(|&(_, df)| df >= 2 && df <= most).collect();
    vocabulary.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    vocabulary.truncate(config.vocabulary);
    let number: BTreeMap<&str, u32> =
        vocabulary.iter().enumerate().map(|(i, &(w, _))| (w, i as u32)).collect();

    let vectors: Vec<Sparse> = words
        .par_iter()
        .map(|counts| {
            let weigh = |(word, &count): (&String, &u32)| {
                let d = *number.get(word.as_str())?;
                let idf = (n as f32 / vocabulary[d as usize].1 as f32).ln();
                Some((d, (1.0 + (count as f32).ln()) * idf))
            };
            let mut vector: Sparse = counts.iter().filter_map(weigh).collect();
            vector.sort_unstable_by_key(|&(d, _)| d);
            let norm = vector.iter().map(|(_, w)| w * w).sum::<f32>().sqrt();
            for (_, w) in &mut vector {
                *w /= norm;
            }
            vector
        })
        .collect();
    let told: Vec<usize> = (0..n).filter(|&row| !vectors[row].is_empty()).collect();
    let told_vectors: Vec<Sparse> = told.iter().map(|&row| vectors[row].clone()).collect();
    let k = config.k.unwrap_or_else(|| ((n as f64).sqrt() as usize).clamp(2, 24));
    let (assignment, centroids) = kmeans(&told_vectors, vocabulary.len(), k, config.seed);

    let mut topics: Vec<Topic> = centroids
        .iter()
        .map(|centroid| {
            let mut by_weight: Vec<usize> = (0..centroid.len()).filter(|&d| centroid[d] > 0.0).collect();
            by_weight.sort_by(|&a, &b| centroid[b].total_cmp(&centroid[a]).then(a.cmp(&b)));
            let words = by_weight.into_iter().take(5).map(|d| vocabulary[d].0.to_owned()).collect();
            Topic { words, rows: 0, examples: Vec::new() }
        })
        .collect();
    let mut untold = Topic { words: Vec::new(), rows: 0, examples: Vec::new() };
    let topic_of: BTreeMap<usize, usize> = told.into_iter().zip(assignment).collect();
    for (row, record) in records.iter().enumerate() {
        let topic = topic_of.get(&row).map_or(&mut untold, |&c| &mut topics[c]);
        topic.rows += 1;
        if topic.examples.len() < 5 {
            topic.examples.push(record.id().to_owned());
        }
    }
    topics.push(untold);
    topics.retain(|topic| topic.rows > 0);
    topics.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.words.cmp(&b.words)));
    topics
}

/// Words that tell nothing, beside those that too many rows hold.
const STOP: &str = "about after afternoon again all also always am an and any anything are aren't as ask at be \
    because been before being bother but by can can't cheers could day dear did do does doesn't don't else \
    evening every ever for from get getting glad go good got great had happy has have haven't having he hello help \
    her here hey hi him his hope how i'd i'll i'm i've if in into is isn't it it's its just kind kindly know let \
    like lovely make may me more morning much my need new nice no not nothing now of off on once one only or other \
    our out please question quick reaching regards said say says see she should since so some someone something \
    still take team tell than thank thanks that that's the their them then there there's they this time to too \
    touch two up us use very want was way we we'll we're welcome well went were what what's when where which while \
    who why will wish with within won't would wrong yes yet you you'd you'll you're you've your";

fn count_words(record: &Record) -> BTreeMap<String, u32> {
    let stop: BTreeSet<&str> = STOP.split_whitespace().collect();
    let (questions, answers) = asked_and_answered(record);
    let mut counts = BTreeMap::new();
    for text in questions.into_iter().chain(answers) {
        let text = text.to_lowercase().replace('\u{2019}', "'");
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'').map(|w| w.trim_matches('\''));
        for word in words.filter(|w| w.chars().count() > 1 && w.chars().any(char::is_alphabetic)) {
            if !stop.contains(word) {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
    }
    counts
}
