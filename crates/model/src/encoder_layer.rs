use std::ops::Range;

use ferrotune_types::Segment;
use tch::{Device, Kind, Tensor};

use crate::attention::attends_in_fp32;
use crate::encoder::EncoderPass;
use crate::rope::Rope;
use crate::{Activation, EncoderConfig, GateUp, Linear, ModelError, Norm, Qkv, WeightMap};

/// One layer of an encoder.
#[derive(Debug)]
pub struct EncoderLayer {
    /// Query, key and value projections.
    pub qkv: Qkv,
    /// (C, C).
    pub o_proj: Linear,
    /// After the attention's sum (BERT), or before the attention (ModernBERT; its first layer has none).
    pub attention_norm: Option<Norm>,
    /// The feed-forward part.
    pub mlp: EncoderMlp,
    /// After the feed-forward sum, or before the feed-forward part.
    pub mlp_norm: Norm,
    /// Norms stand before attention and feed-forward, not after.
    pub pre_norm: bool,
    /// H.
    pub n_heads: i64,
    /// How far a token sees to either side; `None` is all.
    pub window: Option<i64>,
}

/// The feed-forward part of an encoder layer.
#[derive(Debug)]
pub enum EncoderMlp {
    /// down(act(up(x))).
    Plain {
        /// (I, C).
        up: Linear,
        /// (C, I).
        down: Linear,
        /// Between them.
        activation: Activation,
    },
    /// down(act(gate(x)) · up(x)).
    Gated {
        /// (2·I, C).
        gate_up: GateUp,
        /// (C, I).
        down: Linear,
        /// On the gate.
        activation: Activation,
    },
}

impl EncoderLayer {
    pub(crate) fn load(
        config: &EncoderConfig,
        root: &str,
        layer_idx: usize,
        weights: &mut WeightMap<'_>,
    ) -> Result<Self, ModelError> {
        let names = config.names;
        let at = |name: &str| format!("{root}{}.{layer_idx}.{name}", names.layers);
        let (c, inner) = (config.hidden_size, config.intermediate_size);
        let bias = config.bias;
        let qkv = match names.qkv {
            [q, k, v] => Qkv::split(
                weights.linear(&at(q), c, c, bias)?,
                weights.linear(&at(k), c, c, bias)?,
                weights.linear(&at(v), c, c, bias)?,
            ),
            names => {
                Qkv::Fused(weights.linear(&at(names.first().copied().unwrap_or_default()), c, 3 * c, bias)?)
            }
        };
        let o_proj = weights.linear(&at(names.o_proj), c, c, bias)?;
        let attention_norm = if config.pre_norm && layer_idx == 0 {
            None
        } else {
            Some(weights.norm(&at(names.attention_norm), c, config.norm)?)
        };
        let (activation, down) = (config.activation, names.down);
        let mlp = if config.gated {
            let gate_up = GateUp::Fused(weights.linear(&at(names.up), c, 2 * inner, bias)?);
            EncoderMlp::Gated { gate_up, down: weights.linear(&at(down), inner, c, bias)?, activation }
        } else {
            let up = weights.linear(&at(names.up), c, inner, bias)?;
            EncoderMlp::Plain { up, down: weights.linear(&at(down), inner, c, bias)?, activation }
        };
        Ok(EncoderLayer {
            qkv,
            o_proj,
            attention_norm,
            mlp,
            mlp_norm: weights.norm(&at(names.mlp_norm), c, config.norm)?,
            pre_norm: config.pre_norm,
            n_heads: config.num_attention_heads as i64,
            window: config.window.get(layer_idx).copied().flatten().map(|w| w as i64),
        })
    }

    /// x of (T, C) → (T, C).
    pub(crate) fn forward(&self, x: &Tensor, pass: &EncoderPass<'_>) -> Tensor {
        if self.pre_norm {
            let attended = match &self.attention_norm {
                Some(norm) => self.attend(&norm.forward(x), pass),
                None => self.attend(x, pass),
            };
            let x = x + attended;
            return &x + self.mlp.forward(&self.mlp_norm.forward(&x));
        }
        let sum = x + self.attend(x, pass);
        let x = self.attention_norm.as_ref().map_or_else(|| sum.shallow_clone(), |norm| norm.forward(&sum));
        self.mlp_norm.forward(&(&x + self.mlp.forward(&x)))
    }

    fn attend(&self, x: &Tensor, pass: &EncoderPass<'_>) -> Tensor {
        let t_len = x.size()[0];
        let qkv = self.qkv.forward(x).view([t_len, 3 * self.n_heads, -1]);
        let h = self.n_heads;
        let rope: Option<&Rope> = if self.window.is_some() {
            pass.rope_local.as_ref().or(pass.rope.as_ref())
        } else {
            pass.rope.as_ref()
        };
        let (q, k, v) = match rope {
            Some(rope) => {
                let qk = rope.rotate(&qkv.narrow(1, 0, 2 * h));
                (qk.narrow(1, 0, h), qk.narrow(1, h, h), qkv.narrow(1, 2 * h, h))
            }
            None => (qkv.narrow(1, 0, h), qkv.narrow(1, h, h), qkv.narrow(1, 2 * h, h)),
        };
        let mut outputs = Vec::new();
        for run in runs_of_one_length(pass.segments) {
            let (start, n) = (run[0].range.start as i64, run[0].range.len() as i64);
            let texts = run.len() as i64;
            // (texts, H, n, D)
            let kind = if attends_in_fp32(x, n) { Kind::Float } else { x.kind() };
            let part = |t: &Tensor| t.narrow(0, start, texts * n).view_as_texts(texts, n).to_kind(kind);
            let mask = self.mask(n, pass.relative_bias, kind, x.device());
            let out = Tensor::scaled_dot_product_attention(
                &part(&q),
                &part(&k),
                &part(&v),
                mask,
                0.0,
                false,
                None::<f64>,
                false,
            );
            outputs.push(out.transpose(1, 2).reshape([texts * n, -1]).to_kind(x.kind()));
        }
        let merged = if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(&outputs, 0) };
        self.o_proj.forward(&merged)
    }

    /// What is added to the scores of a text of `n` tokens, (H or 1, n, n): its window, its relative bias.
    fn mask(&self, n: i64, relative: Option<&Tensor>, kind: Kind, device: Device) -> Option<Tensor> {
        let window = self.window.filter(|&w| w + 1 < n);
        if let Some(w) = window {
            let all = Tensor::ones([n, n], (Kind::Bool, device));
            return Some(all.triu(-w).tril(w).unsqueeze(0));
        }
        let bias = Tensor::embedding(
            relative?,
            &relative_buckets(0..n, n, 32, 128, true).to_device(device),
            -1,
            false,
            false,
        );
        Some(bias.permute([2, 0, 1]).to_kind(kind))
    }
}

impl EncoderMlp {
    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            EncoderMlp::Plain { up, down, activation } => down.forward(&activation.forward(&up.forward(x))),
            EncoderMlp::Gated { gate_up, down, activation } => {
                let (gate, up) = gate_up.forward(x);
                down.forward(&(activation.forward(&gate) * up))
            }
        }
    }
}

trait Texts {
    /// (texts·n, H, D) → (texts, H, n, D).
    fn view_as_texts(&self, texts: i64, n: i64) -> Tensor;
}

impl Texts for Tensor {
    fn view_as_texts(&self, texts: i64, n: i64) -> Tensor {
        self.unflatten(0, [texts, n]).transpose(1, 2)
    }
}

/// Neighbouring segments of one length, which attention takes in one go.
fn runs_of_one_length(segments: &[Segment]) -> impl Iterator<Item = &[Segment]> {
    segments.chunk_by(|a, b| a.range.len() == b.range.len())
}

/// T5's buckets of the distance from query i to key j (arXiv 1910.10683): exact when near, logarithmic when far,
/// (queries, keys) numbers below `buckets`.
pub(crate) fn relative_buckets(
    queries: Range<i64>,
    keys: i64,
    buckets: i64,
    max_distance: i64,
    both_ways: bool,
) -> Tensor {
    let mut out = Vec::new();
    for i in queries {
        for j in 0..keys {
            let distance = j - i; // key − query
            let (base, half, distance) = if both_ways {
                (if distance > 0 { buckets / 2 } else { 0 }, buckets / 2, distance.abs())
            } else {
                (0, buckets, (-distance).max(0))
            };
            let exact = half / 2;
            let bucket = if distance < exact {
                distance
            } else {
                let scale = (distance as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
                (exact + (scale * (half - exact) as f32) as i64).min(half - 1)
            };
            out.push(base + bucket);
        }
    }
    Tensor::from_slice(&out).view([-1, keys])
}
