use std::borrow::Cow;
use std::collections::HashMap;

use ferrotune_types::{SpecialTokens, ends_of_answers};
use serde_json::Map;
use tokenizers::AddedToken;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{NormalizerWrapper, Precompiled, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;

use crate::gguf_words::{adds_bos, byte_level_words, ignores_merges};
use crate::tokenizer::{Parts, contained};
use crate::{Tokenizer, TokenizerError};

/// The tokenizer metadata of a GGUF file, as they stand under `tokenizer.ggml.*` and `tokenizer.chat_template`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `general.architecture`; Gemma's and Phi-3's files of the kind `llama` are read otherwise.
    pub architecture: String,
    /// `model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `t5` (SentencePiece unigram).
    pub model: String,
    /// `pre`: how a byte-level tokenizer cuts words (`smollm`, `llama-bpe`, `qwen2`, …).
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `scores`, by id; SentencePiece kinds.
    pub scores: Vec<f32>,
    /// `token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. What ends an answer by its text
    /// ([`ends_of_answers`]) is a control token where it is user-defined too.
    pub token_types: Vec<i32>,
    /// `merges`, best first, each `left right`.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: ends a turn, where that is another token than `eos`.
    pub eot: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`; where it is absent, `llama` adds it, and of `gpt2` what cuts words as Llama 3 or Tekken.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; where it is absent, SentencePiece kinds add it.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`; where it is absent, the unigram kind does it.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`: SentencePiece's normalisation; empty for none.
    pub precompiled_charsmap: Vec<u8>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNKNOWN: i32 = 2;

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// [`TokenizerError::Gguf`] where the metadata are incomplete, contradict each other, or are of an unknown kind.
    pub fn from_gguf_metadata(gguf: &GgufTokenizer) -> Result<Self, TokenizerError> {
        contained(|| Tokenizer::built_of(gguf)).map_err(model_error)?
    }

    fn built_of(gguf: &GgufTokenizer) -> Result<Self, TokenizerError> {
        let bad = |key: &'static str, reason: String| Err(TokenizerError::Gguf { key, reason });
        let n = gguf.tokens.len();
        if n == 0 {
            return bad("tokenizer.ggml.tokens", "there are no tokens".into());
        }
        for (key, len) in [
            ("tokenizer.ggml.token_type", gguf.token_types.len()),
            ("tokenizer.ggml.scores", gguf.scores.len()),
        ] {
            if len != 0 && len != n {
                return bad(key, format!("{len} entries for {n} tokens"));
            }
        }
        let ids = [
            ("tokenizer.ggml.bos_token_id", gguf.bos),
            ("tokenizer.ggml.eos_token_id", gguf.eos),
            ("tokenizer.ggml.eot_token_id", gguf.eot),
            ("tokenizer.ggml.unknown_token_id", gguf.unk),
            ("tokenizer.ggml.padding_token_id", gguf.pad),
        ];
        for (key, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= n) {
                return bad(key, format!("token {id} is not one of {n}"));
            }
        }
        let mut inner = match gguf.model.as_str() {
            "gpt2" => byte_level(gguf)?,
            "llama" => sentencepiece_bpe(gguf)?,
            "t5" => unigram(gguf)?,
            other => {
                return bad(
                    "tokenizer.ggml.model",
                    format!("{other:?} is not known, only gpt2, llama and t5 are"),
                );
            }
        };
        let text = |id: Option<u32>| id.map(|id| gguf.tokens[id as usize].clone());
        let kind = |id: usize| gguf.token_types.get(id).copied().unwrap_or(1);
        let marked =
            (0..).zip(&gguf.tokens).filter(|(id, _)| matches!(kind(*id as usize), CONTROL | USER_DEFINED));
        let by_text = ends_of_answers(marked.map(|(id, token)| (id, token.as_str())));
        let ends: Vec<u32> = gguf.eot.into_iter().chain(by_text).collect();
        let named = [gguf.bos, gguf.eos, gguf.unk, gguf.pad];
        for (id, token) in gguf.tokens.iter().enumerate() {
            let is_named = named.contains(&Some(id as u32)) || ends.contains(&(id as u32));
            let is_special = kind(id) == CONTROL || kind(id) == UNKNOWN || is_named;
            let is_user_defined = kind(id) == USER_DEFINED && respelled(gguf, token) == *token;
            if is_special || is_user_defined {
                let added = AddedToken::from(token.clone(), is_special).normalized(false);
                inner.add_tokens([added]).map_err(|e| TokenizerError::Gguf {
                    key: "tokenizer.ggml.tokens",
                    reason: e.to_string(),
                })?;
            }
        }
        let adds_bos = match gguf.model.as_str() {
            "gpt2" => adds_bos(gguf.pre.as_deref().unwrap_or("default")),
            model => model == "llama",
        };
        add_surroundings(&mut inner, gguf, gguf.add_bos.unwrap_or(adds_bos))?;
        let special = SpecialTokens {
            bos: text(gguf.bos),
            eos: text(gguf.eos),
            unk: text(gguf.unk),
            pad: text(gguf.pad),
            control: Vec::new(),
        };
        Tokenizer::from_parts(Parts {
            inner,
            special,
            stop: ends,
            chat_template: gguf.chat_template.clone(),
            config: Map::new(),
        })
    }
}

/// A token as the merges spell it. Gemma's files hold runs of spaces as spaces.
fn respelled<'t>(gguf: &GgufTokenizer, token: &'t str) -> Cow<'t, str> {
    if is_gemma(gguf) && !token.is_empty() && token.bytes().all(|byte| byte == b' ') {
        return Cow::Owned("▁".repeat(token.len()));
    }
    Cow::Borrowed(token)
}

fn is_gemma(gguf: &GgufTokenizer) -> bool {
    gguf.model == "llama" && gguf.architecture.starts_with("gemma")
}

fn vocabulary(gguf: &GgufTokenizer) -> Result<HashMap<Cow<'_, str>, u32>, TokenizerError> {
    let mut vocabulary = HashMap::with_capacity(gguf.tokens.len());
    for (id, token) in gguf.tokens.iter().enumerate() {
        if let Some(first) = vocabulary.insert(respelled(gguf, token), id as u32) {
            let reason = format!("tokens {first} and {id} are both {token:?}");
            return Err(TokenizerError::Gguf { key: "tokenizer.ggml.tokens", reason });
        }
    }
    Ok(vocabulary)
}

/// Merges as pairs, each of whose parts and whose sum is a token.
fn merges(
    gguf: &GgufTokenizer,
    vocabulary: &HashMap<Cow<'_, str>, u32>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let bad = |i: usize, merge: &str, what: &str| TokenizerError::Gguf {
        key: "tokenizer.ggml.merges",
        reason: format!("merge {i} ({merge:?}) {what}"),
    };
    let mut pairs = Vec::with_capacity(gguf.merges.len());
    for (i, merge) in gguf.merges.iter().enumerate() {
        let (left, right) = merge.split_once(' ').ok_or_else(|| bad(i, merge, "is not two tokens"))?;
        for token in [left, right, &*format!("{left}{right}")] {
            if !vocabulary.contains_key(token) {
                return Err(bad(i, merge, &format!("needs {token:?}, which is no token")));
            }
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn model_error(e: impl ToString) -> TokenizerError {
    TokenizerError::Gguf { key: "tokenizer.ggml.tokens", reason: e.to_string() }
}

fn byte_level(gguf: &GgufTokenizer) -> Result<tokenizers::Tokenizer, TokenizerError> {
    if gguf.merges.is_empty() {
        return Err(TokenizerError::Gguf { key: "tokenizer.ggml.merges", reason: "there are none".into() });
    }
    let vocabulary = vocabulary(gguf)?;
    let merges = merges(gguf, &vocabulary)?;
    let owned = vocabulary.into_iter().map(|(token, id)| (token.into_owned(), id));
    let pre = gguf.pre.as_deref().unwrap_or("default");
    let model = BPE::builder()
        .vocab_and_merges(owned.collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(ignores_merges(pre))
        .build()
        .map_err(model_error)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(byte_level_words(pre)?));
    inner.with_decoder(Some(ByteLevel::new(true, true, true)));
    Ok(inner)
}

/// SentencePiece BPE: characters, merged by score, with bytes for what the vocabulary lacks.
///
/// The space before a text is put there as transformers 5 does it: before the first word of the text, unless one
/// stands there already. Phi-3 has one before the text and after every control token.
fn sentencepiece_bpe(gguf: &GgufTokenizer) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let vocabulary = vocabulary(gguf)?;
    let merges = if gguf.merges.is_empty() {
        merges_of_scores(gguf, &vocabulary)?
    } else {
        merges(gguf, &vocabulary)?
    };
    let owned = vocabulary.into_iter().map(|(token, id)| (token.into_owned(), id));
    let mut builder = BPE::builder()
        .vocab_and_merges(owned.collect::<tokenizers::models::bpe::Vocab>(), merges)
        .fuse_unk(true)
        .byte_fallback(true);
    if let Some(unk) = gguf.unk {
        builder = builder.unk_token(gguf.tokens[unk as usize].clone());
    }
    let mut inner = tokenizers::Tokenizer::new(builder.build().map_err(model_error)?);
    let prefix = gguf.add_space_prefix.unwrap_or(!is_gemma(gguf));
    if prefix && gguf.architecture != "phi3" {
        inner.with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::First, false)));
    } else {
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        if prefix {
            normalizers.push(Prepend::new("▁".into()).into());
        }
        normalizers.push(Replace::new(" ", "▁").map_err(model_error)?.into());
        inner.with_normalizer(Some(Normalizers::new(normalizers))).map_err(model_error)?;
    }
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new("▁", " ").map_err(model_error)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(tokenizers::decoders::sequence::Sequence::new(decoders)));
    Ok(inner)
}

/// A SentencePiece vocabulary has scores where a BPE has merges: every way to cut a token into two tokens is a
/// merge, ranked by the token's score, then by the length of its left part, as `generate_merges` of transformers
/// ranks them. Gemma's scores do not follow its merges; the order of its tokens does.
fn merges_of_scores(
    gguf: &GgufTokenizer,
    vocabulary: &HashMap<Cow<'_, str>, u32>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    if gguf.scores.is_empty() && !is_gemma(gguf) {
        let reason = "there are neither scores nor merges".into();
        return Err(TokenizerError::Gguf { key: "tokenizer.ggml.scores", reason });
    }
    let mut ranked = Vec::new();
    for (id, token) in gguf.tokens.iter().enumerate() {
        let token = respelled(gguf, token);
        let score = if is_gemma(gguf) { -(id as f32) } else { gguf.scores[id] };
        let mut cuts: Vec<(u32, u32, usize)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| Some((*vocabulary.get(&token[..at])?, *vocabulary.get(&token[at..])?, at)))
            .collect();
        cuts.sort_unstable();
        ranked.extend(cuts.into_iter().map(|(_, _, at)| {
            let (left, right) = token.split_at(at);
            (score, left.chars().count(), right.chars().count(), left.to_owned(), right.to_owned())
        }));
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (b.1, b.2).cmp(&(a.1, a.2))));
    Ok(ranked.into_iter().map(|(.., left, right)| (left, right)).collect())
}

/// SentencePiece unigram: the likeliest cut.
fn unigram(gguf: &GgufTokenizer) -> Result<tokenizers::Tokenizer, TokenizerError> {
    if gguf.scores.is_empty() {
        return Err(TokenizerError::Gguf { key: "tokenizer.ggml.scores", reason: "there are none".into() });
    }
    vocabulary(gguf)?;
    let pieces = gguf.tokens.iter().cloned().zip(gguf.scores.iter().map(|&s| f64::from(s))).collect();
    let has_bytes = gguf.tokens.iter().any(|token| token == "<0x00>");
    let model = Unigram::from(pieces, gguf.unk.map(|id| id as usize), has_bytes).map_err(model_error)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let scheme =
        if gguf.add_space_prefix.unwrap_or(true) { PrependScheme::Always } else { PrependScheme::Never };
    let metaspace = Metaspace::new('▁', scheme, true);
    if !gguf.precompiled_charsmap.is_empty() {
        let normalizer = Precompiled::from(&gguf.precompiled_charsmap).map_err(|e| TokenizerError::Gguf {
            key: "tokenizer.ggml.precompiled_charsmap",
            reason: e.to_string(),
        })?;
        inner.with_normalizer(Some(normalizer)).map_err(model_error)?;
    }
    let words: PreTokenizerWrapper = if gguf.remove_extra_whitespaces.unwrap_or(true) {
        Sequence::new(vec![WhitespaceSplit.into(), metaspace.clone().into()]).into()
    } else {
        metaspace.clone().into()
    };
    inner.with_pre_tokenizer(Some(words));
    let mut decoders: Vec<DecoderWrapper> = Vec::new();
    if has_bytes {
        decoders.push(ByteFallback::new().into());
    }
    decoders.push(metaspace.into());
    inner.with_decoder(Some(tokenizers::decoders::sequence::Sequence::new(decoders)));
    Ok(inner)
}

fn add_surroundings(
    inner: &mut tokenizers::Tokenizer,
    gguf: &GgufTokenizer,
    add_bos: bool,
) -> Result<(), TokenizerError> {
    let bos = gguf.bos.filter(|_| add_bos);
    let eos = gguf.eos.filter(|_| gguf.add_eos.unwrap_or(gguf.model == "t5"));
    if bos.is_none() && eos.is_none() {
        return Ok(());
    }
    let text = |id: u32| gguf.tokens[id as usize].clone();
    // The template's own syntax has no way to quote a token, so it is built of its JSON form.
    let piece = |id: u32| serde_json::json!({"SpecialToken": {"id": text(id), "type_id": 0}});
    let sequence =
        |name: &str, type_id: u32| serde_json::json!({"Sequence": {"id": name, "type_id": type_id}});
    let mut special = Map::new();
    for id in bos.into_iter().chain(eos) {
        let entry = serde_json::json!({"id": text(id), "ids": [id], "tokens": [text(id)]});
        special.insert(text(id), entry);
    }
    let around = |name: &str, type_id: u32| {
        let all = bos.map(piece).into_iter().chain([sequence(name, type_id)]).chain(eos.map(piece));
        all.collect::<Vec<_>>()
    };
    let pair = [around("A", 0), around("B", 1)].concat();
    let template = serde_json::json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": special,
    });
    let template: TemplateProcessing = serde_json::from_value(template).map_err(model_error)?;
    inner.with_post_processor(Some(template));
    Ok(())
}
