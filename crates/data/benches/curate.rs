//! Throughput of reading, of each fix and filter, and of the whole tickets recipe, over the demo shop's tickets.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferrotune_data::clean::{Email, Html, Markdown, Mojibake, Unicode, Whitespace};
use ferrotune_data::curate::{self, Recipe};
use ferrotune_data::filter::toxicity::ToxicConfig;
use ferrotune_data::filter::{
    C4Quality, FineWebQuality, GopherQuality, GopherRepetition, Language, Length, MixedLanguage, Placeholder,
    Refusal, Repetition, Tickets, Toxic, Truncated, Turns,
};
use ferrotune_data::read::{ReadOptions, open};
use ferrotune_data::{Record, RecordStep};

fn tickets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bluesky/tickets.jsonl")
}

fn steps(c: &mut Criterion) {
    let (records, ..) = open(&tickets(), &ReadOptions::default()).expect("the fixture is in the repository");
    let bytes: usize = records.iter().flat_map(Record::texts).map(|(_, text)| text.len()).sum();
    let toxic = Toxic::new(&ToxicConfig::default()).expect("the built-in lexicon");
    // Each with how many rows it refuses or changes: a bench that does nothing is fast, too.
    let steps: Vec<(Box<dyn RecordStep>, bool)> = vec![
        (Box::new(Mojibake), true),
        (Box::new(Unicode::default()), false),
        (Box::new(Html), true),
        (Box::new(Markdown::default()), false),
        (Box::new(Email), true),
        (Box::new(Whitespace), true),
        (Box::new(Turns::default()), false),
        (Box::new(Placeholder::default()), true),
        (Box::new(Length { min_words: Some(3), ..Length::default() }), true),
        (Box::new(Tickets { min_satisfaction: Some(3.0), ..Tickets::default() }), true),
        (Box::new(Truncated::default()), true),
        (Box::new(Repetition::default()), true),
        (Box::new(Language { each: true, ..Language::default() }), true),
        (Box::new(MixedLanguage::default()), false),
        (Box::new(toxic), true),
        (Box::new(Refusal::default()), true),
        (Box::new(GopherQuality::default()), true),
        (Box::new(GopherRepetition::default()), true),
        (Box::new(C4Quality::default()), true),
        (Box::new(FineWebQuality::default()), false),
    ];
    let mut group = c.benchmark_group("step");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    for (step, must_act) in &steps {
        group.bench_function(step.name(), |b| {
            b.iter_batched(
                || records.clone(),
                |mut records| {
                    let mut edits = Vec::new();
                    let refused = records.iter_mut().filter_map(|r| step.apply(r, &mut edits).err()).count();
                    assert!(!must_act || refused + edits.len() > 0, "{} did nothing", step.name());
                    black_box(records)
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn whole(c: &mut Criterion) {
    let path = tickets();
    let size = std::fs::metadata(&path).expect("the fixture is in the repository").len();
    let mut group = c.benchmark_group("file");
    group.throughput(Throughput::Bytes(size)).sample_size(10);
    group.bench_function("read", |b| {
        b.iter(|| {
            let (records, dropped, _) = open(&path, &ReadOptions::default()).expect("readable");
            assert!(records.len() > 900 && !dropped.is_empty());
        });
    });
    let recipe = Recipe::builtin("tickets").expect("a built-in recipe");
    group.bench_function("tickets recipe", |b| {
        b.iter(|| {
            let outcome = curate::run(std::slice::from_ref(&path), &recipe, &mut ()).expect("runs");
            assert_eq!(outcome.report.read, outcome.kept.len() + outcome.dropped.len());
        });
    });
    group.finish();
}

criterion_group!(benches, steps, whole);
criterion_main!(benches);
