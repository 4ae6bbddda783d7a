#![expect(clippy::print_stdout, reason = "tests tell what they measured, or why they are skipped")]

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::read::{ReadOptions, open};

fn check(text: &str, expect: &[&str]) {
    assert_eq!(words(text), expect);
}

#[test]
fn words_are_cut_as_spacy_cuts_them() {
    check(
        "Don't panic, it's 5km (U.S.)!",
        &["Do", "n't", "panic", ",", "it", "'s", "5", "km", "(", "U.S.", ")", "!"],
    );
    check(
        "well-known e-mails... \"so\" $20/day",
        &["well", "-", "known", "e", "-", "mails", "...", "\"", "so", "\"", "$", "20", "/", "day"],
    );
    check("See https://x.example/a?b=1.", &["See", "https://x.example/a?b=1", "."]);
    check(
        "I can't, gonna; Mr. Smith's dogs' :-)",
        &["I", "ca", "n't", ",", "gon", "na", ";", "Mr.", "Smith", "'s", "dogs", "'", ":-)"],
    );
    check("", &[]);
}

#[test]
fn sentences_end_with_marks_of_their_own() {
    assert_eq!(sentences("One. Two! \"Three?\" Mr. Four went to the U.S. again... and five"), 4);
    assert_eq!(sentences("no mark"), 1);
    assert_eq!(sentences(""), 0);
}

fn texts(path: &Path) -> Vec<String> {
    let (records, dropped, _) = open(path, &ReadOptions::default()).unwrap();
    assert_eq!(dropped, []);
    records.iter().map(|r| r.texts()[0].1.to_owned()).collect()
}

/// Shares of equal verdicts per filter over the shared files; the differences are printed.
#[test]
fn verdicts_agree_with_datatrove() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = root.join("../../../shared/data");
    if !data.exists() {
        println!("skipped: the shared test data is not beside the checkout");
        return;
    }
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/quality/datatrove_verdicts.json")).unwrap();
    let (c4, c4_no_punct) =
        (C4Quality::default(), C4Quality { terminal_punctuation: false, ..C4Quality::default() });
    let c4_verdict = |rule: &C4Quality, text: &str| match rule.judge(text) {
        Ok(kept) => Value::from(n_chars(&kept)),
        Err(drop) => Value::from(drop.reason),
    };
    let crafted: Vec<String> = serde_json::from_value(golden["crafted"]["texts"].clone()).unwrap();
    let verdict =
        |result: Result<(), crate::Drop>| result.err().map_or(Value::Null, |d| Value::from(d.reason));
    for name in [
        "gopher_quality",
        "gopher_repetition",
        "c4_quality",
        "c4_quality_no_punct",
        "fineweb_quality",
        "words",
        "sentences",
    ] {
        let (mut n, mut equal) = (0, 0);
        for (file, expect) in golden.as_object().unwrap() {
            let texts = if file == "crafted" { crafted.clone() } else { texts(&data.join(file)) };
            for (i, (text, expect)) in texts.iter().zip(expect[name].as_array().unwrap()).enumerate() {
                let got = match name {
                    "gopher_quality" => verdict(GopherQuality::default().judge(text)),
                    "gopher_repetition" => verdict(GopherRepetition::default().judge(text)),
                    "c4_quality" => c4_verdict(&c4, text),
                    "c4_quality_no_punct" => c4_verdict(&c4_no_punct, text),
                    "fineweb_quality" => verdict(FineWebQuality::default().judge(text)),
                    "words" => Value::from(words(text).len()),
                    _ => Value::from(sentences(text)),
                };
                n += 1;
                equal += usize::from(got == *expect);
                if got != *expect {
                    println!("{name} {file} {i}: {got}, datatrove {expect}");
                }
            }
        }
        let share = f64::from(equal as u32) / f64::from(n as u32);
        println!("{name}: {equal} of {n} agree");
        // Counts are no verdicts: spaCy glues some faces (`):`) together again afterwards, and takes blanks at the
        // end of a text for a sentence.
        let least = if matches!(name, "words" | "sentences") { 0.94 } else { 0.99 };
        assert!(share >= least, "{name}: {share}");
    }
}
