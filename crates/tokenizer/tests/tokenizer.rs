//! Loading, saving, masks, truncation, streams and added tokens, on small tokenizers trained here.

use std::sync::OnceLock;

use ferrotune_tokenizer::{
    BatchConfig, BatchSize, GgufTokenizer, Limits, ModelKind, Packing, SkipReason, Tokenized, Tokenizer,
    TokenizerError, TrainConfig, Truncation, batches, compare, pack, pair_batches,
};
use ferrotune_types::{Example, Rendered, SpecialTokens};
use proptest::prelude::*;

const CORPUS: [&str; 4] = [
    "the cat sat on the mat and the dog sat on the log",
    "user and assistant speak; the assistant answers the user's question about the order",
    "naïve café 北京 北京 مرحبا 😀😀 where is my order? it was shipped this morning.",
    "once more: the cat, the dog, the mat, the log, the order, the answer.",
];

fn special() -> SpecialTokens {
    let token = |text: &str| Some(text.to_owned());
    SpecialTokens {
        bos: token("<s>"),
        eos: token("</s>"),
        unk: token("<unk>"),
        pad: None,
        control: vec!["<e>".into()],
    }
}

fn train(kind: ModelKind) -> Tokenizer {
    let config = TrainConfig { kind, vocab_size: 400, min_frequency: 1, special: special(), digits: true };
    Tokenizer::train(CORPUS, &config).unwrap()
}

fn bpe() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| train(ModelKind::Bpe))
}

/// A rendered text in which `[` and `]` enclose what the assistant says.
fn rendered(marked: &str) -> Rendered {
    let (mut text, mut spans, mut start) = (String::new(), Vec::new(), 0);
    for c in marked.chars() {
        match c {
            '[' => start = text.len(),
            ']' => spans.push(start..text.len()),
            c => text.push(c),
        }
    }
    Rendered::new(text, spans).unwrap()
}

fn limits(max_length: usize, truncation: Truncation) -> Limits {
    Limits { max_length, truncation, allow_missing_eos: false }
}

fn trained_text(tokenizer: &Tokenizer, example: &Example) -> String {
    let ids = example.ids().iter().zip(example.loss_mask()).filter(|(_, trained)| **trained);
    tokenizer.decode(&ids.map(|(id, _)| *id).collect::<Vec<_>>(), false).unwrap()
}

#[test]
fn trained_tokens_are_what_the_assistant_says() {
    let text = rendered("<s>the user: hello\n[the answer.</s>]the user: more\n[café 😀</s>]");
    let made = bpe().example(&text, "row", &Limits::default()).unwrap();
    assert_eq!(trained_text(bpe(), &made.item), "the answer.</s>café 😀</s>");
    assert_eq!(made.notes.straddled, 0);
    assert_eq!(made.item.ids()[0], bpe().ids().bos.unwrap());
}

#[test]
fn a_token_over_the_boundary_is_trained_on_and_counted() {
    // " cat" is one token, and the span begins inside it.
    assert_eq!(bpe().encode(" cat", false).unwrap().len(), 1);
    let made = bpe().example(&rendered("the c[at sat</s>]"), "row", &Limits::default()).unwrap();
    assert_eq!(trained_text(bpe(), &made.item), " cat sat</s>");
    assert_eq!(made.notes.straddled, 1);
}

#[test]
fn bos_and_eos_are_never_doubled_nor_missing() {
    let adding = with_bos();
    assert!(adding.adds_bos() && !adding.adds_eos());
    let check = |text: &str, begin: &[u32], added: usize, doubles: usize| {
        let made = adding.example(&rendered(text), "row", &Limits::default()).unwrap();
        assert_eq!(&made.item.ids()[..begin.len()], begin, "{text}");
        assert_eq!((made.notes.bos_added, made.notes.doubles_removed), (added, doubles), "{text}");
        let bos = adding.ids().bos.unwrap();
        assert_eq!(made.item.ids().iter().filter(|&&id| id == bos).count(), 1);
    };
    let bos = adding.ids().bos.unwrap();
    let the = adding.encode("the", false).unwrap()[0];
    check("<s>the[ cat</s>]", &[bos, the], 0, 0);
    check("<s><s>the[ cat</s>]", &[bos, the], 0, 1);
    check("the[ cat</s>]", &[bos, the], 1, 0);
    check("<s>the[ cat</s></s>]", &[bos, the], 0, 1);

    let skipped = bpe().example(&rendered("the[ cat]"), "row", &Limits::default()).unwrap_err();
    assert_eq!((skipped.reason, &*skipped.id), (SkipReason::MissingEos, "row"));
    let lenient = Limits { allow_missing_eos: true, ..Limits::default() };
    bpe().example(&rendered("the[ cat]"), "row", &lenient).unwrap();
    // Another control token ends a turn as well.
    bpe().example(&rendered("the[ cat<e>]"), "row", &Limits::default()).unwrap();
}

#[test]
fn only_space_may_follow_what_ends_a_turn() {
    let reason = |tokenizer: &Tokenizer, text: &str| {
        tokenizer.example(&rendered(text), "row", &Limits::default()).err().map(|skipped| skipped.reason)
    };
    let pair = |answer: &str| {
        let text = |text: &str| Rendered::new(text, vec![]).unwrap();
        let (prompt, full) = ("<s>the", format!("<s>the{answer}"));
        let made = bpe().pair_example(&text(prompt), &text(&full), &text(&full), "p", &Limits::default());
        made.err().map(|skipped| skipped.reason)
    };
    for answer in [" cat</s>", " cat</s>\n", " cat</s>\n\n \t\r\n  \n", " cat<e></s> \n", "</s>"] {
        for tokenizer in [bpe(), &llama()] {
            assert_eq!(reason(tokenizer, &format!("<s>the[{answer}]")), None, "{answer:?}");
        }
        assert_eq!(pair(answer), None, "{answer:?}");
    }
    let missing = Some(SkipReason::MissingEos);
    for answer in [" cat", " cat\n", "</s>a", "</s>\n.", " cat</s> the", "<e>\nthe\n"] {
        for tokenizer in [bpe(), &llama()] {
            assert_eq!(reason(tokenizer, &format!("<s>the[{answer}]")), missing, "{answer:?}");
        }
        assert_eq!(pair(answer), missing, "{answer:?}");
    }
    // A control token of the turn before ends nothing.
    assert_eq!(reason(bpe(), "[the</s>]\n[\n]"), missing);

    // What stands for unknown characters is a control token that nobody wrote.
    let unigram = train(ModelKind::Unigram);
    let unknown = unigram.encode("ж", false).unwrap();
    assert!(unknown.contains(&unigram.ids().unk.unwrap()) && unigram.is_control(unigram.ids().unk.unwrap()));
    assert_eq!(reason(&unigram, "<s>the[ cat ж]"), missing);
    assert_eq!(reason(&unigram, "<s>the[ cat ж</s>]"), None);
}

/// What stands around a text, and so the BOS check, follows `tokenizer.json` whatever `tokenizer_config.json` says of
/// it: `golden/flags.py` asked transformers.
#[test]
fn flags_of_bos_and_eos_are_read_as_in_transformers() {
    let values: serde_json::Value = serde_json::from_str(include_str!("golden/flags.json")).unwrap();
    let cases = values["cases"].as_array().unwrap();
    assert!(cases.len() > 80);
    let mut seen = std::collections::BTreeSet::new();
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        let file = &values["tokenizers"][case["tokenizer"].as_str().unwrap()];
        std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), case["config"].to_string()).unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let expect: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode("the", true).unwrap(), expect, "{case}");
        let around = (tokenizer.adds_bos(), tokenizer.adds_eos());
        let ids = (tokenizer.ids().bos.unwrap(), tokenizer.ids().eos.unwrap());
        assert_eq!(around, (expect[0] == ids.0, expect[expect.len() - 1] == ids.1), "{case}");
        seen.insert(around);
        let made = tokenizer.example(&rendered("the[the</s>]"), "row", &Limits::default()).unwrap();
        assert_eq!(made.notes.bos_added, usize::from(around.0), "{case}");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(false, false), (true, false), (true, true)]);
}

/// `golden/config_tokens.py`: tokens that stand only in the files beside `tokenizer.json`.
#[test]
fn tokens_of_the_files_beside_it_are_added_as_in_transformers() {
    let values: serde_json::Value = serde_json::from_str(include_str!("golden/config_tokens.json")).unwrap();
    let texts: Vec<String> = serde_json::from_value(values["texts"].clone()).unwrap();
    let cases = values["cases"].as_array().unwrap();
    for case in cases {
        let name = &case["name"];
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, json: &serde_json::Value| {
            std::fs::write(folder.path().join(file), json.to_string()).unwrap();
        };
        write("tokenizer.json", &values["tokenizer"]);
        write("tokenizer_config.json", &case["config"]);
        write("special_tokens_map.json", &case["map"]);
        write("added_tokens.json", &case["added"]);
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let saved = folder.path().join("saved");
        tokenizer.save(&saved).unwrap();
        // What is saved holds them too, and reads the same.
        for tokenizer in [&tokenizer, &Tokenizer::from_dir(&saved).unwrap()] {
            for (text, ids) in texts.iter().zip(case["ids"].as_array().unwrap()) {
                let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
                assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{name}: {text}");
            }
            let special = tokenizer.special();
            let named = serde_json::json!([special.bos, special.eos, special.unk, special.pad]);
            assert_eq!(named, case["named"], "{name}");
            let tokens = case["tokens"].as_object().unwrap();
            for (id, token) in tokens {
                let id: u32 = id.parse().unwrap();
                assert_eq!(tokenizer.id_to_token(id).as_deref(), token[0].as_str(), "{name}");
                assert_eq!(tokenizer.is_control(id), token[1] == true, "{name}: {token}");
            }
            let highest = tokens.keys().map(|id| id.parse::<usize>().unwrap()).max().unwrap();
            assert_eq!(tokenizer.vocab_size(), highest + 1, "{name}");
        }
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(saved.join("tokenizer.json")).unwrap()).unwrap();
        for token in json["added_tokens"].as_array().unwrap() {
            let flags = ["content", "special", "normalized", "lstrip", "rstrip", "single_word"];
            let got: Vec<_> = flags.iter().map(|flag| token[flag].clone()).collect();
            assert_eq!(case["tokens"][token["id"].to_string()], serde_json::Value::from(got), "{name}");
        }
        assert_eq!(json["added_tokens"].as_array().unwrap().len(), case["tokens"].as_object().unwrap().len());
    }
    assert!(cases.len() > 25, "{}", cases.len());
}

#[test]
fn a_gap_in_the_ids_counts_as_a_row() {
    let folder = tempfile::tempdir().unwrap();
    bpe().save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["model"]["vocab"]["\u{10ffff}"] = 1000.into();
    std::fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 1001);
    assert_eq!(tokenizer.id_to_token(1000).as_deref(), Some("\u{10ffff}"));
    assert!(bpe().vocab_size() < 1000);
}

/// The tokenizer with a post-processor that puts BOS before every text.
fn with_bos() -> Tokenizer {
    let gguf = GgufTokenizer { add_bos: Some(true), ..gguf() };
    Tokenizer::from_gguf_metadata(&gguf).unwrap()
}

/// The trained byte-level tokenizer as a GGUF file would describe it.
fn gguf() -> GgufTokenizer {
    let folder = tempfile::tempdir().unwrap();
    bpe().save(folder.path()).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap();
    let tokens: Vec<String> =
        (0..bpe().vocab_size() as u32).map(|id| bpe().id_to_token(id).unwrap()).collect();
    let merge =
        |pair: &serde_json::Value| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    GgufTokenizer {
        model: "gpt2".into(),
        pre: Some("smollm".into()),
        token_types: tokens
            .iter()
            .map(|t| if t.starts_with('<') && t.ends_with('>') { 3 } else { 1 })
            .collect(),
        tokens,
        merges: json["model"]["merges"].as_array().unwrap().iter().map(merge).collect(),
        bos: bpe().ids().bos,
        eos: bpe().ids().eos,
        unk: bpe().ids().unk,
        ..GgufTokenizer::default()
    }
}

#[test]
fn what_is_too_long_is_dropped_cut_or_an_error() {
    let text = rendered("<s>the cat the cat the cat[ the dog the dog the dog</s>]");
    let n = bpe().encode(text.text(), false).unwrap().len();
    let whole = bpe().example(&text, "row", &limits(n, Truncation::Drop)).unwrap();
    assert_eq!(whole.notes.truncated_tokens, 0);

    let skipped = bpe().example(&text, "row", &limits(n - 1, Truncation::Drop)).unwrap_err();
    assert_eq!((skipped.reason, skipped.tokens), (SkipReason::TooLong, n));
    let right = bpe().example(&text, "row", &limits(n - 1, Truncation::Right)).unwrap();
    assert_eq!((right.item.ids(), right.notes.truncated_tokens), (&whole.item.ids()[..n - 1], 1));
    let left = bpe().example(&text, "row", &limits(n - 3, Truncation::Left)).unwrap();
    assert_eq!(left.item.ids()[0], bpe().ids().bos.unwrap());
    assert_eq!(left.item.ids()[1..], whole.item.ids()[4..]);
    let skipped = bpe().example(&text, "row", &limits(4, Truncation::Right)).unwrap_err();
    assert_eq!(skipped.reason, SkipReason::NoTargets);

    let rows = vec![("a".to_owned(), text.clone()), ("b".to_owned(), rendered("the[ cat</s>]"))];
    let made = bpe().examples(&rows, &limits(10, Truncation::Drop)).unwrap();
    assert_eq!((made.report.rows, made.report.examples), (2, 1));
    assert_eq!(made.report.dropped[&SkipReason::TooLong], 1);
    assert_eq!(made.skipped[0].id, "a");
    let error = bpe().examples(&rows, &limits(10, Truncation::Error)).unwrap_err();
    assert!(matches!(error, TokenizerError::TooLong { limit: 10, .. }), "{error}");
    let json = serde_json::to_string(&made.report).unwrap();
    assert!(json.contains("\"dropped\":{\"too_long\":1}"), "{json}");
}

#[test]
fn a_pairs_answers_follow_its_prompt() {
    let text = |text: &str| Rendered::new(text, vec![]).unwrap();
    let pair = |prompt: &str, chosen: &str, rejected: &str, limits: &Limits| {
        bpe().pair_example(&text(prompt), &text(chosen), &text(rejected), "p", limits)
    };
    let chosen = "<s>the user\nthe cat</s>";
    let made = pair("<s>the user\n", chosen, "<s>the user\nthe dog sat</s>", &Limits::default()).unwrap();
    assert_eq!([made.item.prompt(), made.item.chosen()].concat(), bpe().encode(chosen, false).unwrap());

    // "ca" + "t" is one token: the prompt ends inside it.
    let bad = pair("<s>the user\nthe ca", chosen, "<s>the user\nthe car</s>", &Limits::default());
    let skipped = bad.unwrap_err();
    assert_eq!(skipped.reason, SkipReason::PromptNotPrefix);
    assert!(skipped.detail.contains("reach over the boundary"), "{}", skipped.detail);
    let error = Tokenized::gather(
        [Err::<ferrotune_tokenizer::Made<ferrotune_types::PairExample>, _>(skipped)],
        &Limits::default(),
    );
    assert!(matches!(error.unwrap_err(), TokenizerError::NotAPrefix { .. }));

    let prompt = made.item.prompt().len();
    let too_long = |max, truncation| {
        pair("<s>the user\n", chosen, "<s>the user\nthe dog sat on</s>", &limits(max, truncation))
    };
    assert_eq!(too_long(prompt, Truncation::Right).unwrap_err().reason, SkipReason::NoRoom);
    assert_eq!(too_long(prompt + 2, Truncation::Drop).unwrap_err().reason, SkipReason::TooLong);
    let right = too_long(prompt + 2, Truncation::Right).unwrap();
    assert_eq!((right.item.chosen().len(), right.item.rejected().len()), (2, 2));
    let left = too_long(prompt + 3, Truncation::Left).unwrap();
    assert_eq!(left.item.prompt()[0], bpe().ids().bos.unwrap());
    assert_eq!(left.item.chosen(), made.item.chosen());
    let empty = pair("<s>the user\n", "<s>the user\n", chosen, &Limits::default()).unwrap_err();
    assert_eq!(empty.reason, SkipReason::EmptyAnswer);
}

#[test]
fn what_is_done_to_a_pairs_prompt_counts_once() {
    let adding = with_bos();
    let report = |prompt: &str, chosen: &str, rejected: &str| {
        let text = |text: &str| Rendered::new(format!("{prompt}{text}"), vec![]).unwrap();
        let made =
            adding.pair_example(&text(""), &text(chosen), &text(rejected), "p", &Limits::default()).unwrap();
        let report = Tokenized::gather([Ok(made)], &Limits::default()).unwrap().report;
        (report.examples, report.bos_added, report.doubles_removed)
    };
    assert_eq!(report("the user\n", "the cat</s>", "the dog</s>"), (1, 1, 0));
    assert_eq!(report("<s>the user\n", "the cat</s>", "the dog</s>"), (1, 0, 0));
    // One double in the prompt, then one in each answer, then one in an answer alone.
    assert_eq!(report("<s><s>the user\n", "the cat</s>", "the dog</s>"), (1, 0, 1));
    assert_eq!(report("<s><s>the user\n", "the cat</s></s>", "the dog</s></s>"), (1, 0, 3));
    assert_eq!(report("the user\n", "the cat</s>", "the dog</s></s>"), (1, 1, 1));
}

/// The trained tokenizer's folder, read again after a change of its added tokens.
fn changed(kind: ModelKind, change: impl Fn(&mut Vec<serde_json::Value>)) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    train(kind).save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(json["added_tokens"].as_array_mut().unwrap());
    std::fs::write(&path, json.to_string()).unwrap();
    // They name special tokens, which would be added again.
    for beside in ["tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::remove_file(folder.path().join(beside)).unwrap();
    }
    Tokenizer::from_dir(folder.path()).unwrap()
}

/// Each kind of tokenizer with added tokens that take the space beside them along, and a plain one that does too; and
/// the same without `<s>`.
fn stripping() -> &'static [[Tokenizer; 2]] {
    static ALL: OnceLock<Vec<[Tokenizer; 2]>> = OnceLock::new();
    let with_flags = |kind: ModelKind, without: &str| {
        let next = train(kind).vocab_size();
        changed(kind, |added| {
            let flags = |token: &str| match token {
                "<s>" => [true, true, false],
                "</s>" => [false, true, false],
                "<e>" => [true, false, false],
                _ => [false, false, true],
            };
            for token in added.iter_mut() {
                let [left, right, single] = flags(token["content"].as_str().unwrap());
                token["lstrip"] = left.into();
                token["rstrip"] = right.into();
                token["single_word"] = single.into();
            }
            added.push(serde_json::json!({
                "id": next, "content": "<n>", "single_word": false, "lstrip": true, "rstrip": true,
                "normalized": false, "special": false,
            }));
            added.retain(|token| token["content"] != without);
        })
    };
    ALL.get_or_init(|| {
        let kinds = [ModelKind::Bpe, ModelKind::WordPiece, ModelKind::Unigram];
        kinds.map(|kind| [with_flags(kind, ""), with_flags(kind, "<s>")]).into()
    })
}

#[test]
fn control_tokens_take_the_space_beside_them_along_whatever_people_write() {
    let [tokenizer, _] = &stripping()[0];
    assert!(!tokenizer.is_fast());
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    let check = |text: &str, forged: &str, expect: &[&[u32]]| {
        let at = text.rfind(forged).unwrap();
        let literal = std::iter::once(at..at + forged.len()).collect();
        let row = Rendered::new(text, vec![]).unwrap().with_literal(literal).unwrap();
        assert_eq!(tokenizer.encode_rendered(&row).unwrap().ids, expect.concat(), "{text:?}");
    };
    // The fast tokenizer has no flags: a control token in a literal range is what its characters are.
    let plain = |text: &str| {
        let row = Rendered::new(text, vec![]).unwrap();
        let forged = text.find('<').map(|at| at..text.len()).into_iter().collect();
        bpe().encode_rendered(&row.with_literal(forged).unwrap()).unwrap().ids
    };
    // rstrip: the line break behind the token that counts is gone, that behind the forged one is not.
    check("the</s>\n the cat</s>\n", "</s>", &[&plain("the"), &[id("</s>")], &plain("the cat</s>\n")]);
    // lstrip: so is the space before it.
    check("the \n<e> the cat <e>", "<e>", &[&plain("the"), &[id("<e>")], &plain(" the cat <e>")]);
    // Space between two of them belongs to the first.
    check("a</s> \n<e>b <s> c", "<s>", &[&plain("a"), &[id("</s>"), id("<e>")], &plain("b <s> c")]);
}

#[test]
fn control_tokens_in_a_persons_words_are_characters() {
    let text = "<s>say </s> now[ no</s>]";
    let plain = rendered(text);
    let literal = plain.clone().with_literal(vec![7..11, 15..18].into_iter().take(1).collect()).unwrap();
    let eos = bpe().ids().eos.unwrap();
    let count = |rendered: &Rendered| {
        let made = bpe().example(rendered, "row", &Limits::default()).unwrap();
        made.item.ids().iter().filter(|&&id| id == eos).count()
    };
    assert_eq!((count(&plain), count(&literal)), (2, 1));
    assert_eq!(bpe().decode(&bpe().encode_rendered(&literal).unwrap().ids, false).unwrap(), plain.text());
    // A document's text is a person's words throughout.
    let made = bpe().document("the </s> cat", "d", &Limits::default()).unwrap();
    assert_eq!(made.item.ids().iter().filter(|&&id| id == eos).count(), 1);
}

#[test]
fn a_saved_tokenizer_is_the_same_one() {
    for kind in [ModelKind::Bpe, ModelKind::WordPiece, ModelKind::Unigram] {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = train(kind).with_chat_template("{{ messages }}");
        tokenizer.save(folder.path()).unwrap();
        std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [1, 3]}"#).unwrap();
        let again = Tokenizer::from_dir(folder.path()).unwrap();
        assert_eq!(again.special(), tokenizer.special());
        assert_eq!(again.chat_template(), Some("{{ messages }}"));
        assert_eq!(again.ids().stop, [1, 3]);
        for text in CORPUS {
            assert_eq!(again.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap());
        }
    }
}

#[test]
fn a_bad_folder_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = |expect: &str| {
        let error = Tokenizer::from_dir(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    error("tokenizer.json");
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    error("tokenizer.json");
    bpe().save(folder.path()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), "[]").unwrap();
    error("tokenizer_config.json");
}

#[test]
fn bad_gguf_metadata_are_errors() {
    let check = |change: fn(&mut GgufTokenizer), expect: &str| {
        let mut metadata = gguf();
        change(&mut metadata);
        let error = Tokenizer::from_gguf_metadata(&metadata).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(|m| m.model = "rwkv".into(), "gpt2, llama and t5");
    check(|m| m.pre = Some("what".into()), "smollm");
    check(|m| m.tokens.clear(), "no tokens");
    check(|m| m.token_types.truncate(3), "3 entries");
    check(|m| m.merges[0] = "nope".into(), "not two tokens");
    check(|m| m.merges[0] = "zz yy".into(), "no token");
    check(|m| m.bos = Some(9999), "9999");
    check(|m| m.tokens[7] = m.tokens[8].clone(), "both");
    check(|m| m.model = "t5".into(), "scores");
}

/// The metadata of a small SentencePiece BPE.
fn llama_metadata() -> GgufTokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let words = ["▁", "t", "h", "e", "c", "a", "s", "▁t", "he", "▁the", "at", "▁c", "▁cat", "▁s", "▁sat"];
    tokens.extend(words.map(str::to_owned));
    let kinds = |i: usize| match i {
        0 => 2,
        1 | 2 => 3,
        3..=258 => 6,
        _ => 1,
    };
    GgufTokenizer {
        model: "llama".into(),
        scores: (0..tokens.len()).map(|i| if i < 259 { 0.0 } else { -(i as f32) }).collect(),
        token_types: (0..tokens.len()).map(kinds).collect(),
        tokens,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufTokenizer::default()
    }
}

/// It needs several ids for a line break.
fn llama() -> Tokenizer {
    let mut metadata = llama_metadata();
    metadata.tokens.push("<e>".into());
    metadata.token_types.push(3);
    metadata.scores.push(0.0);
    Tokenizer::from_gguf_metadata(&metadata).unwrap()
}

/// A file may say of one token alone that it ends a text: llama.cpp knows the others by their texts.
#[test]
fn what_ends_an_answer_by_its_text_stops_and_is_a_control_token() {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const USER_DEFINED: i32 = 4;
    let check = |more: &[(&str, i32)], eot: Option<u32>, expect: &[&str]| {
        let mut metadata = llama_metadata();
        let first = metadata.tokens.len() as u32;
        for (text, kind) in more {
            metadata.tokens.push((*text).to_owned());
            metadata.token_types.push(*kind);
            metadata.scores.push(0.0);
        }
        metadata.eot = eot.map(|n| first + n);
        let tokenizer = Tokenizer::from_gguf_metadata(&metadata).unwrap();
        let texts = tokenizer.ids().stop.iter().map(|&id| tokenizer.id_to_token(id).unwrap());
        assert_eq!(texts.collect::<Vec<_>>(), expect, "{more:?}");
        assert!(tokenizer.ids().stop.iter().all(|&id| tokenizer.is_control(id)), "{more:?}");
        assert_eq!(tokenizer.special().eos.as_deref(), Some("</s>"));
        tokenizer
    };
    check(&[], None, &["</s>"]);
    // Llama 3's, and a word that happens to be spelled so.
    check(&[("<|eot_id|>", CONTROL), ("<|eom_id|>", CONTROL)], None, &["</s>", "<|eot_id|>", "<|eom_id|>"]);
    check(&[("<|eot_id|>", CONTROL), ("<EOT>", NORMAL)], None, &["</s>", "<|eot_id|>"]);
    check(&[("<x>", USER_DEFINED), ("<y>", CONTROL)], Some(0), &["</s>", "<x>"]);
    // Phi-3's.
    let phi3 = [("<|endoftext|>", CONTROL), ("<|assistant|>", CONTROL), ("<|end|>", USER_DEFINED)];
    let tokenizer = check(&phi3, None, &["</s>", "<|endoftext|>", "<|end|>"]);
    let made = tokenizer.example(&rendered("<s>the<|assistant|>[cat<|end|>]"), "row", &Limits::default());
    assert_eq!(trained_text(&tokenizer, &made.unwrap().item), "cat<|end|>");
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let end = tokenizer.token_to_id("<|end|>").unwrap();
    assert!(Tokenizer::from_dir(folder.path()).unwrap().is_control(end));
}

#[test]
fn where_a_file_does_not_say_bos_is_put_as_llama_cpp_puts_it() {
    let check = |pre: &str, add_bos: Option<bool>, expect: bool| {
        let metadata = GgufTokenizer { pre: Some(pre.to_owned()), add_bos, ..gguf() };
        let tokenizer = Tokenizer::from_gguf_metadata(&metadata).unwrap();
        assert_eq!(tokenizer.adds_bos(), expect, "{pre} {add_bos:?}");
        assert_eq!(tokenizer.encode("the", true).unwrap()[0] == tokenizer.ids().bos.unwrap(), expect);
    };
    for pre in ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"] {
        check(pre, None, true);
        check(pre, Some(false), false);
    }
    check("jina-v5-nano", None, true);
    check("tekken", None, true);
    for pre in ["default", "gpt-2", "smollm", "qwen2", "dbrx", "gpt-4o", "llama4", "deepseek-v3"] {
        check(pre, None, false);
        check(pre, Some(true), true);
    }
    assert!(llama().adds_bos());
}

/// For a Llama's class transformers 5 builds a tokenizer of the vocabulary, and reads `tokenizer.json` no further.
#[test]
fn a_saved_llama_keeps_its_class_only_where_transformers_builds_the_same_tokenizer() {
    const AS_IT_IS: &str = "PreTrainedTokenizerFast";
    let spaces_the_first = llama_metadata();
    let prepends = GgufTokenizer { architecture: "phi3".into(), ..llama_metadata() };
    let check = |metadata: &GgufTokenizer, config: serde_json::Value, expect: &str| {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::from_gguf_metadata(metadata).unwrap();
        tokenizer.save(folder.path()).unwrap();
        let path = folder.path().join("tokenizer_config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let read = Tokenizer::from_dir(folder.path()).unwrap();
        read.save(folder.path()).unwrap();
        let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(saved["tokenizer_class"], expect, "{config}");
        let again = Tokenizer::from_dir(folder.path()).unwrap();
        let text = "<s> the cat</s><s>the";
        assert_eq!(again.encode(text, false).unwrap(), read.encode(text, false).unwrap());
    };
    for class in ["LlamaTokenizer", "LlamaTokenizerFast"] {
        check(&spaces_the_first, serde_json::json!({"tokenizer_class": class}), class);
        check(&spaces_the_first, serde_json::json!({"tokenizer_class": class, "legacy": false}), class);
        check(&spaces_the_first, serde_json::json!({"tokenizer_class": class, "legacy": true}), AS_IT_IS);
        let without = serde_json::json!({"tokenizer_class": class, "add_prefix_space": false});
        check(&spaces_the_first, without, AS_IT_IS);
        check(&prepends, serde_json::json!({"tokenizer_class": class}), AS_IT_IS);
        check(&prepends, serde_json::json!({"tokenizer_class": class, "legacy": false}), AS_IT_IS);
    }
    check(&prepends, serde_json::json!({"tokenizer_class": "OtherTokenizer"}), "OtherTokenizer");
    check(&prepends, serde_json::json!({}), AS_IT_IS);
}

/// A SentencePiece BPE: GGUF keeps scores instead of merges, and both must cut the same.
#[test]
fn sentencepiece_scores_cut_as_merges_do() {
    let metadata = llama_metadata();
    let tokenizer = Tokenizer::from_gguf_metadata(&metadata).unwrap();
    let ids = tokenizer.encode("the cat sat é", true).unwrap();
    let shown: Vec<String> = ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect();
    assert_eq!(shown, ["<s>", "▁the", "▁cat", "▁sat", "▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the cat sat é");

    // The same vocabulary as a unigram model takes the likeliest cut.
    let unigram = GgufTokenizer { model: "t5".into(), ..metadata };
    let tokenizer = Tokenizer::from_gguf_metadata(&unigram).unwrap();
    let ids = tokenizer.encode("the cat", true).unwrap();
    assert_eq!(ids.last(), Some(&2));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the cat");
}

#[test]
fn added_tokens_are_single_ids_with_a_plan_for_the_model() {
    let before = bpe().encode("<tool>", false).unwrap();
    let (tokenizer, plan) = train(ModelKind::Bpe).with_tokens(&["<tool>", "<s>", "<tool>"], true).unwrap();
    assert_eq!(plan.added.len(), 1);
    assert_eq!(
        (plan.old_size, plan.new_size, plan.rows(64)),
        (bpe().vocab_size(), bpe().vocab_size() + 1, 384)
    );
    assert_eq!((plan.added[0].id as usize, &plan.added[0].pieces), (plan.old_size, &before));
    assert_eq!(plan.known, ["<s>", "<tool>"]);
    assert_eq!(tokenizer.encode("a<tool>b", false).unwrap()[1], plan.added[0].id);
    assert!(tokenizer.is_control(plan.added[0].id));
    assert!(train(ModelKind::Bpe).with_tokens(&[""], true).is_err());
}

#[test]
fn training_is_the_same_every_time_and_refuses_bad_settings() {
    for kind in [ModelKind::Bpe, ModelKind::WordPiece, ModelKind::Unigram] {
        let (a, b) = (train(kind), train(kind));
        for text in CORPUS {
            assert_eq!(a.encode(text, false).unwrap(), b.encode(text, false).unwrap(), "{kind:?}");
        }
    }
    let config = TrainConfig { vocab_size: 100, ..TrainConfig::default() };
    assert!(matches!(Tokenizer::train(CORPUS, &config), Err(TokenizerError::Training(_))));
}

#[test]
fn an_explanation_shows_every_token_and_the_whole_text() {
    let text = "the café 😀\n</s>";
    let shown = bpe().explain(text).unwrap();
    assert_eq!(shown.pieces.iter().map(|piece| &*piece.text).collect::<String>(), text);
    assert_eq!(shown.n_tokens(), bpe().encode(text, true).unwrap().len());
    assert!(shown.pieces.last().unwrap().is_control);
    assert_eq!(shown.budget(100, 20).left(), 80 - shown.n_tokens() as i64);
    assert!(shown.ansi().contains('↵'));
    let table = compare(&[("bpe", bpe()), ("unigram", &train(ModelKind::Unigram))], "the cat").unwrap();
    assert!(table.contains("unigram") && table.contains("tokens"), "{table}");
}

#[test]
fn an_explanation_counts_what_the_tokenizer_puts_around_a_text() {
    let around = GgufTokenizer { add_bos: Some(true), add_eos: Some(true), ..gguf() };
    let tokenizer = Tokenizer::from_gguf_metadata(&around).unwrap();
    let shown = tokenizer.explain("the café\n").unwrap();
    assert_eq!(shown.n_tokens(), bpe().explain("the café\n").unwrap().n_tokens() + 2);
    assert_eq!(shown.budget(10, 0).used, tokenizer.encode("the café\n", true).unwrap().len());
    assert_eq!(shown.pieces.iter().map(|piece| &*piece.text).collect::<String>(), "the café\n");
    let ends = [&shown.pieces[0], shown.pieces.last().unwrap()];
    assert_eq!(
        ends.map(|piece| (&*piece.token, &*piece.text, piece.is_control)),
        [("<s>", "", true), ("</s>", "", true),]
    );
    let plain = shown.plain();
    assert!(plain.starts_with("<s>│the") && plain.ends_with("↵│</s>│"), "{plain}");
    assert!(shown.ansi().contains("\x1b[7m</s>\x1b[0m"));
    let empty = tokenizer.explain("").unwrap();
    assert_eq!((empty.n_tokens(), &*empty.plain()), (2, "<s>│</s>│"));
}

fn examples(lengths: &[usize]) -> Vec<Example> {
    let mut next = 0;
    let make = |(i, &n): (usize, &usize)| {
        let ids: Vec<u32> = (next..next + n as u32).collect();
        next += n as u32;
        Example::new(i.to_string(), ids, (0..n).map(|t| t > 0).collect()).unwrap()
    };
    lengths.iter().enumerate().map(make).collect()
}

proptest! {
    #[test]
    fn unpacking_gives_back_what_was_packed(lengths in prop::collection::vec(1..40usize, 0..60), max_length in 40..80usize) {
        let given = examples(&lengths);
        for packing in [Packing::BestFit, Packing::BestFitSplit, Packing::Padded, Packing::Wrapped] {
            let (packs, report) = pack(given.clone(), max_length, packing).unwrap();
            prop_assert!(packs.iter().all(|pack| pack.iter().map(Example::n_tokens).sum::<usize>() <= max_length));
            prop_assert_eq!(report.lost_tokens, 0);
            if packing == Packing::Wrapped {
                let ids: Vec<u32> = packs.iter().flatten().flat_map(|e| e.ids().iter().copied()).collect();
                prop_assert_eq!(ids, given.iter().flat_map(|e| e.ids().iter().copied()).collect::<Vec<_>>());
                let is_full = |pack: &Vec<Example>| pack.iter().map(Example::n_tokens).sum::<usize>() == max_length;
                prop_assert!(packs.iter().rev().skip(1).all(is_full));
            } else {
                let mut unpacked: Vec<Example> = packs.into_iter().flatten().collect();
                unpacked.sort_by_key(|example| example.id().parse::<usize>().unwrap());
                prop_assert_eq!(&unpacked, &given);
            }
        }
    }

    #[test]
    fn batches_hold_every_example_once_whatever_the_order(
        lengths in prop::collection::vec(1..40usize, 0..60), n in 1..9usize, seed: Option<u64>, length_grouped: bool, by_tokens: bool
    ) {
        let packs: Vec<Vec<Example>> = examples(&lengths).into_iter().map(|example| vec![example]).collect();
        let size = if by_tokens { BatchSize::Tokens(n * 20) } else { BatchSize::Examples(n) };
        let config = BatchConfig { size, shuffle: seed, length_grouped };
        let made = batches(&packs, &config).unwrap();
        prop_assert_eq!(&made, &batches(&packs, &config).unwrap());
        let mut ids: Vec<i64> = made.iter().flat_map(|batch| batch.ids().iter().copied()).collect();
        if seed.is_none() && !length_grouped {
            prop_assert!(ids.is_sorted());
        }
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..lengths.iter().sum::<usize>() as i64).collect::<Vec<_>>());
        for batch in &made {
            match size {
                BatchSize::Examples(n) => prop_assert!(batch.segments().len() <= n),
                BatchSize::Tokens(n) => prop_assert!(batch.n_tokens() <= n || batch.segments().len() == 1),
            }
        }
    }

    #[test]
    fn a_stream_gives_what_decoding_at_once_gives(text in "([a-z ]{0,9}|é|北京|😀|</s>|\n){0,12}", kind in 0..3usize) {
        static ALL: OnceLock<Vec<Tokenizer>> = OnceLock::new();
        let kinds = [ModelKind::Bpe, ModelKind::WordPiece, ModelKind::Unigram];
        let tokenizer = &ALL.get_or_init(|| kinds.map(train).into())[kind];
        let ids = tokenizer.encode(&text, false).unwrap();
        for skip_special in [false, true] {
            let mut stream = tokenizer.decode_stream(skip_special);
            let mut streamed = String::new();
            for &id in &ids {
                let new = stream.push(id).unwrap();
                prop_assert!(!new.contains(char::REPLACEMENT_CHARACTER));
                streamed += &new;
            }
            streamed += &stream.finish().unwrap();
            prop_assert_eq!(streamed, tokenizer.decode(&ids, skip_special).unwrap());
        }
    }

    #[test]
    fn literal_texts_are_cut_as_the_general_path_cuts(
        parts in prop::collection::vec("(</s>|<s>|<e>|<n>|<unk>|[ \n\t]|\u{a0}|\u{2003}|[a-c1_]|é|the cat){1,3}", 0..9),
        kind in 0..3usize,
    ) {
        let [tokenizer, without] = &stripping()[kind];
        let text = parts.concat();
        // A literal range in which no control token lies changes nothing.
        let words: Vec<_> = text.match_indices("the").map(|(at, the)| at..at + the.len()).collect();
        let row = Rendered::new(format!("the {text}"), vec![]).unwrap();
        let shifted = words.iter().map(|word| word.start + 4..word.end + 4);
        let row = row.with_literal(std::iter::once(0..3).chain(shifted).collect()).unwrap();
        prop_assert_eq!(tokenizer.encode_rendered(&row).unwrap(), tokenizer.encode_with_offsets(row.text(), false).unwrap());
        // A forged token reads as it does to a tokenizer that does not have it.
        let forged: Vec<_> = text.match_indices("<s>").map(|(at, token)| at..at + token.len()).collect();
        let row = Rendered::new(text, vec![]).unwrap().with_literal(forged).unwrap();
        prop_assert_eq!(tokenizer.encode_rendered(&row).unwrap(), without.encode_with_offsets(row.text(), false).unwrap());
    }

    #[test]
    fn the_mask_covers_exactly_the_spans(parts in prop::collection::vec("[a-z é北\n]{1,12}", 2..7)) {
        // Control tokens between the parts keep tokens from reaching over.
        let marked: String = parts.iter().enumerate().map(|(i, part)| {
            if i % 2 == 1 { format!("<e>[{part}</s>]") } else { format!("<e>{part}") }
        }).collect();
        let text = rendered(&marked);
        let made = bpe().example(&text, "row", &Limits { max_length: 10_000, ..Limits::default() }).unwrap();
        let said: String = text.assistant().iter().map(|span| &text.text()[span.clone()]).collect();
        prop_assert_eq!(trained_text(bpe(), &made.item), said);
        prop_assert_eq!(made.notes.straddled, 0);
    }
}

#[test]
fn batches_refuse_a_size_of_nothing() {
    let config = BatchConfig { size: BatchSize::Tokens(0), ..BatchConfig::default() };
    assert!(batches(&[], &config).is_err());
    assert!(pair_batches(&[], &BatchConfig::default()).unwrap().is_empty());
    assert!(pack(vec![], 0, Packing::BestFit).is_err());
}
