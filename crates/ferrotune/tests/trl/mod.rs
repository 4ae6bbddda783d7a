//! A step's logged figures beside those that TRL logged.

use serde_json::Value;

/// One figure is in what a step of `run` logged, and is TRL's.
pub(crate) fn check(run: &str, ours: &Value, name: &str, trl: &Value) {
    let trl = trl.as_f64().unwrap();
    let found = ours[name].as_f64().unwrap_or_else(|| panic!("{run}: {name} is not logged: {ours}"));
    // Rounding grows from step to step, faster in what is summed over an answer.
    let tolerance = match name {
        "num_tokens" | "step" | "epoch" => 1e-9,
        "grad_norm" => 2e-3 * trl.max(1.0),
        _ => 2e-4 * trl.abs().max(1.0),
    };
    let step = &ours["step"];
    assert!((found - trl).abs() <= tolerance, "{run}, step {step}: {name} is {found}, TRL's is {trl}");
}
