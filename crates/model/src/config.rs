use crate::{ModelError, Names};

/// What a decoder is made of: one struct that every family's `config.json` is read into.
///
/// Field names follow config.json where it has one. A family file in [`crate::families`] fills it in; the
/// decoder itself never asks for a family's name.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// `model_type` of config.json.
    pub model_type: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// C.
    pub hidden_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// H.
    pub num_attention_heads: usize,
    /// Heads of keys and values.
    pub num_key_value_heads: usize,
    /// D.
    pub head_dim: usize,
    /// I: inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// q, k and v projections have a bias.
    pub attention_bias: bool,
    /// The output projection has one.
    pub attention_out_bias: bool,
    /// The feed-forward layers have one.
    pub mlp_bias: bool,
    /// The context, in tokens.
    pub max_position_embeddings: usize,
    /// Which norm, everywhere.
    pub norm: NormKind,
    /// Norms on queries and keys.
    pub qk_norm: QkNorm,
    /// Rotary embedding by layer; `None` where positions are learned (GPT-2).
    pub rope: Option<RopeConfig>,
    /// Rotary embedding of sliding-window layers where it differs (Gemma 3).
    pub rope_local: Option<RopeConfig>,
    /// By layer: how many tokens back a token sees; `None` is all.
    pub sliding_window: Vec<Option<usize>>,
    /// Scores are multiplied by this; usually 1 / √D.
    pub attention_scale: f64,
    /// GPT-2's `scale_attn_by_inverse_layer_idx`: and divided by the block's number, counted from 1.
    pub attention_scale_by_layer: bool,
    /// Gemma 2: scores become cap · tanh(score / cap).
    pub attention_softcap: Option<f64>,
    /// Gemma 2: logits likewise.
    pub logits_softcap: Option<f64>,
    /// The feed-forward part.
    pub mlp: Mlp,
    /// Its activation.
    pub activation: Activation,
    /// Gemma: embeddings are multiplied by √C.
    pub embedding_scale: f64,
    /// The LM head is the embedding.
    pub tie_word_embeddings: bool,
    /// Which blocks send their tokens to experts instead.
    pub moe: Option<Moe>,
    /// What the checkpoint calls its tensors.
    pub names: &'static Names,
}

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormKind {
    /// RMS norm.
    Rms {
        /// Added to the mean square.
        eps: f64,
        /// Gemma: stored weights are w − 1.
        weight_plus_one: bool,
        /// Gemma, OLMo 2: the product with the weight is taken in fp32 and rounded once. Others round to the
        /// model's dtype before it.
        full_precision: bool,
    },
    /// Layer norm with bias.
    Layer {
        /// Added to the variance.
        eps: f64,
    },
}

/// Norms on queries and keys before the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head's D features: Qwen 3, Gemma 3.
    PerHead,
    /// Over all H·D features: OLMo 2.
    Whole,
}

/// Rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many features of a head are rotated (all, or a part: `partial_rotary_factor`).
    pub dim: usize,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Plain frequencies over all of a head.
    pub fn plain(theta: f64, dim: usize) -> Self {
        RopeConfig { theta, dim, scaling: RopeScaling::None }
    }

    /// Cosines and sines are multiplied by this (LongRoPE, YaRN); 1 elsewhere.
    pub fn attention_scale(&self) -> f64 {
        match self.scaling {
            RopeScaling::Factors { attention_scale, .. } | RopeScaling::Yarn { attention_scale, .. } => {
                attention_scale
            }
            _ => 1.0,
        }
    }

    /// How long a text may be, where config.json names `max_position_embeddings`: dynamic scaling and YaRN reach
    /// further by their factor, and their files may name the length before that.
    pub fn context(&self, max_position_embeddings: usize) -> usize {
        let stretched = match self.scaling {
            RopeScaling::Dynamic { factor, original_max } => factor * original_max as f64,
            RopeScaling::Yarn { factor, original_max, .. } => factor * original_max,
            _ => 0.0,
        };
        // Beyond 2^31 nothing is a length any more.
        max_position_embeddings.max(stretched.min(f64::from(i32::MAX)) as usize)
    }
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, smooth between.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `original_max / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context that the model was pretrained with.
        original_max: f64,
    },
    /// Dynamic NTK: beyond the context a larger base, which depends on the length of the text.
    Dynamic {
        /// How much the context may grow.
        factor: f64,
        /// The context that the model was pretrained with.
        original_max: i64,
    },
    /// YaRN (arXiv 2309.00071): frequencies that turn less than `beta_slow` times in the original context are divided,
    /// those that turn more than `beta_fast` times are kept, with a ramp between.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Turns from which on a frequency is kept.
        beta_fast: f64,
        /// Turns up to which it is divided.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole features.
        truncate: bool,
        /// The context that the model was pretrained with.
        original_max: f64,
        /// Cosines and sines are multiplied by this.
        attention_scale: f64,
    },
    /// LongRoPE (Phi-3): a divisor for every frequency, one set for short sequences, one for long ones.
    Factors {
        /// (dim / 2), for passes of up to `original_max` positions.
        short: Vec<f64>,
        /// (dim / 2), for longer ones.
        long: Vec<f64>,
        /// The context that the model was pretrained with.
        original_max: i64,
        /// Cosines and sines are multiplied by this.
        attention_scale: f64,
    },
}

/// The feed-forward part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// down(act(gate(x)) · up(x)).
    Gated,
    /// down(act(up(x))): GPT-2.
    Plain,
}

/// A mixture of experts (arXiv 2401.04088): a router sends each token to `top_k` of `n_experts` gated ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moe {
    /// How many there are.
    pub n_experts: usize,
    /// How many a token visits.
    pub top_k: usize,
    /// Whether the chosen weights are made to sum to 1.
    pub normalise: bool,
    /// Inner width of one expert.
    pub intermediate_size: usize,
    /// Blocks that have a plain feed-forward part all the same.
    pub dense_layers: Vec<usize>,
}

/// An activation, by its name in config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x σ(x).
    Silu,
    /// x Φ(x).
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// By its name in config.json.
    ///
    /// # Errors
    /// [`ModelError::Config`] for an unknown name.
    pub fn from_name(name: &str) -> Result<Self, ModelError> {
        match name {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            _ => {
                let known = "silu, swish, gelu, gelu_python, gelu_new, gelu_pytorch_tanh, gelu_fast, relu";
                Err(ModelError::Config(format!("unknown activation {name:?}; known: {known}")))
            }
        }
    }
}
