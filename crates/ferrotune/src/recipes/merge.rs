//! Base and adapter to one checkpoint, checked.

use std::path::Path;

use anyhow::{Result, bail};
use ferrotune_peft::merge_checked;
use ferrotune_types::Batch;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::words::adapter_on;
use crate::model_store::{self, Place};

/// What the check found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MergeOutcome {
    /// Largest difference of a logit between base with adapter and merged model, in fp32.
    pub max_abs_logit_diff: f64,
    /// Mean KL divergence a token, in nats.
    pub mean_kl: f64,
    /// Tokens compared.
    pub tokens: usize,
}

/// Logits further apart than this are not rounding.
const TOLERANCE: f64 = 1e-3;

/// What the check reads: words, figures, a second language, code.
const PROBE: &str = "Thanks for getting in touch! Orders over $75 ship free and arrive in 3 to 5 days. \
    Gracias por su paciencia. fn main() { println!(\"{}\", 6 * 7); } The capital of France is Paris.";

/// Merges the adapter into `base` in fp32, compares the logits of both, and writes the merged model in fp32 so
/// that it computes what base and adapter did.
///
/// # Errors
/// An adapter for another base; logits that differ by more than rounding (then nothing is written); what
/// [`model_store::save`] refuses.
pub fn merge(base: &str, adapter: &Path, out: &Path, template: &str) -> Result<MergeOutcome> {
    let place = Place { device: Device::Cpu, kind: Kind::Float };
    let mut model = model_store::load(base, place, template)?;
    model_store::check_replaceable(out, &model.path)?;
    let hung = adapter_on(&mut model.decoder, adapter)?;
    let ids: Vec<i64> = model.tokenizer.encode(PROBE, true)?.into_iter().map(i64::from).collect();
    let n = ids.len().min(model.decoder.config.max_position_embeddings);
    let segment = ferrotune_types::Segment { range: 0..n, prefix: None };
    let batch = Batch::new(ids[..n].to_vec(), vec![false; n], vec![segment])?;
    let (_, report) = merge_checked(&mut model.decoder, hung, &batch)?;
    if report.max_abs_diff.is_nan() || report.max_abs_diff > TOLERANCE {
        bail!(
            "the merged model's logits differ from base and adapter's by {:.2e}, more than {TOLERANCE:.0e}: not written",
            report.max_abs_diff
        );
    }
    model_store::save(&model, out, Kind::Float)?;
    Ok(MergeOutcome {
        max_abs_logit_diff: report.max_abs_diff,
        mean_kl: report.mean_kl,
        tokens: report.n_tokens,
    })
}
