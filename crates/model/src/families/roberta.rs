//! RoBERTa (arXiv 1907.11692): BERT whose positions are counted from after the padding token's id.

use serde_json::Value;

use super::{bert, optional};
use crate::{EncoderConfig, EncoderNames, ModelError};

const NAMES: EncoderNames = EncoderNames {
    prefix: "roberta",
    lm: ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"],
    sequence: ["classifier.dense", "", "classifier.out_proj"],
    ..bert::NAMES
};

pub(super) fn config(json: &Value) -> Result<EncoderConfig, ModelError> {
    let mut config = bert::config(json)?;
    offset_positions(json, &mut config)?;
    config.names = &NAMES;
    Ok(config)
}

/// The first token has the position after the padding token's id.
pub(super) fn offset_positions(json: &Value, config: &mut EncoderConfig) -> Result<(), ModelError> {
    let offset = optional(json, "pad_token_id", "an id", Value::as_u64)?.unwrap_or(1) as usize + 1;
    let rows = config.max_position_embeddings;
    config.max_position_embeddings = rows.checked_sub(offset).filter(|&n| n > 0).ok_or_else(|| {
        ModelError::Config(format!("{rows} positions leave none after {offset} unused ones"))
    })?;
    config.position_offset = offset;
    Ok(())
}
