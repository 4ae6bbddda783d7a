use ferrotune_types::{Batch, Segment};
use tch::{Device, Kind, Tensor};

use crate::decoder::sequence_lengths;
use crate::encoder_head::Head;
use crate::encoder_layer::EncoderLayer;
use crate::rope::Rope;
use crate::{EncoderConfig, ModelError, Norm, WeightMap};

/// A bidirectional transformer: BERT and its relatives. It gives a vector for every token, and from those one
/// for a whole text ([`Self::embed`]) or what its head was trained for ([`Self::predict`]).
///
/// Like the decoder it reads a flat stream of texts that do not see each other, so nothing is padded.
#[derive(Debug)]
pub struct Encoder {
    /// What it is made of.
    pub config: EncoderConfig,
    /// (V, C).
    pub embedding: Tensor,
    /// (positions, C), where positions are learned.
    pub position_embedding: Option<Tensor>,
    /// (C): the first row of the token types, the one that single texts have.
    pub type_embedding: Option<Tensor>,
    /// Norm after the embeddings.
    pub embedding_norm: Norm,
    /// The layers, first to last.
    pub layers: Vec<EncoderLayer>,
    /// Norm after the last layer (ModernBERT).
    pub final_norm: Option<Norm>,
    /// (buckets, H): MPNet's bias for each distance between tokens.
    pub relative_bias: Option<Tensor>,
    /// What the checkpoint was trained to predict, where it has a head.
    pub head: Option<Head>,
    /// Dtype of the weights and activations.
    pub kind: Kind,
    /// Where they lie.
    pub device: Device,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// Their mean.
    Mean,
    /// Feature by feature, the greatest.
    Max,
}

/// Tokens of one pass in [`Encoder::embed`]: enough to fill the cores, few enough to stay in their caches.
const PASS_TOKENS: usize = 2048;

impl Encoder {
    /// Reads every tensor under the names that the config's family gives it.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] where the checkpoint does not fit the config.
    pub fn load(
        config: EncoderConfig,
        weights: &mut WeightMap<'_>,
        kind: Kind,
        device: Device,
    ) -> Result<Self, ModelError> {
        let names = config.names;
        // A bare model is saved without the prefix that it has under a head.
        let with_prefix = format!("{}.{}.weight", names.prefix, names.embedding);
        let root = if weights.has(&with_prefix) { format!("{}.", names.prefix) } else { String::new() };
        let (c, v) = (config.hidden_size as i64, config.vocab_size as i64);
        let embedding = weights.take(&format!("{root}{}.weight", names.embedding), &[v, c])?;
        let position_embedding = match names.position_embedding {
            "" => None,
            name => {
                let rows = (config.max_position_embeddings + config.position_offset) as i64;
                Some(weights.take(&format!("{root}{name}.weight"), &[rows, c])?)
            }
        };
        let type_embedding = match (names.type_embedding, config.type_vocab_size) {
            ("", _) | (_, 0) => None,
            (name, types) => {
                let table = weights.take(&format!("{root}{name}.weight"), &[types as i64, c])?;
                Some(table.get(0))
            }
        };
        let embedding_norm =
            weights.norm(&format!("{root}{}", names.embedding_norm), config.hidden_size, config.norm)?;
        let mut layers = Vec::new();
        for layer_idx in 0..config.num_hidden_layers {
            layers.push(EncoderLayer::load(&config, &root, layer_idx, weights)?);
        }
        let final_norm = match names.final_norm {
            "" => None,
            name => Some(weights.norm(&format!("{root}{name}"), config.hidden_size, config.norm)?),
        };
        let relative_bias = match config.relative_buckets {
            None => None,
            Some(n) => {
                let size = [n as i64, config.num_attention_heads as i64];
                Some(weights.take(&format!("{root}encoder.relative_attention_bias.weight"), &size)?)
            }
        };
        let head = Head::load(&config, &root, &embedding, weights)?;
        Ok(Encoder {
            config,
            embedding,
            position_embedding,
            type_embedding,
            embedding_norm,
            layers,
            final_norm,
            relative_bias,
            head,
            kind,
            device,
        })
    }

    /// A vector for every token, (T, C).
    ///
    /// # Errors
    /// [`ModelError::Input`] where an id lies beyond the vocabulary, a text beyond the context, or a segment has
    /// a prefix.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        self.check(batch)?;
        let ids = Tensor::from_slice(batch.ids()).to_device(self.device);
        let positions = Tensor::from_slice(batch.positions()).to_device(self.device);
        let mut x = Tensor::embedding(&self.embedding, &ids, -1, false, false);
        if let Some(table) = &self.type_embedding {
            x += table;
        }
        if let Some(table) = &self.position_embedding {
            let rows = &positions + self.config.position_offset as i64;
            x += Tensor::embedding(table, &rows, -1, false, false);
        }
        x = self.embedding_norm.forward(&x);
        let lengths = sequence_lengths(batch);
        let rope = |config: &Option<_>| {
            let rope = config.as_ref()?;
            Some(Rope::new(rope, &positions, &lengths, self.kind, self.device))
        };
        let pass = EncoderPass {
            rope: rope(&self.config.rope),
            rope_local: rope(&self.config.rope_local),
            segments: batch.segments(),
            relative_bias: self.relative_bias.as_ref(),
        };
        for layer in &self.layers {
            x = layer.forward(&x, &pass);
        }
        Ok(match &self.final_norm {
            Some(norm) => norm.forward(&x),
            None => x,
        })
    }

    /// What the head predicts: logits of every token (T, V or classes), or of every text (texts, classes).
    ///
    /// # Errors
    /// As [`Self::hidden`]; [`ModelError::Config`] where the checkpoint has no head.
    pub fn predict(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let hidden = self.hidden(batch)?;
        match &self.head {
            Some(head) => Ok(head.forward(&hidden, batch.segments())),
            None => Err(ModelError::Config("the checkpoint has no head to predict with".to_owned())),
        }
    }

    /// One vector a text, in order; of unit length where `normalise` is set. Texts are token ids with their
    /// special tokens. They are run sorted by length, so that a pass holds texts alike; that changes no number.
    ///
    /// # Errors
    /// As [`Self::hidden`], and [`ModelError::Input`] for a text without tokens.
    pub fn embed(
        &self,
        texts: &[&[u32]],
        pooling: Pooling,
        normalise: bool,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        if let Some(i) = texts.iter().position(|ids| ids.is_empty()) {
            return Err(ModelError::Input(format!("text {i} has no tokens")));
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(texts[i].len()));
        let mut out = vec![Vec::new(); texts.len()];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let mut n_tokens = 0;
            let full = |&i: &usize| {
                n_tokens += texts[i].len();
                n_tokens > PASS_TOKENS
            };
            let n = rest.iter().position(full).unwrap_or(rest.len()).max(1);
            let (now, later) = rest.split_at(n);
            let batch = flat(now.iter().map(|&i| texts[i]))?;
            let pooled = tch::no_grad(|| {
                let hidden = self.hidden(&batch)?;
                let pooled = pool(&hidden, batch.segments(), pooling).to_kind(Kind::Float);
                Ok::<_, ModelError>(if normalise { unit(&pooled) } else { pooled })
            })?;
            let flat = Vec::<f32>::try_from(pooled.to_device(Device::Cpu).view(-1))?;
            for (&i, row) in now.iter().zip(flat.chunks_exact(self.config.hidden_size)) {
                out[i] = row.to_vec();
            }
            rest = later;
        }
        Ok(out)
    }

    fn check(&self, batch: &Batch) -> Result<(), ModelError> {
        let vocabulary = self.config.vocab_size as i64;
        if let Some(id) = batch.ids().iter().find(|&&id| id < 0 || id >= vocabulary) {
            return Err(ModelError::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocabulary}: is this the model's own tokenizer?"
            )));
        }
        let context = self.config.max_position_embeddings;
        match batch.segments().iter().find(|s| s.range.len() > context || s.prefix.is_some()) {
            Some(segment) if segment.prefix.is_some() => {
                Err(ModelError::Input("an encoder's texts share no prefix".to_owned()))
            }
            Some(segment) => Err(ModelError::Input(format!(
                "a text of {} tokens is longer than the model's context of {context}: truncate it",
                segment.range.len()
            ))),
            None => Ok(()),
        }
    }
}

/// What all layers of one pass share.
pub(crate) struct EncoderPass<'a> {
    pub(crate) rope: Option<Rope>,
    pub(crate) rope_local: Option<Rope>,
    pub(crate) segments: &'a [Segment],
    pub(crate) relative_bias: Option<&'a Tensor>,
}

/// Texts laid one after another.
fn flat<'a>(texts: impl Iterator<Item = &'a [u32]>) -> Result<Batch, ModelError> {
    let (mut ids, mut segments) = (Vec::new(), Vec::new());
    for text in texts {
        let start = ids.len();
        ids.extend(text.iter().map(|&id| i64::from(id)));
        segments.push(Segment { range: start..ids.len(), prefix: None });
    }
    let mask = vec![false; ids.len()];
    Batch::new(ids, mask, segments).map_err(|e| ModelError::Input(e.to_string()))
}

/// (T, C) → (texts, C).
pub(crate) fn pool(hidden: &Tensor, segments: &[Segment], pooling: Pooling) -> Tensor {
    let rows: Vec<Tensor> = segments
        .iter()
        .map(|segment| {
            let (start, n) = (segment.range.start as i64, segment.range.len() as i64);
            match pooling {
                Pooling::Cls => hidden.get(start),
                Pooling::Mean => hidden.narrow(0, start, n).mean_dim([0i64].as_slice(), false, Kind::Float),
                Pooling::Max => hidden.narrow(0, start, n).amax([0i64].as_slice(), false),
            }
        })
        .collect();
    Tensor::stack(&rows, 0).to_kind(hidden.kind())
}

/// Rows divided by their length, as torch's `normalize` does.
fn unit(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2.0, [-1i64].as_slice(), true).clamp_min(1e-12)
}
