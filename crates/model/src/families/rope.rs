use serde_json::Value;

use super::number_or;
use crate::{ModelError, RopeConfig, RopeScaling};

/// How long texts were before the scaling.
pub(crate) const ORIGINAL_MAX: &str = "original_max_position_embeddings";

/// `rope_parameters` as transformers 5 writes them, or `rope_scaling` as 4 did, which comes first where both are there.
pub(super) fn parameters(json: &Value) -> &Value {
    let there = |key: &str| json.get(key).filter(|v| !v.is_null());
    there("rope_scaling").or_else(|| there("rope_parameters")).unwrap_or(&Value::Null)
}

/// Reads one set of rope parameters; `rope_theta` and `partial_rotary_factor` may also stand in config.json
/// itself. `context` is `max_position_embeddings`.
pub(super) fn rope(
    json: &Value,
    parameters: &Value,
    head_dim: usize,
    context: usize,
) -> Result<RopeConfig, ModelError> {
    if !parameters.is_null() && !parameters.is_object() {
        return Err(ModelError::Config(format!("rope parameters are {parameters}, not an object")));
    }
    let either = |key: &str, default: f64| number_or(parameters, key, number_or(json, key, default)?);
    let theta = either("rope_theta", 10_000.0)?;
    let is_phi3 = json.get("model_type").and_then(Value::as_str) == Some("phi3");
    // The others have such a field now and then, and transformers does not read it.
    let part = if is_phi3 { either("partial_rotary_factor", 1.0)? } else { 1.0 };
    let dim = (head_dim as f64 * part.clamp(0.0, 1.0)) as usize;
    if dim == 0 || !dim.is_multiple_of(2) || theta <= 0.0 {
        return Err(ModelError::Config(format!("rope of {dim} features with theta {theta}")));
    }
    let context = context as f64;
    // Phi-3 has it beside the rope parameters, and transformers then prefers it there.
    let original_max = || {
        let inside = number_or(parameters, ORIGINAL_MAX, context)?;
        match number_or(json, ORIGINAL_MAX, inside)? {
            n if n <= f64::from(i32::MAX) => Ok(n.max(1.0)),
            n => Err(ModelError::Config(format!("{ORIGINAL_MAX} is {n}, which is no length"))),
        }
    };
    let named = |key: &str| parameters.get(key).filter(|kind| !kind.is_null());
    let scaling = match named("rope_type").or_else(|| named("type")) {
        None => RopeScaling::None,
        Some(Value::String(kind)) => match kind.as_str() {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: positive(parameters, "factor")? },
            "dynamic" if dim > 2 => {
                RopeScaling::Dynamic { factor: positive(parameters, "factor")?, original_max: context as i64 }
            }
            "llama3" => RopeScaling::Llama3 {
                factor: positive(parameters, "factor")?,
                low_freq_factor: positive(parameters, "low_freq_factor")?,
                high_freq_factor: positive(parameters, "high_freq_factor")?,
                original_max: original_max()?,
            },
            // Phi-3's first files call LongRoPE so.
            "yarn" if !is_phi3 => yarn(parameters, context, original_max()?)?,
            "longrope" | "su" | "yarn" => longrope(parameters, dim / 2, context, original_max()?)?,
            other => return Err(unknown(other)),
        },
        Some(other) => return Err(unknown(&other.to_string())),
    };
    Ok(RopeConfig { theta, dim, scaling })
}

/// YaRN, with the attention factor that the paper recommends where the file names none.
fn yarn(parameters: &Value, context: f64, original_max: f64) -> Result<RopeScaling, ModelError> {
    let factor = number_or(parameters, "factor", context / original_max)?;
    let recommended = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scale = |key: &str| number_or(parameters, key, 0.0);
    let attention = match (scale("mscale")?, scale("mscale_all_dim")?) {
        (own, all) if own != 0.0 && all != 0.0 => recommended(own) / recommended(all),
        _ => recommended(1.0),
    };
    // As transformers reads them, 0 is as good as absent.
    let rotations = |key: &str, default: f64| match number_or(parameters, key, default)? {
        0.0 => Ok::<_, ModelError>(default),
        n => Ok(n),
    };
    Ok(RopeScaling::Yarn {
        factor: above_zero("factor", factor)?,
        beta_fast: above_zero("beta_fast", rotations("beta_fast", 32.0)?)?,
        beta_slow: above_zero("beta_slow", rotations("beta_slow", 1.0)?)?,
        truncate: super::flag_or(parameters, "truncate", true)?,
        original_max,
        attention_scale: number_or(parameters, "attention_factor", attention)?,
    })
}

/// LongRoPE, likewise.
fn longrope(
    parameters: &Value,
    n_frequencies: usize,
    context: f64,
    original_max: f64,
) -> Result<RopeScaling, ModelError> {
    let factors = |key: &str| -> Result<Vec<f64>, ModelError> {
        let list = parameters.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let list: Vec<f64> = list.iter().filter_map(Value::as_f64).collect();
        if list.len() == n_frequencies {
            return Ok(list);
        }
        let n = list.len();
        Err(ModelError::Config(format!("rope {key} has {n} numbers for {n_frequencies} frequencies")))
    };
    let factor = number_or(parameters, "factor", context / original_max)?;
    let recommended = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_max.ln()).sqrt() };
    Ok(RopeScaling::Factors {
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        original_max: original_max as i64,
        attention_scale: number_or(parameters, "attention_factor", recommended)?,
    })
}

/// A number above 0 that must be there.
fn positive(parameters: &Value, key: &str) -> Result<f64, ModelError> {
    above_zero(key, number_or(parameters, key, 0.0)?)
}

fn above_zero(key: &str, value: f64) -> Result<f64, ModelError> {
    if value > 0.0 {
        return Ok(value);
    }
    Err(ModelError::Config(format!("rope {key} is missing or not above 0")))
}

fn unknown(kind: &str) -> ModelError {
    let known = "default, linear, dynamic, llama3, yarn, longrope";
    ModelError::Config(format!("unknown rope type {kind} (or a head too narrow for it); known: {known}"))
}
