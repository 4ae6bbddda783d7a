//! Files of PEFT read here, and files written here read by PEFT, to the same logits.

mod tiny;

use std::path::Path;

use ferrotune_peft::{Init, LoadOptions, LoraConfig, PeftError, inject, load, save};
use tiny::{base, expected, golden, logits, max_diff};

/// An adapter that Python peft made gives Python's logits here.
#[test]
fn adapters_of_peft_compute_what_peft_computes() {
    for case in ["lora", "patterns", "dora", "whole", "pissa", "olora", "layers", "dora_rslora"] {
        let mut decoder = base(false);
        let adapter = load(&mut decoder, &golden(case), &LoadOptions::default()).unwrap();
        let diff = max_diff(&logits(&decoder), &expected("theirs_logits.json", case));
        assert!(diff < 1e-5, "{case}: {diff}");
        adapter.detach(&mut decoder);
        let diff = max_diff(&logits(&decoder), &expected("theirs_logits.json", "base"));
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
    check(&edit("\"r\": 4", "\"r\": 400"), any(), "rank 400");
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
