#![expect(clippy::print_stdout, reason = "tests tell what they measured, or why they are skipped")]

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::toxicity::{Classifier, TrainConfig, cross_validate};
use super::*;
use crate::read::{ReadOptions, Shape, open};
use crate::{Item, Origin, Record, RecordStep};

fn row(item: Value) -> Record {
    Record { item: serde_json::from_value::<Item>(item).unwrap(), origin: Origin::default() }
}

fn ticket(question: &str, answer: &str) -> Record {
    row(json!({"id": "r", "messages": [
        {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}))
}

/// Judges a ticket with this answer; `None` keeps it.
fn verdict(filter: &dyn RecordStep, answer: &str) -> Option<&'static str> {
    let mut record = ticket("How does it work, please?", answer);
    let before = record.clone();
    let mut edits = Vec::new();
    let verdict = filter.apply(&mut record, &mut edits).err().map(|d| d.reason);
    assert_eq!((record, edits), (before, vec![]), "a filter changes nothing");
    verdict
}

fn check(filter: &dyn RecordStep, answers: &[&str], expect: Option<&'static str>) {
    for answer in answers {
        assert_eq!(verdict(filter, answer), expect, "{} of {answer:?}", filter.name());
    }
}

#[test]
fn placeholders_are_no_answers() {
    let filter = Placeholder { also: vec!["please advise".into()] };
    check(&filter, &["", "  \n"], Some("empty_answer"));
    check(
        &filter,
        &[
            "-",
            "...",
            "test",
            "Test!",
            "asdf",
            "asdfasdf",
            "N/A",
            "n/a.",
            "xxx",
            "TBD",
            "null",
            "qwerty",
            "Please advise.",
        ],
        Some("placeholder"),
    );
    check(&filter, &["Yes.", "42", "1234", "👍", "Test it twice.", "Was it fixed?", "est", "Anna"], None);
}

#[test]
fn lengths_have_bounds() {
    let filter = Length { min_words: Some(3), max_chars: Some(40), ..Length::default() };
    check(&filter, &["Yes.", "No idea", "- - - -"], Some("too_few_words"));
    check(&filter, &["Yes we do.", "営業時間は九時から。"], None);
    check(&filter, &["This is much longer than forty characters are."], Some("too_long"));
    check(&Length { min_chars: Some(5), ..Length::default() }, &["four", " a b "], Some("too_short"));
    let count = Length {
        max_tokens: Some(6),
        count_tokens: Some(std::sync::Arc::new(str::len)),
        ..Length::default()
    };
    check(&count, &["yes"], Some("too_many_tokens"));
    check(&Length { min_tokens: Some(50), ..Length::default() }, &["yes"], Some("too_few_tokens"));
}

#[test]
fn only_the_chosen_side_of_a_pair_has_a_least_length() {
    let judge = |chosen: &str, rejected: &str| {
        let turn = |text: &str| json!([{"role": "assistant", "content": text}]);
        let prompt = json!([{"role": "user", "content": "Well?"}]);
        let pair = json!({"id": "r", "prompt": prompt, "chosen": turn(chosen), "rejected": turn(rejected)});
        let filter =
            Length { min_chars: Some(2), min_words: Some(1), max_chars: Some(10), ..Length::default() };
        filter.apply(&mut row(pair), &mut Vec::new()).err().map(|d| d.reason)
    };
    assert_eq!(judge("Yes.", ""), None);
    assert_eq!(judge("", "Yes."), Some("too_short"));
    assert_eq!(judge("Yes.", "much too long an answer"), Some("too_long"));
}

#[test]
fn answers_that_stop_in_the_middle_are_found() {
    let stops = [
        "We repair them for free. Bring the",
        "Hello! You have 30 days to",
        "Choose Return, then print the label,",
        "Returns are free. You can hand them in at our store",
        "Our price is $5.95. Orders over $75 cost $",
        "It comes in three sizes (small, medium and",
        "Here it is:\n```python\nprint(1)",
        "We take all major credit and debit cards, PayPal, Apple Pay and Google Pay, plus our own gift",
    ];
    check(&Truncated::default(), &stops, Some("truncated"));
    let whole = [
        "Yes we do",
        "30 days",
        "no idea sorry mate",
        "Returns are free. Happy shopping! 😊",
        "You have these sizes. Pick one:\n- small\n- large",
        "It is simple. See https://x.example/help",
        "Hello.\n\nBest regards\nAnna",
        "Done. Here:\n```\ncode\n```",
        "She said \"yes.\"",
        "The total was computed. Answer: 42",
        "We call it Type A",
        "He is so cute. Love at first sight! #PuppyLove",
        "返品は三十日以内です",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "It costs $4 (or 5%)",
        "Yes, it is",
        "No, you can",
        "Of course you may",
        "Please come on in",
        "It depends on which country you are in",
        "There is no type of music that all of us enjoy listening to",
        "J. B. Rhine tried to prove that it exists, but his method was flawed",
        "Quebec City and St. John's get more snow than Montreal",
        "Turkey, the UK, Ireland, and Canada drink more tea than all of the others do together",
        "We have jumpers in red, in blue, in a dark green, and in small, medium and large sizes",
        "",
    ];
    check(&Truncated::default(), &whole, None);
}

/// TruthfulQA's best answers are whole sentences, nearly all of them without a full stop.
#[test]
fn whole_answers_without_full_stops_are_not_truncated() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/truthfulqa/TruthfulQA.csv");
    if !path.exists() {
        println!("skipped: the shared test data is not beside the checkout");
        return;
    }
    let mut options = ReadOptions::default();
    options.columns.text = Some("Best Answer".into());
    options.shape = Some(Shape::Document);
    let (records, _, _) = open(&path, &options).unwrap();
    let answers: Vec<&str> = records.iter().map(|r| r.texts()[0].1).collect();
    let dropped: Vec<_> = answers.iter().filter(|text| is_truncated(text)).collect();
    println!("{} of {}: {dropped:?}", dropped.len(), answers.len());
    assert!(answers.len() == 817 && dropped.len() <= 2);
}

#[test]
fn loops_are_found_and_emphasis_is_not() {
    let loops = [
        "I can help. I can help. I can help.",
        "the order the order the order the order the order the order",
        "please check the page, please check the page, please check the page, please check the page,",
        "Gift cards never expire and carry no fees. Gift cards never expire and carry no fees.",
        "Your parcel left on Monday and then you can and then you can and then you can and then you can and then you can",
        "お問い合わせありがとうお問い合わせありがとうお問い合わせありがとうお問い合わせありがとう",
        "hahahahahahahahahahahahahahahahahahaha",
    ];
    check(&Repetition::default(), &loops, Some("repetition"));
    let fine = [
        "No, no, no! We would never charge you twice.",
        "Very, very good.",
        "Bye bye!",
        "Monday 9 to 8, Tuesday 9 to 8, Wednesday 10 to 6, Sunday closed.",
        "Thank you. Thank you.",
        "",
        "a",
    ];
    check(&Repetition::default(), &fine, None);
    let found = find_loop("x a b a b a b y").unwrap();
    assert_eq!((found.unit.as_str(), found.times), ("a b", 3));
}

#[test]
fn languages_are_told_apart_and_short_texts_are_not_misjudged() {
    let filter = Language::default();
    check(
        &filter,
        &["Yes we do", "OK", "3-5 days", "Sí", "BX-204", "Nike Air Max", "Thanks, Jürgen Müller!"],
        None,
    );
    let each = Language { each: true, ..Language::default() };
    check(
        &each,
        &[
            "Los domingos abrimos de once de la mañana a seis de la tarde.",
            "Ohne Bon bekommen Sie bei uns einen Gutschein.",
            "Vous pouvez payer par carte bancaire.",
            "Наш магазин открыт до восьми часов.",
            "営業時間は午前九時から午後八時までです。",
            "Το κατάστημα είναι ανοιχτό μέχρι τις οκτώ.",
        ],
        Some("wrong_language"),
    );
    check(
        &each,
        &[
            "Our Köln store (Straße des 17. Juni) is open until eight.",
            "Merci beaucoup for asking us about it!",
        ],
        None,
    );
    let unknown = |text: &str| assert_eq!(identify(text, Engine::Fast).code, None, "{text}");
    unknown("12345 -- 67");
    unknown("");
    unknown("Xqz brwt vlk mnpq zzrt kkl wvx bnm plk qrs tvw xzy klm");
    unknown("Sklep jest czynny codziennie od dziewiątej rano prawie cały tydzień oprócz świąt państwowych");
    unknown("Το κατάστημα είναι ανοιχτό");
    unknown("Магазин відкритий щодня, і їх багато");
    assert_eq!(identify("https://example.com/der/die/das Where is it?", Engine::Fast).code, Some("en"));
}

#[test]
fn two_languages_in_one_answer_are_mixed() {
    let filter = MixedLanguage::default();
    check(
        &filter,
        &[
            "You can return it within thirty days of purchase. Sie können die Ware innerhalb von dreißig Tagen zurückgeben.",
        ],
        Some("mixed_language"),
    );
    check(&filter, &["You can return it within thirty days of purchase. Danke schön! Bis bald."], None);
}

/// Share of the sentences of each language that are called by its name, and of single words for the record.
#[test]
fn sentences_of_eight_languages_are_known() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/lingua_testdata");
    if !data.exists() {
        println!("skipped: the shared test data is not beside the checkout");
        return;
    }
    let engines: &[Engine] =
        if cfg!(feature = "accurate-language") { &[Engine::Fast, Engine::Accurate] } else { &[Engine::Fast] };
    for &engine in engines {
        let (mut right, mut n) = (0, 0);
        for code in ["ar", "de", "en", "es", "fr", "hi", "ru", "zh"] {
            let text = std::fs::read_to_string(data.join(format!("{code}.sentences.txt"))).unwrap();
            // The slow engine is asked a part: it is lingua's own accuracy that it has.
            let lines: Vec<&str> =
                text.lines().step_by(if engine == Engine::Fast { 1 } else { 20 }).collect();
            let wrong: Vec<_> = lines.iter().filter(|l| identify(l, engine).code != Some(code)).collect();
            println!("{engine:?} {code}: {} of {}", lines.len() - wrong.len(), lines.len());
            assert!(wrong.len() as f64 <= 0.01 * lines.len() as f64 + 1.0, "{code}");
            for line in wrong.iter().take(4) {
                println!("  {:?} {line}", identify(line, engine).code);
            }
            right += lines.len() - wrong.len();
            n += lines.len();
        }
        println!("{engine:?}: {right} of {n}");
        assert!(right as f64 >= 0.99 * n as f64);
    }
}

#[test]
fn abuse_is_found_and_plain_words_are_not() {
    let filter = Toxic::new(&toxicity::ToxicConfig::default()).unwrap();
    let abuse = [
        "Shut up, you idiot.",
        "You are a moron.",
        "What a load of bullshit",
        "Go to hell!",
        "get lost you pathetic loser",
        "F*ck off",
        "You're sooo stuuuupid, you dumb clown",
        "Your staff are lazy, worthless scum.",
        "a$$hole",
    ];
    check(&filter, &abuse, Some("toxic"));
    let plain = [
        "I felt stupid when I lost my receipt.",
        "The damn zipper broke again, what a pain.",
        "The cocktail dress has a classic assassin print, and Dick Smith loved the peacock.",
        "It is pretty useless without the charger.",
        "Hello from Scunthorpe and Essex!",
        "This is a rubbish bin bag, in black.",
        "We are sorry that the parcel was lost.",
        "The pig plush and the cow print socks are back, and the spicy mix too.",
        "How dumb of me, I forgot my password!",
    ];
    check(&filter, &plain, None);
    let mut record = ticket("Where is it, you useless morons?", "On its way.");
    assert!(filter.apply(&mut record, &mut Vec::new()).is_err());
    let config = toxicity::ToxicConfig { answers_only: true, ..toxicity::ToxicConfig::default() };
    assert!(Toxic::new(&config).unwrap().apply(&mut record, &mut Vec::new()).is_ok());
}

/// Offensive (hate speech included) against neither, five folds, on the shared tweets.
#[test]
fn the_classifier_learns_what_is_offensive() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/hate_speech/labeled_data_first12000.csv");
    if !path.exists() {
        println!("skipped: the shared test data is not beside the checkout");
        return;
    }
    let mut options = ReadOptions::default();
    options.columns.text = Some("tweet".into());
    let (records, _, _) = open(&path, &options).unwrap();
    let label = |r: &Record| r.meta()["class"].as_i64();
    let examples: Vec<(&str, bool)> = records.iter().map(|r| (r.texts()[0].1, label(r) != Some(2))).collect();
    let result = cross_validate(&examples, 5, &TrainConfig::default()).unwrap();
    println!("{result:?}");
    assert!(result.n == 12_000 && result.macro_f1 >= 0.90, "{result:?}");
}

#[test]
fn a_classifier_survives_its_file_and_repeats_itself() {
    let examples = [
        ("you vile fool", true),
        ("what a lovely day", false),
        ("vile people", true),
        ("a lovely shop", false),
    ];
    let train = || Classifier::train(&examples, &TrainConfig::default()).unwrap();
    let model = train();
    assert_eq!(model, train());
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("model.json");
    model.save(&path).unwrap();
    let loaded = Classifier::load(&path).unwrap();
    for (text, label) in examples {
        assert_eq!(loaded.probability(text) > 0.5, label, "{text}");
        assert!((loaded.probability(text) - model.probability(text)).abs() < 0.01);
    }
    let error = Classifier::train(&examples[..1], &TrainConfig::default()).unwrap_err().to_string();
    assert!(error.contains("no harmless text"), "{error}");
    std::fs::write(&path, "{}").unwrap();
    assert!(Classifier::load(&path).unwrap_err().to_string().contains("is no classifier"));
}

#[test]
fn refusals_go_and_honest_ignorance_stays() {
    let filter = Refusal::default();
    let refusals = [
        "As an AI language model, I cannot browse the internet.",
        "I'm sorry, but I can't help with that.",
        "I'm sorry, but I cannot assist with this request.",
        "Sorry, we are unable to process this.",
    ];
    check(&filter, &refusals, Some("refusal"));
    check(
        &filter,
        &[
            "I don't know",
            "no idea",
            "See website.",
            "Please contact us.",
            "ok",
            "Ok thanks",
            "It depends.",
            "Yes.",
            "Done",
            "Not sure, sorry",
        ],
        Some("says_nothing"),
    );
    let answers = [
        "I don't have that information, but our stores can look it up for you.",
        "I'm afraid we don't know that yet.",
        "We can't ship to a PO box, but standard mail works.",
        "Please contact us by the form under Help, and we will call you back within a day.",
        "You can't return swimwear once the seal is broken.",
        "Yes, until six in the evening.",
    ];
    check(&filter, &answers, None);
    let strict = Refusal { no_information: true, ..Refusal::default() };
    check(&strict, &answers[..2], Some("no_information"));
    let mut asked = row(json!({"id": "r", "text": "I can't do this transfer, please help"}));
    assert_eq!(filter.apply(&mut asked, &mut Vec::new()), Ok(()), "a document declines nothing");
    let documents = Refusal { documents: true, ..Refusal::default() };
    assert_eq!(documents.apply(&mut asked, &mut Vec::new()).unwrap_err().reason, "refusal");
}

#[test]
fn columns_decide() {
    let with = |meta: Value| row(json!({"id": "r", "text": "x", "meta": meta}));
    let check = |filter: &dyn RecordStep, meta: Value, expect: Option<&str>| {
        let got = filter.apply(&mut with(meta.clone()), &mut Vec::new()).err().map(|d| d.reason);
        assert_eq!(got, expect, "{meta}");
    };
    let tickets =
        Tickets { min_satisfaction: Some(3.0), max_resolution_hours: Some(48.0), missing: Missing::Keep };
    check(&tickets, json!({"satisfaction": 2}), Some("low_satisfaction"));
    check(&tickets, json!({"satisfaction": "2"}), Some("low_satisfaction"));
    check(&tickets, json!({"satisfaction": 3, "resolution_hours": 72}), Some("slow_resolution"));
    check(&tickets, json!({"satisfaction": null}), None);
    check(&Tickets { missing: Missing::Drop, ..tickets }, json!({}), Some("missing_column"));
    let score = Column { column: "score.quality".into(), min: Some(0.5), ..Column::default() };
    check(&score, json!({"score": {"quality": 0.4}}), Some("column_value"));
    check(&score, json!({"score": {"quality": 0.6}}), None);
    check(&score, json!({"score": {"quality": "high"}}), Some("column_value"));
    check(&score, json!({}), None);
    let label = Column { column: "label".into(), one_of: vec![json!(true), json!(1)], ..Column::default() };
    check(&label, json!({"label": true}), None);
    check(&label, json!({"label": "1"}), None);
    check(&label, json!({"label": "no"}), Some("column_value"));
    let not = Column {
        column: "lang".into(),
        none_of: vec![json!("xx")],
        missing: Missing::Drop,
        ..Column::default()
    };
    check(&not, json!({"lang": "xx"}), Some("column_value"));
    check(&not, json!({}), Some("missing_column"));
}

#[test]
fn turns_must_make_sense() {
    let check = |roles: &[&str], expect: Option<&str>| {
        let turns: Vec<Value> = roles.iter().map(|r| json!({"role": r, "content": "x"})).collect();
        let mut record = row(json!({"id": "r", "messages": turns}));
        assert_eq!(Turns {}.apply(&mut record, &mut Vec::new()).err().map(|d| d.reason), expect, "{roles:?}");
    };
    check(&["system", "user", "assistant", "user", "assistant"], None);
    check(&["user", "assistant", "tool", "assistant"], None);
    check(&["user"], Some("no_answer"));
    check(&["user", "user", "assistant"], Some("bad_turns"));
    check(&["user", "assistant", "assistant"], Some("bad_turns"));
    check(&["user", "assistant", "system"], Some("bad_turns"));
    let turn = |text: &str| json!([{"role": "assistant", "content": text}]);
    let mut pair = row(
        json!({"id": "r", "prompt": [{"role": "user", "content": "x"}], "chosen": turn("a "), "rejected": turn("a")}),
    );
    assert_eq!(Turns {}.apply(&mut pair, &mut Vec::new()).err().map(|d| d.reason), Some("identical_pair"));
}

/// Every filter with its defaults.
static ALL: LazyLock<Vec<Box<dyn RecordStep>>> = LazyLock::new(|| {
    vec![
        Box::new(Placeholder::default()),
        Box::new(Length { min_words: Some(2), max_tokens: Some(100), ..Length::default() }),
        Box::new(Truncated { documents: true }),
        Box::new(Repetition::default()),
        Box::new(Language { each: true, ..Language::default() }),
        Box::new(MixedLanguage::default()),
        Box::new(Toxic::new(&toxicity::ToxicConfig::default()).unwrap()),
        Box::new(Refusal::default()),
        Box::new(Turns {}),
        Box::new(GopherQuality::default()),
        Box::new(GopherRepetition::default()),
        Box::new(FineWebQuality::default()),
    ]
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn filters_never_panic_and_judge_alike_twice(text in "\\PC{0,60}", words in "([a-zé.,!?*$`|-]{0,6}[ \n]){0,20}") {
        for filter in ALL.iter() {
            for text in [&text, &words] {
                prop_assert_eq!(verdict(&**filter, text), verdict(&**filter, text));
            }
        }
        let _ = C4Quality::default().judge(&words);
    }

    #[test]
    fn words_spell_the_text(text in "\\PC{0,60}") {
        let joined: String = words(&text).concat();
        let expect: String = text.split_whitespace().collect();
        prop_assert_eq!(joined, expect);
    }
}
