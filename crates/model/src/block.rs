use tch::{Kind, Tensor};

use crate::config::{DecoderConfig, Mlp as MlpKind, Moe, QkNorm};
use crate::decoder::Pass;
use crate::{Attention, GateUp, Linear, Mlp, ModelError, Names, Norm, Qkv, WeightMap};

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

impl Block {
    pub(crate) fn load(
        config: &DecoderConfig,
        layer_idx: usize,
        weights: &mut WeightMap<'_>,
    ) -> Result<Self, ModelError> {
        let names = config.names;
        let prefix = format!("{}.{layer_idx}", names.layers);
        let (c, d) = (config.hidden_size, config.head_dim);
        let mut norm = |name: &str| match name {
            "" => Ok(None),
            _ => weights.norm(&format!("{prefix}.{name}"), c, config.norm).map(Some),
        };
        let [before, after, mlp_before, mlp_after] = names.norms;
        let attention_norms = (norm(before)?, norm(after)?);
        let mlp_norms = (norm(mlp_before)?, norm(mlp_after)?);
        let attention = load_attention(config, layer_idx, &prefix, weights)?;
        let mlp = match &config.moe {
            Some(moe) if !moe.dense_layers.contains(&layer_idx) => {
                if moe.top_k == 0 || moe.top_k > moe.n_experts {
                    let Moe { top_k, n_experts, .. } = moe;
                    let reason = format!("num_experts_per_tok is {top_k}, of {n_experts} experts");
                    return Err(ModelError::Config(reason));
                }
                let router =
                    weights.linear(&format!("{prefix}.{}", names.router), c, moe.n_experts, false)?;
                let experts = (0..moe.n_experts)
                    .map(|e| {
                        let at = |part: &str| format!("{prefix}.{}.{e}.{part}", names.experts);
                        let [gate, up, down] = names.expert;
                        let inner = moe.intermediate_size;
                        let gate = weights.linear(&at(gate), c, inner, false)?;
                        let gate_up = GateUp::split(gate, weights.linear(&at(up), c, inner, false)?);
                        let down_proj = weights.linear(&at(down), inner, c, false)?;
                        Ok(Mlp::Gated { gate_up, down_proj, activation: config.activation })
                    })
                    .collect::<Result<_, ModelError>>()?;
                Mlp::Moe { router, experts, top_k: moe.top_k, normalise: moe.normalise }
            }
            _ => load_mlp(config, &prefix, weights)?,
        };
        debug_assert_eq!(attention.head_dim, d as i64);
        let local_rope = config.rope_local.is_some() && attention.sliding_window.is_some();
        Ok(Block { attention_norms, attention, mlp_norms, mlp, local_rope })
    }

    /// x of (T, C) → (T, C).
    pub fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Tensor {
        let rope = pass.rope_of(self);
        self.forward_with(x, |x| self.attention.forward(x, rope, pass.segments))
    }

    /// As [`Self::forward`], with another way to attend.
    pub(crate) fn forward_with(&self, x: &Tensor, attend: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        let x = residual(x, &self.attention_norms, attend);
        residual(&x, &self.mlp_norms, |x| self.mlp.forward(x))
    }

    /// Its linear layers that an adapter may replace, in order of the forward pass.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = self.attention.qkv.linears();
        all.push(&self.attention.o_proj);
        all.extend(self.mlp.linears());
        all
    }

    /// As [`Self::linears`].
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = self.attention.qkv.linears_mut();
        all.push(&mut self.attention.o_proj);
        all.extend(self.mlp.linears_mut());
        all
    }

    /// Its norms but those of queries and keys, in the order of [`Names::norms`].
    pub(crate) fn norms(&self) -> [Option<&Norm>; 4] {
        let (attention, mlp) = (&self.attention_norms, &self.mlp_norms);
        [&attention.0, &attention.1, &mlp.0, &mlp.1].map(Option::as_ref)
    }

    /// As [`Self::norms`].
    pub(crate) fn norms_mut(&mut self) -> [Option<&mut Norm>; 4] {
        let (attention, mlp) = (&mut self.attention_norms, &mut self.mlp_norms);
        [&mut attention.0, &mut attention.1, &mut mlp.0, &mut mlp.1].map(Option::as_mut)
    }

    pub(crate) fn named_tensors(
        &self,
        prefix: &str,
        names: &Names,
        transposed: bool,
        out: &mut Vec<(String, Tensor)>,
    ) {
        for (name, norm) in names.norms.iter().zip(self.norms()) {
            if let Some(norm) = norm {
                norm_tensors(&format!("{prefix}.{name}"), norm, out);
            }
        }
        if let Some((q_norm, k_norm)) = &self.attention.qk_norm {
            norm_tensors(&format!("{prefix}.self_attn.q_norm"), q_norm, out);
            norm_tensors(&format!("{prefix}.self_attn.k_norm"), k_norm, out);
        }
        if let Mlp::Moe { router, .. } = &self.mlp {
            linear_tensors(router, false, out);
        }
        for linear in self.linears() {
            linear_tensors(linear, transposed, out);
        }
    }
}

fn load_attention(
    config: &DecoderConfig,
    layer_idx: usize,
    prefix: &str,
    weights: &mut WeightMap<'_>,
) -> Result<Attention, ModelError> {
    let (c, d) = (config.hidden_size, config.head_dim);
    let (q_width, kv_width) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
        return Err(ModelError::Config(format!(
            "{} heads cannot share {} key-value heads",
            config.num_attention_heads, config.num_key_value_heads
        )));
    }
    let bias = config.attention_bias;
    let qkv = match config.names.qkv {
        [q, k, v] => {
            let q = linear(config, weights, prefix, q, (c, q_width), bias)?;
            let k = linear(config, weights, prefix, k, (c, kv_width), bias)?;
            Qkv::split(q, k, linear(config, weights, prefix, v, (c, kv_width), bias)?)
        }
        names => {
            let name = names.first().copied().unwrap_or_default();
            Qkv::Fused(linear(config, weights, prefix, name, (c, q_width + 2 * kv_width), bias)?)
        }
    };
    let o_proj =
        linear(config, weights, prefix, config.names.o_proj, (q_width, c), config.attention_out_bias)?;
    let widths = match config.qk_norm {
        QkNorm::None => None,
        QkNorm::PerHead => Some((d, d)),
        QkNorm::Whole => Some((q_width, kv_width)),
    };
    let qk_norm = match widths {
        Some((q, k)) => Some((
            weights.norm(&format!("{prefix}.self_attn.q_norm"), q, config.norm)?,
            weights.norm(&format!("{prefix}.self_attn.k_norm"), k, config.norm)?,
        )),
        None => None,
    };
    let by_layer = if config.attention_scale_by_layer { (layer_idx + 1) as f64 } else { 1.0 };
    Ok(Attention {
        qkv,
        o_proj,
        qk_norm,
        n_heads: config.num_attention_heads as i64,
        n_kv_heads: config.num_key_value_heads as i64,
        head_dim: d as i64,
        scale: config.attention_scale / by_layer,
        softcap: config.attention_softcap,
        sliding_window: config.sliding_window.get(layer_idx).copied().flatten().map(|w| w as i64),
    })
}

fn load_mlp(config: &DecoderConfig, prefix: &str, weights: &mut WeightMap<'_>) -> Result<Mlp, ModelError> {
    let (c, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
    let activation = config.activation;
    let down = config.names.down_proj;
    match (config.mlp, config.names.gate_up) {
        (MlpKind::Gated, [gate, up]) => {
            let gate = linear(config, weights, prefix, gate, (c, inner), bias)?;
            let gate_up = GateUp::split(gate, linear(config, weights, prefix, up, (c, inner), bias)?);
            let down_proj = linear(config, weights, prefix, down, (inner, c), bias)?;
            Ok(Mlp::Gated { gate_up, down_proj, activation })
        }
        (kind, names) => {
            let name = names.first().copied().unwrap_or_default();
            let width = if kind == MlpKind::Gated { 2 * inner } else { inner };
            let up_proj = linear(config, weights, prefix, name, (c, width), bias)?;
            let down_proj = linear(config, weights, prefix, down, (inner, c), bias)?;
            Ok(match kind {
                MlpKind::Gated => Mlp::Gated { gate_up: GateUp::Fused(up_proj), down_proj, activation },
                MlpKind::Plain => Mlp::Plain { up_proj, down_proj, activation },
            })
        }
    }
}

/// The layer `prefix.name` of (in, out) features, stored as the family stores its layers.
fn linear(
    config: &DecoderConfig,
    weights: &mut WeightMap<'_>,
    prefix: &str,
    name: &str,
    (inputs, outputs): (usize, usize),
    bias: bool,
) -> Result<Linear, ModelError> {
    let name = format!("{prefix}.{name}");
    if config.names.transposed {
        weights.linear_transposed(&name, inputs, outputs, bias)
    } else {
        weights.linear(&name, inputs, outputs, bias)
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

pub(crate) fn norm_tensors(name: &str, norm: &Norm, out: &mut Vec<(String, Tensor)>) {
    out.push((format!("{name}.weight"), norm.weight().shallow_clone()));
    if let Norm::Layer { bias: Some(bias), .. } = norm {
        out.push((format!("{name}.bias"), bias.shallow_clone()));
    }
}

pub(crate) fn linear_tensors(linear: &Linear, transposed: bool, out: &mut Vec<(String, Tensor)>) {
    let kind = match &linear.weight {
        crate::Weight::Dense(w) => w.kind(),
        crate::Weight::Packed(_) => Kind::Float,
    };
    let weight = linear.weight.dense(kind);
    let weight = if transposed { weight.transpose(0, 1) } else { weight };
    out.push((format!("{}.weight", linear.name), weight));
    if let Some(bias) = &linear.bias {
        out.push((format!("{}.bias", linear.name), bias.shallow_clone()));
    }
}
