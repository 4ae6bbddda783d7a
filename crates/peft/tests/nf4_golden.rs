//! NF4 against bitsandbytes, and LoRA on a 4-bit base.

mod tiny;

use std::collections::BTreeMap;

use ferrotune_model::{Decoder, PackedWeight, Weight, WeightMap};
use ferrotune_peft::{
    Nf4Weight, PeftError, inject, merge_checked, nf4_tensors, plain_tensors, quantize_base, restore_nf4,
};
use tch::{Device, Kind, Tensor};
use tiny::{base, batch, golden, logits};

fn read(name: &str) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(golden(name)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: safetensors::tensor::TensorView<'_>| {
        let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let kind = if view.dtype() == safetensors::Dtype::U8 { Kind::Uint8 } else { Kind::Float };
        Tensor::from_data_size(view.data(), &size, kind)
    };
    file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

/// The weight that `golden/make_nf4.py` quantises.
fn weight() -> Tensor {
    let values: Vec<f32> = (0..161 * 136u64)
        .map(|i| {
            let unit = f64::from((((i * 2_654_435_761) % (1 << 32)) / 256) as u32) / 16_777_216.0 - 0.5;
            (unit.powi(3) * (1 + (i / 64) % 5) as f64) as f32
        })
        .collect();
    Tensor::from_slice(&values).view([161, 136])
}

#[test]
fn bytes_scales_and_values_are_those_of_bitsandbytes() {
    for (file, double_quant) in [("nf4.safetensors", false), ("nf4_double.safetensors", true)] {
        let theirs = read(file);
        let ours = Nf4Weight::quantize(&weight(), double_quant).unwrap();
        let state: BTreeMap<String, Tensor> = ours.state("layer.weight").into_iter().collect();
        for (name, tensor) in theirs.iter().filter(|(name, _)| *name != "dequantized") {
            if name.ends_with("bitsandbytes__nf4") {
                let json = |t: &Tensor| -> serde_json::Value {
                    serde_json::from_slice(&Vec::<u8>::try_from(t).unwrap()).unwrap()
                };
                let (mut a, mut b) = (json(&state[name]), json(tensor));
                let offset = |v: &mut serde_json::Value| {
                    v.as_object_mut().unwrap().remove("nested_offset").and_then(|o| o.as_f64()).unwrap_or(0.0)
                };
                assert!((offset(&mut a) - offset(&mut b)).abs() < 1e-7, "{file} {name}");
                assert_eq!(a, b, "{file} {name}");
            } else {
                assert_eq!(state[name].size(), tensor.size(), "{file} {name}");
                let differ = state[name].ne_tensor(tensor).sum(Kind::Int64).int64_value(&[]);
                // The kernel of bitsandbytes for CPUs puts one scale of 343 a step beside the nearest of its
                // table; its Python reference, and this code, put it at the nearest.
                let limit = i64::from(double_quant && name == "layer.weight.absmax");
                let step = (state[name].to_kind(Kind::Float) - tensor).abs().max().double_value(&[]);
                assert!(differ <= limit && step <= differ as f64, "{file} {name}: {differ} differ by {step}");
            }
        }
        let read_back = Nf4Weight::from_state("layer.weight", &theirs).unwrap();
        for weight in [&ours, &read_back] {
            let rows = weight.dequantize(Kind::Float).narrow(0, 0, 8);
            let diff = (rows - &theirs["dequantized"]).abs().max().double_value(&[]);
            assert!(diff < 1e-7, "{file}: {diff}");
        }
    }
}

#[test]
fn broken_states_are_refused() {
    let check = |change: &dyn Fn(&mut BTreeMap<String, Tensor>), expect: &str| {
        let mut tensors = read("nf4_double.safetensors");
        change(&mut tensors);
        let error = Nf4Weight::from_state("layer.weight", &tensors).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&|t| drop(t.remove("layer.weight.absmax")), "layer.weight.absmax is missing");
    check(&|t| drop(t.insert("layer.weight".into(), Tensor::from_slice(&[1u8, 2]))), "not 10948");
    let state = "layer.weight.quant_state.bitsandbytes__nf4";
    check(&|t| drop(t.insert(state.into(), Tensor::from_slice(b"{}"))), "layer.weight: missing field");
    let other = br#"{"quant_type": "fp4", "blocksize": 64, "dtype": "float32", "shape": [161, 136]}"#;
    check(&|t| drop(t.insert(state.into(), Tensor::from_slice(other))), "fp4");
}

/// LoRA on the 4-bit base is LoRA on its plain values, gradients too, and merges onto them.
#[test]
fn lora_on_a_quantised_base_is_lora_on_its_plain_values() {
    for double_quant in [false, true] {
        let mut packed = base(false);
        quantize_base(&mut packed, double_quant).unwrap();
        assert!(packed.linears().iter().all(|l| matches!(l.weight, Weight::Packed(_))));
        let mut plain = base(false);
        for (linear, source) in plain.linears_mut().into_iter().zip(packed.linears()) {
            linear.weight = Weight::Dense(source.weight.dense(Kind::Float));
        }
        let config = tiny::random_adapter();
        let adapters = [inject(&mut packed, &config, 1).unwrap(), inject(&mut plain, &config, 1).unwrap()];
        for decoder in [&packed, &plain] {
            decoder.logits(&decoder.hidden(&batch()).unwrap()).square().mean(Kind::Float).backward();
        }
        for ((key, a), (_, b)) in adapters[0].parameters().iter().zip(&adapters[1].parameters()) {
            let diff = (a.grad() - b.grad()).abs().max().double_value(&[]);
            assert!(diff < 1e-5, "{key}: {diff}");
        }
        let [adapter, _] = adapters;
        let (_merged, report) = merge_checked(&mut packed, adapter, &batch()).unwrap();
        assert!(report.max_abs_diff < 1e-4, "{report:?}");
        assert!(packed.linears().iter().all(|l| matches!(l.weight, Weight::Dense(_))));
    }
}

#[test]
fn a_quantised_checkpoint_comes_back_as_it_was() {
    let source = base(false);
    let tensors: BTreeMap<String, Tensor> = nf4_tensors(&source, true).unwrap().into_iter().collect();
    let plain = plain_tensors(&tensors, Kind::Float).unwrap();
    let mut weights = WeightMap::new(&plain, Kind::Float, Device::Cpu);
    let mut decoder = Decoder::load(source.config.clone(), &mut weights, Kind::Float, Device::Cpu).unwrap();
    assert_eq!(restore_nf4(&mut decoder, &tensors).unwrap(), 14);
    let mut quantised = base(false);
    quantize_base(&mut quantised, true).unwrap();
    assert_eq!(logits(&decoder), logits(&quantised));
    let bytes = Nf4Weight::quantize(&weight(), true).unwrap().n_bytes();
    assert_eq!(bytes, 161 * 136 / 2 + 343 + 4 * 2 + 4 + 4 * 512, "codes, scales, their scales, mean, table");
    inject(&mut quantised, &tiny::random_adapter(), 1).unwrap();
    assert!(matches!(quantize_base(&mut quantised, true), Err(PeftError::Occupied { .. })));
}
