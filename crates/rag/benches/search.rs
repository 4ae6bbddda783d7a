//! Searches over 5,000 chunks: terms per query and vectors per second, with the answer checked.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferrotune_rag::{Chunk, Filter, HashEmbed, SqliteStore, Store, Vectors};
use ferrotune_types::Embed;

const N: usize = 5_000;
const DIM: usize = 384;

fn chunk(i: usize) -> Chunk {
    let text = format!("item {i} costs {} dollars in group {} of the long catalogue", i * 7 % 997, i % 50);
    let meta = serde_json::json!({ "group": i % 100 });
    Chunk {
        id: format!("d{i}#0"),
        doc_id: format!("d{i}"),
        start: 0,
        end: text.len(),
        heading: String::new(),
        text,
        fingerprint: String::new(),
        meta: meta.as_object().cloned().unwrap_or_default(),
    }
}

fn search(c: &mut Criterion) {
    let chunks: Vec<Chunk> = (0..N).map(chunk).collect();
    let embedder = HashEmbed::new(DIM);
    let texts: Vec<&str> = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
    let rows = embedder.embed(&texts).expect("hashing never fails");
    let mut store = SqliteStore::in_memory().expect("memory suffices");
    store.upsert(&chunks, Some(Vectors { embedder: embedder.name(), rows: &rows })).expect("valid chunks");
    let query = "item 4321 in the catalogue";
    let vector = embedder.embed(&[query]).expect("hashing never fails");
    let vector = Vectors { embedder: embedder.name(), rows: &vector };
    let filter = Filter::eq("group", 21.0);

    let mut group = c.benchmark_group("search");
    group.throughput(Throughput::Elements(N as u64));
    group.bench_function("text", |b| {
        b.iter(|| {
            let hits = store.search_text(black_box(query), 10, None).expect("a search");
            assert_eq!(hits[0].chunk.id, "d4321#0");
        });
    });
    group.bench_function("vector", |b| {
        b.iter(|| {
            let hits = store.search_vector(black_box(vector), 10, None).expect("a search");
            assert_eq!(hits.len(), 10);
        });
    });
    group.bench_function("text under a 1% filter", |b| {
        b.iter(|| {
            let hits = store.search_text(black_box(query), 10, Some(&filter)).expect("a search");
            assert_eq!((hits.len(), hits[0].chunk.id.as_str()), (10, "d4321#0"));
        });
    });
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
