//! Checkpoints whose tensors stand under other names than transformers writes today, as the best known models on the hub do.

use std::path::{Path, PathBuf};

use ferrotune_model::checkpoint::{
    Safetensors, SaveOptions, Source, load_config, load_decoder, load_encoder, load_t5, save_decoder,
    save_encoder,
};
use ferrotune_model::{Encoder, RopeScaling, Tensors as _, families};
use ferrotune_types::{Batch, Example};
use tch::{Device, Kind, Tensor};

fn tiny(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny_models").join(family)
}

/// A copy of a tiny checkpoint: `rename` gives each tensor's name, or `None` to leave it out; `more` come on top.
fn renamed(
    family: &str,
    rename: impl Fn(&str) -> Option<String>,
    more: &[(&str, Tensor)],
) -> tempfile::TempDir {
    let (from, to) = (tiny(family), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("config.json"), to.path().join("config.json")).unwrap();
    let file = Safetensors::open(&from).unwrap();
    let tensors =
        file.names().into_iter().filter_map(|name| Some((rename(&name)?, file.read(&name).unwrap()?)));
    let more = more.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone()));
    let all: Vec<(String, Tensor)> = tensors.chain(more).collect();
    let all: Vec<(&str, &Tensor)> = all.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Tensor::write_safetensors(&all, to.path().join("model.safetensors")).unwrap();
    to
}

fn batch() -> Batch {
    let example = Example::new("x", vec![5, 9, 3, 11, 20], vec![false; 5]).unwrap();
    Batch::from_examples(&[&example]).unwrap()
}

fn logits(folder: &Path) -> Tensor {
    let decoder =
        load_decoder(&Source::Directory(folder.to_owned()), Kind::Float, Device::Cpu).unwrap().decoder;
    tch::no_grad(|| decoder.logits(&decoder.hidden(&batch()).unwrap()))
}

#[test]
fn a_decoder_saved_without_its_head_is_the_same() {
    // openai-community/gpt2 is one.
    for (family, prefix) in [("gpt2", "transformer."), ("gemma2", "model."), ("gemma3_text", "model.")] {
        let bare = renamed(family, |name| name.strip_prefix(prefix).map(str::to_owned), &[]);
        assert_eq!(logits(bare.path()), logits(&tiny(family)), "{family}");
    }
    // A head of its own may have come along, under its own name.
    let bare = renamed("mistral", |name| Some(name.strip_prefix("model.").unwrap_or(name).to_owned()), &[]);
    assert_eq!(logits(bare.path()), logits(&tiny("mistral")));
    // Where the head is not the embedding it must be there.
    let bare = renamed("mistral", |name| name.strip_prefix("model.").map(str::to_owned), &[]);
    let error =
        load_decoder(&Source::Directory(bare.path().to_owned()), Kind::Float, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("lm_head.weight"), "{error}");
}

#[test]
fn a_model_that_also_sees_is_read_whichever_release_wrote_it() {
    let today = |name: &str| {
        let text =
            name.strip_prefix("language_model.model.").map(|rest| format!("model.language_model.{rest}"));
        Some(text.unwrap_or_else(|| format!("model.{name}")))
    };
    let file = renamed("gemma3", today, &[]);
    assert_eq!(logits(file.path()), logits(&tiny("gemma3")));
    // google/gemma-3-4b-it ties its head; an older file with a head of its own has it here.
    let head = Tensor::ones([48, 16], (Kind::Float, Device::Cpu));
    let same = |name: &str| Some(name.to_owned());
    let untied = renamed("gemma3", same, &[("language_model.lm_head.weight", head)]);
    assert_ne!(logits(untied.path()), logits(&tiny("gemma3")));
    // What is of neither part is left over.
    let more = renamed("gemma3", same, &[("audio_tower.x", Tensor::zeros([2], (Kind::Float, Device::Cpu)))]);
    let load = |folder: &Path| load_decoder(&Source::Directory(folder.to_owned()), Kind::Float, Device::Cpu);
    assert!(load(more.path()).unwrap_err().to_string().contains("audio_tower.x"));
}

/// Its adapters have transformers' names; what is saved is the text part, a model of its own.
#[test]
fn of_a_model_that_also_sees_the_text_part_is_saved() {
    let loaded = load_decoder(&Source::Directory(tiny("gemma3")), Kind::Float, Device::Cpu).unwrap();
    let mut names = loaded.decoder.named_tensors().into_iter().map(|(name, _)| name);
    assert!(names.all(|name| name.starts_with("model.language_model.")));
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("saved");
    save_decoder(&loaded.decoder, &loaded.config_json, None, &folder, SaveOptions::default()).unwrap();
    let config = load_config(&Source::Directory(folder.clone())).unwrap();
    assert_eq!((&config["model_type"], &config["eos_token_id"]), (&"gemma3_text".into(), &2.into()));
    assert!(config.get("vision_config").is_none());
    assert!(Safetensors::open(&folder).unwrap().names().iter().all(|name| name.starts_with("model.layers.")
        || ["model.embed_tokens.weight", "model.norm.weight"].contains(&name.as_str())));
    assert_eq!(logits(&folder), logits(&tiny("gemma3")));
}

/// config.json of google/gemma-3-4b-it as it is published, which leaves out what is the default.
#[test]
fn a_published_config_leaves_the_defaults_out() {
    let config = serde_json::json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106], "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152},
    });
    let config = families::decoder_config(&config).unwrap();
    assert_eq!((config.vocab_size, config.hidden_size, config.num_hidden_layers), (262_208, 2560, 34));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (8, 4, 256));
    assert_eq!(config.max_position_embeddings, 131_072);
    assert_eq!(config.sliding_window[4..7], [Some(1024), None, Some(1024)]);
    let (rope, local) = (config.rope.unwrap(), config.rope_local.unwrap());
    assert_eq!((rope.theta, local.theta), (1e6, 1e4));
    assert!(matches!(rope.scaling, RopeScaling::Linear { factor: 8.0 }), "{:?}", rope.scaling);
    let none = families::decoder_config(&serde_json::json!({"model_type": "gemma3"})).unwrap_err();
    assert!(none.to_string().contains("no text_config"), "{none}");
}

/// Nothing waits for a pipe, or reads a device that never ends.
#[test]
#[cfg(unix)]
fn what_is_no_file_is_refused() {
    let load = |folder: &Path| load_decoder(&Source::Directory(folder.to_owned()), Kind::Float, Device::Cpu);
    let same = |name: &str| Some(name.to_owned());
    for name in ["config.json", "model.safetensors"] {
        let folder = renamed("llama", same, &[]);
        let path = folder.path().join(name);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("is no file"), "{error}");
    }
}

/// As google-bert/bert-base-uncased calls its norms.
fn as_in_tensorflow(name: &str) -> String {
    let gamma = name.replace("LayerNorm.weight", "LayerNorm.gamma");
    gamma.replace("LayerNorm.bias", "LayerNorm.beta")
}

#[test]
fn norms_named_as_in_tensorflow_are_read() {
    let old = renamed("bert_mlm", |name| Some(as_in_tensorflow(name)), &[]);
    let hidden = |folder: &Path| {
        let source = Source::Directory(folder.to_owned());
        let encoder = load_encoder(&source, Kind::Float, Device::Cpu).unwrap().encoder;
        tch::no_grad(|| encoder.hidden(&batch()).unwrap())
    };
    assert_eq!(hidden(old.path()), hidden(&tiny("bert_mlm")));
}

/// What masked language modelling changed is what the saved file holds, under one name and in the dtype that it had.
#[test]
fn an_encoder_with_norms_named_as_in_tensorflow_is_saved_under_todays_names() {
    let old = renamed("bert_mlm", |name| Some(as_in_tensorflow(name)), &[]);
    let source = Source::Directory(old.path().to_owned());
    let loaded = load_encoder(&source, Kind::BFloat16, Device::Cpu).unwrap();
    let norm = "bert.embeddings.LayerNorm.weight";
    let find = |tensors: Vec<(String, Tensor)>| tensors.into_iter().find(|(name, _)| name == norm).unwrap().1;
    let _ = tch::no_grad(|| find(loaded.encoder.named_tensors()).fill_(0.5));
    let out = tempfile::tempdir().unwrap();
    save_encoder(&loaded.encoder, &source, &loaded.config_json, out.path()).unwrap();
    let (saved, today) =
        (Safetensors::open(out.path()).unwrap(), Safetensors::open(&tiny("bert_mlm")).unwrap());
    assert_eq!(saved.names(), today.names());
    for name in saved.names() {
        assert_eq!(saved.read(&name).unwrap().unwrap().kind(), Kind::Float, "{name}");
    }
    assert_eq!(saved.read(norm).unwrap().unwrap().mean(Kind::Float).double_value(&[]), 0.5);
    let again = load_encoder(&Source::Directory(out.path().to_owned()), Kind::Float, Device::Cpu).unwrap();
    assert_eq!(find(again.encoder.named_tensors()).mean(Kind::Float).double_value(&[]), 0.5);
}

/// sentence-transformers/all-mpnet-base-v2 is one: config.json keeps the class of the pretraining.
#[test]
fn an_encoder_saved_without_its_masked_lm_head_has_none_until_it_gets_one() {
    for (family, prefix) in [
        ("mpnet_mlm", "mpnet."),
        ("bert_mlm", "bert."),
        ("roberta_mlm", "roberta."),
        ("distilbert_mlm", "distilbert."),
        ("modernbert_mlm", "model."),
    ] {
        let bare = renamed(family, |name| name.strip_prefix(prefix).map(str::to_owned), &[]);
        let source = Source::Directory(bare.path().to_owned());
        let load = |source: &Source| load_encoder(source, Kind::Float, Device::Cpu).unwrap();
        let (mut loaded, whole) = (load(&source), load(&Source::Directory(tiny(family))));
        let hidden = |encoder: &Encoder| tch::no_grad(|| encoder.hidden(&batch()).unwrap());
        assert!(loaded.encoder.head.is_none(), "{family}");
        assert_eq!(hidden(&loaded.encoder), hidden(&whole.encoder), "{family}");
        // As it was, without a head.
        let out = tempfile::tempdir().unwrap();
        save_encoder(&loaded.encoder, &source, &loaded.config_json, out.path()).unwrap();
        assert_eq!(
            Safetensors::open(out.path()).unwrap().names(),
            Safetensors::open(bare.path()).unwrap().names()
        );
        // With one, the body stands under the name that the class gives it.
        loaded.encoder.ensure_masked_lm(1).unwrap();
        save_encoder(&loaded.encoder, &source, &loaded.config_json, out.path()).unwrap();
        let names = Safetensors::open(out.path()).unwrap().names();
        assert_eq!(names, Safetensors::open(&tiny(family)).unwrap().names(), "{family}");
        let again = load(&Source::Directory(out.path().to_owned()));
        assert_eq!(again.config_json["architectures"], whole.config_json["architectures"]);
        assert!(again.encoder.head.is_some());
        let logits = |encoder: &Encoder| tch::no_grad(|| encoder.predict(&batch()).unwrap());
        assert_eq!(logits(&again.encoder), logits(&loaded.encoder), "{family}");
    }
    // A head that is there in part is broken.
    let half =
        renamed("mpnet_mlm", |name| (!name.starts_with("lm_head.dense")).then(|| name.to_owned()), &[]);
    let error = load_encoder(&Source::Directory(half.path().to_owned()), Kind::Float, Device::Cpu);
    assert!(error.unwrap_err().to_string().contains("lm_head.dense.weight"));
}

#[test]
fn a_bias_that_old_t5_files_carry_along_is_passed_over() {
    let same = |name: &str| Some(name.to_owned());
    let more = |name| [(name, Tensor::zeros([32, 4], (Kind::Float, Device::Cpu)))];
    let load = |folder: &Path| load_t5(&Source::Directory(folder.to_owned()), Kind::Float, Device::Cpu);
    let old = more("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight");
    load(renamed("t5", same, &old).path()).unwrap();
    let error = load(renamed("t5", same, &more("decoder.block.0.layer.7.weight")).path()).unwrap_err();
    assert!(error.to_string().contains("belong to no layer"), "{error}");
}

#[test]
fn a_tensor_in_two_shards_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let one = Tensor::zeros([2], (Kind::Float, Device::Cpu));
    Tensor::write_safetensors(&[("w", &one)], folder.path().join("a.safetensors")).unwrap();
    Tensor::write_safetensors(&[("v", &one), ("w", &one)], folder.path().join("b.safetensors")).unwrap();
    let index = r#"{"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    let error = Safetensors::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("holds w, which") && error.contains("a.safetensors holds too"), "{error}");
}

#[test]
fn more_experts_a_token_than_there_are_is_an_error() {
    let folder = renamed("mixtral", |name| Some(name.to_owned()), &[]);
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["num_experts_per_tok"] = 99.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let source = Source::Directory(folder.path().to_owned());
    let error = load_decoder(&source, Kind::Float, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("num_experts_per_tok is 99"), "{error}");
}
