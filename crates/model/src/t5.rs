use serde_json::Value;
use tch::{Device, Kind, Tensor};

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
    /// (V, C); the embedding where they are tied.
    lm_head: Tensor,
    device: Device,
}

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
        let untied = weights.take_optional("lm_head.weight", &size)?;
        let lm_head = untied.unwrap_or_else(|| embedding.shallow_clone());
        Ok(T5 { config, embedding, encoder, decoder, lm_head, device })
    }

    /// Reads a text: (n) ids → (n, C).
    ///
    /// # Errors
    /// [`ModelError::Input`] for an empty text or an id beyond the vocabulary.
    pub fn encode(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        Ok(self.encoder.forward(&self.embed(ids)?, None, &self.config))
    }

    /// Logits of every token that follows the decoder's ids, (m, V): row i is what comes after `ids[i]`.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn decode(&self, encoded: &Tensor, ids: &[u32]) -> Result<Tensor, ModelError> {
        let hidden = self.decoder.forward(&self.embed(ids)?, Some(encoded), &self.config);
        let hidden = if self.config.scale_decoder_outputs {
            hidden / (self.config.d_model as f64).sqrt()
        } else {
            hidden
        };
        Ok(hidden.linear(&self.lm_head, None::<&Tensor>))
    }

    /// Writes the likeliest continuation token by token, at most `max_new_tokens`, up to and without `eos`.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn generate_greedy(
        &self,
        ids: &[u32],
        eos: u32,
        max_new_tokens: usize,
    ) -> Result<Vec<u32>, ModelError> {
        tch::no_grad(|| {
            let encoded = self.encode(ids)?;
            let mut out = vec![self.config.decoder_start_token_id];
            for _ in 0..max_new_tokens {
                let logits = self.decode(&encoded, &out)?;
                let next = logits.get(-1).argmax(-1, false).int64_value(&[]) as u32;
                if next == eos {
                    break;
                }
                out.push(next);
            }
            Ok(out.split_off(1))
        })
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
        let bias = format!("{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let size = [config.relative_attention_num_buckets as i64, config.num_heads as i64];
        Ok(Stack {
            blocks,
            relative_bias: weights.take(&bias, &size)?,
            norm: weights.norm(&format!("{side}.final_layer_norm"), c, norm_kind)?,
            causal: side == "decoder",
        })
    }

    /// x of (n, C) → (n, C); `encoded` of (m, C) is what a decoder looks at.
    fn forward(&self, x: &Tensor, encoded: Option<&Tensor>, config: &T5Config) -> Tensor {
        let n = x.size()[0];
        let (buckets, farthest) =
            (config.relative_attention_num_buckets as i64, config.relative_attention_max_distance as i64);
        let buckets = relative_buckets(n, n, buckets, farthest, !self.causal).to_device(x.device());
        let bias = Tensor::embedding(&self.relative_bias, &buckets, -1, false, false).permute([2, 0, 1]);
        let bias = if self.causal {
            let future = Tensor::ones([n, n], (Kind::Bool, x.device())).triu(1);
            bias.masked_fill(&future, f64::NEG_INFINITY)
        } else {
            bias
        };
        let mut x = x.shallow_clone();
        for block in &self.blocks {
            let (norm, attention) = &block.attention;
            let normed = norm.forward(&x);
            x = &x + attention.forward(&normed, &normed, Some(&bias));
            if let (Some((norm, cross)), Some(encoded)) = (&block.cross, encoded) {
                x = &x + cross.forward(&norm.forward(&x), encoded, None);
            }
            let normed = block.mlp_norm.forward(&x);
            let inner = match &block.up {
                GateUpOrUp::Plain(up) => block.activation.forward(&up.forward(&normed)),
                GateUpOrUp::Gated(gate_up) => {
                    let (gate, up) = gate_up.forward(&normed);
                    block.activation.forward(&gate) * up
                }
            };
            x = &x + block.down.forward(&inner);
        }
        self.norm.forward(&x)
    }
}

impl T5Attention {
    /// Queries from x of (n, C), keys and values from `of`, (m, C); `bias` of (H, n, m) → (n, C).
    fn forward(&self, x: &Tensor, of: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let heads = |t: Tensor| t.unflatten(-1, [self.n_heads, -1]).transpose(0, 1).unsqueeze(0);
        let (q, k, v) = (heads(self.q.forward(x)), heads(self.k.forward(of)), heads(self.v.forward(of)));
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, bias, 0.0, false, 1.0, false);
        self.o.forward(&out.squeeze_dim(0).transpose(0, 1).flatten(1, 2))
    }
}
