//! Tokenizer files that somebody broke on purpose: reading one, and using what it gives, is a value or an error, never a
//! panic.

use std::fs;

use ferrotune_tokenizer::{GgufTokenizer, ModelKind, Tokenizer, TrainConfig};
use proptest::prelude::*;

const TEXT: &str = "the cat <|im_end|> sat\n  1984 é 北京 😀";

/// A whole `tokenizer.json` of each kind.
fn whole() -> Vec<Vec<u8>> {
    [ModelKind::Bpe, ModelKind::WordPiece, ModelKind::Unigram]
        .into_iter()
        .map(|kind| {
            let config = TrainConfig { kind, vocab_size: 280, min_frequency: 1, ..TrainConfig::default() };
            let folder = tempfile::tempdir().unwrap();
            Tokenizer::train([TEXT, "the cat sat on the mat"], &config).unwrap().save(folder.path()).unwrap();
            fs::read(folder.path().join("tokenizer.json")).unwrap()
        })
        .collect()
}

/// Reads a folder with this file and uses what comes of it.
fn read(file: &str, bytes: &[u8], others: &[(&str, &[u8])]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(file), bytes).unwrap();
    for (name, bytes) in others {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    if let Ok(tokenizer) = Tokenizer::from_dir(folder.path()) {
        used(&tokenizer);
    }
}

fn used(tokenizer: &Tokenizer) {
    if let Ok(ids) = tokenizer.encode(TEXT, true) {
        let _ = tokenizer.decode(&ids, true);
    }
    let _ = (tokenizer.explain(TEXT), tokenizer.decode(&[0, 5, u32::MAX], false));
}

/// What stops the reading of a `tokenizer.json` after a change, with a `tokenizer_config.json` beside it.
fn refused(change: impl Fn(&mut serde_json::Value), config: &serde_json::Value) -> String {
    let mut json: serde_json::Value = serde_json::from_slice(&whole()[0]).unwrap();
    change(&mut json);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::from_dir(folder.path()).unwrap_err().to_string()
}

#[test]
fn an_id_far_beyond_the_number_of_tokens_is_an_error() {
    let none = serde_json::json!({});
    for id in [4_000_000_000_u64, 4_294_967_294, 2_000_000] {
        let word = refused(|json| json["model"]["vocab"]["a"] = id.into(), &none);
        assert!(word.contains(&format!("the highest id is {id}; with 2")), "{word}");
        let special = refused(|json| json["added_tokens"][0]["id"] = id.into(), &none);
        assert!(special.contains(&format!("the highest id is {id}; with 2")), "{special}");
    }
}

#[test]
fn ids_of_other_files_that_disagree_are_an_error() {
    let check = |config: serde_json::Value, expect: &str| {
        let error = refused(|_| (), &config);
        assert!(error.contains("tokenizer_config.json") && error.contains(expect), "{error}");
    };
    let entry =
        |id: &str, content: &str| serde_json::json!({"added_tokens_decoder": {id: {"content": content}}});
    check(entry("999", "<x>"), "the token \"<x>\" is given the id 999, and its id is 2");
    check(entry("5", "<|im_end|>"), "is given the id 5");
    check(entry("4000000000", "<x>"), "is given the id 4000000000");
    check(entry("x", "<x>"), "\"x\" is no id");
    check(serde_json::json!({"added_tokens_decoder": {"5": 7}}), "the entry 5 is no token");
    check(serde_json::json!({"added_tokens_decoder": 7}), "is no object");
    // A gap in the ids: the number of tokens is the id of the last.
    let gap = |json: &mut serde_json::Value| {
        json["added_tokens"] = serde_json::json!([]);
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let next = vocab.len();
        vocab.insert("\u{10ffff}".into(), (next + 1).into());
    };
    let error = refused(gap, &serde_json::json!({"pad_token": "<x>"}));
    assert!(error.contains("the new token \"<x>\" would get the id"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_broken_tokenizer_json_is_an_error_and_no_more(
        kind in 0usize..3,
        flips in proptest::collection::vec((0usize..20_000, proptest::sample::select(b"0123456789-\"{}[],:aN\\".to_vec())), 1..6),
        cut in proptest::option::weighted(0.1, 0usize..20_000),
    ) {
        // The library `tokenizers` panics at some files; that is caught, and its message is no news here.
        std::panic::set_hook(Box::new(|_| {}));
        let mut bytes = whole().swap_remove(kind);
        for (at, value) in flips {
            // Most of a file is its vocabulary; half of the flips go where its parts are described.
            let at = if at % 2 == 0 { at % bytes.len() } else { at % 1500.min(bytes.len()) };
            bytes[at] = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let done = std::panic::catch_unwind(|| read("tokenizer.json", &bytes, &[]));
        prop_assert!(done.is_ok(), "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn broken_files_beside_it_are_errors_and_no_more(
        text in r#"(\{|\}|\[|\]|"|:|,|null|1|-1|true|bos_token|eos_token|eos_token_id|chat_template|content|default|name|a|added_tokens_decoder|extra_special_tokens|__type|AddedToken){0,20}"#,
        file in proptest::sample::select(vec!["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json", "chat_template.json"]),
    ) {
        let tokenizer = whole().swap_remove(0);
        read(file, text.as_bytes(), &[("tokenizer.json", &tokenizer)]);
    }

    #[test]
    fn metadata_of_any_kind_give_a_tokenizer_or_an_error(
        model in proptest::sample::select(vec!["gpt2", "llama", "t5", "bert", ""]),
        architecture in proptest::sample::select(vec!["llama", "gemma2", "phi3"]),
        pre in proptest::sample::select(vec!["default", "llama-bpe", "deepseek-llm", "x"]),
        tokens in proptest::collection::vec("(a|b|▁| |é|<0x0[0-9]>|<s>|Ġ){0,3}", 0..20),
        merges in proptest::collection::vec("(a|b|▁| ){0,3}", 0..6),
        scores in proptest::collection::vec(proptest::num::f32::ANY, 0..20),
        token_types in proptest::collection::vec(-1..9i32, 0..20),
        ids in proptest::array::uniform4(proptest::option::of(0..25u32)),
        flags in proptest::array::uniform4(proptest::option::of(any::<bool>())),
        charsmap in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        std::panic::set_hook(Box::new(|_| {}));
        let mut gguf = GgufTokenizer {
            model: model.into(), architecture: architecture.into(), pre: Some(pre.into()), tokens, merges,
            scores, token_types, precompiled_charsmap: charsmap,
            bos: ids[0], eos: ids[1], unk: ids[2], pad: ids[3],
            add_bos: flags[0], add_eos: flags[1], add_space_prefix: flags[2], remove_extra_whitespaces: flags[3],
            ..GgufTokenizer::default()
        };
        // As given, and with lists of one length, of which more get through.
        for fit in [false, true] {
            if fit {
                gguf.scores.resize(gguf.tokens.len(), -1.0);
                gguf.token_types.resize(gguf.tokens.len(), 1);
            }
            let done = std::panic::catch_unwind(|| Tokenizer::from_gguf_metadata(&gguf).map(|t| used(&t)));
            prop_assert!(done.is_ok(), "{gguf:?}");
        }
    }
}
