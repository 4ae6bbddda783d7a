use crate::encoder_head::HeadActivation;
use crate::{Activation, NormKind, Pooling, RopeConfig};

/// What an encoder is made of: one struct that every family's `config.json` is read into.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// `model_type` of config.json.
    pub model_type: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// C.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// H.
    pub num_attention_heads: usize,
    /// I.
    pub intermediate_size: usize,
    /// The longest text, in tokens.
    pub max_position_embeddings: usize,
    /// Rows of the position table before that of the first token (RoBERTa, MPNet).
    pub position_offset: usize,
    /// Rows of the token-type table; 0 where there is none.
    pub type_vocab_size: usize,
    /// Linear layers have a bias.
    pub bias: bool,
    /// Which norm, everywhere.
    pub norm: NormKind,
    /// Norms stand before attention and feed-forward (ModernBERT), not after.
    pub pre_norm: bool,
    /// Of the feed-forward layers.
    pub activation: Activation,
    /// The feed-forward part has a gate.
    pub gated: bool,
    /// Rotary embedding, where positions are not learned.
    pub rope: Option<RopeConfig>,
    /// Rotary embedding of layers with a window.
    pub rope_local: Option<RopeConfig>,
    /// By layer: how far a token sees to either side; `None` is all.
    pub window: Vec<Option<usize>>,
    /// Buckets of MPNet's relative bias.
    pub relative_buckets: Option<usize>,
    /// What the checkpoint predicts.
    pub head: Option<HeadKind>,
    /// Classes of a classifier.
    pub num_labels: usize,
    /// What the checkpoint calls its tensors.
    pub names: &'static EncoderNames,
}

/// What an encoder's head predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// The token at each place.
    MaskedLm,
    /// A class for each token.
    Tokens,
    /// A class for each text, from its tokens pooled so.
    Sequence(Pooling),
}

/// What an encoder's checkpoint calls its tensors. Empty where a family has no such tensor.
#[derive(Debug, PartialEq, Eq)]
pub struct EncoderNames {
    /// Before all names but the head's, in a checkpoint that has one.
    pub prefix: &'static str,
    /// Token embedding.
    pub embedding: &'static str,
    /// Position embedding.
    pub position_embedding: &'static str,
    /// Token-type embedding.
    pub type_embedding: &'static str,
    /// Norm after the embeddings.
    pub embedding_norm: &'static str,
    /// What the layers' numbers follow.
    pub layers: &'static str,
    /// Three layers, or one that holds all.
    pub qkv: &'static [&'static str],
    /// Output projection.
    pub o_proj: &'static str,
    /// Norm of the attention.
    pub attention_norm: &'static str,
    /// Up projection, with the gate where there is one.
    pub up: &'static str,
    /// Down projection.
    pub down: &'static str,
    /// Norm of the feed-forward part.
    pub mlp_norm: &'static str,
    /// Norm after the last layer.
    pub final_norm: &'static str,
    /// Masked-LM head: dense, norm, output, the output's bias.
    pub lm: [&'static str; 4],
    /// Token classifier: dense, norm, output.
    pub tokens: [&'static str; 3],
    /// Text classifier: dense, norm, output.
    pub sequence: [&'static str; 3],
    /// Between the text classifier's dense layer and its output.
    pub sequence_activation: HeadActivation,
}
