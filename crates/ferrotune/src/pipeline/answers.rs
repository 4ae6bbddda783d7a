//! The stages that ask the model: base against tuned, and answers grounded in documents.

use anyhow::{Context, Result};
use ferrotune_eval::{Case, Winner};
use ferrotune_rag::{
    ChunkConfig, GroundConfig, Language, RagQuestion, RetrieveConfig, Splitter, SqliteStore, evaluate, index,
};
use ferrotune_types::{Completion, Document, Embed, GenerateParams, LanguageModel, Message};

use super::data::Question;
use super::{GroundedRow, JudgeFacts, JudgedRow, RagFacts, Run};
use crate::cli::data::{judge_server, judge_with};
use crate::local_embedder::LocalEmbedder;
use crate::local_model::LocalModel;

pub(super) fn judge(run: &Run<'_>) -> Result<JudgeFacts> {
    let settings = &run.config.judge;
    let questions = run.questions(settings.max_questions)?;
    let asked: Vec<Vec<Message>> = questions.iter().map(|q| q.messages(&run.config.curate.system)).collect();
    let params = GenerateParams { max_new_tokens: settings.max_new_tokens, ..GenerateParams::default() };
    let answer = |model: LocalModel| -> Result<Vec<Completion>> {
        eprintln!("{:>12}: {} answers {} questions", "judge", model.name(), asked.len());
        Ok(model.chat_batch(&asked, &params)?)
    };
    let base = answer(LocalModel::new("base", run.load(run.place)?))?;
    let tuned = answer(LocalModel::new("tuned", run.tuned()?))?;
    let cases: Vec<Case> = questions
        .iter()
        .zip(base.iter().zip(&tuned))
        .map(|(question, (base, tuned))| case(question, &base.text, &tuned.text))
        .collect();
    let cache = run.path("judge");
    let server = judge_server(Some(&settings.url), Some(&settings.model), Some(&cache));
    let report = judge_with(&cases, server, run.config.seed)?;
    eprintln!(
        "{:>12}: tuned {}, base {}, tie {}: {}",
        "judge", report.tuned, report.base, report.tie, report.verdict
    );
    let notes = report.notes();
    for note in &notes {
        eprintln!("{:>12}: {note}", "judge");
    }
    Ok(JudgeFacts {
        kind: report.kind,
        n: report.n,
        tuned: report.tuned,
        base: report.base,
        tie: report.tie,
        win_rate: report.win_rate,
        ci95: report.ci95,
        p_value: report.p_value,
        verdict: report.verdict.to_string(),
        tuned_mean: report.tuned_mean,
        base_mean: report.base_mean,
        notes,
        rows: report
            .rows
            .into_iter()
            .map(|row| JudgedRow {
                id: row.case.id,
                question: row.case.question,
                reference: row.case.reference.unwrap_or_default(),
                base: row.case.base,
                tuned: row.case.tuned,
                winner: word(row.winner),
                reason: row.reason,
            })
            .collect(),
    })
}

/// As a judge sees it: the question, and what was said before it.
fn case(question: &Question, base: &str, tuned: &str) -> Case {
    Case {
        id: question.id.clone(),
        question: question.question.clone(),
        before: question.before.clone(),
        reference: Some(question.reference.clone()),
        base: base.trim().to_owned(),
        tuned: tuned.trim().to_owned(),
    }
}

/// The word by which report.json names the winner.
fn word(winner: Winner) -> String {
    match winner {
        Winner::Tuned => "tuned",
        Winner::Base => "base",
        Winner::Tie => "tie",
    }
    .to_owned()
}

pub(super) fn rag(run: &Run<'_>) -> Result<RagFacts> {
    let settings = &run.config.rag;
    let documents = run.config.data.documents.as_deref().context("no documents are configured")?;
    let documents: Vec<Document> = crate::documents::read_folder(documents)?;
    let questions = run.questions(settings.max_questions)?;
    let embedder = match run.config.model.encoder.as_str() {
        "none" => None,
        id => Some(LocalEmbedder::load(id, run.place)?),
    };
    let embedder = embedder.as_ref().map(|e| e as &dyn Embed);

    let folder = run.path("rag");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = folder.join("index.sqlite");
    let _ = std::fs::remove_file(&file);
    let mut store = SqliteStore::open_or_create(&file, Language::English)?;
    let chunks = ChunkConfig {
        splitter: Splitter::Markdown,
        size: settings.chunk_chars,
        overlap: settings.overlap_chars,
    };
    let indexed = index(&mut store, &documents, &chunks, embedder)?;
    eprintln!("{:>12}: {} documents in {} chunks", "rag", indexed.documents, indexed.chunks);

    let find = RetrieveConfig { k: settings.k, ..RetrieveConfig::default() };
    let how = GroundConfig {
        sources: settings.k,
        source_chars: settings.chunk_chars,
        params: GenerateParams { max_new_tokens: settings.max_new_tokens, ..GenerateParams::default() },
        ..GroundConfig::default()
    };
    let asked: Vec<RagQuestion> = questions
        .iter()
        .map(|q| RagQuestion {
            id: q.id.clone(),
            question: q.question.clone(),
            relevant: q.documents.clone(),
        })
        .collect();
    let model = LocalModel::new("tuned", run.tuned()?);
    let report = evaluate(&store, embedder, Some(&model), &asked, &find, &how)?;
    eprintln!(
        "{:>12}: recall@3 {:.3}, answered {:.3}, citation precision {:.3}",
        "rag", report.recall_at_3, report.answered, report.citation_precision
    );
    if !report.not_measured.is_empty() {
        eprintln!("{:>12}: nothing to measure by: {}", "rag", report.not_measured.join(", "));
    }
    let rows = report
        .rows
        .iter()
        .take(12)
        .map(|row| GroundedRow {
            question: row.question.clone(),
            answer: row.answer.text.clone(),
            sources: row.answer.citations.iter().map(|c| c.doc_id.clone()).collect(),
            hit: (!row.relevant.is_empty())
                .then(|| row.retrieved.iter().take(3).any(|doc| row.relevant.contains(doc))),
        })
        .collect();
    Ok(RagFacts {
        n: report.n,
        unanswerable: report.unanswerable,
        recall_at_1: report.recall_at_1,
        recall_at_3: report.recall_at_3,
        mrr: report.mrr,
        ndcg_at_10: report.ndcg_at_10,
        answered: report.answered,
        cited: report.cited,
        supported: report.supported,
        citation_precision: report.citation_precision,
        not_measured: report.not_measured,
        rows,
    })
}

#[cfg(test)]
mod tests {
    use ferrotune_types::{Conversation, Role};

    use super::*;

    #[test]
    fn a_judge_is_given_what_was_said_before_the_question() {
        let said = [(Role::System, "s"), (Role::User, "u"), (Role::Assistant, "a"), (Role::User, "q")];
        let mut messages: Vec<Message> =
            said.into_iter().map(|(role, text)| Message::new(role, text)).collect();
        messages.push(Message::new(Role::Assistant, "the answer"));
        let chat = Conversation {
            id: "c".to_owned(),
            messages: messages.clone(),
            tools: Vec::new(),
            meta: serde_json::Map::new(),
        };
        let case = case(&Question::from_chat(chat).unwrap(), " b", "t\n");
        assert_eq!((case.before.as_slice(), case.question.as_str()), (&messages[..3], "q"));
        assert_eq!(
            (case.reference.as_deref(), case.base.as_str(), case.tuned.as_str()),
            (Some("the answer"), "b", "t")
        );
    }
}
