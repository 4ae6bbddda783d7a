use std::cell::RefCell;
use std::collections::BTreeSet;

use ferrotune_model::{Decoder, Linear};
use tch::Tensor;

use crate::PeftError;
use crate::config::{BiasMode, LoraConfig};
use crate::target::{Target, is_suffix, kinds, modules_to_save};

/// A tensor of the model that is trained whole and saved with the adapter: a bias, or a module of
/// `modules_to_save`.
///
/// `live` is the tensor that the model computes with while the adapter is attached. Switching the adapter off
/// points its storage at the base's values and back, which copies nothing.
#[derive(Debug)]
pub(crate) struct WholeTensor {
    /// Name in the base checkpoint, `lm_head.weight`.
    pub(crate) name: String,
    /// Name in PEFT's file, without its prefix: the bias of a layer with an adapter is the adapter's
    /// `base_layer.bias`.
    pub(crate) key: String,
    /// What the model uses, in the model's dtype, trained.
    pub(crate) live: Tensor,
    base: Tensor,
    /// Its own values while it is switched off.
    trained: RefCell<Option<Tensor>>,
}

impl WholeTensor {
    /// A trained copy of `base`.
    fn new(name: String, base: &Tensor) -> Self {
        let live = base.detach().copy().set_requires_grad(true);
        WholeTensor { key: name.clone(), name, live, base: base.shallow_clone(), trained: RefCell::new(None) }
    }

    /// Points `live` at the base's values, or back at its own.
    pub(crate) fn set_enabled(&self, on: bool) {
        // A handle on the same tensor: the model's changes with it.
        let mut live = self.live.shallow_clone();
        let trained = self.trained.take();
        self.trained.replace(match (on, trained) {
            (true, Some(trained)) => {
                live.set_data(&trained);
                None
            }
            (false, None) => {
                let trained = live.data();
                live.set_data(&self.base);
                Some(trained)
            }
            (_, unchanged) => unchanged,
        });
    }

    /// Whether the trained values differ from the base's.
    pub(crate) fn differs(&self) -> bool {
        let trained = self.trained.borrow();
        tch::no_grad(|| !trained.as_ref().unwrap_or(&self.live).equal(&self.base))
    }
}

/// The whole tensors that `config` asks for, as trained copies; the model is not changed.
pub(crate) fn collect(
    decoder: &Decoder,
    config: &LoraConfig,
    targets: &[Target],
) -> Result<Vec<WholeTensor>, PeftError> {
    let mut whole = Vec::new();
    let embedding = decoder.config.names.embedding;
    let mut linears = decoder.linears();
    linears.extend(&decoder.lm_head);
    for module in modules_to_save(config) {
        let before = whole.len();
        let tied = decoder.lm_head.is_none();
        if is_suffix(embedding, module) || (tied && config.ensure_weight_tying && module == "lm_head") {
            whole.push(WholeTensor::new(format!("{embedding}.weight"), &decoder.embedding));
        } else if tied && module == "lm_head" {
            whole.push(WholeTensor::new("lm_head.weight".to_owned(), &decoder.embedding));
        }
        for linear in linears.iter().filter(|l| is_suffix(&l.name, module)) {
            let ferrotune_model::Weight::Dense(weight) = &linear.weight else {
                return Err(PeftError::Unsupported(format!(
                    "modules_to_save on the quantised layer {}",
                    linear.name
                )));
            };
            whole.push(WholeTensor::new(format!("{}.weight", linear.name), weight));
            if let Some(bias) = &linear.bias {
                whole.push(WholeTensor::new(format!("{}.bias", linear.name), bias));
            }
        }
        if whole.len() == before {
            let names: Vec<String> = linears.iter().map(|l| l.name.clone()).collect();
            let existing = format!("{embedding}, lm_head, {}", kinds(&names));
            return Err(PeftError::Target {
                field: "modules_to_save",
                asked: format!("{module:?}"),
                existing,
            });
        }
    }
    let wants_bias = |linear: &Linear| match config.bias {
        BiasMode::None => false,
        BiasMode::All => true,
        BiasMode::LoraOnly => targets.iter().any(|t| t.path == linear.name),
    };
    for linear in decoder.linears().into_iter().filter(|l| wants_bias(l)) {
        let name = format!("{}.bias", linear.name);
        if let (Some(bias), false) = (&linear.bias, whole.iter().any(|w| w.name == name)) {
            let mut tensor = WholeTensor::new(name, bias);
            if targets.iter().any(|t| t.path == linear.name) {
                tensor.key = format!("{}.base_layer.bias", linear.name);
            }
            whole.push(tensor);
        }
    }
    if config.bias == BiasMode::All {
        let norms = decoder.norm_biases().into_iter();
        whole.extend(norms.map(|(name, bias)| WholeTensor::new(name, bias)));
    }
    let mut seen = BTreeSet::new();
    whole.retain(|w| seen.insert(w.name.clone()));
    Ok(whole)
}

/// Puts the live tensors (or, with `back`, the base's) into the model.
pub(crate) fn place(decoder: &mut Decoder, whole: &[WholeTensor], keep_tied: bool, back: bool) {
    let pick = |w: &WholeTensor| if back { w.base.shallow_clone() } else { w.live.shallow_clone() };
    let head_is_tied = decoder.config.tie_word_embeddings;
    let embedding = decoder.config.names.embedding;
    if head_is_tied && back {
        decoder.lm_head = None;
    }
    for tensor in whole {
        match tensor.name.as_str() {
            name if name.strip_suffix(".weight") == Some(embedding) => {
                // PEFT unties: the head goes on with the base's embedding unless `ensure_weight_tying`.
                if head_is_tied && !keep_tied && !back && decoder.lm_head.is_none() {
                    decoder.lm_head = Some(Linear::new("lm_head", tensor.base.shallow_clone(), None));
                }
                decoder.embedding = pick(tensor);
            }
            "lm_head.weight" if head_is_tied => {
                if !back {
                    decoder.lm_head = Some(Linear::new("lm_head", pick(tensor), None));
                }
            }
            name => {
                let head = name.starts_with("lm_head.");
                let linears =
                    if head { decoder.lm_head.as_mut().into_iter().collect() } else { decoder.linears_mut() };
                for linear in linears {
                    if name.strip_suffix(".weight") == Some(&linear.name) {
                        linear.weight = ferrotune_model::Weight::Dense(pick(tensor));
                    } else if name.strip_suffix(".bias") == Some(&linear.name) {
                        linear.bias = Some(pick(tensor));
                    }
                }
                for (norm, bias) in decoder.norm_biases_mut() {
                    if norm == name {
                        *bias = pick(tensor);
                    }
                }
            }
        }
    }
}
