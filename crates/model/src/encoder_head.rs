use ferrotune_types::Segment;
use tch::Tensor;

use crate::encoder::pool;
use crate::{Activation, EncoderConfig, HeadKind, Linear, ModelError, Norm, Pooling, WeightMap};

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
    /// The head that config.json's class has; `None` for a bare model.
    pub(crate) fn load(
        config: &EncoderConfig,
        root: &str,
        embedding: &Tensor,
        weights: &mut WeightMap<'_>,
    ) -> Result<Option<Self>, ModelError> {
        let (names, c) = (config.names, config.hidden_size);
        let Some(kind) = config.head else { return Ok(None) };
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

    /// What it predicts.
    pub fn kind(&self) -> HeadKind {
        self.kind
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
