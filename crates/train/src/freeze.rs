use tch::Tensor;

use crate::{Param, TrainError};

/// Which of a model's tensors stay as they are when the model itself is trained.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Freeze {
    /// None.
    #[default]
    Nothing,
    /// The embeddings and the first so many blocks.
    Blocks(usize),
    /// Those under these names: `embed_tokens`, `layers.3`, `self_attn`, `layers.0.mlp.up_proj`.
    Names(Vec<String>),
}

impl Freeze {
    /// A number of blocks, or names separated by commas; nothing where the text is empty.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        match text.parse() {
            Ok(0) => Freeze::Nothing,
            Ok(n) => Freeze::Blocks(n),
            Err(_) if text.is_empty() => Freeze::Nothing,
            Err(_) => Freeze::Names(text.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    /// Whether the tensor `name` of a checkpoint stays as it is.
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Freeze::Nothing => false,
            Freeze::Blocks(n) => match block_idx(name) {
                Some(block_idx) => block_idx < *n,
                None => is_embedding(name),
            },
            Freeze::Names(names) => names.iter().any(|part| has_part(name, part)),
        }
    }
}

/// A model's tensors (as `Decoder::leaves` gives them) as what is trained: gradients are turned on for all that
/// `freeze` leaves and off for the rest. Norms and biases have no weight decay.
///
/// # Errors
/// [`TrainError::Config`] where a name of `freeze` matches nothing, nothing is left to train, or a tensor is not what the
/// model computes with (a transposed view, integers).
pub fn unfreeze(tensors: Vec<(String, Tensor)>, freeze: &Freeze) -> Result<Vec<Param>, TrainError> {
    let exists = || {
        let kinds: std::collections::BTreeSet<String> =
            tensors.iter().map(|(n, _)| without_index(n)).collect();
        kinds.into_iter().collect::<Vec<_>>().join(", ")
    };
    if let Freeze::Names(names) = freeze
        && let Some(lost) = names.iter().find(|part| !tensors.iter().any(|(name, _)| has_part(name, part)))
    {
        return Err(TrainError::Config(format!("no tensor is named {lost:?}; the model has: {}", exists())));
    }
    if let Freeze::Blocks(n) = freeze {
        let blocks = tensors.iter().filter_map(|(name, _)| block_idx(name)).max().map_or(0, |last| last + 1);
        if *n > blocks {
            return Err(TrainError::Config(format!("{n} blocks cannot be frozen: the model has {blocks}")));
        }
    }
    let (frozen, trained): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| freeze.holds(name));
    if let Some((name, _)) = trained.iter().find(|(_, t)| !t.is_contiguous() || !t.is_floating_point()) {
        return Err(TrainError::Config(format!(
            "{name} is kept in a form that is not trained whole: train an adapter, or freeze it"
        )));
    }
    for (_, tensor) in frozen.iter().filter(|(_, t)| t.requires_grad()) {
        let _ = tensor.set_requires_grad(false);
    }
    if trained.is_empty() {
        return Err(TrainError::Config("every tensor is frozen: nothing is left to train".to_owned()));
    }
    let param = |(name, tensor): (String, Tensor)| {
        let tensor = tensor.set_requires_grad(true);
        Param { decay: tensor.dim() > 1, ..Param::new(name, tensor) }
    };
    Ok(trained.into_iter().map(param).collect())
}

/// Whether `part`'s pieces stand side by side in `name`: `layers.1` is in `model.layers.1.mlp`, not in
/// `model.layers.10.mlp`.
fn has_part(name: &str, part: &str) -> bool {
    let name: Vec<&str> = name.split('.').collect();
    let part: Vec<&str> = part.split('.').collect();
    name.windows(part.len()).any(|window| window == part)
}

/// The block that a tensor belongs to: the first piece of its name that is a number.
fn block_idx(name: &str) -> Option<usize> {
    name.split('.').find_map(|piece| piece.parse().ok())
}

fn is_embedding(name: &str) -> bool {
    name.split('.').any(|piece| piece.contains("embed") || ["wte", "wpe", "shared"].contains(&piece))
}

/// A tensor's name with its block's number left out, and without `.weight` and `.bias`.
fn without_index(name: &str) -> String {
    let pieces = name.split('.').filter(|p| p.parse::<usize>().is_err() && !["weight", "bias"].contains(p));
    pieces.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.layers.10.mlp.up_proj.bias",
        "model.norm.weight",
    ];

    fn tensors() -> Vec<(String, Tensor)> {
        let shape = |name: &str| if name.ends_with("proj.weight") { vec![2, 2] } else { vec![2] };
        let zeros = |name: &str| Tensor::zeros(shape(name), (tch::Kind::Float, tch::Device::Cpu));
        NAMES.iter().map(|name| ((*name).to_owned(), zeros(name))).collect()
    }

    #[test]
    fn what_is_frozen_is_named_or_counted() {
        let check = |text: &str, trained: &[usize]| {
            let tensors = tensors();
            let handles: Vec<Tensor> = tensors.iter().map(|(_, t)| t.shallow_clone()).collect();
            let params = unfreeze(tensors, &Freeze::parse(text)).unwrap();
            let found: Vec<usize> =
                params.iter().map(|p| NAMES.iter().position(|n| *n == p.name).unwrap()).collect();
            assert_eq!(found, trained, "{text}");
            assert!(
                handles.iter().enumerate().all(|(i, t)| t.requires_grad() == trained.contains(&i)),
                "{text}"
            );
            assert!(params.iter().all(|p| p.decay == p.name.ends_with("proj.weight")), "{text}");
        };
        check("", &[0, 1, 2, 3, 4, 5]);
        check("2", &[3, 4, 5]);
        check("embed_tokens, layers.1", &[3, 4, 5]);
        check("mlp.up_proj", &[0, 1, 2, 5]);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let check = |text: &str, expect: &str| {
            let error = unfreeze(tensors(), &Freeze::parse(text)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("q_prof", "\"q_prof\"; the model has: model.embed_tokens, model.layers.input_layernorm");
        check("12", "the model has 11");
        check("model", "nothing is left");
        let transposed =
            vec![("c_attn.weight".to_owned(), tensors().remove(3).1.view([1, 4]).transpose(0, 1))];
        assert!(unfreeze(transposed, &Freeze::Nothing).is_ok(), "one column is contiguous either way");
        let wide = Tensor::zeros([2, 3], (tch::Kind::Float, tch::Device::Cpu)).transpose(0, 1);
        let error =
            unfreeze(vec![("c_attn.weight".to_owned(), wide)], &Freeze::Nothing).unwrap_err().to_string();
        assert!(error.contains("c_attn.weight is kept in a form"), "{error}");
    }
}
