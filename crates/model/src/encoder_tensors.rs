use tch::Tensor;

use crate::block::{linear_tensors, norm_tensors};
use crate::{Encoder, EncoderMlp, Head, HeadKind, ModelError};

impl Encoder {
    /// Every tensor under its name in a Hugging Face checkpoint. Of the token types only the first row, (C), is kept.
    /// They are handles: a gradient turned on here is one of the model.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let (names, root) = (self.config.names, self.root());
        let at = |name: &str| format!("{root}{name}.weight");
        let mut out = vec![(at(names.embedding), self.embedding.shallow_clone())];
        let tables = [
            (names.position_embedding, &self.position_embedding),
            (names.type_embedding, &self.type_embedding),
            ("encoder.relative_attention_bias", &self.relative_bias),
        ];
        for (name, table) in tables {
            out.extend(table.as_ref().map(|table| (at(name), table.shallow_clone())));
        }
        norm_tensors(&format!("{root}{}", names.embedding_norm), &self.embedding_norm, &mut out);
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            let at = |name: &str| format!("{root}{}.{layer_idx}.{name}", names.layers);
            for linear in layer.qkv.linears().into_iter().chain([&layer.o_proj]) {
                linear_tensors(linear, false, &mut out);
            }
            if let Some(norm) = &layer.attention_norm {
                norm_tensors(&at(names.attention_norm), norm, &mut out);
            }
            let linears = match &layer.mlp {
                EncoderMlp::Plain { up, down, .. } => vec![up, down],
                EncoderMlp::Gated { gate_up, down, .. } => {
                    gate_up.linears().into_iter().chain([down]).collect()
                }
            };
            for linear in linears {
                linear_tensors(linear, false, &mut out);
            }
            norm_tensors(&at(names.mlp_norm), &layer.mlp_norm, &mut out);
        }
        if let Some(norm) = &self.final_norm {
            norm_tensors(&format!("{root}{}", names.final_norm), norm, &mut out);
        }
        if let Some(head) = &self.head {
            head.named_tensors(&self.config, &self.embedding, &mut out);
        }
        out
    }

    /// What the masked-LM head says of tokens' states: (N, C) → logits (N, V).
    ///
    /// # Errors
    /// [`ModelError::Config`] where the checkpoint has no such head.
    pub fn masked_lm(&self, states: &Tensor) -> Result<Tensor, ModelError> {
        match &self.head {
            Some(head) if head.kind() == HeadKind::MaskedLm => Ok(head.forward(states, &[])),
            _ => Err(ModelError::Config(
                "the checkpoint has no masked-LM head (an architecture such as BertForMaskedLM has)"
                    .to_owned(),
            )),
        }
    }

    /// Gives an encoder that was saved without a masked-LM head a new one; one that has it keeps it.
    ///
    /// # Errors
    /// [`ModelError::Config`] where it has another head, or the family knows none.
    pub fn ensure_masked_lm(&mut self, seed: u64) -> Result<(), ModelError> {
        match &self.head {
            Some(head) if head.kind() == HeadKind::MaskedLm => Ok(()),
            Some(_) => Err(ModelError::Config(
                "the checkpoint is a classifier: take the model it came from".to_owned(),
            )),
            None => {
                self.head = Some(Head::new_masked_lm(&self.config, &self.embedding, seed)?);
                Ok(())
            }
        }
    }

    /// What stands before the names of the layers: `bert.`, or nothing in a checkpoint saved without a head.
    pub(crate) fn root(&self) -> String {
        let first = self.layers.first().map_or("", |layer| layer.o_proj.name.as_str());
        let layers = format!("{}.0.", self.config.names.layers);
        first.find(&layers).map_or_else(String::new, |at| first[..at].to_owned())
    }
}
