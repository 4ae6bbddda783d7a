//! Near-duplicate detection against ground truth, and its laws.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ferrotune_data::dedup::{
    Banding, DedupConfig, Keep, MinHashConfig, Shingling, clusters, dedup, dedup_against, jaccard,
};
use ferrotune_data::{Item, Origin, Record};
use ferrotune_types::{Conversation, Document, Message, Role};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// A folder of the shared test data, or `None` with a note.
fn shared(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(folder);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn the_mccormick_articles_come_out_exactly_right() {
    let Some(folder) = shared("near_dup_mccormick") else { return };
    for size in [100, 1000] {
        let articles = std::fs::read_to_string(folder.join(format!("articles_{size}.train"))).unwrap();
        let (ids, texts): (Vec<&str>, Vec<&str>) = articles.lines().filter_map(|l| l.split_once(' ')).unzip();
        let truth = std::fs::read_to_string(folder.join(format!("articles_{size}.truth"))).unwrap();
        let mut truth: Vec<Vec<&str>> = truth.lines().map(|l| l.split(' ').collect()).collect();
        let found = clusters(&texts[..], &MinHashConfig::default()).unwrap();
        let mut found: Vec<Vec<&str>> =
            found.groups().into_iter().map(|group| group.into_iter().map(|t| ids[t]).collect()).collect();
        for pair in truth.iter_mut().chain(&mut found) {
            pair.sort_unstable();
        }
        truth.sort();
        found.sort();
        assert_eq!(found, truth, "{size} articles");
    }
}

/// Passages of 40 words from real documents, of which no two share five words in a row.
fn passages() -> Option<Vec<Vec<String>>> {
    let text = std::fs::read_to_string(shared("llama_factory")?.join("c4_demo.jsonl")).unwrap();
    let documents = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (mut passages, mut seen) = (Vec::new(), BTreeSet::new());
    for document in documents {
        let words: Vec<String> = document["text"].as_str().unwrap().split_whitespace().map(cut).collect();
        for passage in words.chunks_exact(40) {
            let grams: Vec<String> = passage.windows(5).map(|w| w.join(" ")).collect();
            if passage.iter().all(|w| !w.is_empty()) && grams.iter().all(|gram| !seen.contains(gram)) {
                seen.extend(grams);
                passages.push(passage.to_vec());
            }
        }
    }
    assert!(passages.len() > 2000, "{}", passages.len());
    Some(passages)
}

/// A word without what would cut it in two.
fn cut(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase()
}

/// `passage` with `lost` of its 36 word 5-grams changed, by invented words at its start, its end or inside:
/// Jaccard similarity (36 - lost) / (36 + lost), repeats in the passage aside.
fn edited(passage: &[String], lost: usize, rng: &mut ChaCha8Rng) -> String {
    let mut words = passage.to_vec();
    let n = words.len();
    let place = match rng.random_range(0..3) {
        0 => 0..lost,
        1 if lost > 4 => {
            let start = rng.random_range(4..n - lost);
            start..start + lost - 4
        }
        _ => n - lost..n,
    };
    for word in &mut words[place] {
        *word = format!("zq{}", rng.random::<u32>());
    }
    words.join(" ")
}

/// All texts are long, so that the hard set's similarities are those of word 5-grams.
fn by_words() -> Shingling {
    Shingling { short_words: 0, ..Shingling::default() }
}

#[test]
fn recall_follows_the_s_curve_and_precision_is_one() {
    let Some(passages) = passages() else { return };
    // A threshold below the hard set's similarities and little recall asked for: a curve in full view.
    let config = MinHashConfig {
        threshold: 0.45,
        recall: 0.1,
        permutations: 64,
        shingling: by_words(),
        ..MinHashConfig::default()
    };
    let split = config.banding();
    assert_eq!(split, Banding { bands: 12, rows: 5 });
    for lost in [2, 5, 7, 9, 12] {
        let mut rng = ChaCha8Rng::seed_from_u64(lost as u64);
        let (mut texts, mut similarity, mut expected) = (Vec::new(), 0.0, 0.0);
        for passage in &passages {
            let (original, copy) = (passage.join(" "), edited(passage, lost, &mut rng));
            let s = jaccard(&original, &copy, &config.shingling);
            similarity += s;
            expected += split.probability(s);
            texts.extend([original, copy]);
        }
        let (mut found, seeds) = (0, 2);
        for seed in 0..seeds {
            let of = clusters(&texts, &MinHashConfig { seed, ..config.clone() }).unwrap().of;
            for (text, &first) in of.iter().enumerate() {
                let joins_its_twin = text % 2 == 1 && first == text - 1;
                assert!(first == text || joins_its_twin, "{} was joined to {}", texts[text], texts[first]);
                found += usize::from(joins_its_twin);
            }
        }
        let n = passages.len() as f64;
        let (recall, expected) = (found as f64 / (n * seeds as f64), expected / n);
        eprintln!("{n} pairs of {:.3}: recall {recall:.4}, by the curve {expected:.4}", similarity / n);
        assert!((recall - expected).abs() < 0.02, "lost {lost}: recall {recall}, by the curve {expected}");
    }
}

#[test]
fn precision_at_the_threshold_is_one() {
    let Some(passages) = passages() else { return };
    let config = MinHashConfig { shingling: by_words(), ..MinHashConfig::default() };
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let (mut texts, mut similarities) = (Vec::new(), Vec::new());
    for (i, passage) in passages.iter().enumerate() {
        let (original, copy) = (passage.join(" "), edited(passage, 4 + i % 5, &mut rng));
        similarities.push(jaccard(&original, &copy, &config.shingling));
        texts.extend([original, copy]);
    }
    let of = clusters(&texts, &config).unwrap().of;
    let (mut found, mut near) = (0, 0);
    for (i, &s) in similarities.iter().enumerate() {
        let joined = of[2 * i + 1] == 2 * i;
        assert!(!joined || s >= config.threshold, "a pair of {s} was joined");
        near += usize::from(s >= config.threshold);
        found += usize::from(joined);
    }
    eprintln!("{found} of {near} pairs at or above the threshold found, of {} pairs", similarities.len());
    assert!(near * 2 > similarities.len() && near < similarities.len());
    assert!(found as f64 >= config.recall * near as f64, "{found} of {near}");
}

fn document(id: &str, text: &str) -> Record {
    let item = Item::Document(Document { id: id.into(), text: text.into(), meta: serde_json::Map::new() });
    Record { item, origin: Origin { file: "a.jsonl".into(), line: 1 } }
}

fn ticket(id: &str, question: &str, answer: &str, meta: Value) -> Record {
    let Value::Object(meta) = meta else { panic!("meta is an object") };
    let item = Item::Chat(Conversation {
        id: id.into(),
        messages: vec![
            Message::new(Role::System, "You are the help desk of a clothing shop. Be friendly and brief."),
            Message::new(Role::User, question),
            Message::new(Role::Assistant, answer),
        ],
        tools: Vec::new(),
        meta,
    });
    Record { item, origin: Origin { file: "a.jsonl".into(), line: 1 } }
}

fn ids(records: &[Record]) -> Vec<&str> {
    records.iter().map(Record::id).collect()
}

#[test]
fn tickets_are_duplicates_by_question_and_answer() {
    let check = |a: (&str, &str), b: (&str, &str), duplicates: bool| {
        let rows = vec![ticket("a", a.0, a.1, json!({})), ticket("b", b.0, b.1, json!({}))];
        let n = dedup(rows, &DedupConfig::default()).unwrap().kept.len();
        assert_eq!(n == 1, duplicates, "{a:?} | {b:?}");
    };
    let question = "Hi, I bought a jumper last week and it does not fit. Can I send it back?";
    let answer = "Of course! You can return it within 30 days with your receipt. The label is in the parcel.";
    check((question, answer), (question, answer), true);
    check((question, answer), (&question.to_uppercase(), &format!("{answer} ")), true);
    check(
        (question, answer),
        ("Hi, I bought a jumper last week and it doesn't fit, can I send it back?", answer),
        true,
    );
    check((question, answer), (question, &answer.replace("Of course", "Certainly")), true);
    // Another answer to the same question, and the same answer to another question.
    check((question, answer), (question, &answer.replace("30 days", "14 days")), false);
    check((question, answer), (question, "Sorry, sale items cannot be returned."), false);
    check((question, answer), ("My trousers arrived torn. What now?", answer), false);
    check((question, "Yes."), (question, "No."), false);
    check((question, ""), (question, ""), true);
}

/// The demo shop's raw rows that can be read, without any cleaning, and what was planted among them.
fn bluesky() -> (Vec<Record>, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bluesky");
    let planted = std::fs::read_to_string(folder.join("planted.json")).unwrap();
    let tickets = std::fs::read(folder.join("tickets.jsonl")).unwrap();
    let rows = tickets.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut records = Vec::new();
    for row in rows.filter(Value::is_object) {
        let mut record = ticket(&text(&row, "id"), &text(&row, "question"), &text(&row, "answer"), json!({}));
        if let (Item::Chat(chat), Ok(messages)) =
            (&mut record.item, serde_json::from_value(row["messages"].clone()))
        {
            chat.messages = messages;
        }
        records.push(record);
    }
    (records, serde_json::from_str(&planted).unwrap())
}

#[test]
fn the_shops_planted_duplicates_go_and_its_clean_tickets_stay() {
    let (records, planted) = bluesky();
    let result = dedup(records, &DedupConfig::default()).unwrap();
    let kept: BTreeSet<&str> = ids(&result.kept).into_iter().collect();
    for kind in ["exact_duplicate", "near_duplicate"] {
        let clusters = planted["planted"][kind].as_array().unwrap();
        let n_kept = |c: &&Value| {
            c["cluster"].as_array().unwrap().iter().filter(|id| kept.contains(id.as_str().unwrap())).count()
        };
        let caught = clusters.iter().filter(|c| n_kept(c) == 1).count();
        eprintln!("{kind}: {caught} of {}", clusters.len());
        assert!(caught as f64 >= 0.95 * clusters.len() as f64, "{kind}: {caught} of {}", clusters.len());
    }
    let planted_ids: BTreeSet<&str> = ["exact_duplicate", "near_duplicate"]
        .iter()
        .flat_map(|kind| planted["planted"][kind].as_array().unwrap())
        .flat_map(|c| c["cluster"].as_array().unwrap())
        .filter_map(Value::as_str)
        .collect();
    let clean = planted["clean"].as_array().unwrap().iter().filter_map(Value::as_str);
    let lost: Vec<&str> = clean.filter(|id| !planted_ids.contains(id) && !kept.contains(id)).collect();
    assert_eq!(lost, [""; 0], "clean rows lost");
}

#[test]
fn the_kept_twin_is_the_one_asked_for_and_is_named() {
    let long = "I never got my parcel, the tracking says delivered. Please help me!";
    let short = "I never got my parcel, the tracking says delivered. Please help!";
    let rows = || {
        vec![
            ticket("a", short, "We will look into it.", json!({"score": 3, "at": "2024-05-01"})),
            ticket("b", long, "We will look into it.", json!({"score": 1, "at": "2024-01-01"})),
            ticket("c", short, "We will look into it.", json!({"score": 5, "at": "2023-01-01T10:00:00Z"})),
        ]
    };
    let check = |keep: Keep, expect: &str, detail: &str| {
        let result = dedup(rows(), &DedupConfig { keep, ..DedupConfig::default() }).unwrap();
        assert_eq!(ids(&result.kept), [expect]);
        assert_eq!(result.dropped.len(), 2);
        let first = &result.dropped[0].detail;
        assert!(first.contains(expect) && first.contains(detail), "{first}");
    };
    check(Keep::Longest, "b", "the longest (");
    check(Keep::First, "a", "it came first");
    check(Keep::BestScore("score".into()), "c", "best score (5 against 3)");
    check(Keep::Newest("at".into()), "a", "newest at");
}

#[test]
fn a_chain_does_not_swallow_what_is_unlike_the_kept_row() {
    let words: Vec<String> = (0..160).map(|i| format!("word{i}")).collect();
    let rows: Vec<Record> =
        (0..12).map(|i| document(&format!("row-{i:02}"), &words[i * 5..i * 5 + 100].join(" "))).collect();
    let texts: Vec<String> = rows.iter().map(|r| r.texts()[0].1.to_owned()).collect();
    let config = DedupConfig::default();
    assert_eq!(clusters(&texts, &config.minhash).unwrap().groups().len(), 1, "one chain");
    let result = dedup(rows, &config).unwrap();
    assert!(result.kept.len() > 1);
    for (i, a) in result.kept.iter().enumerate() {
        for b in &result.kept[..i] {
            let s = jaccard(a.texts()[0].1, b.texts()[0].1, &config.minhash.shingling);
            assert!(s < config.minhash.threshold);
        }
    }
    let lost: Vec<f64> =
        result.report.clusters.iter().flat_map(|c| &c.dropped).map(|l| l.similarity).collect();
    assert_eq!(lost.len(), result.dropped.len());
    assert!(lost.iter().all(|&s| s >= config.minhash.threshold), "{lost:?}");
}

#[test]
fn one_set_against_another_drops_only_what_repeats_it() {
    let reference = [document("test-1", "The quick brown fox jumps over the lazy dog near the river.")];
    let rows = vec![
        document("x", "The quick brown fox jumps over a lazy dog near the river."),
        document("y", "Something else entirely was written here."),
        document("z", "Something else entirely was written here."),
    ];
    let result = dedup_against(rows, &reference, &DedupConfig::default()).unwrap();
    assert_eq!(ids(&result.kept), ["y", "z"]);
    assert!(result.dropped[0].detail.contains("test-1, kept because: it is in the reference set"));
}

#[test]
fn a_source_that_would_vanish_stops_the_run() {
    let rows: Vec<Record> = (0..40).map(|i| document(&format!("{i}"), "All of us say the same.")).collect();
    let error = dedup(rows.clone(), &DedupConfig::default()).unwrap_err().to_string();
    assert!(error.contains("would lose 39 of its 40 rows"), "{error}");
    let result = dedup(rows, &DedupConfig { max_source_loss: 1.0, ..DedupConfig::default() }).unwrap();
    assert_eq!(result.kept.len(), 1);
    assert!(result.report.alarms[0].contains("40 of 40 rows"), "{:?}", result.report.alarms);
}

#[test]
fn settings_out_of_range_are_refused() {
    let check = |config: MinHashConfig, expect: &str| {
        let error = clusters(&["a", "b"][..], &config).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let base = MinHashConfig::default;
    check(MinHashConfig { threshold: 0.0, ..base() }, "threshold must be");
    check(MinHashConfig { threshold: f64::NAN, ..base() }, "threshold must be");
    check(MinHashConfig { recall: 1.0, ..base() }, "recall must be");
    check(MinHashConfig { permutations: 0, ..base() }, "permutations must be");
    let unknown = toml::from_str::<DedupConfig>("treshold = 0.7").unwrap_err().to_string();
    assert!(unknown.contains("unknown field `treshold`"), "{unknown}");
}

#[test]
fn a_spilled_index_and_a_capped_bucket_find_the_same() {
    let texts: Vec<String> = (0..300)
        .map(|i| {
            format!(
                "customer {} asks about {} and wants to know more of it today",
                "abcde".repeat(i % 7 + 1),
                i / 30
            )
        })
        .collect();
    let config = MinHashConfig::default();
    let plain = clusters(&texts, &config).unwrap();
    assert!(plain.groups().len() > 3);
    let folder = tempfile::tempdir().unwrap();
    let spill_folder = Some(folder.path().to_owned());
    let spilled = clusters(&texts, &MinHashConfig { memory_mib: 0, spill_folder, ..config.clone() }).unwrap();
    assert!(spilled.stats.spilled && !plain.stats.spilled);
    assert_eq!(plain.of, spilled.of);
    let capped = clusters(&texts, &MinHashConfig { bucket_cap: 10, ..config }).unwrap();
    assert!(capped.stats.capped_buckets > 0);
    assert_eq!(plain.of, capped.of);
}

/// Texts that are often alike: few words, few of them.
fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("(alpha |beta |gamma |delta |one |two |not |3 ){0,12}\\PC{0,3}", 1..40)
}

/// The clusters as sets of texts, whatever the order they came in.
fn as_sets(texts: &[String], of: &[usize]) -> Vec<Vec<String>> {
    let mut sets = vec![Vec::new(); texts.len()];
    for (&first, text) in of.iter().zip(texts) {
        sets[first].push(text.clone());
    }
    sets.retain(|s: &Vec<String>| !s.is_empty());
    for set in &mut sets {
        set.sort();
    }
    sets.sort();
    sets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn clusters_do_not_depend_on_order_or_threads(texts in texts(), seed in 0..1000_u64, cap in 2..20_usize) {
        let config = MinHashConfig { bucket_cap: cap, ..MinHashConfig::default() };
        let found = clusters(&texts, &config).unwrap();
        let mut shuffled = texts.clone();
        shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let again = clusters(&shuffled, &config).unwrap();
        prop_assert_eq!(as_sets(&texts, &found.of), as_sets(&shuffled, &again.of));
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        prop_assert_eq!(found, one_thread.install(|| clusters(&texts, &config)).unwrap());
    }

    #[test]
    fn dedup_keeps_one_of_each_cluster_and_is_idempotent(texts in texts()) {
        let rows: Vec<Record> = texts.iter().enumerate().map(|(i, t)| document(&format!("{i:03}"), t)).collect();
        let config = DedupConfig { max_source_loss: 1.0, ..DedupConfig::default() };
        let once = dedup(rows.clone(), &config).unwrap();
        prop_assert_eq!(once.kept.len() + once.dropped.len(), rows.len());
        let twins: usize = once.report.clusters.iter().map(|c| c.dropped.len()).sum();
        prop_assert_eq!(twins, once.dropped.len());
        let mut named: Vec<&str> = once.report.clusters.iter().map(|c| c.kept.as_str()).collect();
        named.sort_unstable();
        named.dedup();
        prop_assert_eq!(named.len(), once.report.clusters.len());
        prop_assert!(named.iter().all(|id| ids(&once.kept).contains(id)));
        let twice = dedup(once.kept.clone(), &config).unwrap();
        prop_assert_eq!(twice.kept, once.kept);
    }
}
