//! Near-duplicate detection, shingling included, in bytes of text a second.
//!
//! On the McCormick articles where the shared data is there, else on texts made up here; the answer is asserted.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferrotune_data::dedup::{MinHashConfig, Shingling, clusters, jaccard, simhash_clusters};

/// Texts, and how many of them repeat an earlier one.
fn articles() -> (Vec<String>, usize) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/near_dup_mccormick/articles_1000.train");
    if let Ok(text) = std::fs::read_to_string(file) {
        let articles = text.lines().filter_map(|l| l.split_once(' ')).map(|(_, article)| article.to_owned());
        return (articles.collect(), 10);
    }
    let article = |i: usize| {
        let words: Vec<String> =
            (0..250).map(|w| format!("word{}", (i * 7919 + w * w * 31) % 5003)).collect();
        words.join(" ")
    };
    let mut texts: Vec<String> = (0..990).map(article).collect();
    texts.extend((0..10).map(|i| format!("{} and more", article(i))));
    (texts, 10)
}

fn dedup(c: &mut Criterion) {
    let (texts, repeats) = articles();
    let bytes = texts.iter().map(String::len).sum::<usize>();
    let mut group = c.benchmark_group("dedup");
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
    for permutations in [128, 256] {
        let config = MinHashConfig { permutations, ..MinHashConfig::default() };
        let n_joined = |of: &[usize]| of.iter().enumerate().filter(|&(i, &first)| i != first).count();
        group.bench_function(format!("minhash/{permutations}"), |b| {
            b.iter(|| {
                let found = clusters(black_box(&texts), &config).expect("the settings are in range");
                assert_eq!(n_joined(&found.of), repeats);
            });
        });
    }
    group.bench_function("simhash", |b| {
        b.iter(|| black_box(simhash_clusters(black_box(&texts), &Shingling::default(), 3)));
    });
    group.bench_function("jaccard of neighbours", |b| {
        let how = Shingling::default();
        b.iter(|| texts.windows(2).map(|w| jaccard(&w[0], &w[1], &how)).sum::<f64>());
    });
    group.finish();
}

criterion_group!(benches, dedup);
criterion_main!(benches);
