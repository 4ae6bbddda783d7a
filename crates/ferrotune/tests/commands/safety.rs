//! What a mistyped command must not destroy, and settings that no run can mean.

use super::*;

/// An adapter for the tiny Llama, trained for a step.
fn adapter(files: &Files) -> String {
    let chats = files.rows("chats.jsonl", (0..4).map(chat));
    let out = files.path("tuned");
    json_of(&["sft", "--model", &tiny(), "--data", &chats, "--steps", "1", "--dtype", "fp32", "--out", &out]);
    format!("{out}/adapter")
}

#[test]
fn a_model_is_not_saved_over_anything_else() {
    let files = Files::new();
    let adapter = adapter(&files);
    let notes = files.path("own/notes.txt");
    std::fs::create_dir(files.path("own")).unwrap();
    std::fs::write(&notes, "mine").unwrap();
    let merge = |out: &str, expect: &str| fails(&["merge", &tiny(), &adapter, "--out", out], 1, expect);
    merge(&files.path("own"), "holds notes.txt, which is no part of a saved model");
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "mine");
    merge(&adapter, "holds adapter_");
    assert!(Path::new(&adapter).join("adapter_model.safetensors").is_file());
    merge(&files.path("own/.."), "has no name of its own");

    // What an earlier merge left is replaced; the model that is read is not.
    let merged = files.path("merged-v1.5");
    for _ in 0..2 {
        json_of(&["merge", &tiny(), &adapter, "--out", &merged]);
    }
    fails(&["merge", &merged, &adapter, "--out", &merged], 1, "holds the model that was read");
    json_of(&["perplexity", &merged, &notes]);
    let left: Vec<String> = std::fs::read_dir(files.path(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_model_is_saved_where_a_link_points_to() {
    let files = Files::new();
    let adapter = adapter(&files);
    let link = files.path("link");
    std::os::unix::fs::symlink("there", &link).unwrap();
    for _ in 0..2 {
        json_of(&["merge", &tiny(), &adapter, "--out", &link]);
        assert!(Path::new(&link).is_symlink());
        assert!(Path::new(&files.path("there/model.safetensors")).is_file());
    }
}

#[test]
fn a_command_that_fails_takes_no_checkpoint_away() {
    let files = Files::new();
    adapter(&files);
    let (chats, out) = (files.path("chats.jsonl"), files.path("tuned"));
    let checkpoints = || std::fs::read_dir(format!("{out}/checkpoints")).unwrap().count();
    let sft = ["sft", "--data", &chats, "--dtype", "fp32", "--out", &out, "--steps", "2"];
    let (config, tiny) = (files.with("c.toml", "checkpoint_every = 1\n"), tiny());
    json_of(&[&sft[..], &["--model", &tiny, "--config", &config]].concat());
    let before = checkpoints();
    assert!(before > 0);
    fails(&[&sft[..], &["--model", "nosuchmodel"]].concat(), 1, "nosuchmodel");
    let sweep = ["sft", "--data", &chats, "--dtype", "fp32", "--out", &out, "--steps", "10"];
    json_of(&[&sweep[..], &["--model", &tiny, "--find-lr"]].concat());
    assert_eq!(checkpoints(), before);
    // What changes the data changes the run.
    let resumed = [&sft[..], &["--model", &tiny, "--config", &config, "--resume"]].concat();
    fails(&[&resumed[..], &["--packing"]].concat(), 1, "another model, data or settings");
    json_of(&resumed);
}

#[test]
fn the_seed_may_stand_in_the_settings() {
    let files = Files::new();
    let chats = files.rows("chats.jsonl", (0..4).map(chat));
    let seven = files.with("seven.toml", "seed = 7\n");
    let run = |out: &str, more: &[&str]| {
        let out = files.path(out);
        let args =
            ["sft", "--model", &tiny(), "--data", &chats, "--steps", "1", "--dtype", "fp32", "--out", &out];
        json_of(&[&args[..], more].concat());
        std::fs::read(format!("{out}/adapter/adapter_model.safetensors")).unwrap()
    };
    let (in_file, named, zero) = (run("a", &["--config", &seven]), run("b", &["--seed", "7"]), run("c", &[]));
    assert!(in_file == named && named != zero);
    assert!(run("d", &["--config", &seven, "--seed", "0"]) == zero, "the command line goes before the file");
}

#[test]
fn settings_that_no_run_can_mean_are_refused() {
    let files = Files::new();
    let (chats, out) = (files.rows("chats.jsonl", (0..4).map(chat)), files.path("out"));
    let sft = ["sft", "--model", &tiny(), "--data", &chats, "--dtype", "fp32", "--out", &out];
    let check = |text: &str, expect: &str| {
        let config = files.with("bad.toml", text);
        fails(&[&sft[..], &["--config", &config]].concat(), 1, expect);
    };
    check("batch = 2\nlr = nan\n", "bad.toml:2: lr is infinite or no number");
    check("lr = -1.0\n", "lr is -1, not 0 or above");
    check("max_grad_norm = -1.0\n", "max_grad_norm is -1");
    check("batch = 0\n", "batch is 0");
    check("epochs = -2.0\n", "epochs is -2");
    check("loraplus_ratio = -1.0\n", "loraplus_ratio is -1");
    check("neftune_alpha = -5.0\n", "neftune_alpha is -5");
    let with = |more: &[&str], code: i32, expect: &str| fails(&[&sft[..], more].concat(), code, expect);
    with(&["--lr", "nan"], 1, "--lr is NaN");
    with(&["--patience", "2"], 1, "--patience needs rows held out");
    let texts = files.rows("texts.jsonl", (0..4).map(|i| json!({"text": format!("page {i}")})));
    let cpt =
        ["cpt", "--model", &tiny(), "--data", &texts, "--held-out", "0", "--patience", "3", "--out", &out];
    fails(&cpt, 1, "--patience needs text held out: give a --held-out");
    let labelled =
        files.rows("labelled.jsonl", (0..4).map(|i| json!({"text": "hello", "label": format!("{i}")})));
    let classify = ["classify", "--model", &tiny(), "--data", &labelled, "--eval-every", "1", "--out", &out];
    fails(&classify, 1, "--eval-every needs rows held out");
    with(&["--full", "--dora"], 2, "cannot be used with");
    with(&["--adapter", "a", "--lora-r", "4"], 2, "cannot be used with");
    with(&["--adapter", "a", "--freeze-layers", "1"], 2, "cannot be used with");
    fails(
        &["cpt", "--model", &tiny(), "--data", &chats, "--held-out", "1.5", "--out", &out],
        1,
        "--held-out is 1.5",
    );
    fails(&["generate", &tiny(), "--chat", "hi", "--stop", ""], 1, "--stop is an empty text");
    fails(&["generate", &tiny(), "--prompt", "hi", "--score", ""], 1, "--score is an empty text");
    let nothing = ferrotune(&["generate", &tiny(), "--chat", "hi", "--max-new-tokens", "0"]);
    assert_eq!(String::from_utf8_lossy(&nothing.stdout), "\n", "an empty answer is an empty line");
}
