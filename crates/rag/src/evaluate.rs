use std::collections::BTreeSet;

use ferrotune_types::{Embed, LanguageModel, Message};
use serde::{Deserialize, Serialize};

use crate::metrics::{average_precision, hit_at, ndcg_at, recall_at, reciprocal_rank};
use crate::{
    Answer, Attributed, CachedEmbed, GroundConfig, Origin, RagError, RetrieveConfig, Store, check_answer,
    documents_of, ground, retrieve,
};

/// Chunks looked at to rank documents: enough for ten documents where each gives several chunks.
const DEPTH: usize = 50;

/// A question of a test set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RagQuestion {
    /// Unique within its set.
    #[serde(default)]
    pub id: String,
    /// The question.
    pub question: String,
    /// The documents that answer it; none where the right answer is that nobody knows, or where the set does not say.
    #[serde(default)]
    pub relevant: Vec<String>,
}

/// One question's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// The question's id.
    pub id: String,
    /// The question.
    pub question: String,
    /// The documents that answer it.
    pub relevant: Vec<String>,
    /// The first ten documents found.
    pub retrieved: Vec<String>,
    /// The answer.
    pub answer: Answer,
}

/// How well questions were answered from documents. Shares are from 0 to 1 and means are over questions. A figure
/// that the questions give nothing to measure by is 0, and `not_measured` names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RagReport {
    /// Questions.
    pub n: usize,
    /// Of them, those that name no document: left out of every retrieval figure.
    pub unanswerable: usize,
    /// Share of the relevant documents that come first.
    pub recall_at_1: f64,
    /// Share of the relevant documents among the first three.
    pub recall_at_3: f64,
    /// Share of the relevant documents among the first ten.
    pub recall_at_10: f64,
    /// Share of questions with a relevant document among the first three.
    pub hit_at_3: f64,
    /// Mean reciprocal rank of the first relevant document.
    pub mrr: f64,
    /// Mean average precision over the documents found.
    pub map: f64,
    /// Normalised discounted cumulative gain of the first ten documents.
    pub ndcg_at_10: f64,
    /// Of all questions, the share that got an answer; `refused` says how many of those that name no document got
    /// none.
    pub answered: f64,
    /// Of the answers given, the share whose every sentence cites a source: 1 by construction, since what has none is
    /// not shown. `supported` says how much of what the model said that was.
    pub cited: f64,
    /// Of the sentences that the model said, the share that a source supports; absent where it said nothing.
    #[serde(default)]
    pub supported: Option<f64>,
    /// Of the citations, the share that name a document which the test set says is relevant: an outside check
    /// of sources that the answers chose themselves. Answers to questions that name no document are left out.
    pub citation_precision: f64,
    /// Of the answers given, the share in the model's own words; the others are quotes.
    pub generated: f64,
    /// Of the questions that name no document, the share that was refused; absent where there are none. It is good
    /// where nobody knows the answer, and says nothing where the set does not say.
    pub refused: Option<f64>,
    /// The figures above that nothing could be measured by, by their names here.
    #[serde(default)]
    pub not_measured: Vec<String>,
    /// Each question's outcome.
    pub rows: Vec<AnswerRow>,
}

/// Answers every question from the store and measures both the search and the answers.
///
/// The model is asked once, for all questions as a batch, and the embedder once for each text.
///
/// # Errors
/// Those of [`retrieve`] and [`crate::answer`].
pub fn evaluate(
    store: &dyn Store,
    embedder: Option<&dyn Embed>,
    model: Option<&dyn LanguageModel>,
    questions: &[RagQuestion],
    find: &RetrieveConfig,
    config: &GroundConfig,
) -> Result<RagReport, RagError> {
    let cached = embedder.map(CachedEmbed::new);
    let embedder = cached.as_ref().map(|cached| cached as &dyn Embed);
    let deep = RetrieveConfig { k: find.k.max(DEPTH), ..find.clone() };
    let (mut sources, mut rankings) =
        (Vec::with_capacity(questions.len()), Vec::with_capacity(questions.len()));
    for question in questions {
        let mut hits = retrieve(store, embedder, &question.question, &deep)?;
        rankings.push(documents_of(&hits).into_iter().map(str::to_owned).collect::<Vec<String>>());
        hits.truncate(find.k);
        sources.push(hits);
    }
    let asked = questions.iter().zip(&sources);
    let replies = match model {
        Some(model) => {
            let prompts: Vec<Vec<Message>> =
                asked.clone().map(|(question, hits)| ground(&question.question, hits, config)).collect();
            model.chat_batch(&prompts, &config.params)?.into_iter().map(|reply| reply.text).collect()
        }
        None => vec![String::new(); questions.len()],
    };
    if replies.len() != questions.len() {
        let (expected, found) = (format!("{} replies", questions.len()), replies.len().to_string());
        return Err(RagError::Shape { op: "evaluate", expected, found });
    }
    let mut rows = Vec::with_capacity(questions.len());
    for ((question, hits), (reply, ranking)) in asked.zip(replies.iter().zip(&rankings)) {
        rows.push(AnswerRow {
            id: question.id.clone(),
            question: question.question.clone(),
            relevant: question.relevant.clone(),
            retrieved: ranking.iter().take(10).cloned().collect(),
            answer: check_answer(reply, embedder, &question.question, hits, config)?,
        });
    }
    Ok(report(rows, &rankings))
}

/// The documents that questions name and a store does not hold, each once: with such ids a recall means nothing.
///
/// # Errors
/// The store's own.
pub fn unknown_documents(store: &dyn Store, questions: &[RagQuestion]) -> Result<Vec<String>, RagError> {
    let held: BTreeSet<String> = store.documents()?.into_iter().map(|(id, _)| id).collect();
    let named: BTreeSet<&String> = questions.iter().flat_map(|question| &question.relevant).collect();
    Ok(named.into_iter().filter(|id| !held.contains(*id)).cloned().collect())
}

fn report(rows: Vec<AnswerRow>, rankings: &[Vec<String>]) -> RagReport {
    let answerable: Vec<(&AnswerRow, &Vec<String>)> =
        rows.iter().zip(rankings).filter(|(row, _)| !row.relevant.is_empty()).collect();
    let mean = |of: &dyn Fn(&AnswerRow, &[String]) -> f64| {
        share(answerable.iter().map(|(row, ranking)| of(row, ranking)).sum(), answerable.len())
    };
    let is_given = |row: &AnswerRow| row.answer.origin != Origin::Unknown;
    let given: Vec<&AnswerRow> = rows.iter().filter(|row| is_given(row)).collect();
    let count = |of: &dyn Fn(&AnswerRow) -> bool| given.iter().filter(|row| of(row)).count() as f64;
    let of_answerable: Vec<&AnswerRow> =
        given.iter().filter(|row| !row.relevant.is_empty()).copied().collect();
    let n_citations: usize = of_answerable.iter().map(|row| row.answer.citations.len()).sum();
    let right: usize = of_answerable
        .iter()
        .map(|row| row.answer.citations.iter().filter(|c| row.relevant.contains(&c.doc_id)).count())
        .sum();
    let unanswerable = rows.len() - answerable.len();
    let refused = rows.iter().filter(|row| row.relevant.is_empty() && !is_given(row)).count();
    RagReport {
        n: rows.len(),
        unanswerable,
        recall_at_1: mean(&|row, ranking| recall_at(ranking, &row.relevant, 1)),
        recall_at_3: mean(&|row, ranking| recall_at(ranking, &row.relevant, 3)),
        recall_at_10: mean(&|row, ranking| recall_at(ranking, &row.relevant, 10)),
        hit_at_3: mean(&|row, ranking| hit_at(ranking, &row.relevant, 3)),
        mrr: mean(&|row, ranking| reciprocal_rank(ranking, &row.relevant)),
        map: mean(&|row, ranking| average_precision(ranking, &row.relevant)),
        ndcg_at_10: mean(&|row, ranking| {
            let gains: Vec<(&str, f64)> = row.relevant.iter().map(|id| (id.as_str(), 1.0)).collect();
            ndcg_at(ranking, &gains, 10)
        }),
        answered: share(given.len() as f64, rows.len()),
        cited: share(count(&|row| row.answer.sentences.iter().all(|s| s.source.is_some())), given.len()),
        supported: supported(&rows),
        citation_precision: share(right as f64, n_citations),
        generated: share(count(&|row| row.answer.origin == Origin::Generated), given.len()),
        refused: (unanswerable > 0).then(|| share(refused as f64, unanswerable)),
        not_measured: not_measured(rows.len(), answerable.len(), given.len(), n_citations),
        rows,
    }
}

/// Of all sentences that the model said, the share that has a source.
fn supported(rows: &[AnswerRow]) -> Option<f64> {
    let said = rows.iter().map(|row| &row.answer).flat_map(|answer| {
        let shown = answer.sentences.iter().filter(|_| answer.origin == Origin::Generated);
        shown.chain(&answer.dropped)
    });
    let said: Vec<&Attributed> = said.collect();
    let supported = said.iter().filter(|sentence| sentence.source.is_some()).count();
    (!said.is_empty()).then(|| share(supported as f64, said.len()))
}

fn not_measured(n: usize, n_answerable: usize, n_given: usize, n_citations: usize) -> Vec<String> {
    const RETRIEVAL: [&str; 7] =
        ["recall_at_1", "recall_at_3", "recall_at_10", "hit_at_3", "mrr", "map", "ndcg_at_10"];
    let mut names: Vec<&str> = Vec::new();
    names.extend(RETRIEVAL.iter().filter(|_| n_answerable == 0));
    names.extend(["answered"].iter().filter(|_| n == 0));
    names.extend(["cited", "generated"].iter().filter(|_| n_given == 0));
    names.extend(["citation_precision"].iter().filter(|_| n_citations == 0));
    names.into_iter().map(str::to_owned).collect()
}

fn share(part: f64, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part / whole as f64 }
}
