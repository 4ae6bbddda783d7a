//! How fast `pii::find` reads, in bytes. The labelled sentences are what Presidio's recognizers are timed on;
//! prose shows the speed where little is found.

use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferrotune_data::pii::{self, Kind, PiiConfig};
use serde_json::Value;

fn shared(file: &str) -> Option<String> {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(file))
        .ok()
}

/// The first 500 sentences of Presidio's file, or as many of our own where it is absent.
fn sentences() -> Vec<String> {
    let rows: Vec<Value> = shared("presidio_research/generated_large.json")
        .and_then(|f| serde_json::from_str(&f).ok())
        .unwrap_or_default();
    let texts: Vec<String> =
        rows.iter().filter_map(|r| r["full_text"].as_str().map(str::to_owned)).take(500).collect();
    if !texts.is_empty() {
        return texts;
    }
    (0..500)
        .map(|i| {
            format!(
                "My card 4929360003811724 was lost, please call +49 30 90182{i} or mail sam{i}@example.org."
            )
        })
        .collect()
}

fn bench(c: &mut Criterion) {
    let config = PiiConfig::everything();
    let texts = sentences();
    let bytes = texts.iter().map(String::len).sum::<usize>() as u64;
    let mut group = c.benchmark_group("pii");
    group.throughput(Throughput::Bytes(bytes));
    let count = |config: &PiiConfig| texts.iter().map(|t| pii::find(t, config).len()).sum::<usize>();
    assert!(count(&config) >= 500, "the sentences hold personal data");
    group.bench_function("sentences, every kind", |b| b.iter(|| count(&config)));
    let patterns = PiiConfig {
        kinds: Kind::ALL.into_iter().filter(|k| !matches!(k, Kind::Person | Kind::Address)).collect(),
        ..PiiConfig::default()
    };
    group.bench_function("sentences, pattern kinds", |b| b.iter(|| count(&patterns)));
    if let Some(prose) = shared("wikitext2/valid.txt") {
        group.throughput(Throughput::Bytes(prose.len() as u64));
        assert!(pii::find(&prose, &config).len() > 500, "prose names persons and dates");
        group.bench_function("prose, every kind", |b| b.iter(|| pii::find(&prose, &config).len()));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(3));
    targets = bench
}
criterion_main!(benches);
