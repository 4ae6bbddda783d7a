use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::block::{linear_tensors, norm_tensors};
use crate::encoder_layer::relative_buckets;
use crate::families::t5 as family;
use crate::{Activation, GateUp, Linear, ModelError, Norm, NormKind, WeightMap};

/// T5 (arXiv 1910.10683): an encoder that reads one text whole and a decoder that writes another with a view of
/// it. Positions are a bias on the scores; scores are not scaled.
#[derive(Debug)]
pub struct T5 {
    /// What it is made of.
    pub config: T5Config,
    /// (V, C).
    pub embedding: Tensor,
    encoder: Stack,
    decoder: Stack,
    /// (V, C); `None` where it is the embedding.
    lm_head: Option<Tensor>,
    device: Device,
}

/// A text that was read, and how far another one is written.
#[derive(Debug)]
pub struct T5State {
    blocks: Vec<BlockState>,
    /// Tokens written.
    n: i64,
}

#[derive(Debug)]
struct BlockState {
    /// Of what is written.
    own: Option<Keys>,
    /// Of what was read.
    cross: Keys,
}

/// Keys and values, (1, H, n, D) each.
type Keys = (Tensor, Tensor);

/// What a T5 is made of; names as in its config.json.
#[derive(Debug, Clone, PartialEq)]
pub struct T5Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// C.
    pub d_model: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// I.
    pub d_ff: usize,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Blocks of the decoder.
    pub num_decoder_layers: usize,
    /// H.
    pub num_heads: usize,
    /// Buckets of distances.
    pub relative_attention_num_buckets: usize,
    /// Distances from here on share a bucket.
    pub relative_attention_max_distance: usize,
    /// Added to the mean square.
    pub layer_norm_epsilon: f64,
    /// Of the feed-forward layers.
    pub activation: Activation,
    /// The feed-forward part has a gate.
    pub is_gated_act: bool,
    /// Hidden states are scaled by 1 / √C before the LM head: where that is the embedding.
    pub scale_decoder_outputs: bool,
    /// What the decoder's text begins with.
    pub decoder_start_token_id: u32,
    /// What ends it; `eos_token_id` in config.json.
    pub eos_token_ids: Vec<u32>,
}

/// Blocks, the bias that they share, and the norm after them.
#[derive(Debug)]
struct Stack {
    blocks: Vec<T5Block>,
    /// (buckets, H).
    relative_bias: Tensor,
    norm: Norm,
    causal: bool,
}

#[derive(Debug)]
struct T5Block {
    attention: (Norm, T5Attention),
    /// The decoder's view of the encoder.
    cross: Option<(Norm, T5Attention)>,
    mlp_norm: Norm,
    up: GateUpOrUp,
    down: Linear,
    activation: Activation,
}

#[derive(Debug)]
enum GateUpOrUp {
    Gated(GateUp),
    Plain(Linear),
}

#[derive(Debug)]
struct T5Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    n_heads: i64,
}

impl T5 {
    /// Reads `config.json` and every tensor.
    ///
    /// # Errors
    /// [`ModelError::Config`] for another `model_type` or a missing field, [`ModelError::Tensors`] where the
    /// checkpoint does not fit.
    pub fn load(config: &Value, weights: &mut WeightMap<'_>, device: Device) -> Result<Self, ModelError> {
        let config = family::config(config)?;
        let size = [config.vocab_size as i64, config.d_model as i64];
        let embedding = weights.take("shared.weight", &size)?;
        let encoder = Stack::load(&config, "encoder", config.num_layers, weights)?;
        let decoder = Stack::load(&config, "decoder", config.num_decoder_layers, weights)?;
        let lm_head = weights.take_optional("lm_head.weight", &size)?;
        Ok(T5 { config, embedding, encoder, decoder, lm_head, device })
    }

    /// Reads a text: (n) ids → (n, C).
    ///
    /// # Errors
    /// [`ModelError::Input`] for an empty text or an id beyond the vocabulary.
    pub fn encode(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        Ok(self.encoder.forward(&self.embed(ids)?, None, &self.config))
    }

    /// The state before the first token is written, for what [`Self::encode`] gave, (n, C).
    pub fn begin(&self, encoded: &Tensor) -> T5State {
        let cross = self.decoder.blocks.iter().filter_map(|block| block.cross.as_ref());
        let blocks = cross.map(|(_, cross)| BlockState { own: None, cross: cross.keys(encoded) }).collect();
        T5State { blocks, n: 0 }
    }

    /// Writes the ids after what `state` has: logits of every token that follows them, (m, V). Row i is what comes after
    /// `ids[i]`.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn decode(&self, state: &mut T5State, ids: &[u32]) -> Result<Tensor, ModelError> {
        let hidden = self.decoder.forward(&self.embed(ids)?, Some(state), &self.config);
        let hidden = if self.config.scale_decoder_outputs {
            hidden / (self.config.d_model as f64).sqrt()
        } else {
            hidden
        };
        Ok(hidden.linear(self.lm_head.as_ref().unwrap_or(&self.embedding), None::<&Tensor>))
    }

    /// Whether the LM head is the embedding.
    pub fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    /// Every tensor under its name in a Hugging Face checkpoint.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let mut out = vec![("shared.weight".to_owned(), self.embedding.shallow_clone())];
        self.encoder.named_tensors("encoder", &mut out);
        self.decoder.named_tensors("decoder", &mut out);
        out.extend(self.lm_head.as_ref().map(|head| ("lm_head.weight".to_owned(), head.shallow_clone())));
        out
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        if ids.is_empty() {
            return Err(ModelError::Input("a text without tokens".to_owned()));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return Err(ModelError::Input(format!(
                "token id {id} is outside the model's vocabulary of {}",
                self.config.vocab_size
            )));
        }
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_slice(&ids).to_device(self.device);
        Ok(Tensor::embedding(&self.embedding, &ids, -1, false, false))
    }
}

/// Of a stack: the first block's serves all.
const RELATIVE_BIAS: &str = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";

impl Stack {
    fn load(
        config: &T5Config,
        side: &str,
        n_blocks: usize,
        weights: &mut WeightMap<'_>,
    ) -> Result<Self, ModelError> {
        let norm_kind =
            NormKind::Rms { eps: config.layer_norm_epsilon, weight_plus_one: false, full_precision: false };
        let (c, inner) = (config.d_model, config.d_ff);
        let width = config.num_heads * config.d_kv;
        let mut blocks = Vec::new();
        for b in 0..n_blocks {
            let at = |layer: usize, name: &str| format!("{side}.block.{b}.layer.{layer}.{name}");
            let mut attention = |layer: usize, name: &str| -> Result<(Norm, T5Attention), ModelError> {
                let norm = weights.norm(&at(layer, "layer_norm"), c, norm_kind)?;
                let mut linear = |part: &str, inputs, outputs| {
                    weights.linear(&at(layer, &format!("{name}.{part}")), inputs, outputs, false)
                };
                let attention = T5Attention {
                    q: linear("q", c, width)?,
                    k: linear("k", c, width)?,
                    v: linear("v", c, width)?,
                    o: linear("o", width, c)?,
                    n_heads: config.num_heads as i64,
                };
                Ok((norm, attention))
            };
            let own = attention(0, "SelfAttention")?;
            let cross = if side == "decoder" { Some(attention(1, "EncDecAttention")?) } else { None };
            let last = if side == "decoder" { 2 } else { 1 };
            let mlp_norm = weights.norm(&at(last, "layer_norm"), c, norm_kind)?;
            let mut linear = |name: &str, inputs, outputs| {
                weights.linear(&at(last, &format!("DenseReluDense.{name}")), inputs, outputs, false)
            };
            let up = if config.is_gated_act {
                GateUpOrUp::Gated(GateUp::split(linear("wi_0", c, inner)?, linear("wi_1", c, inner)?))
            } else {
                GateUpOrUp::Plain(linear("wi", c, inner)?)
            };
            let down = linear("wo", inner, c)?;
            blocks.push(T5Block { attention: own, cross, mlp_norm, up, down, activation: config.activation });
        }
        let bias = format!("{side}.{RELATIVE_BIAS}");
        let size = [config.relative_attention_num_buckets as i64, config.num_heads as i64];
        Ok(Stack {
            blocks,
            relative_bias: weights.take(&bias, &size)?,
            norm: weights.norm(&format!("{side}.final_layer_norm"), c, norm_kind)?,
            causal: side == "decoder",
        })
    }

    /// x of (n, C) → (n, C); a decoder goes on from `state`.
    fn forward(&self, x: &Tensor, mut state: Option<&mut T5State>, config: &T5Config) -> Tensor {
        let (start, n) = (state.as_ref().map_or(0, |state| state.n), x.size()[0]);
        let (buckets, farthest) =
            (config.relative_attention_num_buckets as i64, config.relative_attention_max_distance as i64);
        let buckets = relative_buckets(start..start + n, start + n, buckets, farthest, !self.causal);
        let buckets = buckets.to_device(x.device());
        let mut bias = Tensor::embedding(&self.relative_bias, &buckets, -1, false, false).permute([2, 0, 1]);
        if self.causal {
            let future = Tensor::ones([n, start + n], (Kind::Bool, x.device())).triu(start + 1);
            bias = bias.masked_fill(&future, f64::NEG_INFINITY);
        }
        let mut x = x.shallow_clone();
        for (i, block) in self.blocks.iter().enumerate() {
            let state = state.as_mut().map(|state| &mut state.blocks[i]);
            x = block.forward(&x, state, &bias);
        }
        if let Some(state) = state {
            state.n += n;
        }
        self.norm.forward(&x)
    }

    fn named_tensors(&self, side: &str, out: &mut Vec<(String, Tensor)>) {
        for (b, block) in self.blocks.iter().enumerate() {
            let layers = [Some(&block.attention), block.cross.as_ref()];
            for (layer, (norm, attention)) in layers.into_iter().flatten().enumerate() {
                for linear in [&attention.q, &attention.k, &attention.v, &attention.o] {
                    linear_tensors(linear, false, out);
                }
                norm_tensors(&format!("{side}.block.{b}.layer.{layer}.layer_norm"), norm, out);
            }
            let up = match &block.up {
                GateUpOrUp::Gated(gate_up) => gate_up.linears(),
                GateUpOrUp::Plain(up) => vec![up],
            };
            for linear in up.into_iter().chain([&block.down]) {
                linear_tensors(linear, false, out);
            }
            let last = if block.cross.is_some() { 2 } else { 1 };
            norm_tensors(&format!("{side}.block.{b}.layer.{last}.layer_norm"), &block.mlp_norm, out);
        }
        out.push((format!("{side}.{RELATIVE_BIAS}"), self.relative_bias.shallow_clone()));
        norm_tensors(&format!("{side}.final_layer_norm"), &self.norm, out);
    }
}

impl T5Block {
    /// x of (n, C) → (n, C); `bias` of (H, n, all).
    fn forward(&self, x: &Tensor, mut state: Option<&mut BlockState>, bias: &Tensor) -> Tensor {
        let (norm, attention) = &self.attention;
        let normed = norm.forward(x);
        let mut keys = attention.keys(&normed);
        if let Some(state) = &mut state {
            if let Some((k, v)) = &state.own {
                keys = (Tensor::cat(&[k, &keys.0], 2), Tensor::cat(&[v, &keys.1], 2));
            }
            state.own = Some((keys.0.shallow_clone(), keys.1.shallow_clone()));
        }
        let mut x = x + attention.attend(&normed, &keys, Some(bias));
        if let (Some((norm, cross)), Some(state)) = (&self.cross, state) {
            x = &x + cross.attend(&norm.forward(&x), &state.cross, None);
        }
        let normed = self.mlp_norm.forward(&x);
        let inner = match &self.up {
            GateUpOrUp::Plain(up) => self.activation.forward(&up.forward(&normed)),
            GateUpOrUp::Gated(gate_up) => {
                let (gate, up) = gate_up.forward(&normed);
                self.activation.forward(&gate) * up
            }
        };
        x + self.down.forward(&inner)
    }
}

impl T5Attention {
    /// (n, H · D) → (1, H, n, D).
    fn heads(&self, x: &Tensor) -> Tensor {
        x.unflatten(-1, [self.n_heads, -1]).transpose(0, 1).unsqueeze(0)
    }

    /// Of x, (n, C).
    fn keys(&self, x: &Tensor) -> Keys {
        (self.heads(&self.k.forward(x)), self.heads(&self.v.forward(x)))
    }

    /// Queries from x of (n, C); `bias` of (H, n, m) → (n, C).
    fn attend(&self, x: &Tensor, (k, v): &Keys, bias: Option<&Tensor>) -> Tensor {
        let q = self.heads(&self.q.forward(x));
        let out = Tensor::scaled_dot_product_attention(&q, k, v, bias, 0.0, false, 1.0, false);
        self.o.forward(&out.squeeze_dim(0).transpose(0, 1).flatten(1, 2))
    }
}
