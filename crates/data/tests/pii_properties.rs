//! Laws of the `pii` module, on texts glued from real values, words that announce them, and noise.

use ferrotune_data::pii::{self, Kind, Operator, PiiConfig, PiiKey, PiiStep, Scope, Vault};
use ferrotune_data::{Edit, Item, Origin, Record, RecordStep};
use ferrotune_types::{Conversation, Message, Role};
use proptest::prelude::*;

/// A piece of text: a value, an announcement, a placeholder, or noise.
fn piece() -> impl Strategy<Value = String> {
    let values = prop::sample::select(vec![
        "sam@example.org",
        "Sam@Example.org",
        "+49 30 901820",
        "(978) 645-9740x11",
        "785 8949",
        "50-98-28-96",
        "4929 3600 0381 1724",
        "4929360003811724",
        "DE89 3704 0044 0532 0130 00",
        "308-63-0237",
        "529.982.247-25",
        "86.231.85.193",
        "2001:db8::7",
        "00:1A:2B:3C:4D:5E",
        "https://sam:hunter2@x.org/a",
        "3/23/1940",
        "5. Mai 1990",
        "born on 2/7/1961",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "AKIAIOSFODNN7EXAMPLE",
        "password: hunter2!",
        "password: \"a b1 c\"",
        "secret=\"",
        "token '",
        "12 Main Street, Springfield, IL 62704",
        "P.O. Box 255",
        "Sarah Connor",
        "Sarah",
        "SARAH CONNOR",
        "Dr. Zzyzxov",
        "Suite 603",
        "joe%40example.com",
        "joe@xn--e1afmkfd.xn--p1ai",
        "Hauptstr. 5, 80331 München",
        "Ms. van der Berg",
        "password qwerty12",
        "mot de passe : Azerty123",
        "New York",
        "Rio de Janeiro",
        "-----BEGIN RSA PRIVATE KEY-----",
    ]);
    let words = prop::sample::select(vec![
        "call",
        "phone:",
        "my name is",
        "Hi",
        "order",
        "#",
        "card",
        "SSN",
        "version",
        "office",
        "fax",
        "van",
        "2.",
        "%40",
        "password",
        "[EMAIL_1]",
        "[PHONE_2]",
        "[REDACTED]",
        "-",
        "+",
        "(",
        ")",
        ",",
        ".",
        "\n",
        "\"",
        "@",
        "://",
        ":",
        "é",
        "猫",
        "\u{301}",
        "x12",
        "000",
    ]);
    prop_oneof![4 => values.prop_map(str::to_owned), 4 => words.prop_map(str::to_owned), 1 => "\\PC{0,6}", 1 => "[0-9 .()+-]{0,14}"]
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec((piece(), prop::sample::select(vec![" ", " ", " ", "", "\n"])), 0..10)
        .prop_map(|pieces| pieces.into_iter().map(|(p, gap)| p + gap).collect())
}

fn hiding() -> impl Strategy<Value = Operator> {
    prop_oneof![
        Just(Operator::Placeholder),
        Just(Operator::Pseudonym),
        Just(Operator::Redact),
        (0..=4usize).prop_map(|keep_last| Operator::Mask { with: '*', keep_last }),
    ]
}

fn record(id: &str, texts: &[String]) -> Record {
    let messages = texts.iter().map(|t| Message::new(Role::User, t.clone())).collect();
    let item =
        Item::Chat(Conversation { id: id.into(), messages, tools: Vec::new(), meta: serde_json::Map::new() });
    Record { item, origin: Origin::default() }
}

fn contents(record: &Record) -> Vec<String> {
    record.texts().into_iter().map(|(_, t)| t.to_owned()).collect()
}

fn key() -> PiiKey {
    PiiKey::from_hex(&"5a".repeat(32)).expect("64 hexadecimal digits")
}

proptest! {
    #[test]
    fn spans_are_sorted_disjoint_and_on_boundaries(text in prop_oneof![text(), "\\PC*", any::<String>()]) {
        let spans = pii::find(&text, &PiiConfig::everything());
        let mut end = 0;
        for span in &spans {
            prop_assert!(span.start >= end && span.end > span.start);
            prop_assert!(text.get(span.range()).is_some());
            prop_assert!((0.5..=1.0).contains(&span.score));
            end = span.end;
        }
        for (span, place) in spans.iter().zip(pii::char_offsets(&text, &spans)) {
            let by_chars: String = text.chars().skip(place.start).take(place.len()).collect();
            prop_assert_eq!(&by_chars, &text[span.range()]);
        }
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        pii::find(&String::from_utf8_lossy(&bytes), &PiiConfig::everything());
    }

    #[test]
    fn after_redaction_nothing_is_found(text in text(), operator in hiding(), min_score in prop::sample::select(vec![0.3f32, 0.5, 0.8])) {
        let config = PiiConfig { operator, min_score, ..PiiConfig::everything() };
        let step = PiiStep::with_key(config.clone(), Some(key())).unwrap();
        let mut row = record("r", &[text]);
        step.apply(&mut row, &mut Vec::new()).unwrap();
        let once = contents(&row);
        prop_assert_eq!(pii::find(&once[0], &config), []);
        step.apply(&mut row, &mut Vec::new()).unwrap();
        prop_assert_eq!(contents(&row), once);
    }

    #[test]
    fn edits_tell_the_whole_change(text in text()) {
        let config = PiiConfig { audit_originals: true, ..PiiConfig::everything() };
        let mut row = record("r", std::slice::from_ref(&text));
        let mut edits: Vec<Edit> = Vec::new();
        PiiStep::new(config).unwrap().apply(&mut row, &mut edits).unwrap();
        let characters: Vec<char> = text.chars().collect();
        let (mut redone, mut at) = (String::new(), 0);
        for edit in &edits {
            prop_assert_eq!(characters[edit.start..edit.end].iter().collect::<String>(), edit.before.clone());
            redone.extend(&characters[at..edit.start]);
            redone.push_str(&edit.after);
            at = edit.end;
        }
        redone.extend(&characters[at..]);
        prop_assert_eq!(redone, contents(&row)[0].clone());
    }

    #[test]
    fn the_vault_brings_back_every_original(texts in prop::collection::vec(text(), 1..4), scope in prop::sample::select(vec![Scope::Record, Scope::Corpus])) {
        let config = PiiConfig { vault: Some("unused".into()), scope, ..PiiConfig::everything() };
        let mut step = PiiStep::with_key(config, Some(key())).unwrap();
        let before = record("r", &texts);
        step.survey(std::slice::from_ref(&before));
        let mut row = before.clone();
        step.apply(&mut row, &mut Vec::new()).unwrap();
        let sealed = step.vault().seal(&key());
        let vault = Vault::open(&sealed, &key()).unwrap();
        let scope = if scope == Scope::Corpus { "" } else { "r" };
        let restored: Vec<String> = contents(&row).iter().map(|t| vault.restore(scope, t)).collect();
        prop_assert_eq!(restored, texts);
        prop_assert!(Vault::open(&sealed, &PiiKey::generate()).is_err());
    }

    #[test]
    fn the_order_of_rows_changes_no_row(texts in prop::collection::vec(text(), 2..5)) {
        let rows: Vec<Record> = texts.iter().enumerate().map(|(i, t)| record(&i.to_string(), std::slice::from_ref(t))).collect();
        for scope in [Scope::Record, Scope::Corpus] {
            let mut step = PiiStep::new(PiiConfig { scope, ..PiiConfig::everything() }).unwrap();
            step.survey(&rows);
            let run = |order: &mut dyn Iterator<Item = usize>| {
                let mut done: Vec<_> = order
                    .map(|i| {
                        let mut row = rows[i].clone();
                        step.apply(&mut row, &mut Vec::new()).unwrap();
                        (i, contents(&row))
                    })
                    .collect();
                done.sort();
                done
            };
            prop_assert_eq!(run(&mut (0..rows.len())), run(&mut (0..rows.len()).rev()));
        }
    }
}

#[test]
fn one_value_has_one_number_in_the_corpus_and_the_audit_does_not_leak() {
    let rows = ["a@x.org, b@x.org", "b@x.org", "call 785 8949"].map(str::to_owned);
    let rows: Vec<Record> =
        rows.iter().enumerate().map(|(i, t)| record(&i.to_string(), std::slice::from_ref(t))).collect();
    let mut step = PiiStep::new(PiiConfig { scope: Scope::Corpus, ..PiiConfig::default() }).unwrap();
    let mut row = rows[1].clone();
    let unready = step.apply(&mut row, &mut Vec::new()).unwrap_err();
    assert_eq!(unready.reason, "pii_not_surveyed");
    step.survey(&rows);
    let mut edits = Vec::new();
    step.apply(&mut row, &mut edits).unwrap();
    assert_eq!(contents(&row), ["[EMAIL_2]"]);
    assert_eq!(edits[0].before, "<EMAIL, 7 characters, score 0.95>");
}

#[test]
fn columns_and_tool_calls_are_cleaned_too() {
    let item: Item = serde_json::from_value(serde_json::json!({
        "id": "t-1",
        "messages": [{"role": "assistant", "content": "", "name": "Sarah Connor", "tool_calls": [
            {"function": {"name": "refund", "arguments": "{\"email\": \"sam@example.org\"}"}}
        ]}],
        "meta": {
            "phone": 2813882583u64, "order_id": "48213", "customer_name": "Maja Zzyzxov", "tags": ["sam@example.org"],
            "created_at": "2024-05-01", "satisfaction": 4, "product_name": "Bluesky"
        }
    }))
    .unwrap();
    let mut row = Record { item, origin: Origin::default() };
    let mut edits = Vec::new();
    PiiStep::new(PiiConfig::default()).unwrap().apply(&mut row, &mut edits).unwrap();
    let shown = serde_json::to_string(&row.item).unwrap();
    for gone in ["sam@", "2813882583", "Zzyzxov", "Connor"] {
        assert!(!shown.contains(gone), "{gone} in {shown}");
    }
    for kept in ["48213", "2024-05-01", "\"satisfaction\":4", "refund", "Bluesky"] {
        assert!(shown.contains(kept), "{kept} not in {shown}");
    }
    assert!(edits.iter().any(|e| e.field == "messages[0].tool_calls[0].function.arguments"), "{edits:?}");
}

#[test]
fn names_of_columns_are_cleaned_and_stay_apart() {
    let item = serde_json::json!({"id": "r", "text": "x", "meta": {
        "a@x.org": 1, "topic": {"b@x.org": "sam@example.org"}, "A@x.org": 2, "a": 3}});
    let clean = |operator| {
        let item: Item = serde_json::from_value(item.clone()).unwrap();
        let mut row = Record { item, origin: Origin::default() };
        let config = PiiConfig { operator, ..PiiConfig::default() };
        let mut edits = Vec::new();
        PiiStep::new(config).unwrap().apply(&mut row, &mut edits).unwrap();
        (serde_json::to_string(row.meta()).unwrap(), edits.len())
    };
    let expect = r#"{"[EMAIL_1]":1,"topic":{"[EMAIL_2]":"[EMAIL_3]"},"[EMAIL_1.2]":2,"a":3}"#;
    assert_eq!(clean(Operator::Placeholder), (expect.to_owned(), 4));
    let expect = r#"{"[REDACTED]":1,"topic":{"[REDACTED]":"[REDACTED]"},"[REDACTED]~2":2,"a":3}"#;
    assert_eq!(clean(Operator::Redact), (expect.to_owned(), 4));
}

#[test]
fn things_that_look_personal_and_are_not() {
    for text in [
        "order #BS-10482 and order 48213",
        "returns within 30 days",
        "+",
        "$75 off, €1,299.00 or 2 499,00 kr",
        "version 2.10.3, v1.2.3-rc4, Chrome/91.0.4472.124",
        "ISBN 978-3-16-148410-0 or 0-306-40615-2",
        "at 10:30, 14:56:41 and 9 pm",
        "SKU BT-SPK-0042-BLK, EAN 4006381333931",
        "tracking 1Z999AA10123456784 and 9400 1118 9956 3845 2571 43",
        "pages 1234-1245, 3rd ed., 1,000,000 copies",
        "sha 9f2c41d07ab3e5519f2c41d07ab3e5519f2c41d0",
        "550e8400-e29b-41d4-a716-446655440000",
        "The 12 Angry Men watched 2001: A Space Odyssey in 1968.",
        "x = a[10]; y += 0.25 * 1e-9  # 80/20",
        "rgb(255, 128, 0) 1920x1080 16:9",
        "score 4.5/5 from 12 reviews",
        "invoice 2024-00123, PO 4500012345",
        "Thanks, the Bluesky Team",
    ] {
        let found = pii::find(text, &PiiConfig::default());
        assert!(found.is_empty(), "{text:?}: {found:?}");
    }
}

#[test]
fn fakes_are_of_the_same_kind() {
    let config = PiiConfig { operator: Operator::Fake, ..PiiConfig::default() };
    let step = PiiStep::with_key(config.clone(), Some(key())).unwrap();
    let text = "Hi Sarah, card 4929 3600 0381 1724, IBAN DE89 3704 0044 0532 0130 00, from 86.231.85.193 or sam@web.de".to_owned();
    let mut row = record("r", std::slice::from_ref(&text));
    step.apply(&mut row, &mut Vec::new()).unwrap();
    let kinds = |text: &str| pii::find(text, &config).iter().map(|s| s.kind).collect::<Vec<_>>();
    let fake = contents(&row).remove(0);
    assert_eq!(kinds(&fake), kinds(&text), "{fake}");
    assert_eq!(kinds(&text), [Kind::Person, Kind::Card, Kind::Iban, Kind::Ip, Kind::Email]);
    for gone in ["Sarah", "3600 0381", "86.231", "sam@"] {
        assert!(!fake.contains(gone), "{fake}");
    }
}
