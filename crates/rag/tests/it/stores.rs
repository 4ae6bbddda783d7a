//! What every [`Store`] must do; a second backend is one more line in `each_store`.

use ferrotune_rag::{
    Chunk, ChunkConfig, Filter, Fusion, HashEmbed, Hit, IndexReport, Language, MetaValue, RagError,
    SqliteStore, Store, Vectors, index, remove_others,
};
use ferrotune_types::{Document, Embed};
use proptest::prelude::*;

use crate::document;

fn each_store(check: impl Fn(&mut dyn Store)) {
    check(&mut SqliteStore::in_memory().unwrap());
}

fn chunk_with(id: &str, text: &str, meta: serde_json::Value) -> Chunk {
    let serde_json::Value::Object(meta) = meta else { panic!("an object") };
    let doc_id = id.split('#').next().unwrap_or_default().to_owned();
    let (id, text) = (id.to_owned(), text.to_owned());
    Chunk {
        id,
        doc_id,
        start: 0,
        end: text.len(),
        heading: String::new(),
        text,
        fingerprint: String::new(),
        meta,
    }
}

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.chunk.id.as_str()).collect()
}

/// 500 chunks that all match every query, 5 of them with `rare: true`.
fn crowd() -> Vec<Chunk> {
    (0..500)
        .map(|i| {
            let meta = serde_json::json!({ "rare": i % 100 == 42, "n": i });
            chunk_with(&format!("d{i}#0"), &format!("return policy {}", "gift card ".repeat(i % 7)), meta)
        })
        .collect()
}

#[test]
fn k_rows_come_back_under_a_one_percent_filter() {
    each_store(|store| {
        let (chunks, embedder) = (crowd(), HashEmbed::new(32));
        let texts: Vec<&str> = chunks.iter().map(|c| c.text.as_str()).collect();
        let rows = embedder.embed(&texts).unwrap();
        store.upsert(&chunks, Some(Vectors { embedder: embedder.name(), rows: &rows })).unwrap();
        let filter = Filter::eq("rare", true);
        let query = embedder.embed(&["return policy"]).unwrap();
        let vectors = Vectors { embedder: embedder.name(), rows: &query };
        for hits in [
            store.search_text("return policy", 5, Some(&filter)).unwrap(),
            store.search_vector(vectors, 5, Some(&filter)).unwrap(),
            store.search_hybrid("return policy", vectors, Fusion::default(), 5, 5, Some(&filter)).unwrap(),
        ] {
            assert_eq!(hits.len(), 5);
            assert!(hits.iter().all(|hit| filter.matches(&hit.chunk)));
            assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
    });
}

#[test]
fn vectors_are_searched_exactly() {
    each_store(|store| {
        let chunks: Vec<Chunk> =
            (0..50).map(|i| chunk_with(&format!("d{i}#0"), "x", serde_json::json!({}))).collect();
        let rows: Vec<Vec<f32>> = (0..50u8).map(|i| vec![f32::from(i) / 10.0, 1.0, 0.5]).collect();
        store.upsert(&chunks, Some(Vectors { embedder: "m", rows: &rows })).unwrap();
        let query = vec![vec![1.0, 1.0, 0.0]];
        let hits = store.search_vector(Vectors { embedder: "m", rows: &query }, 7, None).unwrap();
        let cosine = |row: &[f32]| {
            let norm: f32 = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            f64::from((row[0] + row[1]) / norm / 2f32.sqrt())
        };
        let mut expect: Vec<(f64, usize)> = rows.iter().map(|r| cosine(r)).zip(0..).collect();
        expect.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (hit, (score, i)) in hits.iter().zip(expect) {
            assert_eq!(hit.chunk.id, format!("d{i}#0"));
            assert!((hit.score - score).abs() < 1e-6);
        }
    });
}

#[test]
fn an_upsert_replaces_and_a_delete_leaves_nothing() {
    each_store(|store| {
        store.upsert(&[chunk_with("a#0", "blue shirts", serde_json::json!({"c": "old"}))], None).unwrap();
        store.upsert(&[chunk_with("a#0", "red trousers", serde_json::json!({"c": "new"}))], None).unwrap();
        assert_eq!(store.count(None).unwrap(), 1);
        assert!(store.search_text("shirts", 5, None).unwrap().is_empty());
        assert_eq!(store.count(Some(&Filter::eq("c", "old"))).unwrap(), 0);
        assert_eq!(ids(&store.search_text("trousers", 5, None).unwrap()), ["a#0"]);
        assert_eq!(store.delete(&Filter::documents(&["a"])).unwrap(), 1);
        assert_eq!(store.count(None).unwrap(), 0);
        assert!(store.search_text("trousers", 5, None).unwrap().is_empty());
        assert_eq!(store.get(&["a#0"]).unwrap(), [None]);
    });
}

#[test]
fn a_repeated_query_term_counts_each_time() {
    each_store(|store| {
        let chunks = [
            chunk_with("a#0", "alpha filler words here", serde_json::json!({})),
            chunk_with("b#0", "beta filler words here", serde_json::json!({})),
        ];
        store.upsert(&chunks, None).unwrap();
        assert_eq!(ids(&store.search_text("alpha beta beta", 2, None).unwrap()), ["b#0", "a#0"]);
        // Equal scores come in the order in which the chunks did.
        assert_eq!(ids(&store.search_text("beta alpha", 2, None).unwrap()), ["a#0", "b#0"]);
    });
}

#[test]
fn strangers_vectors_are_refused() {
    each_store(|store| {
        let chunks = [chunk_with("a#0", "x", serde_json::json!({}))];
        let one = |dim: usize| vec![vec![1.0f32; dim]];
        assert!(matches!(
            store.search_vector(Vectors { embedder: "m", rows: &one(4) }, 1, None),
            Err(RagError::NoVectors)
        ));
        store.upsert(&chunks, Some(Vectors { embedder: "m", rows: &one(4) })).unwrap();
        for (name, dim) in [("other", 4), ("m", 5)] {
            let (rows, found) = (one(dim), Vectors { embedder: name, rows: &one(dim) });
            assert!(matches!(store.search_vector(found, 1, None), Err(RagError::OtherEmbedder { .. })));
            let found = store.upsert(&chunks, Some(Vectors { embedder: name, rows: &rows }));
            assert!(matches!(found, Err(RagError::OtherEmbedder { .. })), "{name} {dim}");
        }
        for rows in [vec![], vec![vec![0.0; 4]], vec![vec![f32::NAN; 4]]] {
            let found = store.upsert(&chunks, Some(Vectors { embedder: "m", rows: &rows }));
            assert!(matches!(found, Err(RagError::Shape { .. })), "{rows:?}");
        }
    });
}

#[test]
fn hostile_queries_and_keys_are_only_text() {
    each_store(|store| {
        store
            .upsert(&[chunk_with("a'#0", "it's \"quoted\"", serde_json::json!({"k'\"": "v'"}))], None)
            .unwrap();
        for query in ["\"", "'; DROP TABLE chunks; --", "AND OR NOT NEAR(", "\0", "", &"x ".repeat(5000)] {
            store.search_text(query, 3, None).unwrap();
        }
        assert_eq!(store.count(Some(&Filter::eq("k'\"", "v'"))).unwrap(), 1);
        assert_eq!(store.search_text("quoted", 0, None).unwrap(), []);
        assert_eq!(store.search_text("quoted", usize::MAX, None).unwrap().len(), 1);
    });
}

#[test]
fn indexing_again_does_only_what_changed() {
    let mut store = SqliteStore::in_memory().unwrap();
    let mut run = |texts: [&str; 3], embedder: Option<&dyn Embed>| {
        let documents: Vec<Document> =
            ["a", "b", "c"].iter().zip(texts).map(|(id, t)| document(id, t)).collect();
        index(&mut store, &documents, &ChunkConfig::default(), embedder)
    };
    let embedder = HashEmbed::new(16);
    let first = run(["one", "two", "  "], Some(&embedder)).unwrap();
    assert_eq!(first, IndexReport { documents: 3, unchanged: 0, empty: 1, chunks: 2, removed: 0 });
    let second = run(["one", "two changed", "three"], Some(&embedder)).unwrap();
    assert_eq!(second, IndexReport { documents: 3, unchanged: 1, empty: 0, chunks: 2, removed: 1 });
    let error = run(["one", "two", "three"], None).unwrap_err().to_string();
    assert!(error.contains("made with hash-16"), "{error}");
    let error = run(["one", "two", "three"], Some(&HashEmbed::new(8))).unwrap_err().to_string();
    assert!(
        error.contains("holds vectors of hash-16 (16 numbers each) and was asked with hash-8 (8)"),
        "{error}"
    );
    let twice = [document("a", "x"), document("a", "y")];
    let error = index(&mut store, &twice, &ChunkConfig::default(), None).unwrap_err().to_string();
    assert!(error.contains("two documents have 'a'"), "{error}");
}

#[test]
fn an_embedder_given_later_makes_the_vectors() {
    let mut store = SqliteStore::in_memory().unwrap();
    let embedder = HashEmbed::new(16);
    let mut run = |texts: &[&str], embedder: Option<&dyn Embed>| {
        let documents: Vec<Document> = ["a", "b"].iter().zip(texts).map(|(id, t)| document(id, t)).collect();
        let report = index(&mut store, &documents, &ChunkConfig::default(), embedder).unwrap();
        (report.unchanged, report.chunks, store.without_vectors().unwrap().len())
    };
    assert_eq!(run(&["one", "two"], None), (0, 2, 2));
    assert_eq!(run(&["one"], Some(&embedder)), (0, 1, 1));
    assert_eq!(run(&["one", "two"], Some(&embedder)), (1, 1, 0));
    assert_eq!(run(&["one", "two"], Some(&embedder)), (2, 0, 0));
}

#[test]
fn documents_that_are_gone_can_be_removed() {
    each_store(|store| {
        let all = ["a", "b", "c"].map(|id| document(id, "blue shirts"));
        index(store, &all, &ChunkConfig::default(), None).unwrap();
        assert_eq!(remove_others(store, &all[1..2]).unwrap(), ["a", "c"]);
        assert_eq!(ids(&store.search_text("shirts", 5, None).unwrap()), ["b#0"]);
        assert!(remove_others(store, &all).unwrap().is_empty());
    });
}

#[test]
fn several_may_index_into_one_new_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.index");
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let path = &path;
            scope.spawn(move || {
                for round in 0..6 {
                    let mut store = SqliteStore::open_or_create(path, Language::English).unwrap();
                    let id = format!("d{worker}");
                    let documents = [document(&id, &format!("round {round}")), document("all", "the same")];
                    index(&mut store, &documents, &ChunkConfig::default(), None).unwrap();
                }
            });
        }
    });
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.documents().unwrap().len(), 5);
}

#[test]
fn an_index_file_outlives_its_store_and_is_seen_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.index");
    assert!(matches!(SqliteStore::open(&path), Err(RagError::Sqlite { .. })));
    let mut writer = SqliteStore::open_or_create(&path, Language::English).unwrap();
    writer.upsert(&[chunk_with("a#0", "blue shirts", serde_json::json!({}))], None).unwrap();
    let reader = SqliteStore::open(&path).unwrap();
    assert_eq!(ids(&reader.search_text("shirt", 5, None).unwrap()), ["a#0"]);
    // The reader holds postings in memory now; it must notice what the writer does.
    writer.upsert(&[chunk_with("b#0", "a shirt shirt", serde_json::json!({}))], None).unwrap();
    assert_eq!(ids(&reader.search_text("shirt", 5, None).unwrap()), ["b#0", "a#0"]);
    let error = SqliteStore::open_or_create(&path, Language::German).unwrap_err().to_string();
    assert!(error.contains("language"), "{error}");
}

#[test]
fn other_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], expect: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = SqliteStore::open(&path).unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains(name), "{error}");
    };
    check(
        "text.index",
        &b"this is no database, only a text that is long enough ".repeat(20),
        "no SQLite file",
    );
    let whole = folder.path().join("whole.index");
    let mut store = SqliteStore::open_or_create(&whole, Language::English).unwrap();
    store.upsert(&crowd(), None).unwrap();
    drop(store);
    let bytes = std::fs::read(&whole).unwrap();
    check(
        "future.index",
        &{
            let mut b = bytes.clone();
            b[63] = 9;
            b
        },
        "its format is 9",
    );
    check(
        "other.index",
        &{
            let mut b = bytes.clone();
            b[68] = 0;
            b
        },
        "another program",
    );
    check("empty.index", b"", "it is empty: delete it and index again");
    // Cut short: an error that says what to do, whenever it is noticed, and never a panic.
    let path = folder.path().join("cut.index");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let found = SqliteStore::open(&path).and_then(|store| store.search_text("gift", 5, None));
    let error = found.unwrap_err().to_string();
    assert!(error.contains("cut.index is damaged: delete it and index"), "{error}");
}

fn meta_value() -> impl Strategy<Value = MetaValue> {
    prop_oneof![
        any::<bool>().prop_map(MetaValue::Bool),
        (-3..4i8).prop_map(|n| MetaValue::Number(f64::from(n))),
        "[ab]{0,2}".prop_map(MetaValue::Text),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    let key = || prop::sample::select(vec!["k", "l", "doc_id"]).prop_map(str::to_owned);
    let bound = || prop::option::of(meta_value());
    let leaf = prop_oneof![
        (key(), meta_value()).prop_map(|(key, value)| Filter::Eq { key, value }),
        (key(), prop::collection::vec(meta_value(), 0..3))
            .prop_map(|(key, values)| Filter::In { key, values }),
        (key(), bound(), bound()).prop_map(|(key, min, max)| Filter::Range { key, min, max }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|f| Filter::Not(Box::new(f))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_store_filters_as_the_definition_says(
        metas in prop::collection::vec((meta_value(), prop::collection::vec(meta_value(), 0..3)), 1..12),
        filter in filter(),
    ) {
        let chunks: Vec<Chunk> = metas.iter().enumerate()
            .map(|(i, (k, l))| chunk_with(&format!("{}#{i}", ["a", "b"][i % 2]), "word", serde_json::json!({"k": k, "l": l})))
            .collect();
        let mut expect: Vec<&str> =
            chunks.iter().filter(|c| filter.matches(c)).map(|c| c.id.as_str()).collect();
        expect.sort_unstable();
        each_store(|store| {
            store.upsert(&chunks, None).unwrap();
            assert_eq!(store.count(Some(&filter)).unwrap(), expect.len());
            let hits = store.search_text("word", 100, Some(&filter)).unwrap();
            let mut found = ids(&hits);
            found.sort_unstable();
            assert_eq!(found, expect);
            // What is deleted is what passed, and no more.
            assert_eq!(store.delete(&filter).unwrap(), expect.len());
            assert_eq!(store.count(None).unwrap(), chunks.len() - expect.len());
        });
    }

    #[test]
    fn a_filter_survives_json(filter in filter()) {
        let text = serde_json::to_string(&filter).unwrap();
        prop_assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), filter);
    }
}
