//! Qwen 3 with a mixture of experts (arXiv 2505.09388).

use serde_json::Value;

use super::{count, count_or, flag_or, optional, optional_count, qwen3};
use crate::{DecoderConfig, ModelError, Moe};

pub(super) fn config(json: &Value) -> Result<DecoderConfig, ModelError> {
    let mut json = json.clone();
    if json.get("intermediate_size").is_none_or(Value::is_null) {
        // A file whose blocks all have experts need not say how wide a plain one would be.
        json["intermediate_size"] = Value::from(count(&json, "moe_intermediate_size")?);
    }
    if json.get("head_dim").is_none_or(Value::is_null) {
        json["head_dim"] = Value::from(count(&json, "hidden_size")? / count(&json, "num_attention_heads")?);
    }
    let mut config = qwen3::config(&json)?;
    // Unlike Qwen 3's, this config has one window for all blocks.
    let window = config.sliding_window.iter().flatten().next().copied();
    let used = flag_or(&json, "use_sliding_window", false)?;
    let window = window
        .or_else(|| json.get("sliding_window").and_then(Value::as_u64).filter(|_| used).map(|n| n as usize));
    config.sliding_window.fill(window);
    let numbers = |list: &Value| -> Option<Vec<usize>> {
        list.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize)).collect()
    };
    let listed = optional(&json, "mlp_only_layers", "a list of layers", numbers)?.unwrap_or_default();
    let step = count_or(&json, "decoder_sparse_step", 1)?;
    let is_dense = |layer_idx: &usize| listed.contains(layer_idx) || !(layer_idx + 1).is_multiple_of(step);
    config.moe = Some(Moe {
        n_experts: match optional_count(&json, "num_experts")? {
            Some(n) => n,
            // transformers 5 writes the number under Mixtral's name.
            None => count_or(&json, "num_local_experts", 128)?,
        },
        top_k: count_or(&json, "num_experts_per_tok", 8)?,
        normalise: flag_or(&json, "norm_topk_prob", false)?,
        intermediate_size: count_or(&json, "moe_intermediate_size", 768)?,
        dense_layers: (0..config.num_hidden_layers).filter(is_dense).collect(),
    });
    Ok(config)
}
