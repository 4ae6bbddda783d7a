use ferrotune_types::Segment;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use crate::block::{linear_tensors, norm_tensors};
use crate::encoder::pool;
use crate::{
    Activation, EncoderConfig, EncoderNames, HeadKind, Linear, ModelError, Norm, NormKind, Pooling, WeightMap,
};

/// What an encoder's checkpoint was trained to predict.
#[derive(Debug)]
pub struct Head {
    kind: HeadKind,
    /// Before the output layer, where there is something.
    transform: Option<Transform>,
    /// (V or classes, C).
    out: Linear,
}

/// norm(act(dense(x))).
#[derive(Debug)]
struct Transform {
    dense: Linear,
    activation: HeadActivation,
    norm: Option<Norm>,
}

/// An activation of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadActivation {
    /// As in feed-forward layers.
    Plain(Activation),
    /// tanh, in classifiers.
    Tanh,
}

impl Head {
    /// The head that config.json's class has; `None` for a bare model. One that was saved without its masked-LM head keeps the
    /// class that it was pretrained under.
    pub(crate) fn load(
        config: &EncoderConfig,
        root: &str,
        embedding: &Tensor,
        weights: &mut WeightMap<'_>,
    ) -> Result<Option<Self>, ModelError> {
        let (names, c) = (config.names, config.hidden_size);
        let Some(kind) = config.head else { return Ok(None) };
        if kind == HeadKind::MaskedLm && !has_masked_lm(names, weights) {
            return Ok(None);
        }
        let (dense, norm, activation) = match kind {
            HeadKind::MaskedLm => (names.lm[0], names.lm[1], HeadActivation::Plain(config.activation)),
            HeadKind::Sequence(_) => (names.sequence[0], names.sequence[1], names.sequence_activation),
            HeadKind::Tokens => (names.tokens[0], names.tokens[1], HeadActivation::Plain(config.activation)),
        };
        let transform = match dense {
            "" => None,
            dense => {
                let dense =
                    if dense.starts_with("pooler") { format!("{root}{dense}") } else { dense.to_owned() };
                let has_bias = weights.has(&format!("{dense}.bias"));
                let dense = weights.linear(&dense, c, c, has_bias)?;
                let norm = match norm {
                    "" => None,
                    name => Some(weights.norm(name, c, config.norm)?),
                };
                Some(Transform { dense, activation, norm })
            }
        };
        let out = match kind {
            HeadKind::MaskedLm => {
                let v = config.vocab_size as i64;
                let bias = weights.take(names.lm[3], &[v])?;
                let untied = weights.take_optional(&format!("{}.weight", names.lm[2]), &[v, c as i64])?;
                let weight = untied.unwrap_or_else(|| embedding.shallow_clone());
                Linear::new(names.lm[2], weight, Some(bias))
            }
            HeadKind::Sequence(_) => weights.linear(names.sequence[2], c, config.num_labels, true)?,
            HeadKind::Tokens => weights.linear(names.tokens[2], c, config.num_labels, true)?,
        };
        Ok(Some(Head { kind, transform, out }))
    }

    /// A masked-LM head as BERT begins one, for a checkpoint that was saved without: dense layer N(0, 0.02²), plain
    /// norm, and the embedding as output weight. The numbers come from a ChaCha8 stream of `seed`.
    ///
    /// # Errors
    /// [`ModelError::Config`] where the family has no such head.
    pub(crate) fn new_masked_lm(
        config: &EncoderConfig,
        embedding: &Tensor,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let names = config.names;
        if names.lm[0].is_empty() {
            return Err(ModelError::Config(format!("{} has no masked-LM head", config.model_type)));
        }
        let c = config.hidden_size;
        let like = |values: &[f32]| {
            Tensor::from_slice(values).to_device(embedding.device()).to_kind(embedding.kind())
        };
        let (zeros, ones) = (like(&vec![0.0; c]), like(&vec![1.0; c]));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Twelve uniforms less six have variance 1.
        let mut normal = || 0.02 * ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
        let weight = like(&(0..c * c).map(|_| normal()).collect::<Vec<_>>()).view([c as i64, c as i64]);
        let bias = (config.model_type != "modernbert").then(|| zeros.copy());
        let norm = match config.norm {
            NormKind::Layer { eps } => {
                let bias = (config.model_type != "modernbert").then(|| zeros.copy());
                Norm::Layer { weight: ones, bias, eps }
            }
            NormKind::Rms { eps, weight_plus_one, .. } => Norm::Rms { weight: ones, eps, weight_plus_one },
        };
        let transform = Transform {
            dense: Linear::new(names.lm[0], weight, bias),
            activation: HeadActivation::Plain(config.activation),
            norm: Some(norm),
        };
        let rows = like(&vec![0.0; config.vocab_size]);
        let out = Linear::new(names.lm[2], embedding.shallow_clone(), Some(rows));
        Ok(Head { kind: HeadKind::MaskedLm, transform: Some(transform), out })
    }

    /// What it predicts.
    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// The head's tensors under their names; an output weight that is the embedding is not among them.
    pub(crate) fn named_tensors(
        &self,
        config: &EncoderConfig,
        embedding: &Tensor,
        out: &mut Vec<(String, Tensor)>,
    ) {
        let names = config.names;
        let norm_name = match self.kind {
            HeadKind::MaskedLm => names.lm[1],
            HeadKind::Tokens => names.tokens[1],
            HeadKind::Sequence(_) => names.sequence[1],
        };
        if let Some(transform) = &self.transform {
            linear_tensors(&transform.dense, false, out);
            if let Some(norm) = &transform.norm {
                norm_tensors(norm_name, norm, out);
            }
        }
        let mut own = Vec::new();
        linear_tensors(&self.out, false, &mut own);
        for (name, tensor) in own {
            if tensor.data_ptr() == embedding.data_ptr() {
                continue;
            }
            // A masked-LM head's bias has a name of its own.
            let bias = self.kind == HeadKind::MaskedLm && tensor.dim() == 1;
            out.push((if bias { names.lm[3].to_owned() } else { name }, tensor));
        }
    }

    /// (T, C) → logits of every token (T, V or classes), or of every text (texts, classes).
    pub(crate) fn forward(&self, hidden: &Tensor, segments: &[Segment]) -> Tensor {
        let pooled;
        let x = match self.kind {
            HeadKind::Sequence(pooling) => {
                pooled = pool(hidden, segments, pooling);
                &pooled
            }
            HeadKind::MaskedLm | HeadKind::Tokens => hidden,
        };
        match &self.transform {
            Some(transform) => self.out.forward(&transform.forward(x)),
            None => self.out.forward(x),
        }
    }
}

/// Whether the checkpoint holds any tensor of a masked-LM head. A head that is there in part is an error where it is read.
fn has_masked_lm(names: &EncoderNames, weights: &WeightMap<'_>) -> bool {
    let [layers @ .., bias] = names.lm;
    weights.has(bias)
        || layers
            .iter()
            .any(|layer| weights.has(&format!("{layer}.weight")) || weights.has(&format!("{layer}.bias")))
}

impl Transform {
    fn forward(&self, x: &Tensor) -> Tensor {
        let x = self.dense.forward(x);
        let x = match self.activation {
            HeadActivation::Plain(activation) => activation.forward(&x),
            HeadActivation::Tanh => x.tanh(),
        };
        match &self.norm {
            Some(norm) => norm.forward(&x),
            None => x,
        }
    }
}

/// How a text's tokens become one vector before a classifier.
pub(crate) fn classifier_pooling(name: Option<&str>) -> Result<Pooling, ModelError> {
    match name {
        None | Some("cls") => Ok(Pooling::Cls),
        Some("mean") => Ok(Pooling::Mean),
        Some(other) => Err(ModelError::Config(format!("unknown classifier_pooling {other:?}"))),
    }
}
