//! What sentence-transformers does to a text before its encoder reads it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A checkpoint's settings for texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sentences {
    /// Stands before each text.
    pub(crate) prompt: String,
    /// Capitals are read as small letters.
    pub(crate) lower_case: bool,
    /// Tokens that are read of a text, where the checkpoint says how many.
    pub(crate) max_tokens: Option<usize>,
}

/// Where the encoder's settings may stand; the names after the first are of old checkpoints.
const ENCODER_SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

impl Sentences {
    /// Reads what lies in the folder. Without modules.json sentence-transformers looks at nothing but the tokenizer.
    ///
    /// # Errors
    /// A setting of a wrong type; a default prompt that is not there.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let tokenizer = Json::read(folder, "tokenizer_config.json")?.unwrap_or_default();
        // Where there is no end, tokenizers say 1e30.
        let of_tokenizer = tokenizer.value["model_max_length"].as_u64().map(|n| n as usize);
        if !folder.join("modules.json").is_file() {
            return Ok(Sentences { max_tokens: of_tokenizer, ..Sentences::default() });
        }
        let found = ENCODER_SETTINGS.iter().find(|name| folder.join(name).is_file());
        let encoder = found.map(|name| Json::read(folder, name)).transpose()?.flatten().unwrap_or_default();
        Ok(Sentences {
            prompt: default_prompt(folder)?,
            lower_case: encoder.flag("do_lower_case")?,
            max_tokens: encoder.count("max_seq_length")?.or(of_tokenizer),
        })
    }

    /// The text as the tokenizer gets it.
    pub(crate) fn prepare(&self, text: &str) -> String {
        let whole = format!("{}{text}", self.prompt);
        // Letter by letter, as the normaliser that sentence-transformers puts in does it.
        if self.lower_case { whole.chars().flat_map(char::to_lowercase).collect() } else { whole }
    }
}

/// `default_prompt_name` and the prompt of that name.
fn default_prompt(folder: &Path) -> Result<String> {
    let json = Json::read(folder, "config_sentence_transformers.json")?.unwrap_or_default();
    let name = match &json.value["default_prompt_name"] {
        Value::Null => return Ok(String::new()),
        Value::String(name) => name,
        other => bail!("{}: default_prompt_name is {other}, not a name", json.path),
    };
    match json.value["prompts"].get(name) {
        Some(Value::String(prompt)) => Ok(prompt.clone()),
        Some(Value::Null) => Ok(String::new()),
        Some(other) => bail!("{}: the prompt {name:?} is {other}, not a text", json.path),
        // Every model has these two; they are empty until something is said.
        None if name == "query" || name == "document" => Ok(String::new()),
        None => bail!("{}: default_prompt_name is {name:?}, which is not among the prompts", json.path),
    }
}

/// A file of settings.
#[derive(Default)]
struct Json {
    path: String,
    value: Value,
}

impl Json {
    /// Nothing where the file is not there.
    fn read(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let path = path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let value = serde_json::from_str(&text).with_context(|| format!("{path} is not JSON"))?;
        Ok(Some(Json { path, value }))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match &self.value[key] {
            Value::Null => Ok(false),
            Value::Bool(on) => Ok(*on),
            other => bail!("{}: {key} is {other}, neither true nor false", self.path),
        }
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        match &self.value[key] {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(count) => Ok(Some(count as usize)),
                None => bail!("{}: {key} is {value}, not a whole number of at least 0", self.path),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Sentences> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Sentences::read(folder.path())
    }

    const MODULES: (&str, &str) = ("modules.json", "[]");

    #[test]
    fn a_prompt_stands_before_the_text_and_capitals_become_small() {
        let prompts = r#"{"prompts": {"q": "Query: ", "n": null}, "default_prompt_name": "q"}"#;
        let files = [
            MODULES,
            ("config_sentence_transformers.json", prompts),
            ("sentence_roberta_config.json", r#"{"max_seq_length": 7, "do_lower_case": true}"#),
        ];
        let sentences = read(&files).unwrap();
        assert_eq!(sentences.prepare("Where IS ΣΑΣ?"), "query: where is σασ?");
        assert_eq!(sentences.max_tokens, Some(7));
        // Without modules.json nothing of it is looked at.
        assert_eq!(read(&files[1..]).unwrap(), Sentences::default());
        assert_eq!(Sentences::default().prepare("As IT is"), "As IT is");
    }

    #[test]
    fn the_tokenizers_length_serves_where_no_other_is_named() {
        let check = |files: &[(&str, &str)], expect: Option<usize>| {
            assert_eq!(read(files).unwrap().max_tokens, expect, "{files:?}");
        };
        let six = ("tokenizer_config.json", r#"{"model_max_length": 6}"#);
        let encoder = |text: &'static str| (ENCODER_SETTINGS[0], text);
        check(&[six], Some(6));
        check(&[six, MODULES], Some(6));
        check(&[six, MODULES, encoder(r#"{"max_seq_length": null}"#)], Some(6));
        check(&[six, MODULES, encoder(r#"{"max_seq_length": 9}"#)], Some(9));
        let endless = r#"{"model_max_length": 1000000000000000019884624838656}"#;
        check(&[("tokenizer_config.json", endless), MODULES], None);
    }

    #[test]
    fn settings_that_cannot_be_meant_are_named() {
        let check = |name: &str, text: &str, expect: &str| {
            let error = format!("{:#}", read(&[MODULES, (name, text)]).unwrap_err());
            assert!(error.contains(name) && error.contains(expect), "{error}");
        };
        check(ENCODER_SETTINGS[0], r#"{"max_seq_length": "16"}"#, "max_seq_length is \"16\"");
        check(ENCODER_SETTINGS[0], r#"{"max_seq_length": 1.5}"#, "max_seq_length is 1.5");
        check(ENCODER_SETTINGS[0], r#"{"do_lower_case": "yes"}"#, "neither true nor false");
        check(ENCODER_SETTINGS[0], "{", "is not JSON");
        let config = "config_sentence_transformers.json";
        check(config, r#"{"default_prompt_name": "q"}"#, "\"q\", which is not among the prompts");
        check(config, r#"{"default_prompt_name": 3}"#, "default_prompt_name is 3");
        check(config, r#"{"default_prompt_name": "q", "prompts": {"q": 3}}"#, "the prompt \"q\" is 3");
    }
}
