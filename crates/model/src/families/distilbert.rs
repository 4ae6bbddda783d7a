//! DistilBERT (arXiv 1910.01108): BERT without token types, under other names.

use serde_json::{Value, json};

use super::bert;
use crate::{Activation, EncoderConfig, EncoderNames, HeadActivation, ModelError};

const NAMES: EncoderNames = EncoderNames {
    prefix: "distilbert",
    type_embedding: "",
    layers: "transformer.layer",
    qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    o_proj: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    mlp_norm: "output_layer_norm",
    lm: ["vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"],
    sequence: ["pre_classifier", "", "classifier"],
    sequence_activation: HeadActivation::Plain(Activation::Relu),
    ..bert::NAMES
};

pub(super) fn config(json: &Value) -> Result<EncoderConfig, ModelError> {
    let mut renamed = json.clone();
    for (ours, theirs) in [
        ("hidden_size", "dim"),
        ("num_hidden_layers", "n_layers"),
        ("num_attention_heads", "n_heads"),
        ("intermediate_size", "hidden_dim"),
        ("hidden_act", "activation"),
    ] {
        if let (Some(value), Some(object)) = (json.get(theirs), renamed.as_object_mut()) {
            object.insert(ours.to_owned(), value.clone());
        }
    }
    renamed["layer_norm_eps"] = json!(1e-12);
    let mut config = bert::config(&renamed)?;
    config.names = &NAMES;
    Ok(config)
}
