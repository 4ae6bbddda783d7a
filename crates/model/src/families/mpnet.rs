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

/// In which distances are counted whatever config.json says, as in transformers; a larger table has rows to spare.
const BUCKETS: usize = 32;

pub(super) fn config(json: &Value) -> Result<EncoderConfig, ModelError> {
    let mut config = bert::config(json)?;
    roberta::offset_positions(json, &mut config)?;
    let buckets = count_or(json, "relative_attention_num_buckets", BUCKETS)?;
    if buckets < BUCKETS {
        return Err(ModelError::Config(format!(
            "relative_attention_num_buckets is {buckets}: MPNet counts distances in {BUCKETS} buckets"
        )));
    }
    config.relative_buckets = Some(buckets);
    config.names = &NAMES;
    Ok(config)
}
