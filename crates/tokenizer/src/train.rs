use std::collections::{BTreeMap, BTreeSet};

use ferrotune_types::SpecialTokens;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use tokenizers::decoders::metaspace::Metaspace;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper, Trainer,
};

use crate::tokenizer::Parts;
use crate::{Tokenizer, TokenizerError};

/// A kind of tokenizer to train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Byte-level BPE: no text is unknown to it.
    #[default]
    Bpe,
    /// BERT's: lower case, no accents, words split at punctuation.
    WordPiece,
    /// SentencePiece's unigram model, with the space between words as `▁`.
    Unigram,
}

/// How to train a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// What kind.
    pub kind: ModelKind,
    /// Ids in all, special tokens included.
    pub vocab_size: usize,
    /// A pair must occur this often to be merged (BPE, WordPiece).
    pub min_frequency: u64,
    /// Cut numbers into digits (BPE).
    pub digits: bool,
    /// Special tokens; they take the first ids. WordPiece and Unigram need `unk`.
    pub special: SpecialTokens,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let token = |text: &str| Some(text.to_owned());
        let (bos, eos, unk) = (token("<|im_start|>"), token("<|im_end|>"), token("<|endoftext|>"));
        let special = SpecialTokens { bos, eos, unk, pad: None, control: Vec::new() };
        TrainConfig { kind: ModelKind::Bpe, vocab_size: 32_000, min_frequency: 2, digits: true, special }
    }
}

impl Tokenizer {
    /// Trains a tokenizer on texts.
    ///
    /// # Errors
    /// [`TokenizerError::Training`] where the settings are unusable or the texts too few for the model.
    pub fn train<I, S>(texts: I, config: &TrainConfig) -> Result<Tokenizer, TokenizerError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str> + Sync,
    {
        let special = &config.special;
        let mut names: Vec<&String> = [&special.bos, &special.eos, &special.unk, &special.pad]
            .into_iter()
            .flatten()
            .chain(&special.control)
            .collect();
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        let tokens: Vec<AddedToken> =
            names.iter().map(|&name| AddedToken::from(name.clone(), true).normalized(false)).collect();
        let smallest = names.len() + if config.kind == ModelKind::Bpe { 256 } else { 0 };
        if config.vocab_size <= smallest {
            return Err(TokenizerError::Training(format!("vocab_size must be more than {smallest}")));
        }
        let unk = || {
            special
                .unk
                .clone()
                .ok_or_else(|| TokenizerError::Training("this kind needs an unknown token".into()))
        };
        let texts: Vec<S> = texts.into_iter().collect();
        let mut inner = match config.kind {
            ModelKind::Bpe => byte_level(&texts, &tokens, config)?,
            ModelKind::WordPiece => word_piece(&texts, &tokens, unk()?, config)?,
            ModelKind::Unigram => unigram(&texts, &tokens, &unk()?, config)?,
        };
        inner.add_tokens(tokens).map_err(training)?;
        Tokenizer::from_parts(Parts {
            inner,
            special: special.clone(),
            stop: Vec::new(),
            chat_template: None,
            config: Map::new(),
        })
    }
}

fn byte_level<S: AsRef<str> + Sync>(
    texts: &[S],
    tokens: &[AddedToken],
    config: &TrainConfig,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let mut inner = tokenizers::Tokenizer::new(BPE::default());
    let bytes = ByteLevel::new(false, true, true);
    let words: PreTokenizerWrapper = if config.digits {
        Sequence::new(vec![Digits::new(true).into(), bytes.into()]).into()
    } else {
        bytes.into()
    };
    inner.with_pre_tokenizer(Some(words));
    inner.with_decoder(Some(DecoderWrapper::from(bytes)));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .special_tokens(tokens.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    feed(&mut trainer, &inner, texts)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(training)?;
    inner.with_model(model);
    Ok(inner)
}

fn word_piece<S: AsRef<str> + Sync>(
    texts: &[S],
    tokens: &[AddedToken],
    unk: String,
    config: &TrainConfig,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let mut model = WordPiece::builder().unk_token(unk).build().map_err(training)?;
    let mut inner = tokenizers::Tokenizer::new(model.clone());
    inner.with_normalizer(Some(NormalizerWrapper::from(BertNormalizer::default()))).map_err(training)?;
    inner.with_pre_tokenizer(Some(PreTokenizerWrapper::from(BertPreTokenizer)));
    inner.with_decoder(Some(DecoderWrapper::from(WordPieceDecoder::default())));
    // The trainer gives ids to characters inside words as it meets them in a hash map. Given to it beforehand, in
    // order, they have the same ids every time.
    let inside: BTreeSet<char> = counted(&inner, texts)?.keys().flat_map(|word| word.chars()).collect();
    let inside = inside.into_iter().map(|c| AddedToken::from(format!("##{c}"), true));
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(config.vocab_size)
        .min_frequency(config.min_frequency)
        .special_tokens(tokens.iter().cloned().chain(inside).collect())
        .show_progress(false)
        .build();
    feed(&mut trainer, &inner, texts)?;
    trainer.train(&mut model).map_err(training)?;
    inner.with_model(model);
    Ok(inner)
}

fn unigram<S: AsRef<str> + Sync>(
    texts: &[S],
    tokens: &[AddedToken],
    unk: &str,
    config: &TrainConfig,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let mut model = Unigram::default();
    let mut inner = tokenizers::Tokenizer::new(model.clone());
    let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
    inner.with_pre_tokenizer(Some(PreTokenizerWrapper::from(metaspace.clone())));
    inner.with_decoder(Some(DecoderWrapper::from(metaspace)));
    let trainer = UnigramTrainer::builder()
        .vocab_size(config.vocab_size as u32)
        .special_tokens(tokens.to_vec())
        .unk_token(Some(unk.to_owned()))
        .show_progress(false)
        .build()
        .map_err(training)?;
    // In order and on one thread, since sums of floating-point numbers depend on both.
    let sentences = counted(&inner, texts)?.into_iter().collect();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(training)?;
    one.install(|| trainer.do_train(sentences, &mut model)).map_err(training)?;
    let model = in_order(&model, tokens.len(), unk).map_err(training)?;
    inner.with_model(model);
    Ok(inner)
}

/// The trainer gives characters that training left without a score one just above the lowest, a step of 0.0001 each,
/// in the order of a hash set. Here they get the same scores in the order of the characters.
fn in_order(model: &Unigram, n_special: usize, unk: &str) -> tokenizers::Result<Unigram> {
    const STEP: f64 = 0.0001;
    let all: Vec<(String, f64)> = model.iter().cloned().collect();
    let (special, pieces) = all.split_at(n_special);
    let mut pieces = pieces.to_vec();
    let is_char = |piece: &str| piece.chars().count() == 1;
    let lowest = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let highest = lowest + STEP * pieces.iter().filter(|(piece, _)| is_char(piece)).count() as f64;
    let late: Vec<usize> =
        (0..pieces.len()).filter(|&i| is_char(&pieces[i].0) && pieces[i].1 <= highest).collect();
    let mut scores: Vec<f64> = late.iter().map(|&i| pieces[i].1).collect();
    let mut chars: Vec<String> = late.iter().map(|&i| pieces[i].0.clone()).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    chars.sort();
    for ((i, piece), score) in late.into_iter().zip(chars).zip(scores) {
        pieces[i] = (piece, score);
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let unk = special.iter().position(|(token, _)| token == unk);
    Unigram::from(special.iter().cloned().chain(pieces).collect(), unk, model.byte_fallback())
}

fn feed<S: AsRef<str> + Sync>(
    trainer: &mut impl Trainer,
    inner: &tokenizers::Tokenizer,
    texts: &[S],
) -> Result<(), TokenizerError> {
    trainer.feed(texts.iter().map(AsRef::as_ref), |text| words(inner, text)).map_err(training)
}

/// How often each word comes, in order.
fn counted<S: AsRef<str> + Sync>(
    inner: &tokenizers::Tokenizer,
    texts: &[S],
) -> Result<BTreeMap<String, u32>, TokenizerError> {
    let mut counts = BTreeMap::new();
    for text in texts {
        for word in words(inner, text.as_ref()).map_err(training)? {
            *counts.entry(word).or_default() += 1;
        }
    }
    Ok(counts)
}

/// The words that the tokenizer's normaliser and pre-tokenizer make of a text.
fn words(inner: &tokenizers::Tokenizer, text: &str) -> tokenizers::Result<Vec<String>> {
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = inner.get_normalizer() {
        normalizer.normalize(&mut text)?;
    }
    let mut words = PreTokenizedString::from(text);
    if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut words)?;
    }
    let splits = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn training<E: ToString>(e: E) -> TokenizerError {
    TokenizerError::Training(e.to_string())
}
