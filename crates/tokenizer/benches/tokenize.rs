//! Tokenise and mask, in bytes a second, fast path against the general one; packing, in examples a second.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferrotune_tokenizer::{Limits, Packing, Tokenizer, TrainConfig, pack};
use ferrotune_types::{Example, Rendered};

const WORDS: [&str; 12] =
    ["where", "is", "my", "order", "number", "4711", "café", "shipped", "this", "morning", "the", "北京"];

/// Text of the words in a fixed irregular order.
fn text(n: usize) -> String {
    (0..n).map(|i| WORDS[(i * i + i / 3) % WORDS.len()]).collect::<Vec<_>>().join(" ")
}

fn tokenise(c: &mut Criterion) {
    let corpus: Vec<String> = (1..200).map(text).collect();
    let config = TrainConfig { vocab_size: 2_000, ..TrainConfig::default() };
    let tokenizer = Tokenizer::train(&corpus, &config).unwrap();
    assert!(tokenizer.is_fast());
    let said = text(150);
    let prompt = format!("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", text(60));
    let whole = format!("{prompt}{said}<|im_end|>\n");
    let span = prompt.len()..whole.len();
    let rendered = Rendered::new(whole.clone(), vec![span]).unwrap();
    let limits = Limits::default();
    let made = tokenizer.example(&rendered, "row", &limits).unwrap().item;
    let trained = made.ids().iter().zip(made.loss_mask()).filter(|(_, mask)| **mask).map(|(id, _)| *id);
    assert_eq!(tokenizer.decode(&trained.collect::<Vec<_>>(), false).unwrap(), format!("{said}<|im_end|>\n"));

    let mut group = c.benchmark_group("tokenise");
    group.throughput(Throughput::Bytes(whole.len() as u64));
    group.bench_function("example", |b| b.iter(|| tokenizer.example(black_box(&rendered), "row", &limits)));
    group.bench_function("encode", |b| b.iter(|| tokenizer.encode(black_box(&whole), false)));
    group.finish();
}

fn packing(c: &mut Criterion) {
    let example = |i: usize| {
        let n = 1 + (i * 7919) % 900;
        Example::new(i.to_string(), vec![1; n], vec![false; n]).unwrap()
    };
    let examples: Vec<Example> = (0..10_000).map(example).collect();
    let mut group = c.benchmark_group("pack");
    group.sample_size(10);
    group.throughput(Throughput::Elements(examples.len() as u64));
    group.bench_function("best_fit", |b| {
        b.iter_batched(
            || examples.clone(),
            |examples| {
                let (_, report) = pack(examples, 1024, Packing::BestFit).unwrap();
                assert!(report.efficiency > 0.99);
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, tokenise, packing);
criterion_main!(benches);
