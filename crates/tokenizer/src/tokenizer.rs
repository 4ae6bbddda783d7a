use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use ferrotune_types::SpecialTokens;
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::TokenizerError;
use crate::config_tokens::{Beside, added_tokens};
use crate::encoded::Encoded;
use crate::fast::FastBpe;
use crate::literal::Literal;

/// A tokenizer with its special tokens and chat template.
///
/// Cheap to share between threads; every method takes `&self`.
#[derive(Debug)]
pub struct Tokenizer {
    /// What `tokenizer.json` describes.
    inner: tokenizers::Tokenizer,
    /// Reads texts in which control tokens are plain characters; made when first asked for.
    literal: OnceLock<Literal>,
    /// Takes over where every part is known to it.
    fast: Option<FastBpe>,
    /// Ids that `add_special` puts before and after a text.
    around: [Vec<u32>; 2],
    special: SpecialTokens,
    ids: SpecialIds,
    /// Ids of the control tokens, in order.
    control: Vec<u32>,
    /// One more than the highest id.
    size: usize,
    /// What the model puts for characters that it has no token for; byte-level ones have none.
    unknown: Option<u32>,
    chat_template: Option<String>,
    /// `tokenizer_config.json` as it was read; kept when it is written again.
    config: Map<String, Value>,
}

/// Ids of the special tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Ends a sequence or a turn.
    pub eos: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<u32>,
    /// Fills rows up.
    pub pad: Option<u32>,
    /// Every id at which generation ends: `eos` and those of `generation_config.json`.
    pub stop: Vec<u32>,
}

/// What a tokenizer is built from.
pub(crate) struct Parts {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) special: SpecialTokens,
    pub(crate) stop: Vec<u32>,
    pub(crate) chat_template: Option<String>,
    pub(crate) config: Map<String, Value>,
}

impl Tokenizer {
    /// Loads a model folder: `tokenizer.json`, and where they are there `tokenizer_config.json`,
    /// `special_tokens_map.json`, `added_tokens.json`, `chat_template.jinja` (or `.json`) and `generation_config.json`.
    ///
    /// Tokens that only the files beside `tokenizer.json` have are added as transformers 5 adds them: the entries of
    /// `added_tokens_decoder` by id, the named ones (`pad_token`, …), `extra_special_tokens`. Where the configuration has
    /// `added_tokens_decoder`, `special_tokens_map.json` and `added_tokens.json` are not read.
    ///
    /// What stands around a text is what `tokenizer.json` says. `add_bos_token` and `add_eos_token` of
    /// `tokenizer_config.json` are not read, as transformers 5 does not read them where there is a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::Io`] without `tokenizer.json`, [`TokenizerError::File`] for a file that does not parse, for ids
    /// far beyond the number of tokens, and for a token whose id is not the one that a file gives it.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        let bytes = fs::read(&path).map_err(TokenizerError::io("read", &path))?;
        let (inner, json) = rayon::join(
            || contained(|| tokenizers::Tokenizer::from_bytes(&bytes)),
            || serde_json::from_slice::<Value>(&bytes),
        );
        let mut inner = inner.map_err(TokenizerError::file(&path))?.map_err(TokenizerError::file(&path))?;
        let mut json = json.map_err(TokenizerError::file(&path))?;
        check_ids(&json).map_err(TokenizerError::file(&path))?;
        let object = |name: &str| match fs::read(dir.join(name)) {
            Ok(bytes) => serde_json::from_slice::<Map<String, Value>>(&bytes)
                .map_err(TokenizerError::file(dir.join(name))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
            Err(e) => Err(TokenizerError::io("read", dir.join(name))(e)),
        };
        let config = object("tokenizer_config.json")?;
        let map = object("special_tokens_map.json")?;
        let generation = object("generation_config.json")?;
        let template_file = object("chat_template.json")?;
        let template = match fs::read_to_string(dir.join("chat_template.jinja")) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                template_file.get("chat_template").or(config.get("chat_template")).and_then(default_template)
            }
            Err(e) => return Err(TokenizerError::io("read", dir.join("chat_template.jinja"))(e)),
        };
        let added = object("added_tokens.json")?;
        let beside = Beside { config: &config, map: &map, added: &added };
        beside.add_to(&mut inner).map_err(TokenizerError::file(dir.join("tokenizer_config.json")))?;
        json["added_tokens"] = added_tokens(&inner);
        let effective = beside.effective();
        let named = |name: &str| token_text(effective.get(name)?);
        let special = SpecialTokens {
            bos: named("bos_token"),
            eos: named("eos_token"),
            unk: named("unk_token"),
            pad: named("pad_token"),
            control: Vec::new(),
        };
        let stop = match generation.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
            Some(id) => id.as_u64().map(|id| id as u32).into_iter().collect(),
            None => Vec::new(),
        };
        let parts = Parts { inner, special, stop, chat_template: template, config };
        Tokenizer::build(parts, Some(json))
    }

    pub(crate) fn from_parts(parts: Parts) -> Result<Self, TokenizerError> {
        Tokenizer::build(parts, None)
    }

    /// `json`: what `parts.inner` was read from, where it was.
    fn build(parts: Parts, json: Option<Value>) -> Result<Self, TokenizerError> {
        let Parts { mut inner, mut special, mut stop, chat_template, config } = parts;
        // Truncation and padding are decided example by example and batch by batch, never by the file.
        inner.with_truncation(None).map_err(TokenizerError::coding("encode"))?;
        inner.with_padding(None);
        let id_of = |token: &Option<String>| token.as_deref().and_then(|text| inner.token_to_id(text));
        let eos = id_of(&special.eos);
        stop.extend(eos);
        stop.sort_unstable();
        stop.dedup();
        let ids = SpecialIds {
            bos: id_of(&special.bos),
            eos,
            unk: id_of(&special.unk),
            pad: id_of(&special.pad),
            stop,
        };
        let mut control: Vec<(u32, String)> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        control.sort();
        let control_ids = control.iter().map(|(id, _)| *id).collect();
        special.control = control.into_iter().map(|(_, text)| text).collect();
        let written = |inner: &tokenizers::Tokenizer| {
            let text = inner.to_string(false).map_err(TokenizerError::coding("encode"))?;
            serde_json::from_str(&text).map_err(TokenizerError::coding("encode"))
        };
        let json = json.map_or_else(|| written(&inner), Ok)?;
        let unknown = match (json["model"]["unk_token"].as_str(), json["model"]["unk_id"].as_u64()) {
            (Some(token), _) => inner.token_to_id(token),
            (None, id) => id.and_then(|id| u32::try_from(id).ok()),
        };
        let fast = FastBpe::new(&json);
        let around = surroundings(&inner)?;
        Ok(Tokenizer {
            inner,
            literal: OnceLock::new(),
            fast,
            around,
            special,
            ids,
            control: control_ids,
            size: count_ids(&json).1,
            unknown,
            chat_template,
            config,
        })
    }

    /// Ids of a text. Special tokens in it are control tokens. `add_special`: with the ids that the tokenizer puts
    /// around a text (BOS, `[CLS]` … `[SEP]`); leave it off for rendered chats, whose template writes them.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the model has no way to say the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encode_with_offsets(text, add_special)?.ids)
    }

    /// As [`Self::encode`], with the bytes that each token covers.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the model has no way to say the text.
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> Result<Encoded, TokenizerError> {
        let mut out = Encoded::default();
        if add_special {
            self.around[0].iter().for_each(|&id| out.push(id, 0, 0));
        }
        self.encode_into(text, &[], &mut out)?;
        if add_special {
            self.around[1].iter().for_each(|&id| out.push(id, text.len(), text.len()));
        }
        Ok(out)
    }

    /// Ids of many texts, in their order, on all cores.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] of the first text that cannot be encoded.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        add_special: bool,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), add_special)).collect()
    }

    /// Encodes a text. Special tokens that lie in a `literal` range are plain text.
    pub(crate) fn encode_into(
        &self,
        text: &str,
        literal: &[Range<usize>],
        out: &mut Encoded,
    ) -> Result<(), TokenizerError> {
        if let Some(fast) = self.fast.as_ref().filter(|fast| fast.takes(text)) {
            fast.encode(text, literal, out);
            return Ok(());
        }
        if !literal.is_empty() {
            return self.literal.get_or_init(|| Literal::new(&self.inner)).encode(text, literal, out);
        }
        out.push_encoding(&encode_with(&self.inner, text, false)?, 0);
        Ok(())
    }

    /// Text of ids. `skip_special` leaves control tokens out.
    ///
    /// # Errors
    /// [`TokenizerError::Coding`] where the decoder fails; ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        contained(|| self.inner.decode(ids, skip_special))
            .map_err(TokenizerError::coding("decode"))?
            .map_err(TokenizerError::coding("decode"))
    }

    /// The id of a token's text as it stands in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token's text as it stands in the vocabulary (`Ġthe`, `▁the`).
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Rows that a model needs for this tokenizer: one more than the highest id, added tokens included. Ids may have
    /// gaps, so there can be fewer tokens.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// Texts of the special tokens, for chat templates.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Ids of the special tokens.
    pub fn ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// Whether a token is a control token.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.binary_search(&id).is_ok()
    }

    /// The ids that the tokenizer puts before and after every text: BOS, `[CLS]` … `[SEP]`.
    pub fn around(&self) -> (&[u32], &[u32]) {
        (&self.around[0], &self.around[1])
    }

    /// Whether ids end a turn: the last of them that is not space is a control token. Templates may write a line
    /// break after the end-of-turn token, and some tokenizers need several ids for it. Which control token ends a
    /// turn is the template's affair; the model's stand-in for unknown characters is none unless it is a stop token.
    pub(crate) fn ends_a_turn(&self, ids: &[u32]) -> bool {
        let is_space = |id: u32| {
            !self.is_control(id) && self.decode(&[id], false).is_ok_and(|text| text.trim().is_empty())
        };
        ids.iter().rev().copied().find(|&id| !is_space(id)).is_some_and(|id| {
            self.is_control(id) && (self.unknown != Some(id) || self.ids.stop.contains(&id))
        })
    }

    /// The model's chat template, as Jinja source.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The same tokenizer with another chat template, to be saved with a model that was trained on it.
    #[must_use]
    pub fn with_chat_template(mut self, template: impl Into<String>) -> Self {
        self.chat_template = Some(template.into());
        self
    }

    /// Whether `add_special` puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.ids.bos.is_some() && self.around[0].first().copied() == self.ids.bos
    }

    /// Whether `add_special` puts EOS after a text.
    pub fn adds_eos(&self) -> bool {
        self.ids.eos.is_some() && self.around[1].last().copied() == self.ids.eos
    }

    /// Whether the fast path for byte-level BPE is in use.
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    pub(crate) fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    pub(crate) fn into_parts(self) -> Parts {
        Parts {
            inner: self.inner,
            special: self.special,
            stop: self.ids.stop,
            chat_template: self.chat_template,
            config: self.config,
        }
    }
}

/// Encodes by the general path.
pub(crate) fn encode_with(
    inner: &tokenizers::Tokenizer,
    text: &str,
    add_special: bool,
) -> Result<tokenizers::Encoding, TokenizerError> {
    contained(|| inner.encode(text, add_special))
        .map_err(TokenizerError::coding("encode"))?
        .map_err(TokenizerError::coding("encode"))
}

/// Makes a panic of `tokenizers` an error: some files that it reads make it panic, there and then or later.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("its parts contradict each other ({})", text.unwrap_or("no reason given"))
    })
}

/// Tokens of a `tokenizer.json`, and one more than the highest id.
fn count_ids(json: &Value) -> (usize, usize) {
    let ids = |token: &Value| token.as_u64().and_then(|id| usize::try_from(id).ok());
    let past = |id: usize| id.saturating_add(1);
    let (mut tokens, mut size) = match &json["model"]["vocab"] {
        Value::Object(vocab) => (vocab.len(), vocab.values().filter_map(ids).map(past).max().unwrap_or(0)),
        Value::Array(vocab) => (vocab.len(), vocab.len()),
        _ => (0, 0),
    };
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        tokens += 1;
        size = size.max(ids(&token["id"]).map_or(0, past));
    }
    (tokens, size)
}

/// Refuses ids far beyond the number of tokens: tables by id, and a model's rows, would take memory for nothing. Known
/// tokenizers leave gaps of some thousands.
fn check_ids(json: &Value) -> Result<(), String> {
    let (tokens, size) = count_ids(json);
    let most = (1 << 20) + 4 * tokens;
    if size > most {
        return Err(format!("the highest id is {}; with {tokens} tokens it must be below {most}", size - 1));
    }
    Ok(())
}

/// A config names a token by its text or by an object that holds it.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

/// A config holds one template, or several by name of which `default` is meant.
fn default_template(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = value.as_array()?.iter().find(|entry| entry["name"] == "default")?;
    named["template"].as_str().map(str::to_owned)
}

/// The ids that the post-processor puts before and after a text.
fn surroundings(inner: &tokenizers::Tokenizer) -> Result<[Vec<u32>; 2], TokenizerError> {
    /// No token's id; stands for a text, of which a small vocabulary may have nothing.
    const TEXT: u32 = u32::MAX;
    // Parts that contradict each other are found out here, not at the first text.
    encode_with(inner, "a", false)?;
    let text = tokenizers::Encoding::from_tokens(vec![tokenizers::Token::new(TEXT, "a".into(), (0, 1))], 0);
    let full = contained(|| inner.post_process(text, None, true))
        .map_err(TokenizerError::coding("encode"))?
        .map_err(TokenizerError::coding("encode"))?;
    let mut parts = full.get_ids().splitn(2, |&id| id == TEXT).map(<[u32]>::to_vec);
    Ok([parts.next().unwrap_or_default(), parts.next().unwrap_or_default()])
}
