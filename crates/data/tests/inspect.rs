//! Each check of the checklist can fail, the card and the page are whole, and nothing depends on chance.

use std::io::Write;

use ferrotune_data::inspect::{
    Context, InspectConfig, Inspection, Lost, Review, TopicConfig, Verdict, card, html, inspect,
    inspect_read, topics,
};
use ferrotune_data::{Dropped, Edit, Item, Origin, Record};
use ferrotune_types::{Conversation, Message, PreferencePair, Role};
use proptest::prelude::*;
use serde_json::{Map, json};

fn ticket(id: &str, question: &str, answer: &str) -> Record {
    let messages = vec![Message::new(Role::User, question), Message::new(Role::Assistant, answer)];
    let item = Item::Chat(Conversation { id: id.into(), messages, tools: Vec::new(), meta: Map::new() });
    Record { item, origin: Origin { file: "t.jsonl".into(), line: 1 } }
}

const THINGS: [&str; 8] = [
    "raincoat",
    "woollen jumper",
    "gift card",
    "loyalty points",
    "parcel",
    "student discount",
    "torn trousers",
    "children's sizes",
];
const ASKS: [&str; 6] = [
    "Could you tell me the price of",
    "I lost the receipt for",
    "My sister wants to exchange",
    "Is it possible to order more of",
    "Nobody on the telephone could explain",
    "What happens on public holidays with",
];
const SHORT: [&str; 3] =
    ["Gladly, the shop in Leeds has it.", "That depends on the season.", "It takes two days."];

/// A dataset that passes every check that needs nothing else.
fn good() -> Vec<Record> {
    let mut rows = Vec::new();
    for (i, thing) in THINGS.iter().enumerate() {
        for (j, ask) in ASKS.iter().enumerate() {
            let answer = match (i + j) % 5 {
                0 => format!("About the {thing}: I don't have that information, please ask in the shop."),
                1 | 2 => SHORT[(i * 2 + j) % 3].to_owned(),
                _ => format!(
                    "The {thing} is one of our favourites, so we looked into it at once and found out that it is \
                     best to come by in person, where colleagues measure and advise you free of charge and order \
                     whatever is missing."
                ),
            };
            rows.push(ticket(&format!("r{i}{j}"), &format!("{ask} the {thing}?"), &answer));
        }
    }
    rows
}

fn seen(rows: &[Record], context: &Context<'_>, change: impl FnOnce(&mut InspectConfig)) -> Inspection {
    let mut config = InspectConfig { honest_gaps: [0.01, 0.3], ..InspectConfig::default() };
    change(&mut config);
    inspect(rows, context, &config).unwrap()
}

#[test]
fn a_clean_dataset_with_all_that_is_needed_is_ready() {
    let rows = good();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.jsonl");
    let lines: Vec<String> = rows.iter().map(|r| serde_json::to_string(&r.item).unwrap()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let held_out = [ticket("v", "Do you sell umbrellas for tall people?", "No, sadly not.")];
    let context =
        Context { validation: Some(&held_out), files: vec![file], render: Some(Box::new(|_| Ok(()))) };
    let inspection = seen(&rows, &context, |config| {
        config.banned = vec!["RivalShop".into()];
        config.reviews =
            vec![Review { name: "A. Reader".into(), rows: 50, date: String::new(), note: String::new() }];
    });
    let open: Vec<_> = inspection.checklist.iter().filter(|c| c.verdict != Verdict::Pass).collect();
    assert!(inspection.is_ready(), "{open:#?}");
}

#[test]
fn every_check_can_fail_and_names_the_row() {
    let check = |key: &str, expect: &str, row: Option<Record>, context: Context<'_>| {
        let mut rows = good();
        rows.extend(row);
        let inspection = seen(&rows, &context, |config| config.banned = vec!["rivalshop".into()]);
        let check = inspection.check(key).unwrap();
        assert_eq!(check.verdict, Verdict::Fail, "{check:?}");
        assert!(check.figures.contains(expect), "{check:?}");
    };
    let row = |question: &str, answer: &str| Some(ticket("bad", question, answer));
    let none = Context::default;
    let fine = "This is a fine answer.";
    check(
        "deduplicated",
        "1 exact and 0 near",
        row("I lost the receipt for the torn trousers?", &answer_of(6, 1)),
        none(),
    );
    check("encoding", "wrong encoding", row("Where is the cafÃ© in your shop?", fine), none());
    check("encoding", "replacement character", row("Where is the caf\u{fffd}?", fine), none());
    check("encoding", "U+0007", row("Ring\u{7}", fine), none());
    check("on_brand", "rivalshop", row("Are you cheaper than RivalShop?", fine), none());
    check("no_pii", "1 of 49", row("Write to me at jo.bloggs@example.org please.", fine), none());
    check("well_formed", "an empty turn", row("Hello?", " "), none());
    check("well_formed", "occurs more than once", Some(ticket("r00", "Again?", fine)), none());
    let open = Message::new(Role::User, "Hello?");
    let open = Conversation { id: "bad".into(), messages: vec![open], tools: Vec::new(), meta: Map::new() };
    check(
        "well_formed",
        "no_answer",
        Some(Record { item: Item::Chat(open), origin: Origin::default() }),
        none(),
    );
    let same = vec![Message::new(Role::Assistant, "Yes.")];
    let pair = PreferencePair {
        id: "bad".into(),
        prompt: vec![Message::new(Role::User, "Well?")],
        chosen: same.clone(),
        rejected: same,
        meta: Map::new(),
    };
    let pair = Record { item: Item::Pair(pair), origin: Origin::default() };
    check("well_formed", "identical_pair", Some(pair), none());
    check("not_toxic", "1 of 49 rows", row("You are a stupid bitch, answer me!", fine), none());
    let render = Context { render: Some(Box::new(|r| Err(format!("{} broke", r.id())))), ..none() };
    check("template", "48 of 48 rows, the first: r00 broke", None, render);
    let held_out = [ticket("v", "I lost the receipt for the parcel", fine)];
    check("held_out_apart", "v like r41", None, Context { validation: Some(&held_out), ..none() });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("train.jsonl");
    std::fs::write(&file, "{\"a\": 1}\n[1]\n{\"a\": \n").unwrap();
    check(
        "jsonl",
        "2 lines are not objects, the first: train.jsonl:2",
        None,
        Context { files: vec![file], ..none() },
    );
    check("read_by_a_person", "nobody has signed", None, none());
}

#[test]
fn what_reading_lost_counts_against_the_dataset() {
    let dropped = |line: usize| Dropped {
        id: format!("t-{line}"),
        step: "read".into(),
        reason: "bad_value".into(),
        detail: "role \"wizard\"".into(),
        origin: Origin { file: "t.jsonl".into(), line },
        row: json!({}),
    };
    let renamed = Edit {
        id: "r00~9".into(),
        step: "read".into(),
        field: "id".into(),
        start: 0,
        end: 3,
        before: "r00".into(),
        after: "r00~9".into(),
    };
    let (rows, held_out, config) = (good(), good()[..1].to_vec(), InspectConfig::default());
    let context = Context { validation: Some(&held_out), ..Context::default() };
    let look = |lost: &Lost<'_>| inspect_read(&rows, lost, &context, &config).unwrap();
    let seen =
        look(&Lost { rows: &[dropped(3), dropped(5)], renamed: &[renamed], validation: &[dropped(7)] });
    let check = seen.check("well_formed").unwrap();
    assert_eq!(check.verdict, Verdict::Fail);
    assert!(
        check.figures.starts_with("2 of 50 rows cannot be used, the first: t.jsonl:3: bad_value"),
        "{check:?}"
    );
    assert!(
        check.figures.contains("1 ids stood twice and were made unique, the first: \"r00\""),
        "{check:?}"
    );
    assert_eq!(check.rows, ["t-3", "t-5", "r00~9"]);
    let check = seen.check("held_out_apart").unwrap();
    assert!(check.figures.starts_with("1 of 2 rows cannot be used, the first: t.jsonl:7"), "{check:?}");
    assert_eq!((seen.unusable["bad_value"], seen.renamed), (2, 1));
    for page in [card(&seen, &config), html(&seen, &config)] {
        assert!(page.contains("2 more rows cannot be used: bad_value 2. 1 ids stood twice."), "{page}");
    }
    assert_eq!(look(&Lost::default()), inspect(&rows, &context, &config).unwrap());
}

#[test]
fn packed_lines_are_looked_at_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let lines = b"{\"a\": 1}\n{\"b\": 2}\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(lines).unwrap();
    let packed = [gzip.finish().unwrap(), zstd::encode_all(&lines[..], 3).unwrap(), lines.to_vec()];
    let paths: Vec<_> = ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl"].map(|name| folder.path().join(name)).into();
    for (path, bytes) in paths.iter().zip(packed) {
        std::fs::write(path, bytes).unwrap();
    }
    let inspection = seen(&good(), &Context { files: paths, ..Context::default() }, |_| {});
    let check = inspection.check("jsonl").unwrap();
    assert_eq!((check.verdict, check.figures.as_str()), (Verdict::Pass, "6 lines in 3 files"));
}

/// The answer of a row of [`good`].
fn answer_of(thing: usize, ask: usize) -> String {
    good()[thing * ASKS.len() + ask].texts()[1].1.to_owned()
}

#[test]
fn shares_out_of_bounds_fail() {
    let check = |key: &str, expect: &str, rows: Vec<Record>| {
        let inspection = seen(&rows, &Context::default(), |_| {});
        let check = inspection.check(key).unwrap();
        assert_eq!(check.verdict, Verdict::Fail, "{check:?}");
        assert!(check.figures.contains(expect), "{check:?}");
    };
    let with = |mut rows: Vec<Record>, more: Vec<Record>| {
        rows.extend(more);
        rows
    };
    let german = |i: usize| {
        ticket(
            &format!("de{i}"),
            "Wann öffnet das Geschäft am kommenden Sonntag?",
            &format!("Leider {i} gar nicht."),
        )
    };
    check("one_language", "are en,", with(good(), (0..3).map(german).collect()));
    let certain: Vec<Record> = good().into_iter().filter(|r| !r.texts()[1].1.contains("I don't")).collect();
    check("honest_gaps", "0 rows do not know and 0 refuse", certain);
    let short: Vec<Record> = good().into_iter().filter(|r| r.texts()[1].1.len() < 30).collect();
    check("short_and_long", "at least 1.5 wanted", short);
    let crowd = (0..200).map(|i| ticket(&format!("c{i}"), &format!("Zebra stripes pattern {i}"), "Zebra."));
    check("topics_balanced", "zebra", with(good(), crowd.collect()));
}

#[test]
fn topics_are_named_by_their_words() {
    let mut rows = Vec::new();
    for i in 0..30 {
        rows.push(ticket(&format!("a{i}"), &format!("refund money account {i}x"), "."));
        rows.push(ticket(&format!("b{i}"), &format!("parcel courier delivery {i}y"), "."));
    }
    rows.push(ticket("c", "hi", "."));
    let found = topics(&rows, &TopicConfig { k: Some(2), max_share: 0.6, ..TopicConfig::default() });
    let sizes: Vec<usize> = found.iter().map(|t| t.rows).collect();
    assert_eq!(sizes, [30, 30, 1]);
    assert_eq!(found[0].words[..3], ["account", "money", "refund"]);
    assert_eq!(found[1].words[..3], ["courier", "delivery", "parcel"]);
    assert!(found[2].words.is_empty());
}

#[test]
fn card_and_page_tell_the_verdict_and_hold_no_markup_of_the_data() {
    let mut rows = good();
    rows.push(ticket("x<script>", "<script>alert(1)</script> a | b", "An answer & more \"quoted\"."));
    let config = InspectConfig { name: "Tickets <1>".into(), sample: 100, ..InspectConfig::default() };
    let inspection = inspect(&rows, &Context::default(), &config).unwrap();
    let page = html(&inspection, &config);
    assert!(page.contains("Not ready to train on") && page.contains("Tickets &lt;1&gt;"));
    assert!(!page.contains("<script") && !page.contains("http") && !page.contains("src="), "self-contained");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.matches("<svg").count() >= 3);
    let card = card(&inspection, &config);
    assert!(
        card.starts_with(
            "---\npretty_name: \"Tickets <1>\"\nlanguage: \"en\"\nsize_categories: \"n<1K\"\n---"
        )
    );
    assert!(
        card.contains("Failed: ")
            && card.contains("read_by_a_person")
            && card.contains("Nobody has signed yet")
    );
    let columns: Vec<usize> = card
        .lines()
        .filter(|l| l.starts_with('|'))
        .map(|l| l.replace("\\|", "").matches('|').count())
        .collect();
    assert!(columns.iter().all(|n| [3, 4, 5, 9].contains(n)), "{columns:?}");
}

#[test]
fn an_empty_dataset_is_not_ready() {
    let inspection = seen(&[], &Context::default(), |_| {});
    assert!(!inspection.is_ready());
    assert!(html(&inspection, &InspectConfig::default()).contains("0 rows"));
    let again: Inspection = serde_json::from_value(json!(inspection)).unwrap();
    assert_eq!(again, inspection);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn nothing_panics_and_threads_do_not_matter(texts in prop::collection::vec(("\\PC{0,40}", ".{0,40}"), 0..12)) {
        let rows: Vec<Record> =
            texts.iter().enumerate().map(|(i, (q, a))| ticket(&format!("{i}"), q, a)).collect();
        let config = InspectConfig::default();
        let inspection = inspect(&rows, &Context::default(), &config).unwrap();
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let again = one_thread.install(|| inspect(&rows, &Context::default(), &config)).unwrap();
        prop_assert_eq!(html(&inspection, &config), html(&again, &config));
        prop_assert_eq!(card(&inspection, &config), card(&again, &config));
        prop_assert_eq!(inspection, again);
    }
}
