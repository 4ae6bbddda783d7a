//! MPNet (arXiv 2004.09297): RoBERTa without token types, with T5's relative bias on top of positions.

use serde_json::Value;

use super::{bert, count_or, roberta};
use crate::{EncoderConfig, EncoderNames, ModelError};

const NAMES: EncoderNames = EncoderNames {
    prefix: "mpnet",
    type_embedding: "",
    qkv: &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    o_proj: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    lm: ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"],
    sequence: ["classifier.dense", "", "classifier.out_proj"],
    ..bert::NAMES
};

pub(super) fn config(json: &Value) -> Result<EncoderConfig, ModelError> {
    let mut config = bert::config(json)?;
    roberta::offset_positions(json, &mut config)?;
    config.relative_buckets = Some(count_or(json, "relative_attention_num_buckets", 32)?);
    config.names = &NAMES;
    Ok(config)
}
