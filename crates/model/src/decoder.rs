use ferrotune_types::{Batch, Segment};
use tch::{Device, Kind, Tensor};

use crate::config::{Activation, BlockKind, DecoderConfig, Mlp as MlpKind, QkNorm};
use crate::rope::Rope;
use crate::{Attention, Linear, ModelError, Norm, WeightMap};

/// A causal language model: embedding, blocks, final norm, LM head.
///
/// It runs over a [`Batch`], a flat stream of tokens in segments that do not see each other, so there is no
/// padding and an example's numbers do not depend on its neighbours. Every step of the pass is public, so that
/// a training recipe can stop at the hidden states (and send only the graded ones to the head) or run the
/// blocks one by one (activation checkpointing).
#[derive(Debug)]
pub struct Decoder {
    /// What it is made of.
    pub config: DecoderConfig,
    /// (V, C).
    pub embedding: Tensor,
    /// (positions, C), GPT-2 only.
    pub position_embedding: Option<Tensor>,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Norm after the last block.
    pub norm: Norm,
    /// The LM head where it is not the embedding.
    pub lm_head: Option<Linear>,
    /// Dtype of the weights and activations.
    pub kind: Kind,
    /// Where they lie.
    pub device: Device,
}

/// One transformer block.
#[derive(Debug)]
pub struct Block {
    /// Norms around the attention: before and after, where the block has them.
    pub attention_norms: (Option<Norm>, Option<Norm>),
    /// Self-attention.
    pub attention: Attention,
    /// Norms around the feed-forward part.
    pub mlp_norms: (Option<Norm>, Option<Norm>),
    /// The feed-forward part.
    pub mlp: Mlp,
    /// Whether it uses the rotary table of sliding-window layers.
    pub local_rope: bool,
}

/// The feed-forward part of a block.
#[derive(Debug)]
pub enum Mlp {
    /// down(act(gate(x)) · up(x)).
    Gated {
        /// (I, C).
        gate_proj: Linear,
        /// (I, C).
        up_proj: Linear,
        /// (C, I).
        down_proj: Linear,
        /// Between them.
        activation: Activation,
    },
}

/// What all blocks of one pass share: the rotary tables and the segments.
#[derive(Debug)]
pub struct Pass<'a> {
    rope: Option<Rope>,
    rope_local: Option<Rope>,
    segments: &'a [Segment],
}

impl Decoder {
    /// Names of transformers: `model.embed_tokens`, `model.layers.N.…`, `model.norm`, `lm_head`.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] where the checkpoint does not fit the config.
    pub fn load(
        config: DecoderConfig,
        weights: &mut WeightMap<'_>,
        kind: Kind,
        device: Device,
    ) -> Result<Self, ModelError> {
        let (c, v) = (config.hidden_size, config.vocab_size);
        let embedding = weights.take("model.embed_tokens.weight", &[v as i64, c as i64])?;
        let blocks = (0..config.num_hidden_layers)
            .map(|layer_idx| Block::load(&config, layer_idx, weights))
            .collect::<Result<Vec<_>, _>>()?;
        let norm = weights.norm("model.norm", c, config.norm)?;
        let lm_head =
            if config.tie_word_embeddings { None } else { Some(weights.linear("lm_head", c, v, false)?) };
        Ok(Decoder { config, embedding, position_embedding: None, blocks, norm, lm_head, kind, device })
    }

    /// Final hidden states of every token, after the last norm: (T, C).
    ///
    /// # Errors
    /// [`ModelError::Input`] where an id lies beyond the vocabulary or a sequence beyond the context.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let pass = self.pass(batch)?;
        let mut x = self.embed(batch);
        for block in &self.blocks {
            x = block.forward(&x, &pass);
        }
        Ok(self.norm.forward(&x))
    }

    /// Logits of chosen hidden states, (N, C) → (N, V), in the model's dtype.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => hidden.linear(&self.embedding, None::<&Tensor>),
        };
        match self.config.logits_softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// The weight of the LM head, (V, C).
    pub fn head_weight(&self) -> Tensor {
        match &self.lm_head {
            Some(head) => head.weight.dense(self.kind),
            None => self.embedding.shallow_clone(),
        }
    }

    /// Checks a batch and prepares what all blocks share.
    ///
    /// # Errors
    /// [`ModelError::Input`].
    pub fn pass<'a>(&self, batch: &'a Batch) -> Result<Pass<'a>, ModelError> {
        let vocabulary = self.config.vocab_size as i64;
        if let Some(id) = batch.ids().iter().find(|&&id| id < 0 || id >= vocabulary) {
            return Err(ModelError::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocabulary}: is this the model's own tokenizer?"
            )));
        }
        let longest = batch.positions().iter().max().map_or(0, |p| p + 1);
        let context = self.config.max_position_embeddings as i64;
        if longest > context {
            return Err(ModelError::Input(format!(
                "a sequence of {longest} tokens is longer than the model's context of {context}: lower max_length"
            )));
        }
        let positions = Tensor::from_slice(batch.positions()).to_device(self.device);
        let rope =
            |config: &Option<_>| config.as_ref().map(|c| Rope::new(c, &positions, self.kind, self.device));
        Ok(Pass {
            rope: rope(&self.config.rope),
            rope_local: rope(&self.config.rope_local),
            segments: batch.segments(),
        })
    }

    /// Token embeddings, (T, C).
    pub fn embed(&self, batch: &Batch) -> Tensor {
        let ids = Tensor::from_slice(batch.ids()).to_device(self.device);
        let mut x = Tensor::embedding(&self.embedding, &ids, -1, false, false);
        if self.config.embedding_scale != 1.0 {
            // Cast first: transformers rounds the scale to the model's dtype.
            x = x * Tensor::from(self.config.embedding_scale).to_device(self.device).to_kind(self.kind);
        }
        if let Some(table) = &self.position_embedding {
            let positions = Tensor::from_slice(batch.positions()).to_device(self.device);
            x += Tensor::embedding(table, &positions, -1, false, false);
        }
        x
    }

    /// Every linear layer of the blocks, in order of the forward pass; the LM head is not among them.
    pub fn linears(&self) -> Vec<&Linear> {
        self.blocks.iter().flat_map(Block::linears).collect()
    }

    /// As [`Self::linears`], to hang adapters on.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.blocks.iter_mut().flat_map(Block::linears_mut).collect()
    }

    /// Every plain tensor of the model under its name in a Hugging Face checkpoint.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let mut out = vec![("model.embed_tokens.weight".to_owned(), self.embedding.shallow_clone())];
        for (layer_idx, block) in self.blocks.iter().enumerate() {
            block.named_tensors(&format!("model.layers.{layer_idx}"), &self.config, &mut out);
        }
        norm_tensors("model.norm", &self.norm, &self.config, &mut out);
        if let Some(head) = &self.lm_head {
            linear_tensors(head, &mut out);
        }
        out
    }
}

impl Block {
    fn load(
        config: &DecoderConfig,
        layer_idx: usize,
        weights: &mut WeightMap<'_>,
    ) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{layer_idx}");
        let (c, d) = (config.hidden_size, config.head_dim);
        let mut norm = |name: &str| weights.norm(&format!("{prefix}.{name}"), c, config.norm).map(Some);
        let (attention_norms, mlp_norms) = match config.block {
            BlockKind::PreNorm => {
                ((norm("input_layernorm")?, None), (norm("post_attention_layernorm")?, None))
            }
            BlockKind::PostNorm => {
                ((None, norm("post_attention_layernorm")?), (None, norm("post_feedforward_layernorm")?))
            }
            BlockKind::Sandwich => (
                (norm("input_layernorm")?, norm("post_attention_layernorm")?),
                (norm("pre_feedforward_layernorm")?, norm("post_feedforward_layernorm")?),
            ),
        };
        let (q_width, kv_width) = (config.num_attention_heads * d, config.num_key_value_heads * d);
        let at = |name: &str| format!("{prefix}.self_attn.{name}");
        let qk_norm = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some((d, d)),
            QkNorm::Whole => Some((q_width, kv_width)),
        };
        let attention = Attention {
            q_proj: weights.linear(&at("q_proj"), c, q_width, config.attention_bias)?,
            k_proj: weights.linear(&at("k_proj"), c, kv_width, config.attention_bias)?,
            v_proj: weights.linear(&at("v_proj"), c, kv_width, config.attention_bias)?,
            o_proj: weights.linear(&at("o_proj"), q_width, c, config.attention_out_bias)?,
            qk_norm: match qk_norm {
                Some((q, k)) => Some((
                    weights.norm(&at("q_norm"), q, config.norm)?,
                    weights.norm(&at("k_norm"), k, config.norm)?,
                )),
                None => None,
            },
            head_dim: d as i64,
            scale: config.attention_scale,
            softcap: config.attention_softcap,
            sliding_window: config.sliding_window.get(layer_idx).copied().flatten().map(|w| w as i64),
        };
        let MlpKind::Gated = config.mlp else {
            return Err(ModelError::Config(format!(
                "{:?} feed-forward layers are not built yet",
                config.mlp
            )));
        };
        let at = |name: &str| format!("{prefix}.mlp.{name}");
        let inner = config.intermediate_size;
        let mlp = Mlp::Gated {
            gate_proj: weights.linear(&at("gate_proj"), c, inner, config.mlp_bias)?,
            up_proj: weights.linear(&at("up_proj"), c, inner, config.mlp_bias)?,
            down_proj: weights.linear(&at("down_proj"), inner, c, config.mlp_bias)?,
            activation: config.activation,
        };
        let local_rope = config.rope_local.is_some() && attention.sliding_window.is_some();
        Ok(Block { attention_norms, attention, mlp_norms, mlp, local_rope })
    }

    /// x of (T, C) → (T, C).
    pub fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Tensor {
        let rope = if self.local_rope { pass.rope_local.as_ref() } else { pass.rope.as_ref() };
        let x = residual(x, &self.attention_norms, |x| self.attention.forward(x, rope, pass.segments));
        residual(&x, &self.mlp_norms, |x| self.mlp.forward(x))
    }

    fn linears(&self) -> Vec<&Linear> {
        let a = &self.attention;
        let mut all = vec![&a.q_proj, &a.k_proj, &a.v_proj, &a.o_proj];
        let Mlp::Gated { gate_proj, up_proj, down_proj, .. } = &self.mlp;
        all.extend([gate_proj, up_proj, down_proj]);
        all
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let a = &mut self.attention;
        let mut all = vec![&mut a.q_proj, &mut a.k_proj, &mut a.v_proj, &mut a.o_proj];
        let Mlp::Gated { gate_proj, up_proj, down_proj, .. } = &mut self.mlp;
        all.extend([gate_proj, up_proj, down_proj]);
        all
    }

    fn named_tensors(&self, prefix: &str, config: &DecoderConfig, out: &mut Vec<(String, Tensor)>) {
        let names = match config.block {
            BlockKind::PreNorm => ["input_layernorm", "", "post_attention_layernorm", ""],
            BlockKind::PostNorm => ["", "post_attention_layernorm", "", "post_feedforward_layernorm"],
            BlockKind::Sandwich => [
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ],
        };
        let norms = [&self.attention_norms.0, &self.attention_norms.1, &self.mlp_norms.0, &self.mlp_norms.1];
        for (name, norm) in names.iter().zip(norms) {
            if let Some(norm) = norm {
                norm_tensors(&format!("{prefix}.{name}"), norm, config, out);
            }
        }
        if let Some((q_norm, k_norm)) = &self.attention.qk_norm {
            norm_tensors(&format!("{prefix}.self_attn.q_norm"), q_norm, config, out);
            norm_tensors(&format!("{prefix}.self_attn.k_norm"), k_norm, config, out);
        }
        for linear in self.linears() {
            linear_tensors(linear, out);
        }
    }
}

impl Mlp {
    /// x of (T, C) → (T, C).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Mlp::Gated { gate_proj, up_proj, down_proj, activation } => {
                down_proj.forward(&(activation.forward(&gate_proj.forward(x)) * up_proj.forward(x)))
            }
        }
    }
}

impl Activation {
    /// Element-wise.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Silu => x.silu(),
            Activation::Gelu => x.gelu("none"),
            Activation::GeluTanh => x.gelu("tanh"),
            Activation::Relu => x.relu(),
        }
    }
}

fn residual(x: &Tensor, norms: &(Option<Norm>, Option<Norm>), f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    let inner = match &norms.0 {
        Some(norm) => f(&norm.forward(x)),
        None => f(x),
    };
    match &norms.1 {
        Some(norm) => x + norm.forward(&inner),
        None => x + inner,
    }
}

fn norm_tensors(name: &str, norm: &Norm, config: &DecoderConfig, out: &mut Vec<(String, Tensor)>) {
    match norm {
        Norm::Rms { weight, .. } => {
            let stored = match config.norm {
                crate::NormKind::Rms { weight_plus_one: true, .. } => weight - 1.0,
                _ => weight.shallow_clone(),
            };
            out.push((format!("{name}.weight"), stored));
        }
        Norm::Layer { weight, bias, .. } => {
            out.push((format!("{name}.weight"), weight.shallow_clone()));
            if let Some(bias) = bias {
                out.push((format!("{name}.bias"), bias.shallow_clone()));
            }
        }
    }
}

fn linear_tensors(linear: &Linear, out: &mut Vec<(String, Tensor)>) {
    let kind = match &linear.weight {
        crate::Weight::Dense(w) => w.kind(),
        crate::Weight::Packed(_) => Kind::Float,
    };
    out.push((format!("{}.weight", linear.name), linear.weight.dense(kind)));
    if let Some(bias) = &linear.bias {
        out.push((format!("{}.bias", linear.name), bias.shallow_clone()));
    }
}
