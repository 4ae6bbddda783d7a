//! Indexes five policies and answers questions from them, with sources, without a model or a network.
//!
//! `cargo run -p ferrotune-rag --example ask_the_shop -- "Do you ship to Canada?"`

#![expect(clippy::print_stdout, reason = "an example's output is its point")]

use ferrotune_rag::{
    ChunkConfig, GroundConfig, HashEmbed, Origin, RetrieveConfig, SqliteStore, answer, index, retrieve,
};
use ferrotune_types::Document;

const POLICIES: [(&str, &str); 5] = [
    ("returns", "# Returns\n\nItems may be returned within 30 days of purchase. A receipt is needed."),
    (
        "shipping",
        "# Shipping\n\nOrders over $75 ship free. Other orders pay $6.95. We ship to Canada and Mexico.",
    ),
    ("hours", "# Opening hours\n\nThe shop is open from 9 a.m. to 8 p.m. on weekdays."),
    ("points", "# Loyalty points\n\nMembers earn one point for each dollar. 100 points are worth $5."),
    ("gifts", "# Gift cards\n\nGift cards never expire. They cannot be exchanged for cash."),
];

fn main() -> Result<(), ferrotune_rag::RagError> {
    let documents: Vec<Document> = POLICIES
        .iter()
        .map(|(id, text)| Document {
            id: (*id).to_owned(),
            text: (*text).to_owned(),
            meta: serde_json::Map::new(),
        })
        .collect();
    let mut store = SqliteStore::in_memory()?;
    let embedder = HashEmbed::new(256);
    let report = index(&mut store, &documents, &ChunkConfig::default(), Some(&embedder))?;
    println!("{} documents, {} chunks", report.documents, report.chunks);

    let mut questions: Vec<String> = std::env::args().skip(1).collect();
    if questions.is_empty() {
        questions = vec![
            "How many days do I have to return an item?".to_owned(),
            "Do gift cards expire?".to_owned(),
            "Who founded the company?".to_owned(),
        ];
    }
    for question in &questions {
        // Hash vectors know no meaning, so they help the search only; a real embedder helps the answer too.
        let hits = retrieve(&store, Some(&embedder), question, &RetrieveConfig::default())?;
        let found = answer(None, None, question, &hits, &GroundConfig::default())?;
        println!("\nQ: {question}\nA: {}", found.text);
        if found.origin != Origin::Unknown {
            for citation in &found.citations {
                println!("   [{}] {}", citation.number, citation.doc_id);
            }
        }
    }
    Ok(())
}
