use ferrotune_model::{Decoder, Weight};
use ferrotune_types::Batch;
use tch::{Kind, Tensor};

use crate::PeftError;
use crate::adapter::Adapter;
use crate::layer::LoraLayer;

/// An adapter written into its base, and the way back.
///
/// It holds the base's own weights (handles, not copies), so [`unmerge`] restores them bit by bit. Drop it to
/// free their memory.
#[derive(Debug)]
pub struct Merged {
    originals: Vec<(String, Weight)>,
    adapter: Adapter,
}

/// How far the merged model is from base plus adapter, on the tokens of one batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MergeReport {
    /// Largest difference of any logit.
    pub max_abs_diff: f64,
    /// Mean over tokens of KL(base + adapter ‖ merged), in nats.
    pub mean_kl: f64,
    /// Share of tokens with the same likeliest next token, 0..=1.
    pub same_top1: f64,
    /// Tokens compared.
    pub n_tokens: usize,
}

/// Writes the attached `adapter` into the weights under it: W + s·B·A, summed in fp32, then cast to W's dtype.
///
/// A quantised weight becomes a plain one in the model's dtype: the merged model is then what was trained,
/// namely dequantised base plus adapter. To merge onto the full-precision base instead, load that base, attach
/// the adapter to it and merge there; [`check_merge`] says what the difference is.
///
/// # Errors
/// [`PeftError::Target`] where the model lacks a layer of the adapter; nothing is changed then.
pub fn merge(decoder: &mut Decoder, adapter: Adapter) -> Result<Merged, PeftError> {
    let kind = decoder.kind;
    let names: Vec<String> = decoder.linears().iter().map(|l| l.name.clone()).collect();
    if let Some(lost) = adapter.layers.iter().find(|l| !names.contains(&l.path)) {
        let (asked, existing) = (lost.path.clone(), crate::target::kinds(&names));
        return Err(PeftError::Target { field: "layer", asked, existing });
    }
    let mut originals = Vec::with_capacity(adapter.layers.len());
    for linear in decoder.linears_mut() {
        let Some(layer) = adapter.layers.iter().find(|l| l.path == linear.name) else { continue };
        linear.set_adapter(None);
        let merged = tch::no_grad(|| {
            let row_norms = layer.magnitude.is_some().then(|| layer.row_norms(linear));
            merged_weight(layer, &linear.weight, row_norms.as_ref(), kind)
        });
        originals.push((linear.name.clone(), std::mem::replace(&mut linear.weight, Weight::Dense(merged))));
    }
    // Whole tensors are in place already; from here on they are the model's.
    Ok(Merged { originals, adapter })
}

/// The base's own weights again, and the adapter, attached as before.
///
/// # Errors
/// As [`Adapter::attach`].
pub fn unmerge(decoder: &mut Decoder, merged: Merged) -> Result<Adapter, PeftError> {
    let Merged { originals, adapter } = merged;
    let mut linears = decoder.linears_mut();
    for (name, weight) in originals {
        if let Some(linear) = linears.iter_mut().find(|l| l.name == name) {
            linear.weight = weight;
        }
    }
    adapter.attach(decoder)?;
    Ok(adapter)
}

/// Merges, and compares the merged model's logits with those of base plus adapter on `batch`.
///
/// In fp32 the logits differ by rounding only (below 1e-4); in bf16 by the rounding of W + s·B·A to 8 bits.
///
/// # Errors
/// As [`merge`]; [`PeftError::Model`] where the model cannot run the batch.
pub fn merge_checked(
    decoder: &mut Decoder,
    adapter: Adapter,
    batch: &Batch,
) -> Result<(Merged, MergeReport), PeftError> {
    let _guard = tch::no_grad_guard();
    let adapted = all_logits(decoder, batch)?;
    let merged = merge(decoder, adapter)?;
    let report = check_merge(&adapted, &all_logits(decoder, batch)?);
    Ok((merged, report))
}

/// Compares two models' logits over the same tokens, both (T, V).
pub fn check_merge(adapted: &Tensor, merged: &Tensor) -> MergeReport {
    tch::no_grad(|| {
        let (p, q) = (adapted.log_softmax(-1, Kind::Float), merged.log_softmax(-1, Kind::Float));
        let kl = (p.exp() * (&p - q)).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        let same = adapted.argmax(-1, false).eq_tensor(&merged.argmax(-1, false));
        MergeReport {
            max_abs_diff: (adapted - merged).abs().max().double_value(&[]),
            mean_kl: kl.mean(Kind::Double).double_value(&[]),
            same_top1: same.mean(Kind::Double).double_value(&[]),
            n_tokens: adapted.size()[0] as usize,
        }
    })
}

fn all_logits(decoder: &Decoder, batch: &Batch) -> Result<Tensor, PeftError> {
    Ok(decoder.logits(&decoder.hidden(batch)?).to_kind(Kind::Float))
}

/// (out, in) in the weight's own dtype, or `kind` for a packed one.
fn merged_weight(layer: &LoraLayer, weight: &Weight, row_norms: Option<&Tensor>, kind: Kind) -> Tensor {
    let own = match weight {
        Weight::Dense(w) => w.kind(),
        Weight::Packed(_) => kind,
    };
    let sum = weight.dense(Kind::Float) + layer.delta();
    let merged = match (&layer.magnitude, row_norms) {
        (Some(m), Some(norms)) => sum * (m / norms).unsqueeze(1),
        _ => sum,
    };
    merged.to_kind(own)
}
