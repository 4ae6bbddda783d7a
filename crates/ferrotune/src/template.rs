//! Chat templates by name: a built-in one, or a .jinja file.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrotune_data::chat::{BUILTIN, ChatTemplate};
use ferrotune_types::SpecialTokens;

/// Whether it names a .jinja file that is there.
pub fn is_template_file(name: &str) -> bool {
    let path = Path::new(name);
    path.extension().is_some_and(|e| e == "jinja" || e == "jinja2") && path.is_file()
}

/// Whether it names a template, so that no model is needed.
pub fn is_template(name: &str) -> bool {
    is_template_file(name) || BUILTIN.contains(&name)
}

/// A built-in template's source by name, or what a .jinja file holds.
///
/// # Errors
/// An unknown name (the known ones are listed); a file that cannot be read.
pub fn template_source(name: &str) -> Result<String> {
    if is_template_file(name) {
        return std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"));
    }
    Ok(ChatTemplate::builtin(name)?.source().to_owned())
}

/// A template without a model. A file does not say what its special tokens are: `stand_ins` takes made-up ones, for whoever
/// only asks whether rows can be rendered.
///
/// # Errors
/// As [`template_source`]; a broken template; a file that writes special tokens, where there are no stand-ins.
pub fn template_alone(name: &str, stand_ins: bool) -> Result<ChatTemplate> {
    if !is_template_file(name) {
        return Ok(ChatTemplate::builtin(name)?);
    }
    let source = template_source(name)?;
    let special = if stand_ins {
        SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTokens::default() }
    } else if let Some(token) = ["bos_token", "eos_token"].into_iter().find(|token| source.contains(token)) {
        bail!(
            "{name} writes the model's {token}, which the file does not name: render MODEL --template {name}"
        );
    } else {
        SpecialTokens::default()
    };
    Ok(ChatTemplate::new(&source, &special)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_alone_must_not_need_special_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, source: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, source).unwrap();
            path.display().to_string()
        };
        let plain = file("plain.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
        let needy = file("needy.jinja", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
        assert!(template_alone(&plain, false).is_ok() && template_alone(&needy, true).is_ok());
        let error = template_alone(&needy, false).unwrap_err().to_string();
        assert!(error.contains("needy.jinja writes the model's bos_token"), "{error}");
        assert!(template_alone("chatml", false).is_ok());
        let error = template_alone(&file("not.txt", ""), false).unwrap_err().to_string();
        assert!(error.contains("chatml"), "the known ones are listed: {error}");
    }
}
