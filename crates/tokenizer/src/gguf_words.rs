//! How a GGUF file's `tokenizer.ggml.pre` cuts texts into words: the names and expressions of llama.cpp's
//! `llama-vocab.cpp`, in the spelling of the published `tokenizer.json` files where those are known.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use crate::TokenizerError;
use crate::fast::{LLAMA3, QWEN2};

/// Expressions that cut one after the other, each what the ones before left over.
type Cuts = &'static [&'static str];

/// Names, cuts, whether merges are passed over, and whether BOS is added.
type Words = (&'static [&'static str], Cuts, bool, bool);

/// `pre` names, what they cut by, whether their published tokenizers take a word that is a token whole, past the
/// merges, and whether they put BOS before a text where the file does not say. An empty list of cuts is GPT-2's own
/// expression.
const WORDS: &[Words] = &[
    (&["default", "gpt-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "phi-2"], &[], false, false),
    (
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
        true,
        true,
    ),
    (&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[LLAMA3], false, false),
    (
        &["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "f2llmv2", "grok-2"],
        &[QWEN2],
        false,
        false,
    ),
    (&["qwen35"], &[QWEN35], false, false),
    (&["tekken"], &[TEKKEN], true, true),
    (&["gpt-4o", "llama4"], &[GPT4O], true, false),
    (&["kanana2", "talkie", "minimax-m2"], &[GPT4O], false, false),
    (
        &["deepseek-llm"],
        &["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_SIGNS, r"\s+$", DEEPSEEK_CJK, r"\p{N}+"],
        false,
        false,
    ),
    (&["deepseek-coder"], &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"], false, false),
    (
        &["deepseek-v3", "hunyuan-dense"],
        &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK_V3],
        false,
        false,
    ),
];

/// Every digit alone, then GPT-2's expression.
const DIGITS: &[&str] =
    &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"];

const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
/// Letters of scripts with capitals, which the published expression lists one by one.
const DEEPSEEK_LETTERS: &str = r"\s?[\p{Lu}\p{Ll}\p{Lt}]+";
const DEEPSEEK_SIGNS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_CJK: &str = "[一-龥\u{800}-一가-\u{d7ff}]+";

/// How a `pre` name cuts words.
///
/// # Errors
/// [`TokenizerError::Gguf`] for an unknown name; the known ones are listed.
pub(crate) fn byte_level_words(pre: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    if DIGITS.contains(&pre) {
        return Ok(Sequence::new(vec![Digits::new(true).into(), bytes(true)]).into());
    }
    let Some((_, cuts, ..)) = row(pre) else {
        let known = WORDS.iter().flat_map(|(names, ..)| *names).chain(DIGITS).copied().collect::<Vec<_>>();
        return Err(TokenizerError::Gguf {
            key: "tokenizer.ggml.pre",
            reason: format!("{pre:?} is not known, only {} are", known.join(", ")),
        });
    };
    if cuts.is_empty() {
        return Ok(bytes(true));
    }
    let split = |expression: &&str| {
        let pattern = SplitPattern::Regex((*expression).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        split.map(PreTokenizerWrapper::from).map_err(|e| TokenizerError::Gguf {
            key: "tokenizer.ggml.pre",
            reason: format!("{pre:?} cuts by an expression that cannot be read: {e}"),
        })
    };
    let mut parts = cuts.iter().map(split).collect::<Result<Vec<_>, _>>()?;
    parts.push(bytes(false));
    Ok(Sequence::new(parts).into())
}

/// Whether a word that is a token is taken whole, past the merges.
pub(crate) fn ignores_merges(pre: &str) -> bool {
    row(pre).is_some_and(|(_, _, ignores, _)| *ignores)
}

/// Whether BOS goes before a text where the file does not say.
pub(crate) fn adds_bos(pre: &str) -> bool {
    row(pre).is_some_and(|(.., adds)| *adds)
}

fn row(pre: &str) -> Option<&'static Words> {
    WORDS.iter().find(|(names, ..)| names.contains(&pre))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn words(pre: &str, text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(text);
        byte_level_words(pre).unwrap().pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn each_name_cuts_its_own_way() {
        let text = "It's 12345 Ünï-café北京ひ  x\n";
        let check = |pre: &str, expect: &[&str]| assert_eq!(words(pre, text), expect, "{pre}");
        check("gpt-2", &["It", "'s", " 12345", " Ünï", "-", "café北京ひ", " ", " x", "\n"]);
        check(
            "smollm",
            &["It", "'s", " ", "1", "2", "3", "4", "5", " Ünï", "-", "café北京ひ", " ", " x", "\n"],
        );
        check("llama-bpe", &["It", "'s", " ", "123", "45", " Ünï", "-café北京ひ", " ", " x", "\n"]);
        check("qwen2", &["It", "'s", " ", "1", "2", "3", "4", "5", " Ünï", "-café北京ひ", " ", " x", "\n"]);
        check("tekken", &["It", "'s", " ", "1", "2", "3", "4", "5", " Ünï", "-café北京ひ", " ", " x", "\n"]);
        check("gpt-4o", &["It's", " ", "123", "45", " Ünï", "-café北京ひ", " ", " x", "\n"]);
        check(
            "deepseek-llm",
            &["It", "'", "s", " ", "12345", " Ü", "n", "ï", "-", "caf", "é", "北京ひ", " ", " x", "\n"],
        );
        check(
            "deepseek-coder",
            &["It", "'", "s", " ", "1", "2", "3", "4", "5", " Ünï", "-", "café", "北京ひ", " ", " x", "\n"],
        );
        check("deepseek-v3", &["It", "'s", " ", "123", "45", " Ünï", "-caf", "é", "北京ひ", " ", " x", "\n"]);
    }

    #[test]
    fn every_known_name_reads_and_an_unknown_one_lists_them() {
        for name in WORDS.iter().flat_map(|(names, ..)| *names).chain(DIGITS) {
            assert!(byte_level_words(name).is_ok(), "{name}");
        }
        let error = byte_level_words("no-such").unwrap_err().to_string();
        assert!(
            error.contains("gpt-2") && error.contains("deepseek-v3") && error.contains("smollm"),
            "{error}"
        );
    }
}
