//! What else a config.json may say: rope scaling in the words of transformers 4 and 5, windows, caps, biases, heads,
//! experts. Each variant is an edited tiny checkpoint (`fixtures/golden/variants.py`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use ferrotune_model::checkpoint::Safetensors;
use ferrotune_model::generate::{Flow, Sampling, generate};
use ferrotune_model::{Decoder, Encoder, HeadKind, RopeScaling, Tensors, WeightMap, families};
use ferrotune_types::{Batch, Example};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

fn read_json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(path)).unwrap()).unwrap()
}

/// The base's config and tensors with a variant's edits, as `variants.py` makes them.
fn edited(edit: &Value) -> (Value, BTreeMap<String, Tensor>) {
    let base = format!("tiny_models/{}", edit["base"].as_str().unwrap());
    let mut config = read_json(&format!("{base}/config.json"));
    for (key, value) in edit["config"].as_object().unwrap() {
        let may_be_null = key == "sliding_window" || key.contains("softcapping");
        if value == "absent" || value.is_null() && !may_be_null {
            config.as_object_mut().unwrap().remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    let file = Safetensors::open(&golden(&base)).unwrap();
    let read = |name: &str| file.read(name).unwrap().unwrap();
    let dropped =
        |name: &str| edit["drop"].as_array().unwrap().iter().any(|e| name.ends_with(e.as_str().unwrap()));
    let kept = file.names().into_iter().filter(|name| !dropped(name)).map(|name| (name.clone(), read(&name)));
    let copies = edit["copy"].as_object().unwrap().iter();
    let copies = copies.map(|(new, old)| (new.clone(), read(old.as_str().unwrap()).flip([0])));
    (config, kept.chain(copies).collect())
}

fn decoder(config: &Value, tensors: &BTreeMap<String, Tensor>) -> Decoder {
    let mut weights = WeightMap::new(tensors, Kind::Float, Device::Cpu);
    let config = families::decoder_config(config).unwrap();
    let decoder = Decoder::load(config, &mut weights, Kind::Float, Device::Cpu).unwrap();
    weights.finish(|_| false).unwrap();
    decoder
}

fn encoder(config: &Value, tensors: &BTreeMap<String, Tensor>) -> Encoder {
    let mut weights = WeightMap::new(tensors, Kind::Float, Device::Cpu);
    let config = families::encoder_config(config).unwrap();
    let encoder = Encoder::load(config, &mut weights, Kind::Float, Device::Cpu).unwrap();
    weights.finish(|name| name.contains("pooler")).unwrap();
    encoder
}

fn logits(config: &Value, tensors: &BTreeMap<String, Tensor>, batch: &Batch) -> Tensor {
    let model_type = config["model_type"].as_str().unwrap();
    if families::decoder_types().contains(&model_type) {
        let decoder = decoder(config, tensors);
        return decoder.logits(&decoder.hidden(batch).unwrap());
    }
    let encoder = encoder(config, tensors);
    let logits = encoder.predict(batch).unwrap();
    match encoder.head.as_ref().unwrap().kind() {
        HeadKind::Sequence(_) => logits.get(0),
        HeadKind::Tokens | HeadKind::MaskedLm => logits,
    }
}

fn batch(ids: &[u32]) -> Batch {
    let example = Example::new("x", ids.to_vec(), vec![false; ids.len()]).unwrap();
    Batch::from_examples(&[&example]).unwrap()
}

/// Every variant's name and edits.
fn variants() -> Vec<(String, Value)> {
    let Value::Object(all) = read_json("variants.json") else { panic!("not an object") };
    all.into_iter().collect()
}

#[test]
fn every_variant_agrees_with_transformers() {
    let file = Safetensors::open(&golden("variants.safetensors")).unwrap();
    let mut wrong = Vec::new();
    for (name, edit) in variants() {
        let (config, tensors) = edited(&edit);
        for n in 0..2 {
            let ids: Vec<i64> = file.read(&format!("{name}.ids.{n}")).unwrap().unwrap().try_into().unwrap();
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            let expect = file.read(&format!("{name}.logits.{n}")).unwrap().unwrap();
            let got = tch::no_grad(|| logits(&config, &tensors, &batch(&ids)));
            assert_eq!(got.size(), expect.size(), "{name}");
            let difference = (got - expect).abs().max().double_value(&[]);
            if difference.is_nan() || difference > 2e-5 {
                wrong.push(format!("{name}.{n}: differs by {difference:.2e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_variant_decodes_as_it_prefills() {
    for (name, edit) in variants() {
        let (config, tensors) = edited(&edit);
        let model_type = config["model_type"].as_str().unwrap();
        if !families::decoder_types().contains(&model_type) {
            continue;
        }
        let decoder = decoder(&config, &tensors);
        // Dynamic scaling and LongRoPE turn a text otherwise as it grows, in transformers too.
        let scaling = decoder.config.rope.as_ref().map(|rope| &rope.scaling);
        if matches!(scaling, Some(RopeScaling::Dynamic { .. } | RopeScaling::Factors { .. })) {
            continue;
        }
        let prompt = vec![7, 30, 4, 12, 12, 9, 41];
        let sampling = Sampling { max_new_tokens: 6, ..Sampling::default() };
        let got =
            generate(&decoder, std::slice::from_ref(&prompt), &sampling, &mut |_, _| Flow::Continue).unwrap();
        let whole: Vec<u32> = prompt.iter().chain(&got[0].ids).copied().collect();
        let rows = tch::no_grad(|| decoder.logits(&decoder.hidden(&batch(&whole)).unwrap()));
        let best: Vec<i64> = rows.argmax(-1, false).try_into().unwrap();
        let best: Vec<u32> = best[prompt.len() - 1..whole.len() - 1].iter().map(|&id| id as u32).collect();
        assert_eq!(got[0].ids, best, "{name}");
    }
}

/// What no text of a few tokens shows: `Config()` of transformers 5.23.
#[test]
fn a_field_that_is_absent_has_transformers_default() {
    for (family, context, window) in [
        ("llama", 2048, None),
        ("mistral", 131_072, Some(4096)),
        ("mixtral", 131_072, None),
        ("qwen2", 32_768, None),
        ("qwen3", 32_768, None),
        ("qwen3_moe", 32_768, None),
        ("gemma2", 8192, Some(4096)),
        ("gemma3_text", 131_072, Some(4096)),
        ("phi3", 4096, None),
        ("olmo2", 2048, None),
    ] {
        let mut json = read_json(&format!("tiny_models/{family}/config.json"));
        let fields = json.as_object_mut().unwrap();
        for key in ["max_position_embeddings", "sliding_window", "rope_parameters"] {
            fields.remove(key);
        }
        let config = families::decoder_config(&json).unwrap();
        assert_eq!((config.max_position_embeddings, config.sliding_window[0]), (context, window), "{family}");
    }
    let mut json = read_json("tiny_models/modernbert_mlm/config.json");
    json.as_object_mut().unwrap().remove("max_position_embeddings");
    assert_eq!(families::encoder_config(&json).unwrap().max_position_embeddings, 8192);
}

#[test]
fn what_a_config_cannot_mean_is_an_error_that_says_so() {
    let check = |family: &str, change: Value, expect: &str| {
        let mut config = read_json(&format!("tiny_models/{family}/config.json"));
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        let error = if families::decoder_types().contains(&config["model_type"].as_str().unwrap()) {
            families::decoder_config(&config).unwrap_err()
        } else {
            families::encoder_config(&config).unwrap_err()
        };
        assert!(error.to_string().contains(expect), "{error}");
    };
    let rope = |parameters: Value| serde_json::json!({ "rope_parameters": parameters });
    check("llama", rope("{}".into()), "not an object");
    check("llama", rope(serde_json::json!({"rope_type": "spiral"})), "unknown rope type spiral");
    check("llama", rope(serde_json::json!({"rope_type": 3})), "unknown rope type 3");
    check("llama", rope(serde_json::json!({"rope_type": "linear"})), "rope factor is missing or not above 0");
    check("llama", rope(serde_json::json!({"rope_type": "yarn", "factor": -2.0})), "rope factor");
    check("llama", rope(serde_json::json!({"rope_theta": "10000"})), "rope_theta is \"10000\", not a number");
    check("phi3", rope(serde_json::json!({"rope_type": "longrope"})), "short_factor has 0 numbers for 2");
    check("llama", serde_json::json!({"rms_norm_eps": "1e-5"}), "rms_norm_eps is \"1e-5\", not a number");
    check(
        "llama",
        serde_json::json!({"tie_word_embeddings": 1}),
        "tie_word_embeddings is 1, not true or false",
    );
    check("llama", serde_json::json!({"hidden_act": "xielu"}), "unknown activation \"xielu\"; known: silu");
    check("llama", serde_json::json!({"hidden_act": 3}), "hidden_act is 3, not a name");
    check("qwen2", serde_json::json!({"layer_types": "sliding"}), "layer_types is \"sliding\", not a list");
    check("qwen3_moe", serde_json::json!({"mlp_only_layers": "0"}), "mlp_only_layers is \"0\", not a list");
    check("roberta_mlm", serde_json::json!({"pad_token_id": "1"}), "pad_token_id is \"1\", not an id");
    check("bert_classify", serde_json::json!({"id2label": 3}), "id2label is 3, not an object");
    check(
        "qwen2",
        serde_json::json!({"layer_types": ["full_attention", "linear_attention"]}),
        "unknown layer type",
    );
    check(
        "gemma3_text",
        serde_json::json!({"use_bidirectional_attention": true}),
        "use_bidirectional_attention",
    );
    let one = serde_json::json!({"full_attention": 1});
    check(
        "modernbert_mlm",
        serde_json::json!({"rope_parameters": one}),
        "full_attention is 1, not an object",
    );
}
