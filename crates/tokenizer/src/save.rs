use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;

use crate::{Tokenizer, TokenizerError};

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and, where there is a template,
    /// `chat_template.jinja` into a folder, such that transformers' `AutoTokenizer` loads the same tokenizer.
    ///
    /// # Errors
    /// [`TokenizerError::Io`] where a file cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), TokenizerError> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(TokenizerError::io("create", dir))?;
        let write = |name: &str, text: String| {
            fs::write(dir.join(name), text).map_err(TokenizerError::io("write", dir.join(name)))
        };
        let tokenizer = self.inner().to_string(true).map_err(TokenizerError::coding("encode"))?;
        write("tokenizer.json", tokenizer + "\n")?;
        let mut tokens = Map::new();
        let special = self.special();
        let named = [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("unk_token", &special.unk),
            ("pad_token", &special.pad),
        ];
        for (name, token) in named {
            if let Some(token) = token {
                tokens.insert(name.into(), json!(token));
            }
        }
        let mut config = self.config().clone();
        // The template has a file of its own; two copies could come to differ.
        config.remove("chat_template");
        for (name, token) in &tokens {
            config.insert(name.clone(), token.clone());
        }
        if !self.is_rebuilt_the_same() {
            config.remove("tokenizer_class");
        }
        // The class that reads `tokenizer.json` as it is.
        config.entry("tokenizer_class").or_insert(json!("PreTrainedTokenizerFast"));
        config.entry("clean_up_tokenization_spaces").or_insert(json!(false));
        config.entry("model_max_length").or_insert(json!(1_000_000_000_000_000_019_884_624_838_656_f64));
        write("tokenizer_config.json", pretty(&config))?;
        write("special_tokens_map.json", pretty(&tokens))?;
        if let Some(template) = self.chat_template() {
            write("chat_template.jinja", template.to_owned())?;
        }
        Ok(())
    }

    /// Whether the class that the configuration names gives this tokenizer. For a Llama's, transformers 5 makes one of the
    /// vocabulary: whatever `tokenizer.json` says, it puts a space before the first word, unless flags ask for another way.
    fn is_rebuilt_the_same(&self) -> bool {
        let config = self.config();
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        if !matches!(class, Some("LlamaTokenizer" | "LlamaTokenizerFast")) {
            return true;
        }
        let is = |key: &str, flag: bool| config.get(key) == Some(&Value::Bool(flag));
        let spaces_the_first = match self.inner().get_pre_tokenizer() {
            Some(PreTokenizerWrapper::Metaspace(words)) => {
                words.get_prepend_scheme() == PrependScheme::First && !words.get_split()
            }
            _ => false,
        };
        spaces_the_first
            && self.inner().get_normalizer().is_none()
            && !is("legacy", true)
            && !is("add_prefix_space", false)
    }
}

fn pretty(object: &Map<String, Value>) -> String {
    // A map of JSON values can always be written.
    serde_json::to_string_pretty(object).unwrap_or_default() + "\n"
}
