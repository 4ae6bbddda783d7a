use ferrotune_rag::{
    Answer, ChunkConfig, GroundConfig, HashEmbed, Origin, RagQuestion, RetrieveConfig, SqliteStore, answer,
    evaluate, extract, index, marks, retrieve, unknown_documents,
};
use ferrotune_types::{Completion, Embed, Finish, GenerateParams, LanguageModel, Message, ModelError};

use crate::{document, shared};

/// A model that always says the same.
struct Says(&'static str);

impl LanguageModel for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    fn chat(&self, _: &[Message], _: &GenerateParams) -> Result<Completion, ModelError> {
        Ok(Completion {
            text: self.0.to_owned(),
            ids: vec![],
            finish: Finish::Stop,
            prompt_tokens: 0,
            completion_tokens: 0,
            logprobs: vec![],
        })
    }
}

fn shop() -> SqliteStore {
    let documents = [
        document(
            "returns",
            "# Returns\n\nItems may be returned within 30 days of purchase. A receipt is needed. Underwear is final sale and may not be returned.",
        ),
        document(
            "shipping",
            "# Shipping\n\nOrders over $75 ship free within the country. Other orders pay $6.95. We ship to Canada and Mexico.",
        ),
        document(
            "hours",
            "# Opening hours\n\nThe shop is open from 9 a.m. to 8 p.m. on weekdays. On Sundays it opens at 11 a.m.",
        ),
        document(
            "points",
            "# Loyalty points\n\nMembers earn one point for each dollar. 100 points are worth $5.",
        ),
    ];
    let mut store = SqliteStore::in_memory().unwrap();
    index(&mut store, &documents, &ChunkConfig::default(), None).unwrap();
    store
}

fn ask(says: &'static str, question: &str) -> Answer {
    let hits = retrieve(&shop(), None, question, &RetrieveConfig::default()).unwrap();
    answer(Some(&Says(says)), None, question, &hits, &GroundConfig::default()).unwrap()
}

const DAYS: &str = "How many days do I have to return an item?";

#[test]
fn a_sound_answer_is_kept_and_its_marks_set_right() {
    let check = |says, expect: &str| {
        let found = ask(says, DAYS);
        assert_eq!((found.text.as_str(), found.origin, found.grounded), (expect, Origin::Generated, true));
        assert_eq!(found.citations[0].doc_id, "returns");
    };
    check("Items may be returned within 30 days [3].", "Items may be returned within 30 days [1].");
    check("Items may be returned within 30 days", "Items may be returned within 30 days [1].");
    // A loop is said once; wrapping and invention are left out.
    check(
        "Sure! You may return items within 30 days. You may return items within 30 days. Shipping takes 12 weeks.",
        "You may return items within 30 days [1].",
    );
}

#[test]
fn an_unsound_answer_is_replaced_by_a_quote_that_says_so() {
    for says in [
        "You have 90 days.",
        "If you have a receipt, it is free.",
        "The shop takes days.",
        "",
        "Bananas are yellow.",
        "[1] [2]",
        "We ship to Canada and Mexico [1].",
    ] {
        let found = ask(says, DAYS);
        assert_eq!(found.text, "Items may be returned within 30 days of purchase [1].", "{says}");
        assert_eq!((found.origin, found.grounded), (Origin::Extracted, true));
        assert_eq!(found.model_text, says);
    }
    assert_eq!(ask("You have 90 days.", DAYS).dropped[0].text, "You have 90 days.");
}

#[test]
fn a_contradiction_is_never_cited() {
    for (says, question) in [
        ("Items may not be returned within 30 days of purchase [1].", DAYS),
        ("Items may be returned within sixty days of purchase [1].", DAYS),
        ("Items may be returned within 30 minutes of purchase [1].", DAYS),
        ("Items may be returned within 60 days of purchase [1].", "Can I return items after 60 days?"),
        ("Underwear may be returned [1].", "May underwear be returned?"),
        ("A receipt is not needed [1].", "Is a receipt needed to return an item?"),
    ] {
        let found = ask(says, question);
        assert_eq!(found.origin, Origin::Extracted, "{says}");
        assert_eq!(found.dropped[0].source, None, "{says}");
    }
}

#[test]
fn a_quote_loses_the_footnotes_of_its_document() {
    let text =
        "The bridge was opened in 1932 by the premier [2]. It cost 4.2 million pounds to build [1, 3].";
    let hits = [ferrotune_rag::Hit {
        chunk: ferrotune_rag::chunk(&document("bridge", text), &ChunkConfig::default()).unwrap().remove(0),
        score: 1.0,
    }];
    let config = GroundConfig::default();
    let found = answer(None, None, "Who opened the bridge in 1932?", &hits, &config).unwrap();
    assert_eq!(found.text, "The bridge was opened in 1932 by the premier [1].");
}

#[test]
fn what_the_documents_do_not_say_is_not_answered() {
    for question in ["Who is the president of France?", "Do you sell aquarium pumps?", "", "???"] {
        let found = ask("The president is Bob [1].", question);
        assert_eq!((found.origin, found.grounded), (Origin::Unknown, false), "{question}");
        assert!(found.citations.is_empty());
    }
    let found = answer(Some(&Says("x")), None, "Anything?", &[], &GroundConfig::default()).unwrap();
    assert_eq!(found.origin, Origin::Unknown);
}

#[test]
fn quotes_are_slices_of_their_document() {
    let store = shop();
    let question = "What do orders below the free shipping limit pay?";
    let hits = retrieve(&store, None, question, &RetrieveConfig::default()).unwrap();
    let quotes = extract(question, &hits, None, &GroundConfig::default()).unwrap();
    let quote = &quotes[0];
    assert_eq!(quote.doc_id, "shipping");
    let text = "# Shipping\n\nOrders over $75 ship free within the country. Other orders pay $6.95. We ship to Canada and Mexico.";
    assert_eq!(&text[quote.start..quote.end], quote.text);
}

#[test]
fn questions_and_lists_in_a_document_lead_to_their_answers() {
    let text = "# Pay\n\nWe take:\n\n- Visa and Mastercard\n- PayPal\n\n## Common questions\n\n\
                - **My parcel never came. What now?** Wait three days, then write to us.\n\
                - **Do you take dogs?** Yes, on a leash.\n- **May I smoke?** No.\n";
    let hits = [ferrotune_rag::Hit {
        chunk: ferrotune_rag::chunk(&document("pay", text), &ChunkConfig::default()).unwrap().remove(0),
        score: 1.0,
    }];
    let check = |question: &str, expect: &str| {
        let found = answer(None, None, question, &hits, &GroundConfig::default()).unwrap();
        assert_eq!(found.text, expect, "{question}");
    };
    check("What do I do when a parcel never came?", "Wait three days, then write to us [1].");
    check("Do you take dogs?", "Yes, on a leash [1].");
    check("What do you take, Visa or PayPal?", "We take: Visa and Mastercard PayPal [1].");
}

/// The demo shop in this repository, by words alone; with vectors more questions get an answer.
#[test]
fn the_demo_shops_questions_find_their_documents() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/bluesky");
    let mut paths: Vec<_> =
        std::fs::read_dir(format!("{folder}/documents")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let documents: Vec<_> = paths
        .iter()
        .map(|p| document(p.file_stem().unwrap().to_str().unwrap(), &std::fs::read_to_string(p).unwrap()))
        .collect();
    let questions: Vec<RagQuestion> = std::fs::read_to_string(format!("{folder}/questions.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            RagQuestion {
                id: row["id"].as_str().unwrap().to_owned(),
                question: row["question"].as_str().unwrap().to_owned(),
                relevant: serde_json::from_value(row["documents"].clone()).unwrap(),
            }
        })
        .collect();
    let mut store = SqliteStore::in_memory().unwrap();
    index(&mut store, &documents, &ChunkConfig { size: 600, ..ChunkConfig::default() }, None).unwrap();
    let config = (RetrieveConfig::default(), GroundConfig::default());
    let report = evaluate(&store, None, None, &questions, &config.0, &config.1).unwrap();
    eprintln!(
        "recall@1 {:.3} recall@3 {:.3} MRR {:.3} nDCG@10 {:.3}; answered {:.3}, citation precision {:.3}",
        report.recall_at_1,
        report.recall_at_3,
        report.mrr,
        report.ndcg_at_10,
        report.answered,
        report.citation_precision
    );
    assert!(report.recall_at_3 >= 0.95 && report.mrr >= 0.93);
    assert!(report.answered >= 0.7 && report.citation_precision >= 0.9);
    assert_eq!(report.cited, 1.0);
}

#[test]
fn an_evaluation_counts_what_it_says() {
    let question = |id: &str, text: &str, relevant: &[&str]| RagQuestion {
        id: id.into(),
        question: text.into(),
        relevant: relevant.iter().map(|&id| id.into()).collect(),
    };
    let questions = [
        question("1", DAYS, &["returns"]),
        question("2", "Which countries do you ship to?", &["shipping"]),
        question("3", "When does the shop open on Sundays?", &["hours"]),
        question("4", "Do you sell aquarium pumps?", &[]),
    ];
    let store = shop();
    let run = |embedder: Option<&dyn Embed>| {
        let config = RetrieveConfig::default();
        evaluate(&store, embedder, Some(&Says("No idea.")), &questions, &config, &GroundConfig::default())
            .unwrap()
    };
    let report = run(None);
    assert_eq!((report.n, report.unanswerable, report.refused), (4, 1, Some(1.0)));
    assert_eq!((report.recall_at_1, report.mrr, report.ndcg_at_10), (1.0, 1.0, 1.0));
    assert_eq!((report.answered, report.cited, report.generated), (0.75, 1.0, 0.0));
    assert_eq!((report.citation_precision, report.supported), (1.0, Some(0.0)));
    assert!(report.not_measured.is_empty());
    for row in report.rows.iter().filter(|row| !row.relevant.is_empty()) {
        assert!(!marks(&row.answer.text).is_empty(), "{}", row.answer.text);
    }
    // The same again, byte for byte; and an embedder that the index was not made with is simply not used.
    assert_eq!(serde_json::to_string(&report).unwrap(), serde_json::to_string(&run(None)).unwrap());
    assert_eq!(run(Some(&HashEmbed::new(8))).recall_at_1, 1.0);
}

#[test]
fn what_cannot_be_measured_is_named() {
    let question = |text: &str, relevant: &[&str]| RagQuestion {
        id: String::new(),
        question: text.into(),
        relevant: relevant.iter().map(|&id| id.into()).collect(),
    };
    let store = shop();
    let run = |questions: &[RagQuestion]| {
        evaluate(&store, None, None, questions, &RetrieveConfig::default(), &GroundConfig::default()).unwrap()
    };
    let report = run(&[question(DAYS, &[]), question("Do you sell aquarium pumps?", &[])]);
    assert_eq!((report.answered, report.refused, report.supported), (0.5, Some(0.5), None));
    for name in ["recall_at_1", "recall_at_10", "mrr", "ndcg_at_10", "citation_precision"] {
        assert!(report.not_measured.iter().any(|n| n == name), "{name}");
    }
    assert!(!report.not_measured.iter().any(|n| n == "answered"));
    let report = run(&[question("Do you sell aquarium pumps?", &["returns"])]);
    assert_eq!(report.not_measured, ["cited", "generated", "citation_precision"]);
    // A document named twice counts once.
    let report = run(&[question(DAYS, &["returns", "returns"])]);
    assert_eq!((report.recall_at_1, report.map, report.ndcg_at_10), (1.0, 1.0, 1.0));

    let named = [question(DAYS, &["returns", "retorns.md"]), question(DAYS, &["retorns.md", "hours"])];
    assert_eq!(unknown_documents(&store, &named).unwrap(), ["retorns.md"]);
}

/// XQuAD's English questions, each with the paragraph that answers it: does the quote hold the answer?
#[test]
fn quotes_hold_the_answers_of_xquad() {
    let Some(file) = shared("xquad/xquad.en.json") else { return };
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let config = GroundConfig { quotes: 1, ..GroundConfig::default() };
    let (mut n, mut right, mut answered, mut strangers) = (0usize, 0, 0, 0);
    let paragraphs: Vec<&serde_json::Value> =
        file["data"].as_array().unwrap().iter().flat_map(|a| a["paragraphs"].as_array().unwrap()).collect();
    for (i, paragraph) in paragraphs.iter().enumerate() {
        let text = paragraph["context"].as_str().unwrap();
        // A paragraph of another article, as the best hit of a search that found nothing fitting.
        let other = paragraphs[(i + 120) % paragraphs.len()]["context"].as_str().unwrap();
        for qa in paragraph["qas"].as_array().unwrap().iter().take(2) {
            let question = qa["question"].as_str().unwrap();
            let answers: Vec<&str> =
                qa["answers"].as_array().unwrap().iter().filter_map(|a| a["text"].as_str()).collect();
            let hit = |text: &str| {
                let chunks = ferrotune_rag::chunk(
                    &document("p", text),
                    &ChunkConfig { size: 9000, ..ChunkConfig::default() },
                );
                ferrotune_rag::Hit { chunk: chunks.unwrap().remove(0), score: 1.0 }
            };
            let quotes = extract(question, &[hit(text)], None, &config).unwrap();
            n += 1;
            answered += usize::from(!quotes.is_empty());
            right += usize::from(quotes.first().is_some_and(|q| answers.iter().any(|a| q.text.contains(a))));
            strangers += usize::from(!extract(question, &[hit(other)], None, &config).unwrap().is_empty());
        }
    }
    let share = |part: usize| part as f64 / n as f64;
    eprintln!(
        "{n} questions: {:.3} answered, {:.3} rightly; {:.3} answered from a strange paragraph",
        share(answered),
        share(right),
        share(strangers)
    );
    assert!(share(right) >= 0.70, "{:.3}", share(right));
    assert!(share(strangers) <= 0.05, "{:.3}", share(strangers));
}
