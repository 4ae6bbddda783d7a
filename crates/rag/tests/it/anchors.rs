//! Published test collections, against figures measured with bm25s 0.3 and pytrec-eval-terrier 0.5.

use std::collections::BTreeMap;

use ferrotune_rag::{
    Chunk, ChunkConfig, RetrieveConfig, Splitter, SqliteStore, Store, average_precision, chunk, index,
    ndcg_at, recall_at, retrieve,
};

use crate::{document, shared};

struct Collection {
    documents: Vec<(String, String)>,
    queries: BTreeMap<String, String>,
    relevant: BTreeMap<String, Vec<String>>,
}

/// nDCG@10, MAP over 1,000 results and recall@100, means over the judged queries.
fn check(collection: &Collection, expect: [f64; 3]) {
    let mut store = SqliteStore::in_memory().unwrap();
    let config = ChunkConfig { splitter: Splitter::Whole, ..ChunkConfig::default() };
    let chunks: Vec<Chunk> = collection
        .documents
        .iter()
        .flat_map(|(id, text)| match chunk(&document(id, text), &config).unwrap() {
            // An empty document still counts among the documents, as it does for the reference.
            chunks if chunks.is_empty() => chunk(&document(id, "."), &config).unwrap(),
            chunks => chunks,
        })
        .collect();
    store.upsert(&chunks, None).unwrap();
    let mut sums = [0.0; 3];
    for (query, relevant) in &collection.relevant {
        let hits = store.search_text(&collection.queries[query], 1000, None).unwrap();
        let ranking: Vec<&str> = hits.iter().map(|hit| hit.chunk.doc_id.as_str()).collect();
        let gains: Vec<(&str, f64)> = relevant.iter().map(|id| (id.as_str(), 1.0)).collect();
        sums[0] += ndcg_at(&ranking, &gains, 10);
        sums[1] += average_precision(&ranking, relevant);
        sums[2] += recall_at(&ranking, relevant, 100);
    }
    let found = sums.map(|sum| sum / collection.relevant.len() as f64);
    eprintln!("nDCG@10 {:.4}  MAP {:.4}  R@100 {:.4}", found[0], found[1], found[2]);
    for (found, expect) in found.iter().zip(expect) {
        assert!((found - expect).abs() <= 0.003, "{found:.4} is not within 0.003 of {expect}");
    }
}

#[test]
fn cranfield_reaches_the_reference() {
    let (Some(docs), Some(queries), Some(judged)) = (
        shared("cranfield/cran.all.1400.xml"),
        shared("cranfield/cran.qry.xml"),
        shared("cranfield/cranqrel.trec.txt"),
    ) else {
        return;
    };
    let field = |record: &str, name: &str| -> String {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let inner =
            record.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map(|(inner, _)| inner);
        inner.unwrap_or_default().trim().to_owned()
    };
    let documents: Vec<(String, String)> = docs
        .split("<doc>")
        .skip(1)
        .map(|r| (field(r, "docno"), format!("{} {}", field(r, "title"), field(r, "text"))))
        .collect();
    assert_eq!(documents.len(), 1400);
    // The judgements number the queries from 1 in the order of the file, not by <num>.
    let queries = queries.split("<top>").skip(1).enumerate();
    let queries = queries.map(|(i, record)| ((i + 1).to_string(), field(record, "title"))).collect();
    let mut relevant: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in judged.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[3].parse::<i32>().unwrap() > 0 {
            relevant.entry(fields[0].to_owned()).or_default().push(fields[2].to_owned());
        }
    }
    assert_eq!(relevant.values().map(Vec::len).sum::<usize>(), 1612);
    check(&Collection { documents, queries, relevant }, [0.3848, 0.3061, 0.7339]);
}

#[test]
fn cacm_reaches_the_reference() {
    let (Some(docs), Some(queries), Some(judged)) =
        (shared("cacm/cacm.all"), shared("cacm/query.text"), shared("cacm/qrels.text"))
    else {
        return;
    };
    // Records open with ".I 12", fields with ".T" alone on a line.
    let records = |file: &str, fields: &[&str]| -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = Vec::new();
        let mut wanted = false;
        for line in file.lines() {
            let id = line.strip_prefix(".I ").filter(|id| id.trim().parse::<u32>().is_ok());
            if let Some(id) = id {
                out.push((id.trim().to_owned(), String::new()));
            } else if line.len() == 2 && line.starts_with('.') {
                wanted = fields.contains(&&line[1..]);
            } else if let (true, Some(last)) = (wanted, out.last_mut()) {
                last.1.push_str(line);
                last.1.push('\n');
            }
        }
        out
    };
    let documents = records(&docs, &["T", "W", "K"]);
    assert_eq!(documents.len(), 3204);
    let queries = records(&queries, &["W"]).into_iter().collect();
    let mut relevant: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in judged.lines() {
        let numbers: Vec<u32> = line.split_whitespace().take(2).map(|n| n.parse().unwrap()).collect();
        relevant.entry(numbers[0].to_string()).or_default().push(numbers[1].to_string());
    }
    assert_eq!(relevant.values().map(Vec::len).sum::<usize>(), 796);
    check(&Collection { documents, queries, relevant }, [0.4991, 0.3542, 0.6928]);
}

#[test]
fn a_question_finds_its_paragraph() {
    let Some(file) = shared("xquad/xquad.en.json") else { return };
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let (mut documents, mut questions) = (Vec::new(), Vec::new());
    for article in file["data"].as_array().unwrap() {
        for paragraph in article["paragraphs"].as_array().unwrap() {
            let id = format!("p{}", documents.len());
            documents.push(document(&id, paragraph["context"].as_str().unwrap()));
            let first = &paragraph["qas"][0];
            questions.push((first["question"].as_str().unwrap().to_owned(), id));
        }
    }
    let mut store = SqliteStore::in_memory().unwrap();
    index(&mut store, &documents, &ChunkConfig { size: 5000, ..ChunkConfig::default() }, None).unwrap();
    questions.truncate(80);
    let recall = |rerank| {
        let config = RetrieveConfig { k: 3, candidates: 20, rerank, ..RetrieveConfig::default() };
        let found = questions.iter().filter(|(question, id)| {
            let hits = retrieve(&store, None, question, &config).unwrap();
            hits.iter().any(|hit| hit.chunk.doc_id == *id)
        });
        found.count() as f64 / questions.len() as f64
    };
    let (plain, reranked) = (recall(false), recall(true));
    eprintln!("recall@3 {plain:.4}, reranked {reranked:.4}");
    assert!(plain >= 0.97, "{plain}");
    assert!(reranked >= plain - 0.005, "{reranked}");
}
