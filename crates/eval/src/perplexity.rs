use ferrotune_types::{LanguageModel, LogLikelihood};
use serde::{Deserialize, Serialize};

use crate::EvalError;

/// How surprised a model is by texts. Lower is better; only `per_word`, `per_byte` and `bits_per_byte` compare
/// models with different tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// exp(-ln p / tokens).
    pub per_token: f64,
    /// exp(-ln p / words); words are what stands between white space.
    pub per_word: f64,
    /// exp(-ln p / bytes of UTF-8).
    pub per_byte: f64,
    /// -log2 p / bytes of UTF-8.
    pub bits_per_byte: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Words.
    pub words: usize,
    /// Bytes of UTF-8.
    pub bytes: usize,
}

impl Perplexity {
    /// From each text with its log-likelihood, as lm-eval's `wikitext` sums them: all texts weigh by length.
    ///
    /// # Errors
    /// [`EvalError::Shape`] where the lists differ in length or hold no token.
    pub fn from_likelihoods<S: AsRef<str>>(
        texts: &[S],
        likelihoods: &[LogLikelihood],
    ) -> Result<Self, EvalError> {
        let tokens: usize = likelihoods.iter().map(|l| l.n_tokens).sum();
        if texts.len() != likelihoods.len() || tokens == 0 {
            let reason =
                format!("{} texts, {} likelihoods of {tokens} tokens", texts.len(), likelihoods.len());
            return Err(EvalError::Shape { op: "perplexity", reason });
        }
        let ln_p: f64 = likelihoods.iter().map(|l| l.sum).sum();
        let words: usize = texts.iter().map(|t| t.as_ref().split_whitespace().count()).sum();
        let bytes: usize = texts.iter().map(|t| t.as_ref().len()).sum();
        let per = |n: usize| (-ln_p / n.max(1) as f64).exp();
        Ok(Perplexity {
            per_token: per(tokens),
            per_word: per(words),
            per_byte: per(bytes),
            bits_per_byte: -ln_p / bytes.max(1) as f64 / std::f64::consts::LN_2,
            tokens,
            words,
            bytes,
        })
    }
}

/// Asks a model how likely texts are and sums up.
///
/// # Errors
/// [`EvalError::Shape`] where there is no text; the model's own.
pub fn perplexity(model: &dyn LanguageModel, texts: &[String]) -> Result<Perplexity, EvalError> {
    Perplexity::from_likelihoods(texts, &model.loglikelihood_rolling(texts)?)
}
