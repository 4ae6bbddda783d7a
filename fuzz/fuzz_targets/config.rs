//! A config.json of any bytes, read by every family: a config or an error. What it says is then asked for in an
//! empty checkpoint: nothing may be allocated for tensors that are not there.
#![no_main]

use std::collections::BTreeMap;

use ferrotune_model::families::{decoder_config, decoder_types, encoder_config, encoder_types};
use ferrotune_model::{Decoder, Encoder, T5, WeightMap, parse_device, parse_dtype};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut json) = serde_json::from_slice::<Value>(bytes) else { return };
    if !json.is_object() {
        return;
    }
    let device = parse_device("cpu").expect("a CPU");
    let (none, kind) = (BTreeMap::new(), parse_dtype("fp32", device).expect("fp32"));
    for model_type in decoder_types() {
        json["model_type"] = model_type.into();
        if let Ok(config) = decoder_config(&json) {
            let _ = Decoder::load(config, &mut WeightMap::new(&none, kind, device), kind, device);
        }
    }
    for model_type in encoder_types() {
        json["model_type"] = model_type.into();
        if let Ok(config) = encoder_config(&json) {
            let _ = Encoder::load(config, &mut WeightMap::new(&none, kind, device), kind, device);
        }
    }
    json["model_type"] = "t5".into();
    let _ = T5::load(&json, &mut WeightMap::new(&none, kind, device), device);
});
