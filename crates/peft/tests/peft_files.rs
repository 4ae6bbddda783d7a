//! Files of PEFT read here, and files written here read by PEFT, to the same logits.

mod tiny;

use std::path::Path;

use ferrotune_model::Tensors;
use ferrotune_model::checkpoint::{Safetensors, Source, load_decoder, write_safetensors};
use ferrotune_peft::{Init, LoadOptions, LoraConfig, PeftError, inject, load, save};
use ferrotune_types::{Batch, Example};
use tch::{Device, Kind};
use tiny::{base, expected, golden, logits, max_diff};

/// An adapter that Python peft made gives Python's logits here.
#[test]
fn adapters_of_peft_compute_what_peft_computes() {
    for case in [
        "lora",
        "patterns",
        "dora",
        "whole",
        "pissa",
        "olora",
        "layers",
        "dora_rslora",
        "olora_capitals",
        "tied_both",
    ] {
        let tied = case.starts_with("tied");
        let mut decoder = base(tied);
        let adapter = load(&mut decoder, &golden(case), &LoadOptions::default()).unwrap();
        let diff = max_diff(&logits(&decoder), &expected("theirs_logits.json", case));
        assert!(diff < 1e-5, "{case}: {diff}");
        adapter.detach(&mut decoder);
        let alone = if tied { "tied_base" } else { "base" };
        let diff = max_diff(&logits(&decoder), &expected("theirs_logits.json", alone));
        assert!(diff < 1e-5, "{case}, detached: {diff}");
    }
}

/// The logits here are those that Python peft computed from the file that this code writes.
#[test]
fn peft_computes_what_adapters_of_ours_compute() {
    for (case, _) in tiny::ours() {
        let (decoder, adapter) = tiny::ours_on_base(case);
        let found = logits(&decoder);
        let diff = max_diff(&found, &expected("ours_logits.json", case));
        // PiSSA's and OLoRA's factors come from an SVD and a QR, which machines round otherwise.
        let limit = if case.starts_with("pissa") || case.starts_with("olora") { 1e-4 } else { 1e-5 };
        assert!(diff < limit, "{case}: {diff}");
        // And the file read here again.
        let folder = tempfile::tempdir().unwrap();
        save(&adapter, folder.path()).unwrap();
        let mut again = base(case.starts_with("tied"));
        load(&mut again, folder.path(), &LoadOptions::default()).unwrap();
        let diff = (logits(&again) - found).abs().max().double_value(&[]);
        assert!(diff < 1e-5, "{case}, read again: {diff}");
    }
}

/// Of a Gemma 3 that sees too only the text part is read here; its adapters are peft's all the same, and ours leave the
/// part that sees alone there (`golden/beside_vision.py`).
#[test]
fn adapters_of_a_text_part_are_those_of_the_whole_model() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny_models/gemma3");
    let base = || load_decoder(&Source::Directory(folder.clone()), Kind::Float, Device::Cpu).unwrap().decoder;
    let golden = golden("beside_vision");
    let text = std::fs::read_to_string(golden.join("logits.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<u32> = serde_json::from_value(told["ids"].clone()).unwrap();
    let expect: Vec<f64> = serde_json::from_value(told["logits"].clone()).unwrap();
    let mut decoder = base();
    let adapter = load(&mut decoder, &golden, &LoadOptions::default()).unwrap();
    let mask = vec![false; ids.len()];
    let batch = Batch::from_examples(&[&Example::new("golden", ids, mask).unwrap()]).unwrap();
    let logits = tch::no_grad(|| decoder.logits(&decoder.hidden(&batch).unwrap()));
    assert!(max_diff(&logits, &expect) < 1e-5);
    let names = |folder: &Path| Safetensors::open(&folder.join("adapter_model.safetensors")).unwrap().names();
    let saved = tempfile::tempdir().unwrap();
    save(&adapter, saved.path()).unwrap();
    assert_eq!(names(saved.path()), names(&golden));
    // A new one.
    let config = LoraConfig {
        target_modules: adapter.config.target_modules.clone(),
        ..LoraConfig::all_linear(2, 6.0)
    };
    let fresh = inject(&mut base(), &config, 0).unwrap();
    save(&fresh, saved.path()).unwrap();
    assert_eq!(names(saved.path()), names(&golden));
    assert_eq!(fresh.config.exclude_modules, adapter.config.exclude_modules);
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let bytes = |seed| {
        let mut decoder = base(false);
        let adapter = inject(&mut decoder, &LoraConfig::all_linear(4, 8.0), seed).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save(&adapter, folder.path()).unwrap();
        std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn a_file_that_does_not_fit_is_refused_and_changes_nothing() {
    let check = |change: &dyn Fn(&Path), options: LoadOptions, expect: &str| {
        let folder = tempfile::tempdir().unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(golden("lora").join(name), folder.path().join(name)).unwrap();
        }
        change(folder.path());
        let mut decoder = base(false);
        let error = load(&mut decoder, folder.path(), &options).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        let diff = max_diff(&logits(&decoder), &expected("theirs_logits.json", "base"));
        assert!(diff < 1e-5, "{expect}: the model changed by {diff}");
    };
    let edit = |from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join("adapter_config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    let any = LoadOptions::default;
    check(&edit("\"r\": 4", "\"r\": 8"), any(), "where this model needs [8, 16]");
    check(&edit("\"q_proj\"", "\"q_prof\""), any(), "\"q_prof\" matches no layer");
    check(&edit("\"q_proj\",", ""), any(), "4 tensors without a layer");
    check(&edit("\"use_qalora\": false", "\"use_qalora\": true"), any(), "use_qalora");
    check(&edit("\"r\": 4", "\"r\": 400"), any(), "where this model needs [400, 16]");
    check(&edit("\"r\": 4", "\"r\": 4000000000000000000"), any(), "lower the rank");
    let olora = |folder: &Path| {
        edit("\"r\": 4", "\"r\": 9")(folder);
        edit("\"init_lora_weights\": true", "\"init_lora_weights\": \"OLoRA\"")(folder);
    };
    check(&olora, any(), "rank 9 is not between 1 and 8");
    for (init, why) in [
        ("loftq", "merge the adapter in PEFT"),
        ("CorDA", "path_initial_model_for_weight_conversion"),
        ("lora_ga", "path_initial_model_for_weight_conversion"),
        ("pissa_niter_4", "path_initial_model_for_weight_conversion"),
        ("blahblah", "known are true, false, gaussian, eva"),
    ] {
        let name = |folder: &Path| {
            let path = folder.join("adapter_config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            let named =
                text.replace("\"init_lora_weights\": true", &format!("\"init_lora_weights\": {init:?}"));
            assert_ne!(text, named);
            std::fs::write(path, named).unwrap();
        };
        check(&name, any(), why);
    }
    check(&edit("\"use_dora\": false", "\"use_dora\": true"), any(), "14 layers without a tensor");
    check(&edit("{", "["), any(), "adapter_config.json");
    let named = LoadOptions { base_model: Some("org/other".into()), ..any() };
    check(
        &edit("\"base_model_name_or_path\": null", "\"base_model_name_or_path\": \"org/this\""),
        named,
        "org/this",
    );
    check(
        &|f| std::fs::write(f.join("adapter_model.safetensors"), [1, 2, 3]).unwrap(),
        any(),
        "adapter_model",
    );
    check(&|f| std::fs::remove_file(f.join("adapter_model.safetensors")).unwrap(), any(), "cannot read");
}

/// What only chose where training began is read as plain LoRA.
#[test]
fn beginnings_that_leave_the_base_alone_are_plain_lora() {
    for init in ["false", "\"gaussian\"", "\"eva\"", "\"orthogonal\"", "\"MiCA\""] {
        let folder = tempfile::tempdir().unwrap();
        let weights = "adapter_model.safetensors";
        std::fs::copy(golden("lora").join(weights), folder.path().join(weights)).unwrap();
        let text = std::fs::read_to_string(golden("lora").join("adapter_config.json")).unwrap();
        let named = text.replace("\"init_lora_weights\": true", &format!("\"init_lora_weights\": {init}"));
        std::fs::write(folder.path().join("adapter_config.json"), named).unwrap();
        let mut decoder = base(false);
        load(&mut decoder, folder.path(), &LoadOptions::default()).unwrap();
        assert!(max_diff(&logits(&decoder), &expected("theirs_logits.json", "lora")) < 1e-5, "{init}");
    }
}

/// The two names of one tensor must hold the same.
#[test]
fn a_tied_tensor_that_differs_under_its_two_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("tied_both").join("adapter_config.json"), folder.path().join("adapter_config.json"))
        .unwrap();
    let file = Safetensors::open(&golden("tied_both").join("adapter_model.safetensors")).unwrap();
    let tensors: Vec<_> = file
        .names()
        .into_iter()
        .map(|name| {
            let tensor = file.read(&name).unwrap().unwrap();
            let more = if name.ends_with("lm_head.weight") { 1.0 } else { 0.0 };
            (name, tensor + more)
        })
        .collect();
    write_safetensors(&folder.path().join("adapter_model.safetensors"), &tensors, &[]).unwrap();
    let error = load(&mut base(true), folder.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: base_model.model.lm_head.weight differs"), "{error}");
}

#[test]
fn an_adapter_without_effect_is_an_error_unless_asked_for() {
    let mut decoder = base(false);
    let adapter = inject(&mut decoder, &LoraConfig::all_linear(4, 8.0), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    save(&adapter, folder.path()).unwrap();
    let mut decoder = base(false);
    let error = load(&mut decoder, folder.path(), &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, PeftError::NoEffect { layers: 14 }), "{error}");
    let options = LoadOptions { allow_no_effect: true, ..LoadOptions::default() };
    assert!(load(&mut decoder, folder.path(), &options).is_ok());
}

/// No half-written file is left, and the old adapter is still there.
#[test]
fn a_failed_save_leaves_the_old_adapter() {
    let (_, adapter) = tiny::ours_on_base("lora");
    let folder = tempfile::tempdir().unwrap();
    save(&adapter, folder.path()).unwrap();
    let blocked = folder.path().join("not-a-folder");
    std::fs::write(&blocked, "x").unwrap();
    let error = save(&adapter, &blocked).unwrap_err();
    assert!(matches!(error, PeftError::Io { .. }), "{error}");
    assert_eq!(std::fs::read(&blocked).unwrap(), b"x");
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|n| !n.contains(".part")), "{names:?}");
}

/// `/dev/full` takes no byte: what is written beside the old file goes there.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_adapter() {
    let (_, adapter) = tiny::ours_on_base("lora");
    let folder = tempfile::tempdir().unwrap();
    save(&adapter, folder.path()).unwrap();
    let weights = folder.path().join("adapter_model.safetensors");
    let before = std::fs::read(&weights).unwrap();
    let part = folder.path().join(format!("adapter_model.safetensors.{}.part", std::process::id()));
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    tiny::train(&adapter);
    let error = save(&adapter, folder.path()).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(std::fs::read(&weights).unwrap(), before);
    assert!(!part.exists(), "what could not be finished is taken away");
    let mut decoder = base(false);
    load(&mut decoder, folder.path(), &LoadOptions::default()).unwrap();
}

#[test]
fn pissa_is_saved_as_plain_lora_of_twice_the_rank() {
    let (_, adapter) = tiny::ours_on_base("olora_rslora");
    let folder = tempfile::tempdir().unwrap();
    save(&adapter, folder.path()).unwrap();
    let config = ferrotune_peft::read_config(folder.path()).unwrap();
    assert_eq!((config.r, &config.init_lora_weights), (8, &Init::Default));
    let scale = config.scale(config.r, config.lora_alpha);
    assert!((scale - adapter.layers()[0].scale).abs() < 1e-12);
}
