//! Throughput, in rows, of what looks at all rows: keeping apart, splitting, mixing, topics, a whole inspection.
//!
//! Over the demo shop's tickets; each answer is asserted.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferrotune_data::Record;
use ferrotune_data::clean::boilerplate::{self, BoilerplateConfig};
use ferrotune_data::decontaminate::{DecontaminateConfig, EvaluationSet, decontaminate};
use ferrotune_data::dedup::{DedupConfig, SubstringConfig, dedup, dedup_against, substring_dedup};
use ferrotune_data::inspect::{Context, InspectConfig, TopicConfig, inspect, topics};
use ferrotune_data::mix::{MixConfig, Source, mix};
use ferrotune_data::read::{ReadOptions, open};
use ferrotune_data::split::{SplitConfig, split};

fn tickets() -> Vec<Record> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bluesky/tickets.jsonl");
    open(&path, &ReadOptions::default()).expect("the fixture is in the repository").0
}

fn sets(c: &mut Criterion) {
    let rows = tickets();
    let n = rows.len();
    let mut group = c.benchmark_group("set");
    group.throughput(Throughput::Elements(n as u64)).sample_size(10);
    group.bench_function("dedup", |b| {
        b.iter(|| {
            let result = dedup(rows.clone(), &DedupConfig::default()).expect("usual settings");
            assert!(result.dropped.len() > 20, "{}", result.dropped.len());
        });
    });
    group.bench_function("dedup_against", |b| {
        b.iter(|| {
            let result = dedup_against(rows.clone(), &rows[..100], &DedupConfig::default()).expect("usual");
            assert!(result.dropped.len() >= 100);
        });
    });
    group.bench_function("substring", |b| {
        let config = SubstringConfig::default();
        b.iter(|| black_box(substring_dedup(rows.clone(), &config).expect("usual settings")));
    });
    group.bench_function("boilerplate", |b| {
        let config = BoilerplateConfig::default();
        b.iter(|| black_box(boilerplate::remove(&mut rows.clone(), &config, &mut Vec::new())));
    });
    group.bench_function("decontaminate", |b| {
        let exam = EvaluationSet::of_records("exam", &rows[..100], false);
        let sets = [exam];
        b.iter(|| {
            let result = decontaminate(rows.clone(), &sets, &DecontaminateConfig::default()).expect("usual");
            assert!(result.dropped.len() > 50, "{}", result.dropped.len());
        });
    });
    group.bench_function("split", |b| {
        b.iter(|| {
            let sets = split(rows.clone(), &SplitConfig::default()).expect("usual settings");
            assert!((sets.validation.len() as f64 / n as f64 - 0.1).abs() < 0.02);
        });
    });
    group.bench_function("mix", |b| {
        let source = |name: &str, replay, records: &[Record]| Source {
            name: name.to_owned(),
            weight: None,
            replay,
            records: records.to_vec(),
        };
        let sources = [source("desk", false, &rows[..n / 2]), source("general", true, &rows[n / 2..])];
        let config = MixConfig { replay: 0.25, ..MixConfig::default() };
        b.iter(|| assert!(mix(&sources, &config).expect("usual settings").records.len() > n / 2));
    });
    group.bench_function("topics", |b| {
        b.iter(|| assert!(topics(&rows, &TopicConfig::default()).len() > 5));
    });
    group.bench_function("inspect", |b| {
        b.iter(|| {
            let seen =
                inspect(&rows, &Context::default(), &InspectConfig::default()).expect("usual settings");
            assert!(!seen.is_ready());
        });
    });
    group.finish();
}

criterion_group!(benches, sets);
criterion_main!(benches);
