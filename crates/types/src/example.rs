use serde::{Deserialize, Serialize};

use crate::InvalidValue;

/// A tokenised text: ids, and which of them training learns to predict.
///
/// `loss_mask[t] == true` means: train on predicting token `t` from the tokens before it. It is never set on
/// the first token, which nothing precedes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ExampleFile")]
pub struct Example {
    id: String,
    ids: Vec<u32>,
    loss_mask: Vec<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleFile {
    id: String,
    ids: Vec<u32>,
    loss_mask: Vec<bool>,
}

impl TryFrom<ExampleFile> for Example {
    type Error = InvalidValue;

    fn try_from(file: ExampleFile) -> Result<Self, InvalidValue> {
        Example::new(file.id, file.ids, file.loss_mask)
    }
}

impl Example {
    /// # Errors
    /// [`InvalidValue::Example`] where the lengths differ or the first token is to be trained on.
    pub fn new(id: impl Into<String>, ids: Vec<u32>, loss_mask: Vec<bool>) -> Result<Self, InvalidValue> {
        let id = id.into();
        if ids.len() != loss_mask.len() {
            let reason = format!("{} ids but a loss mask of {}", ids.len(), loss_mask.len());
            return Err(InvalidValue::Example { id, reason });
        }
        if loss_mask.first() == Some(&true) {
            let reason = "the loss mask is set on the first token, which nothing predicts".to_owned();
            return Err(InvalidValue::Example { id, reason });
        }
        Ok(Example { id, ids, loss_mask })
    }

    /// The row's id, for messages about it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Token ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// As long as [`Self::ids`]; true where training learns to predict the token.
    pub fn loss_mask(&self) -> &[bool] {
        &self.loss_mask
    }

    /// How many tokens it has.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many of them are trained on.
    pub fn n_targets(&self) -> usize {
        self.loss_mask.iter().filter(|&&m| m).count()
    }
}

/// A tokenised preference pair. `prompt` is not empty; neither is either completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PairFile")]
pub struct PairExample {
    id: String,
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairFile {
    id: String,
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    #[serde(default)]
    margin: Option<f64>,
}

impl TryFrom<PairFile> for PairExample {
    type Error = InvalidValue;

    fn try_from(file: PairFile) -> Result<Self, InvalidValue> {
        Ok(PairExample::new(file.id, file.prompt, file.chosen, file.rejected)?.with_margin(file.margin))
    }
}

impl PairExample {
    /// # Errors
    /// [`InvalidValue::Example`] where the prompt or a completion is empty: its log-probability would be
    /// undefined, and averages over it NaN.
    pub fn new(
        id: impl Into<String>,
        prompt: Vec<u32>,
        chosen: Vec<u32>,
        rejected: Vec<u32>,
    ) -> Result<Self, InvalidValue> {
        let id = id.into();
        for (name, part) in [("prompt", &prompt), ("chosen answer", &chosen), ("rejected answer", &rejected)]
        {
            if part.is_empty() {
                return Err(InvalidValue::Example { id, reason: format!("the {name} has no tokens") });
            }
        }
        Ok(PairExample { id, prompt, chosen, rejected, margin: None })
    }

    /// By how much the chosen answer is better, where somebody said; what is no number counts as not said.
    #[must_use]
    pub fn with_margin(self, margin: Option<f64>) -> Self {
        PairExample { margin: margin.filter(|margin| margin.is_finite()), ..self }
    }

    /// By how much the chosen answer is better: a reward model keeps its scores as far apart.
    pub fn margin(&self) -> Option<f64> {
        self.margin
    }

    /// The pair's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The prompt's tokens, up to and with the header that opens the assistant's turn.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The better answer's tokens, its end-of-turn token included.
    pub fn chosen(&self) -> &[u32] {
        &self.chosen
    }

    /// The worse answer's tokens, its end-of-turn token included.
    pub fn rejected(&self) -> &[u32] {
        &self.rejected
    }

    /// Tokens of the pair with the prompt counted once.
    pub fn n_tokens(&self) -> usize {
        self.prompt.len() + self.chosen.len() + self.rejected.len()
    }
}
