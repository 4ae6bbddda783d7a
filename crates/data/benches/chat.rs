//! Rendering with assistant spans, in conversations a second: spans from generation blocks, and derived ones.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ferrotune_data::chat::{ChatTemplate, RenderOptions};
use ferrotune_types::{Conversation, Message, Role, SpecialTokens};

const PLAIN: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\
                     {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn render(c: &mut Criterion) {
    let turns = |i: usize| {
        let role = if i.is_multiple_of(2) { Role::User } else { Role::Assistant };
        Message::new(role, format!("turn {i}: {}", "some words of it ".repeat(12)))
    };
    let chat = |n: usize| Conversation {
        id: "bench".into(),
        messages: (0..n).map(turns).collect(),
        tools: vec![],
        meta: serde_json::Map::new(),
    };
    let marked = ChatTemplate::builtin("chatml").unwrap();
    let derived = ChatTemplate::new(PLAIN, &SpecialTokens::default()).unwrap();
    let options = RenderOptions::default();
    let mut group = c.benchmark_group("render");
    group.throughput(Throughput::Elements(1));
    for n in [2, 10] {
        let chat = chat(n);
        let (a, b) = (marked.render(&chat, &options).unwrap(), derived.render(&chat, &options).unwrap());
        assert_eq!((a.text(), a.assistant()), (b.text(), b.assistant()));
        assert_eq!(a.assistant().len(), n / 2);
        group.bench_function(format!("marked_{n}_turns"), |b| {
            b.iter(|| marked.render(black_box(&chat), &options));
        });
        group.bench_function(format!("derived_{n}_turns"), |b| {
            b.iter(|| derived.render(black_box(&chat), &options));
        });
    }
    group.finish();
}

criterion_group!(benches, render);
criterion_main!(benches);
