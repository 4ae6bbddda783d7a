/// What a decoder's checkpoint calls its tensors: Hugging Face module paths, `.weight` and `.bias` left off.
///
/// The names are kept by the loaded layers, because adapters choose their targets by them, and are used again
/// when the model is saved. Empty where a family has no such tensor.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// Token embedding.
    pub embedding: &'static str,
    /// Position embedding.
    pub position_embedding: &'static str,
    /// What the blocks' numbers follow.
    pub layers: &'static str,
    /// Norm after the last block.
    pub norm: &'static str,
    /// A block's norms: before and after attention, before and after the feed-forward part.
    pub norms: [&'static str; 4],
    /// Query, key and value projections: three layers, or one that holds all.
    pub qkv: &'static [&'static str],
    /// Output projection.
    pub o_proj: &'static str,
    /// Gate and up projections: two layers, one that holds both, or just `up`.
    pub gate_up: &'static [&'static str],
    /// Down projection.
    pub down_proj: &'static str,
    /// Weights are stored (in, out): GPT-2's Conv1D.
    pub transposed: bool,
    /// The router of a mixture of experts.
    pub router: &'static str,
    /// What the experts' numbers follow.
    pub experts: &'static str,
    /// Gate, up and down projections of an expert.
    pub expert: [&'static str; 3],
}

/// Llama's names, which most families share.
pub(crate) const LLAMA: Names = Names {
    embedding: "model.embed_tokens",
    position_embedding: "",
    layers: "model.layers",
    norm: "model.norm",
    norms: ["input_layernorm", "", "post_attention_layernorm", ""],
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    o_proj: "self_attn.o_proj",
    gate_up: &["mlp.gate_proj", "mlp.up_proj"],
    down_proj: "mlp.down_proj",
    transposed: false,
    router: "mlp.gate",
    experts: "mlp.experts",
    expert: ["gate_proj", "up_proj", "down_proj"],
};
