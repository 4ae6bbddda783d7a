//! Continued pretraining, top to bottom: a model reads on in documents of your own, with a share of general text
//! replayed, and says what it forgot meanwhile.

use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_model::Decoder;
use ferrotune_tokenizer::Tokenizer;
use ferrotune_types::Example;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::perplexity::held_out_perplexity;
use super::sft::{SftConfig, SftData, SftOutcome, sft};
use super::trained::Trained;

/// What is read.
#[derive(Debug, Clone, Default)]
pub struct CptTexts {
    /// Your documents.
    pub own: Vec<String>,
    /// Your documents held out, to see what was learnt.
    pub own_held: Vec<String>,
    /// General text to replay, against forgetting.
    pub general: Vec<String>,
    /// General text held out, to see what was forgotten.
    pub general_held: Vec<String>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CptOutcome {
    /// The training itself.
    pub training: SftOutcome,
    /// Windows of your text, and of replayed general text.
    pub windows: (usize, usize),
    /// Perplexity on your held-out text, before and after.
    pub own: Option<(f64, f64)>,
    /// Perplexity on general held-out text, before and after: how much was forgotten.
    pub general: Option<(f64, f64)>,
}

impl CptOutcome {
    /// In words.
    pub fn words(&self) -> String {
        let change = |(before, after): (f64, f64)| {
            format!("{before:.2} to {after:.2} ({:+.1}%)", 100.0 * (after / before - 1.0))
        };
        let mut lines = Vec::new();
        lines.extend(self.own.map(|p| format!("perplexity on your held-out text: {}", change(p))));
        lines.extend(self.general.map(|p| {
            let verdict =
                if p.1 > p.0 * 1.05 { "; raise the replay share or lower the learning rate" } else { "" };
            format!("perplexity on general text: {}{verdict}", change(p))
        }));
        lines.join("\n")
    }
}

/// Trains an adapter, which hangs on `decoder`, or the model's own tensors, on every token of `texts.own` in windows of `window` tokens, with
/// general text mixed in so that it makes up `replay` (0 to 1, without 1) of all windows, as far as there is enough; says
/// where there is not.
///
/// # Errors
/// No text; general text without a window to replay; a share out of range; what [`sft`] refuses.
#[expect(clippy::too_many_arguments, reason = "model, data, settings and place are four things")]
pub fn cpt<'a>(
    decoder: &Decoder,
    trained: impl Into<Trained<'a>>,
    tokenizer: &Tokenizer,
    texts: &CptTexts,
    (window, replay): (usize, f64),
    config: &SftConfig,
    dir: &Path,
    run_hash: &str,
) -> Result<CptOutcome> {
    let trained = trained.into();
    if !(0.0..1.0).contains(&replay) {
        bail!("the replay share is {replay}; it must be at least 0 and below 1");
    }
    let own = windows(&texts.own, tokenizer, window)?;
    if own.is_empty() {
        bail!("there is no text to train on");
    }
    let mut general = windows(&texts.general, tokenizer, window)?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    general.shuffle(&mut rng);
    let asked = (own.len() as f64 * replay / (1.0 - replay)).round() as usize;
    if asked > 0 && general.is_empty() && !texts.general.is_empty() {
        bail!("the general text is too short to replay: none of it gives a window of 2 tokens");
    }
    general.truncate(asked);
    let counts = (own.len(), general.len());
    eprintln!("{:>12}: {} windows of your text, {} of general text", "cpt", counts.0, counts.1);
    if !texts.general.is_empty()
        && let Some(warning) = shortfall(counts, asked, replay)
    {
        eprintln!("warning: {warning}");
    }
    let mut train: Vec<Vec<Example>> = own.into_iter().chain(general).map(|example| vec![example]).collect();
    train.shuffle(&mut rng);

    let own_held = windows(&texts.own_held, tokenizer, window)?;
    let general_held = windows(&texts.general_held, tokenizer, window)?;
    let measure = |held: &[Example]| -> Result<Option<f64>> {
        if held.is_empty() {
            return Ok(None);
        }
        trained.set_training(false);
        Ok(Some(held_out_perplexity(decoder, held, config.micro_tokens)?.perplexity))
    };
    let before = (measure(&own_held)?, measure(&general_held)?);
    let data = SftData { train, validation: own_held.clone() };
    let training = sft(decoder, trained, &data, config, dir, run_hash)?;
    let after = (measure(&own_held)?, measure(&general_held)?);
    Ok(CptOutcome { training, windows: counts, own: before.0.zip(after.0), general: before.1.zip(after.1) })
}

/// What to say where fewer windows are replayed than were asked for.
fn shortfall((own, general): (usize, usize), asked: usize, replay: f64) -> Option<String> {
    (general < asked).then(|| {
        let share = 100.0 * general as f64 / (own + general) as f64;
        format!(
            "a replay share of {replay} asks for {asked} windows of general text, and there are {general}: they make up \
             {share:.0}%; give more general text"
        )
    })
}

/// Documents cut into windows of at most `window` tokens; every token but a window's first is trained on. A rest of
/// one token, which nothing predicts, is left out.
pub fn windows(documents: &[String], tokenizer: &Tokenizer, window: usize) -> Result<Vec<Example>> {
    if window < 2 {
        bail!("the window is {window}; it must hold at least 2 tokens");
    }
    let mut out = Vec::new();
    for (d, document) in documents.iter().enumerate() {
        let ids = tokenizer.encode(document, true)?;
        for (w, ids) in ids.chunks(window).enumerate().filter(|(_, ids)| ids.len() > 1) {
            let mask = (0..ids.len()).map(|t| t > 0).collect();
            out.push(Example::new(format!("{d}-{w}"), ids.to_vec(), mask)?);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_general_text_is_said_in_figures() {
        assert_eq!(shortfall((31, 31), 31, 0.5), None);
        assert_eq!(shortfall((31, 0), 0, 0.0), None);
        let said = shortfall((31, 1), 31, 0.5).unwrap();
        assert!(
            said.contains("asks for 31 windows") && said.contains("there are 1") && said.contains("3%"),
            "{said}"
        );
    }
}
