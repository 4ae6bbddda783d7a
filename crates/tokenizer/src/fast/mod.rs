//! Byte-level BPE without the general machinery: the same ids as `tokenizers`, several times faster.
//!
//! `tokenizers` builds strings, offset tables and vectors for every word. Here a word is a slice of the text. Most
//! words are one token and cost one table look-up; the others are merged once a thread and remembered.
//!
//! Only tokenizers whose every part is known are taken over (see [`FastBpe::new`]); for any other one the general
//! path is used. Tests compare both on random and real texts.

mod merge;
mod scan;
mod table;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use unicode_normalization::{IsNormalized, is_nfc_quick};

use self::merge::Merges;
pub(crate) use self::scan::{LLAMA3, QWEN2};
use self::scan::{Pattern, next_word};
use self::table::ByteTable;
use crate::encoded::Encoded;

/// A byte-level BPE tokenizer.
#[derive(Debug)]
pub(crate) struct FastBpe {
    pattern: Pattern,
    /// Texts are brought into NFC first (Qwen); the general path does it to those that are not there yet.
    nfc: bool,
    /// Whole tokens by their bytes.
    words: ByteTable,
    /// For each id: whether merging its bytes gives it back. Found out when first asked.
    whole: Vec<AtomicU8>,
    merges: Merges,
    /// Take a word that is a token whole even where merging would not give it.
    ignore_merges: bool,
    added: Option<Added>,
    /// Tells this tokenizer's words from another's in the threads' memories.
    instance: u64,
}

#[derive(Debug)]
struct Added {
    searcher: AhoCorasick,
    ids: Vec<u32>,
    is_special: Vec<bool>,
}

const UNKNOWN: u8 = 0;
const WHOLE: u8 = 1;
const SPLIT: u8 = 2;

static INSTANCES: AtomicU64 = AtomicU64::new(0);

/// Words that each thread remembers of a tokenizer; past that, they are merged anew.
const REMEMBERED: usize = 1 << 15;

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// A word's tokens: ids and where each ends.
type Parts = Box<[(u32, u32)]>;

#[derive(Default)]
struct Memory {
    instance: u64,
    words: HashMap<Box<[u8]>, Parts, table::Hasher>,
    scratch: merge::Scratch,
}

impl FastBpe {
    /// Takes over a `tokenizer.json` whose parts are all known, else tells that it cannot.
    pub(crate) fn new(json: &Value) -> Option<Self> {
        let model = &json["model"];
        let absent = |value: &Value| value.is_null() || value.as_str() == Some("");
        let is_plain = model["type"] == "BPE"
            && absent(&model["dropout"])
            && absent(&model["unk_token"])
            && absent(&model["continuing_subword_prefix"])
            && absent(&model["end_of_word_suffix"])
            && model["byte_fallback"] != true;
        if !is_plain {
            return None;
        }
        let nfc = match &json["normalizer"] {
            Value::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            _ => return None,
        };
        let pattern = Pattern::of(&json["pre_tokenizer"])?;
        let bytes_of = table::byte_alphabet();
        let mut n_ids = 0;
        let mut tokens: Vec<(Vec<u8>, u32)> = Vec::new();
        let mut ids: HashMap<&str, u32> = HashMap::new();
        for (text, id) in model["vocab"].as_object()? {
            let id = u32::try_from(id.as_u64()?).ok()?;
            n_ids = n_ids.max(id as usize + 1);
            ids.insert(text, id);
            // A text outside the byte alphabet can never come out of a text's bytes.
            if let Some(bytes) = text.chars().map(|c| bytes_of.get(&c).copied()).collect::<Option<Vec<u8>>>()
            {
                tokens.push((bytes, id));
            }
        }
        let merges = Merges::new(&model["merges"], &ids, &tokens)?;
        let added = Added::new(&json["added_tokens"])?;
        Some(FastBpe {
            pattern,
            nfc,
            words: ByteTable::new(tokens),
            whole: (0..n_ids).map(|_| AtomicU8::new(UNKNOWN)).collect(),
            merges,
            ignore_merges: model["ignore_merges"] == true,
            added,
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }

    /// Whether this text needs nothing that is not known here.
    pub(crate) fn takes(&self, text: &str) -> bool {
        !self.nfc || is_nfc_quick(text.chars()) == IsNormalized::Yes
    }

    /// Encodes a text. Special tokens that lie in a `literal` range are plain text.
    pub(crate) fn encode(&self, text: &str, literal: &[Range<usize>], out: &mut Encoded) {
        MEMORY.with_borrow_mut(|memory| {
            if memory.instance != self.instance {
                memory.instance = self.instance;
                memory.words.clear();
            }
            let Some(added) = &self.added else { return self.plain(text, 0, memory, out) };
            let mut at = 0;
            for found in added.searcher.find_iter(text) {
                let token = found.pattern().as_usize();
                if added.is_special[token] && lies_in(&found.range(), literal) {
                    continue;
                }
                self.plain(&text[at..found.start()], at, memory, out);
                out.push(added.ids[token], found.start(), found.end());
                at = found.end();
            }
            self.plain(&text[at..], at, memory, out);
        });
    }

    fn plain(&self, text: &str, offset: usize, memory: &mut Memory, out: &mut Encoded) {
        let mut at = 0;
        while at < text.len() {
            let end = next_word(self.pattern, text, at);
            self.word(&text.as_bytes()[at..end], offset + at, memory, out);
            at = end;
        }
    }

    fn word(&self, word: &[u8], offset: usize, memory: &mut Memory, out: &mut Encoded) {
        if let Some(id) = self.words.get(word)
            && (self.ignore_merges || self.is_whole(id, word, &mut memory.scratch))
        {
            out.push(id, offset, offset + word.len());
            return;
        }
        if let Some(parts) = memory.words.get(word) {
            out.push_parts(parts, offset);
            return;
        }
        let parts = self.merges.split(word, &mut memory.scratch);
        out.push_parts(parts, offset);
        if memory.words.len() < REMEMBERED && word.len() <= 64 {
            let parts = parts.into();
            memory.words.insert(word.into(), parts);
        }
    }

    fn is_whole(&self, id: u32, word: &[u8], scratch: &mut merge::Scratch) -> bool {
        let known = &self.whole[id as usize];
        match known.load(Ordering::Relaxed) {
            UNKNOWN => {
                let whole = matches!(self.merges.split(word, scratch), [(only, _)] if *only == id);
                known.store(if whole { WHOLE } else { SPLIT }, Ordering::Relaxed);
                whole
            }
            state => state == WHOLE,
        }
    }
}

/// Whether a stretch of text shares a byte with one of these ranges.
pub(crate) fn lies_in(stretch: &Range<usize>, ranges: &[Range<usize>]) -> bool {
    ranges.iter().any(|range| range.start < stretch.end && stretch.start < range.end)
}

impl Added {
    /// The outer `None`: a token that is matched in a way not known here.
    #[expect(clippy::option_option, reason = "no added tokens, and tokens that cannot be taken over, differ")]
    fn new(json: &Value) -> Option<Option<Self>> {
        let empty = Vec::new();
        let tokens = json.as_array().unwrap_or(&empty);
        let (mut texts, mut ids, mut is_special) = (Vec::new(), Vec::new(), Vec::new());
        for token in tokens {
            if ["single_word", "lstrip", "rstrip"].iter().any(|flag| token[flag] == true) {
                return None;
            }
            let text = token["content"].as_str()?;
            if text.is_empty() {
                continue;
            }
            texts.push(text);
            ids.push(u32::try_from(token["id"].as_u64()?).ok()?);
            is_special.push(token["special"] == true);
        }
        if texts.is_empty() {
            return Some(None);
        }
        let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        Some(Some(Added { searcher, ids, is_special }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::sequence::Sequence;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{SplitDelimiterBehavior, Tokenizer as General};

    use crate::{Encoded, Tokenizer, TrainConfig};

    const CORPUS: &str = "the cat sat on the mat, the cat's hat isn't there; they'll see 123 and 1,234.56 things \
        naïve café déjà vu 北京 北京市 مرحبا مرحبا if (a < b) {\r\n\treturn a;\n}\n\n  it's  THE'S we've ½ ²";

    /// Every pattern that is taken over, with and without whole words past the merges.
    fn tokenizers() -> &'static [Tokenizer] {
        static ALL: OnceLock<Vec<Tokenizer>> = OnceLock::new();
        ALL.get_or_init(|| {
            let split = |expression: &str| -> PreTokenizerWrapper {
                let pattern = SplitPattern::Regex(expression.into());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
                Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into()
            };
            let words = [None, Some(split(super::LLAMA3)), Some(split(super::QWEN2))];
            let mut all = Vec::new();
            for digits in [false, true] {
                for words in words.clone() {
                    let config = TrainConfig { vocab_size: 420, digits, ..TrainConfig::default() };
                    let trained = Tokenizer::train(vec![CORPUS; 3], &config).unwrap();
                    let mut parts = trained.into_parts();
                    if let Some(words) = words {
                        parts.inner.with_pre_tokenizer(Some(words));
                    }
                    let tokenizer = Tokenizer::from_parts(parts).unwrap();
                    assert!(tokenizer.is_fast());
                    all.push(tokenizer);
                }
            }
            all
        })
    }

    fn check(text: &str) {
        for tokenizer in tokenizers() {
            let general: &General = tokenizer.inner();
            let expect = general.encode(text, false).unwrap();
            let fast = tokenizer.encode_with_offsets(text, false).unwrap();
            let words = serde_json::to_string(&general.get_pre_tokenizer()).unwrap();
            assert_eq!(fast.ids, expect.get_ids(), "{text:?} by {words}");
            // Offsets differ only inside a character, where the general path tells the whole character.
            assert_eq!(fast.offsets.first().map_or(0, |o| o.0), 0);
            assert!(fast.offsets.windows(2).all(|pair| pair[0].1 == pair[1].0), "{text:?}");
            assert_eq!(fast.offsets.last().map_or(0, |o| o.1), text.len());

            let mut literal = Encoded::default();
            tokenizer.encode_into(text, std::slice::from_ref(&(0..text.len())), &mut literal).unwrap();
            let mut general = general.clone();
            general.set_encode_special_tokens(true);
            assert_eq!(literal.ids, general.encode(text, false).unwrap().get_ids(), "{text:?} literal");
        }
    }

    #[test]
    fn the_expressions_edges() {
        for text in [
            "",
            " ",
            "  ",
            "a  b",
            "a \n b",
            "\n\n",
            " \n",
            "\n ",
            "x 1",
            "x  1",
            "x\t1",
            "1 2  3",
            "'s 's'S 'LL'",
            "<|im_end|>a<|im_start|>",
            "<|im_end",
            "a'ſb",
            "½1",
            "a\u{85}\u{a0} b",
            "!\n\n?\r\n",
            " !\nx",
            "12345",
            "\u{10ffff}\u{fffd}",
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn ids_are_those_of_the_general_path(
            text in "([ \\t\\r\\n'!.,<|>_-]|[a-zA-Z]{1,4}|[0-9]|é|ß|½|٣|北|م|ſ|\u{85}|\u{a0}|\u{2028}|\u{301}|😀|<[|]im_end[|]>){0,40}"
        ) {
            check(&text);
        }

        #[test]
        fn on_any_text(text in any::<String>()) {
            check(&text);
        }
    }
}
