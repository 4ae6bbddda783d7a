//! Tokens that stand in the files beside `tokenizer.json`, added as transformers 5 adds them.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Model};

use crate::tokenizer::contained;

/// Names of special tokens in the order in which they are added; other keys that end in `_token` follow.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The files beside `tokenizer.json` that name tokens.
pub(crate) struct Beside<'a> {
    /// `tokenizer_config.json`.
    pub(crate) config: &'a Map<String, Value>,
    /// `special_tokens_map.json`.
    pub(crate) map: &'a Map<String, Value>,
    /// `added_tokens.json`: ids by text.
    pub(crate) added: &'a Map<String, Value>,
}

impl Beside<'_> {
    /// The configuration that counts. Where it has `added_tokens_decoder`, transformers reads the older files no more;
    /// else `special_tokens_map.json` has the last word, and its objects are special tokens.
    pub(crate) fn effective(&self) -> Map<String, Value> {
        let mut all = self.config.clone();
        if !self.is_new() {
            for (key, value) in self.map {
                let mut value = value.clone();
                if value.is_object() && key != "extra_special_tokens" {
                    value["__type"] = "AddedToken".into();
                    value["special"] = true.into();
                }
                if key == "extra_special_tokens"
                    && let (Some(known), Some(new)) =
                        (all.get(key).and_then(Value::as_array), value.as_array())
                {
                    value = known.iter().chain(new).cloned().collect();
                }
                all.insert(key.clone(), value);
            }
        }
        all
    }

    fn is_new(&self) -> bool {
        self.config.contains_key("added_tokens_decoder")
    }

    /// Adds the tokens that `tokenizer.json` lacks, and changes the flags of those that it has otherwise.
    ///
    /// # Errors
    /// What is wrong: an entry that is no token, or a token whose id is not the one that is given.
    pub(crate) fn add_to(&self, inner: &mut tokenizers::Tokenizer) -> Result<(), String> {
        let known = inner.get_added_tokens_decoder();
        let mut numbered: BTreeMap<u32, AddedToken> = BTreeMap::new();
        if !self.is_new() {
            numbered.extend(known.iter().map(|(id, token)| (*id, token.clone())));
        }
        for (id, token) in self.given_ids()? {
            // In the older files `tokenizer.json` has the last word.
            if self.is_new() {
                numbered.insert(id, token);
            } else {
                numbered.entry(id).or_insert(token);
            }
        }
        let config = self.effective();
        let named = named(&config);
        let names: HashSet<&str> = named.iter().map(|token| &*token.content).collect();
        let mut seen: HashSet<String> = known.into_values().map(|token| token.content).collect();
        seen.extend(numbered.values().map(|token| token.content.clone()));
        let mut tokens: Vec<AddedToken> = numbered.values().cloned().collect();
        tokens.extend(
            named.iter().cloned().chain(extra(&config)).filter(|token| seen.insert(token.content.clone())),
        );
        for token in &mut tokens {
            token.special |= names.contains(&*token.content);
        }
        add_tokens(inner, tokens)?;
        for (id, token) in &numbered {
            let got = inner.token_to_id(&token.content);
            if got != Some(*id) {
                let got = got.map_or("none".to_owned(), |id| id.to_string());
                return Err(format!(
                    "the token {:?} is given the id {id}, and its id is {got}",
                    token.content
                ));
            }
        }
        Ok(())
    }

    /// The entries of `added_tokens_decoder`, or of the older `added_tokens.json`.
    fn given_ids(&self) -> Result<Vec<(u32, AddedToken)>, String> {
        if let Some(decoder) = self.config.get("added_tokens_decoder") {
            let entries = decoder.as_object().ok_or("added_tokens_decoder is no object")?;
            let entry = |(id, value): (&String, &Value)| {
                let id = id.parse().map_err(|_| format!("added_tokens_decoder: {id:?} is no id"))?;
                let token = token(value).filter(|_| value.is_object());
                Ok((id, token.ok_or_else(|| format!("added_tokens_decoder: the entry {id} is no token"))?))
            };
            return entries.iter().map(entry).collect();
        }
        let config = self.effective();
        let special: HashSet<String> =
            named(&config).into_iter().chain(extra(&config)).map(|token| token.content).collect();
        let entry = |(text, id): (&String, &Value)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| format!("added_tokens.json: {text:?} has no id"))?;
            Ok((id, AddedToken::from(text.clone(), special.contains(text))))
        };
        self.added.iter().map(entry).collect()
    }
}

/// Adds tokens; a new one takes the place after the last.
///
/// # Errors
/// Where the library fails, or gives a new token the id of another, as it does where ids have gaps.
pub(crate) fn add_tokens(inner: &mut tokenizers::Tokenizer, tokens: Vec<AddedToken>) -> Result<(), String> {
    let is_new = |token: &&AddedToken| inner.token_to_id(&token.content).is_none();
    let new: Vec<String> = tokens.iter().filter(is_new).map(|token| token.content.clone()).collect();
    contained(|| inner.add_tokens(tokens))?.map_err(|e| e.to_string())?;
    for text in new {
        let taken = inner.token_to_id(&text).and_then(|id| Some((id, inner.get_model().id_to_token(id)?)));
        if let Some((id, other)) = taken {
            return Err(format!("the new token {text:?} would get the id {id}, which is that of {other:?}"));
        }
    }
    Ok(())
}

/// The special tokens that have a name: the usual ones, then those of a model (`image_token`, …).
fn named(config: &Map<String, Value>) -> Vec<AddedToken> {
    let of_model = |key: &&String| key.ends_with("_token") && !NAMED.contains(&key.as_str());
    let is_wrapped = |value: &Value| value["__type"] == "AddedToken";
    let keys = || config.keys().filter(of_model).map(|key| &config[key]);
    let mut all: Vec<&Value> = NAMED.iter().filter_map(|name| config.get(*name)).collect();
    all.extend(keys().filter(|value| is_wrapped(value)));
    let before = all.len();
    all.extend(keys().filter(|value| value.is_string()));
    all.extend(
        config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flat_map(Map::values),
    );
    if all.len() == before {
        let listed = config.get("model_specific_special_tokens").and_then(Value::as_object);
        all.extend(listed.into_iter().flat_map(Map::values));
    }
    all.into_iter().filter_map(token).map(|token| token.special(true)).collect()
}

/// The special tokens without a name.
fn extra(config: &Map<String, Value>) -> Vec<AddedToken> {
    let is_there = |value: &&Value| match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        _ => false,
    };
    let list =
        config.get("extra_special_tokens").filter(is_there).or(config.get("additional_special_tokens"));
    list.and_then(Value::as_array).into_iter().flatten().filter_map(token).collect()
}

/// A token as a text, which is a special one, or as an object with flags.
fn token(value: &Value) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, true));
    }
    let flag = |name: &str| value[name].as_bool();
    let token = AddedToken::from(value["content"].as_str()?, flag("special").unwrap_or(false));
    let normalized = flag("normalized").unwrap_or(token.normalized);
    Some(
        token
            .normalized(normalized)
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false)),
    )
}

/// `added_tokens` of `tokenizer.json`, as the tokenizer has them now.
pub(crate) fn added_tokens(inner: &tokenizers::Tokenizer) -> Value {
    let tokens: BTreeMap<u32, AddedToken> = inner.get_added_tokens_decoder().into_iter().collect();
    let entry = |(id, token): (u32, AddedToken)| {
        json!({
            "id": id,
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized,
            "special": token.special,
        })
    };
    tokens.into_iter().map(entry).collect()
}
