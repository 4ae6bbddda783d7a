use std::path::Path;

use ferrotune_model::checkpoint::{Source, load_config};
use serde_json::Value;

use crate::config::LoraConfig;

/// Why a model of `model_type` is hardly what the adapter was trained on, in words for a warning; `None` where nothing
/// speaks against it.
///
/// `base_model_name_or_path` is free text, so a name alone proves nothing: the same model has many. What can be known
/// is the kind of model that lies there, where it is a folder or GGUF file of this machine, and the class that PEFT
/// notes in `auto_mapping` for an adapter without a task. An adapter of another kind of model was not trained on this
/// one, even if every shape fits.
pub fn base_doubt(config: &LoraConfig, model_type: &str) -> Option<String> {
    let named = config.base_model_name_or_path.as_deref().unwrap_or_default();
    let (trained_on, whence) = match noted_type(config) {
        Some(noted) => (noted, "its adapter_config.json says".to_owned()),
        None => (type_at(Path::new(named))?, format!("its base {named} holds")),
    };
    if is_same(&trained_on, model_type) {
        return None;
    }
    Some(format!(
        "the adapter was hardly trained on this model: {whence} {trained_on}, this one is {model_type}; name the model \
         that it was trained on"
    ))
}

/// `transformers.models.qwen2.modeling_qwen2` names a kind of model.
fn noted_type(config: &LoraConfig) -> Option<String> {
    let library = config.extra.get("auto_mapping")?.get("parent_library")?.as_str()?;
    let module = library.strip_prefix("transformers.models.")?.split('.').next()?;
    Some(module.to_owned())
}

fn type_at(path: &Path) -> Option<String> {
    let source = if path.as_os_str().is_empty() {
        return None;
    } else if path.join("config.json").is_file() {
        Source::Directory(path.to_owned())
    } else if path.extension().is_some_and(|e| e == "gguf") && path.is_file() {
        Source::Gguf(path.to_owned())
    } else {
        return None;
    };
    let config = load_config(&source).ok()?;
    config.get("model_type").and_then(Value::as_str).map(str::to_owned)
}

/// A module of transformers may hold the text part of a larger model under a name of its own.
fn is_same(a: &str, b: &str) -> bool {
    let plain = |name: &str| name.trim_end_matches("_text").to_owned();
    // A GGUF file calls Mistral a Llama, whose tensors it has.
    let family = |name: &str| if plain(name) == "mistral" { "llama".to_owned() } else { plain(name) };
    family(a) == family(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &LoraConfig, model_type: &str, expect: Option<&str>) {
        let found = base_doubt(config, model_type);
        match (&found, expect) {
            (None, None) => {}
            (Some(text), Some(part)) => assert!(text.contains(part), "{text}"),
            _ => panic!("{found:?} is not {expect:?}"),
        }
    }

    #[test]
    fn only_another_kind_of_model_raises_a_doubt() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "qwen2"}"#).unwrap();
        let of = |base: &str| LoraConfig {
            base_model_name_or_path: Some(base.to_owned()),
            ..LoraConfig::default()
        };
        let here = folder.path().to_str().unwrap();
        check(&of(here), "qwen2", None);
        check(&of(here), "llama", Some("holds qwen2, this one is llama"));
        // A hub id, a folder that is gone and no name at all prove nothing.
        check(&of("Qwen/Qwen2.5-0.5B"), "llama", None);
        check(&of(&format!("{here}/gone")), "llama", None);
        check(&LoraConfig::default(), "llama", None);
    }

    #[test]
    fn the_class_that_peft_notes_counts() {
        let noted = |library: &str| {
            let json =
                format!(r#"{{"auto_mapping": {{"parent_library": "transformers.models.{library}"}}}}"#);
            serde_json::from_str::<LoraConfig>(&json).unwrap()
        };
        check(&noted("qwen2.modeling_qwen2"), "qwen2", None);
        check(&noted("qwen2.modeling_qwen2"), "llama", Some("says qwen2, this one is llama"));
        check(&noted("gemma3.modeling_gemma3"), "gemma3_text", None);
        check(&noted("llama.modeling_llama"), "mistral", None);
    }
}
