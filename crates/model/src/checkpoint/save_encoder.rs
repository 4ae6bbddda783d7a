use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tch::Tensor;

use super::{Safetensors, Source, write_safetensors};
use crate::weights::todays_name;
use crate::{Encoder, HeadKind, ModelError, Tensors};

/// Writes an encoder so that transformers loads the folder: model.safetensors and config.json. The tokenizer's files
/// are copied by who has them.
///
/// `source` is what it was loaded from: what the encoder does not read (a pooler, further token types) goes along
/// unchanged. All have the names of today, and under a masked-LM head the family's prefix; config.json gets its class.
/// `folder` is made where absent; each file appears whole.
///
/// # Errors
/// [`ModelError::Io`], [`ModelError::Format`]; [`ModelError::Config`] where `config_json` is no object or the family
/// has no class for the head.
pub fn save_encoder(
    encoder: &Encoder,
    source: &Source,
    config_json: &Value,
    folder: &Path,
) -> Result<(), ModelError> {
    let names = encoder.config.names;
    let old = Safetensors::open(source.path())?;
    // By the name of today: the one in the file.
    let stored: BTreeMap<String, String> =
        old.names().into_iter().map(|name| (todays_name(&name), name)).collect();
    let read = |name: &str| stored.get(name).map_or(Ok(None), |stored| old.read(stored));
    let is_lm = encoder.head.as_ref().is_some_and(|head| head.kind() == HeadKind::MaskedLm);
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (name, tensor) in encoder.named_tensors() {
        let types =
            !names.type_embedding.is_empty() && name.ends_with(&format!("{}.weight", names.type_embedding));
        let tensor = match read(&name)? {
            Some(table) if types => {
                let row = tensor.detach().to_kind(table.kind()).unsqueeze(0);
                Tensor::cat(&[row, table.narrow(0, 1, table.size()[0] - 1)], 0)
            }
            Some(before) => tensor.detach().to_kind(before.kind()),
            None if types => tensor.detach().unsqueeze(0),
            None => tensor.detach(),
        };
        tensors.push((name, tensor));
    }
    for name in stored.keys() {
        // Old files also hold the output layer under the names of what it is tied to.
        let stale = is_lm && name.starts_with(&format!("{}.", names.lm[2]));
        if !stale
            && !tensors.iter().any(|(known, _)| known == name)
            && let Some(tensor) = read(name)?
        {
            tensors.push((name.clone(), tensor));
        }
    }
    let Some(config) = config_json.as_object() else {
        return Err(ModelError::Config("is not a JSON object".to_owned()));
    };
    let mut config = config.clone();
    let class = config.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("");
    if is_lm && !class.ends_with("ForMaskedLM") {
        let Some(family) = ["BertModel", "RobertaModel", "DistilBertModel", "MPNetModel", "ModernBertModel"]
            .iter()
            .find(|name| class == **name)
            .and_then(|name| name.strip_suffix("Model"))
        else {
            return Err(ModelError::Config(format!("no masked-LM class is known beside {class:?}")));
        };
        config.insert("architectures".to_owned(), json!([format!("{family}ForMaskedLM")]));
    }
    // The class may have been there before the head was.
    if is_lm && encoder.root().is_empty() {
        let head = names.lm.map(|part| part.split('.').next().unwrap_or_default().to_owned());
        for (name, _) in &mut tensors {
            let of_head = head.iter().any(|first| name.split('.').next() == Some(first));
            if !of_head {
                *name = format!("{}.{name}", names.prefix);
            }
        }
    }
    std::fs::create_dir_all(folder).map_err(|source| ModelError::Io {
        op: "create",
        path: folder.to_owned(),
        source,
    })?;
    let tensors: Vec<_> = tensors.into_iter().map(|(name, t)| (name, t.contiguous())).collect();
    write_safetensors(&folder.join("model.safetensors"), &tensors, &[("format", "pt")])?;
    super::save::write_json(&folder.join("config.json"), &Value::Object(config))
}
