//! The main job on a tiny random model: every stage, killed anywhere, resumed to the same bytes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/pipeline.toml")
}

fn start(out: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrotune"));
    command.args(["pipeline", "--config"]).arg(config()).arg("--out").arg(out).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn run(out: &Path, more: &[&str]) -> String {
    let output = start(out, more).wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{more:?}: {stderr}");
    stderr
}

/// Runs the configuration `text`, written into `dir`, in whose `out` it works: its exit code and what it says.
fn run_text(dir: &Path, text: &str, more: &[&str]) -> (Option<i32>, String) {
    let file = dir.join("p.toml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .args(["pipeline", "--config"])
        .arg(&file)
        .arg("--out")
        .arg(dir.join("out"))
        .args(more)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn adapter(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("adapter/adapter_model.safetensors")).unwrap()
}

/// The report without times and memory.
fn report(out: &Path) -> Value {
    let text = std::fs::read_to_string(out.join("report.json")).unwrap();
    let mut report: Value = serde_json::from_str(&text).unwrap();
    report["sft"]["tokens_per_s"] = Value::Null;
    report["sft"]["peak_rss_mib"] = Value::Null;
    for stage in report["stages"].as_array_mut().unwrap() {
        stage["seconds"] = Value::Null;
    }
    report
}

#[test]
fn every_stage_runs_and_leaves_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &[]);
    let report = report(dir.path());
    let stages: Vec<&str> =
        report["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    let all = ["curate", "split", "tokenize", "sft", "dpo", "merge", "perplexity", "judge", "rag", "report"];
    assert_eq!(stages, all);
    let first = report["dpo"]["loss_step0"].as_f64().unwrap();
    assert!((first - std::f64::consts::LN_2).abs() < 1e-4, "step-0 DPO loss {first}");
    assert!(report["merge"]["max_abs_logit_diff"].as_f64().unwrap() < 1e-3);
    assert!(report["sft"]["val_loss_best"].as_f64() < report["sft"]["val_loss_before"].as_f64());
    assert!(report["perplexity"]["sft"].as_f64() < report["perplexity"]["base"].as_f64());
    let curate = &report["curate"];
    let dropped: u64 = curate["dropped"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(curate["read"].as_u64().unwrap(), curate["kept"].as_u64().unwrap() + dropped);
    for (kind, found) in curate["planted"].as_object().unwrap() {
        let (planted, caught) = (found["planted"].as_f64().unwrap(), found["caught"].as_f64().unwrap());
        assert!(caught >= 0.95 * planted, "{kind}: {caught} of {planted} caught");
    }
    assert!(curate["clean_lost"].as_f64().unwrap() <= 0.02);
    for file in ["report.html", "metrics.jsonl", "loss.svg", "dropped.jsonl", "adapter/adapter_config.json"]
        .into_iter()
        .chain([
            "model/model.safetensors",
            "model/config.json",
            "model/tokenizer.json",
            "model/chat_template.jinja",
        ])
        .chain(["data/train.jsonl", "data/validation.jsonl", "rag/index.sqlite"])
    {
        assert!(dir.path().join(file).is_file(), "{file} is missing");
    }
    let n_dropped = std::fs::read_to_string(dir.path().join("dropped.jsonl")).unwrap().lines().count() as u64;
    assert!(n_dropped >= dropped, "{n_dropped} rows in dropped.jsonl, {dropped} counted");
}

#[test]
fn killed_anywhere_and_resumed_it_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let clock = Instant::now();
    run(whole.path(), &[]);
    let took = clock.elapsed();
    let broken = tempfile::tempdir().unwrap();
    // Killed again and again, a little later each time, then left alone.
    for part in [0.3, 0.45, 0.6] {
        let mut child = start(broken.path(), &["--resume"]);
        std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * part));
        // The run may have become another program (the light binary hands over), under the same process id.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run(broken.path(), &["--resume"]);
    assert!(adapter(whole.path()) == adapter(broken.path()), "the adapters differ");
    assert_eq!(report(whole.path()), report(broken.path()));
    let again = run(broken.path(), &["--resume"]);
    assert!(again.contains("sft: done before"), "{again}");
}

/// Ctrl-C is SIGINT: the run ends after its step, tells how to go on, and going on gives the bytes of a whole run.
#[test]
#[cfg(unix)]
fn interrupted_it_stops_after_its_step_and_says_how_to_go_on() {
    let whole = tempfile::tempdir().unwrap();
    let clock = Instant::now();
    run(whole.path(), &[]);
    let took = clock.elapsed();
    let broken = tempfile::tempdir().unwrap();
    let child = start(broken.path(), &[]);
    std::thread::sleep(took.mul_f64(0.4));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--resume") && !stderr.contains("panicked"), "{stderr}");
    assert!(!broken.path().join("report.json").exists());
    run(broken.path(), &["--resume"]);
    assert!(adapter(whole.path()) == adapter(broken.path()), "the adapters differ");
    assert_eq!(report(whole.path()), report(broken.path()));
}

/// A disk that takes only so much of a file stands for a full one: writes fail midway, at one place or another.
#[test]
#[cfg(unix)]
fn a_full_disk_stops_it_and_loses_nothing() {
    let whole = tempfile::tempdir().unwrap();
    run(whole.path(), &[]);
    let broken = tempfile::tempdir().unwrap();
    let mut failed = Vec::new();
    // Of the tiny run's files curated.jsonl has 360 KB and the merged model 440 KB.
    for kib in [1, 390] {
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f $(($0 * 2)); exec \"$@\""])
            .args([&kib.to_string(), env!("CARGO_BIN_EXE_ferrotune"), "pipeline", "--resume", "--config"])
            .arg(config())
            .arg("--out")
            .arg(broken.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!(output.status.code(), Some(1), "with {kib} KiB a file: {stderr}");
        failed.push(stderr.lines().rev().find(|line| line.contains("stage ")).unwrap_or_default().to_owned());
    }
    assert!(failed[0].contains("stage curate: cannot write"), "{failed:?}");
    assert!(failed[1].contains("stage merge: cannot write"), "{failed:?}");
    run(broken.path(), &["--resume"]);
    assert!(adapter(whole.path()) == adapter(broken.path()), "the adapters differ");
    assert_eq!(report(whole.path()), report(broken.path()));
}

#[test]
fn a_fresh_run_of_the_same_seed_gives_the_same_bytes_and_other_settings_do_not_resume() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(a.path(), &[]);
    run(b.path(), &[]);
    assert!(adapter(a.path()) == adapter(b.path()));
    assert_eq!(report(a.path()), report(b.path()));
    let refused = start(a.path(), &["--resume", "--dtype", "bf16"]).wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("other settings"), "{stderr}");
    let only = run(a.path(), &["--only", "judge,report"]);
    assert!(only.contains("judge: stage 8") && only.contains("sft: done before"), "{only}");
}

#[test]
fn settings_of_a_late_stage_make_that_stage_again_and_no_training() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(config()).unwrap().replace("\"../", "\"");
    let fixtures = config().parent().unwrap().parent().unwrap().canonicalize().unwrap();
    let text = text.replace("bluesky/", &format!("{}/bluesky/", fixtures.display()));
    let text = text.replace("id = \"llama\"", &format!("id = \"{}/tiny/llama\"", fixtures.display()));
    let out = dir.path().join("out");
    let run = |text: &str, more: &[&str]| {
        let (code, stderr) = run_text(dir.path(), text, more);
        (code == Some(0), stderr)
    };
    assert!(run(&text, &[]).0);
    let before = adapter(&out);
    let asked = text.replace("[judge]\nmax_questions = 4", "[judge]\nmax_questions = 3");
    assert_ne!(asked, text);
    let (ok, stderr) = run(&asked, &["--resume"]);
    assert!(ok && stderr.contains("rag: done before") && stderr.contains("dpo: done before"), "{stderr}");
    assert!(stderr.contains("judge: stage 8") && stderr.contains("report: stage 10"), "{stderr}");
    assert_eq!(report(&out)["judge"]["n"], 3);
    assert!(adapter(&out) == before);
    let preferred = asked.replace("[dpo]\nsteps = 4", "[dpo]\nsteps = 2");
    assert_ne!(preferred, asked);
    let (ok, stderr) = run(&preferred, &["--only", "judge,report"]);
    assert!(!ok && stderr.contains("add dpo to --only"), "{stderr}");
    let (ok, stderr) = run(&preferred, &["--resume"]);
    assert!(ok && stderr.contains("sft: done before"), "{stderr}");
    for stage in ["dpo: stage 5", "merge: stage 6", "judge: stage 8", "rag: stage 9"] {
        assert!(stderr.contains(stage), "{stage}: {stderr}");
    }
    assert_eq!(report(&out)["dpo"]["steps"], 2);
    assert!(adapter(&out) != before);
    let (ok, stderr) = run(&preferred.replace("[sft]\nsteps = 8", "[sft]\nsteps = 7"), &["--resume"]);
    assert!(!ok && stderr.contains("other settings, data or model"), "{stderr}");
}

#[test]
fn it_runs_on_data_that_it_has_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let alpaca = dir.path().join("alpaca.json");
    let rows: Vec<Value> = (0..40)
        .map(|i| {
            serde_json::json!({
                "instruction": format!("Name {} facts about the number {i}, please.", i % 7 + 2),
                "input": "",
                "output": format!("The number {i} is {}. It comes after {}. It is used in counting things.",
                    if i % 2 == 0 { "even" } else { "odd" }, i - 1),
            })
        })
        .collect();
    std::fs::write(&alpaca, serde_json::to_string(&rows).unwrap()).unwrap();
    let out = dir.path().join("out");
    let stderr = run(&out, &["--sft", alpaca.to_str().unwrap()]);
    assert!(stderr.contains("dpo: skipped, there are no preference pairs"), "{stderr}");
    let text = std::fs::read_to_string(out.join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report.get("dpo").is_none() && report.get("rag").is_none());
    assert!(report["judge"]["n"].as_u64().unwrap() > 0);
    assert!(report["curate"]["detection"].as_str().unwrap().contains("lpaca"), "{}", report["curate"]);
    // How long a row may be was found from these rows, not taken from the configuration of others.
    assert_eq!(report["tokenize"]["max_length"], 256);
}

/// One file of pairs trains both stages: imitation of the chosen answers, then preference, with the same rows held out.
#[test]
fn pairs_alone_are_enough_and_nothing_held_out_is_imitated() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..40)
        .map(|i| {
            let topic = (0..8).map(|k| format!("w{i}x{k}")).collect::<Vec<_>>().join(" ");
            let said = |answer: &str| format!("\n\nHuman: What is {topic}?\n\nAssistant: {answer}");
            let chosen = said(&format!("It is {} and it comes right after {}, of course.", i % 7, i * 3));
            serde_json::json!({"chosen": chosen, "rejected": said("I would rather not talk about numbers today.")})
                .to_string()
                + "\n"
        })
        .collect();
    let file = dir.path().join("pairs.jsonl");
    std::fs::write(&file, rows).unwrap();
    let (file, out) = (file.to_str().unwrap(), dir.path().join("out"));
    let stderr = run(&out, &["--sft", file, "--preference", file, "--only", "curate,split"]);
    assert!(stderr.contains("are read as conversations: the prompt and the chosen answer"), "{stderr}");
    let prompts = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(out.join("data").join(name)).unwrap();
        let first = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap();
            let turns = row.get("messages").or(row.get("prompt")).unwrap();
            turns[0]["content"].as_str().unwrap().to_owned()
        };
        text.lines().map(first).collect()
    };
    let (imitated, held_out) = (prompts("train.jsonl"), prompts("preference_validation.jsonl"));
    assert!(imitated.len() >= 30 && !held_out.is_empty(), "{} {}", imitated.len(), held_out.len());
    assert!(held_out.iter().all(|prompt| !imitated.contains(prompt)));
}

/// Personal data leaves the pairs as it leaves the conversations, and ids that gave way for it are still matched.
#[test]
fn pairs_of_a_help_desk_lose_their_personal_data_and_are_still_held_out_together() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..40)
        .map(|i| {
            let topic = (0..8).map(|k| format!("w{i}x{k}")).collect::<Vec<_>>().join(" ");
            let row = serde_json::json!({
                "id": format!("customer{i}@example.org"),
                "prompt": format!("What can be done about {topic}?"),
                "chosen": format!("Please write to agent{i}@example.org and ask for the {topic} form, it takes a day."),
                "rejected": format!("I would ask agent{i}@example.org, who may or may not know something of it."),
            });
            row.to_string() + "\n"
        })
        .collect();
    let file = dir.path().join("pairs.jsonl");
    std::fs::write(&file, rows).unwrap();
    let config = small("pairs.jsonl").replace("'instructions'", "'tickets'");
    let config = config.replace("[data]\n", "[data]\npreference = 'pairs.jsonl'\n");
    let out = dir.path().join("out");
    let (code, stderr) = run_text(dir.path(), &config, &["--only", "curate,split"]);
    assert_eq!(code, Some(0), "{stderr}");
    let mut ids = std::collections::BTreeMap::new();
    for name in ["train", "validation", "preference_train", "preference_validation"] {
        let text = std::fs::read_to_string(out.join(format!("data/{name}.jsonl"))).unwrap();
        assert!(!text.contains("example.org"), "{name}: {text}");
        let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        ids.insert(name, text.lines().map(of).collect::<std::collections::BTreeSet<_>>());
    }
    assert!(ids["preference_validation"].len() >= 4, "{ids:?}");
    assert!(ids["train"].is_disjoint(&ids["preference_validation"]), "{ids:?}");
    assert!(ids["train"].len() >= 30 && ids["validation"] == ids["preference_validation"], "{ids:?}");
    for name in ["dropped.jsonl", "data/edits.jsonl"] {
        let told = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(!told.contains("example.org"), "{name}: {told}");
    }
}

/// Conversations that have nothing in common, one a line.
fn chats(n: usize) -> String {
    let words = |i: usize| (0..12).map(|k| format!("w{i}x{k}")).collect::<Vec<_>>().join(" ");
    let row = |i: usize| {
        let turns =
            [("user", format!("Why {}?", words(i))), ("assistant", format!("Because {}.", words(i + 500)))];
        let turns = turns.map(|(role, content)| serde_json::json!({"role": role, "content": content}));
        serde_json::json!({"messages": turns}).to_string() + "\n"
    };
    (0..n).map(row).collect()
}

#[test]
fn what_no_run_left_in_the_folder_stays() {
    let dir = tempfile::tempdir().unwrap();
    let proj = dir.path().join("proj");
    for (name, content) in [("data/chats.jsonl", chats(20)), ("model/config.json", "{}".to_owned())] {
        std::fs::create_dir_all(proj.join(name).parent().unwrap()).unwrap();
        std::fs::write(proj.join(name), content).unwrap();
    }
    let model = config().with_file_name("llama");
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
            .current_dir(&proj)
            .args(["pipeline", "--dtype", "fp32", "--model"])
            .arg(model.canonicalize().unwrap())
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for more in [&[][..], &["--resume"], &["--only", "curate"]] {
        let (code, stderr) = run(&[&["--sft", "data/chats.jsonl", "--out", "."], more].concat());
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("./model, ./data: nothing says that an earlier run left this"), "{stderr}");
    }
    // What an earlier run did leave is no input of the next one into the same folder.
    let (code, stderr) = run(&["--sft", "data/chats.jsonl", "--out", "../tuned", "--only", "curate,split"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stderr) = run(&["--sft", "../tuned/data/train.jsonl", "--out", "../tuned"]);
    assert!(code == Some(1) && stderr.contains("train.jsonl lies in ../tuned/data"), "{stderr}");
    for name in ["proj/data/chats.jsonl", "proj/model/config.json", "tuned/data/train.jsonl"] {
        assert!(dir.path().join(name).is_file(), "{name} is gone");
    }
}

/// The tiny model on `sft`, a file beside the configuration.
fn small(sft: &str) -> String {
    let tiny = config().with_file_name("llama").canonicalize().unwrap();
    format!(
        "version = 1\ntitle = 't'\n[data]\nsft = '{sft}'\n[model]\nid = '{}'\nencoder = 'none'\ndtype = 'fp32'\n\
         [curate]\nrecipe = 'instructions'\n[judge]\nmax_new_tokens = 4\n",
        tiny.display()
    )
}

#[test]
fn what_would_stop_a_late_stage_stops_before_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::write(dir.path().join("chats.jsonl"), chats(20)).unwrap();
    std::fs::write(dir.path().join("q.jsonl"), "").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let base = small("chats.jsonl").replace("[judge]\nmax_new_tokens = 4\n", "");
    let with = |key: &str, value: &str| base.replace("[data]\n", &format!("[data]\n{key} = '{value}'\n"));
    let check = |text: String, expect: &str| {
        let (code, stderr) = run_text(dir.path(), &text, &[]);
        assert_eq!(code, Some(1), "{text}\n{stderr}");
        assert!(stderr.contains(expect) && !stderr.contains("stage 1"), "{expect:?} is not in: {stderr}");
    };
    let paired = with("preference", "chats.jsonl");
    check(format!("{paired}[dpo]\nbeta = -1.0\n"), "p.toml: [dpo]: preference objective: beta is -1");
    check(format!("{paired}[dpo]\nloss = 'orpo'\n"), "orpo");
    check(format!("{paired}[dpo]\nschedule = 'cosin'\n"), "[dpo]: unknown schedule \"cosin\"");
    check(
        format!("{paired}[dpo]\nreference_adapter = 'empty'\n"),
        "goes with a reference that is another model",
    );
    check(format!("{base}[sft]\nschedule = 'cosin'\n"), "[sft]: unknown schedule \"cosin\"");
    check(format!("{base}[sft]\noptimizer = 'sgd'\n"), "known: adamw, adamw8bit");
    check(format!("{base}[sft]\nlr = -1.0\n"), "[sft]: lr is -1");
    check(format!("{base}[lora]\nr = 0\n"), "[lora]: the rank is 0");
    check(format!("{base}[lora]\ndropout = 1.0\n"), "lora_dropout is 1");
    check(format!("{base}[split]\nvalidation = 1.5\n"), "[split]: validation is 1.5");
    check(format!("{base}[tokenize]\ntruncation = 'up'\n"), "unknown truncation \"up\"");
    check(format!("{base}[tokenize]\nmax_length = 99999\n"), "lower it");
    check(format!("{base}[tokenize]\ntemplate = 'nosuch'\n"), "[tokenize]: ");
    check(format!("{base}[judge]\nmodel = 'big'\n"), "url is empty");
    check(format!("{base}[judge]\nurl = 'http://127.0.0.1:1'\n"), "model is empty");
    check(with("questions", "q.jsonl"), "q.jsonl holds no question");
    check(with("documents", "empty"), "holds no .md or .txt file");
    std::fs::write(dir.path().join("empty/a.md"), "A page.").unwrap();
    check(with("documents", "empty") + "[rag]\noverlap_chars = 700\n", "[rag]: ");
    check(base.replace("dtype = 'fp32'", "dtype = 'fp31'"), "unknown dtype fp31");
    assert!(!out.exists());
}

#[test]
fn where_nothing_can_be_held_out_it_says_so_before_training_or_leaves_perplexity_out() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::write(dir.path().join("few.jsonl"), chats(5)).unwrap();
    let run = |text: String| run_text(dir.path(), &text, &[]);
    let (code, stderr) = run(small("few.jsonl"));
    assert!(code == Some(1) && stderr.contains("stage split: 5 conversations are too few"), "{stderr}");
    assert!(stderr.contains("at least 6") && stderr.contains("split.validation = 0.1"), "{stderr}");
    let (code, stderr) = run(small("few.jsonl") + "[split]\nvalidation = 0.0\n");
    assert!(code == Some(1) && stderr.contains("split.validation is 0, so nothing is held out"), "{stderr}");
    let question = "{\"question\": \"Why?\", \"reference\": \"Because.\"}\n";
    std::fs::write(dir.path().join("q.jsonl"), question).unwrap();
    let asked = small("few.jsonl").replace("[data]\n", "[data]\nquestions = 'q.jsonl'\n");
    let (code, stderr) = run(asked + "[sft]\nsteps = 2\n");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("perplexity: skipped, nothing is held out"), "{stderr}");
    let report = report(&out);
    assert!(report.get("perplexity").is_none() && report["judge"]["n"] == 1, "{report}");
    assert!(out.join("report.html").is_file());
}

#[test]
fn bad_configurations_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str, expect: &str| {
        let (code, stderr) = run_text(dir.path(), text, &[]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expect) && !stderr.contains("panicked"), "{expect:?} is not in: {stderr}");
    };
    let base = "version = 1\ntitle = 't'\n[data]\nsft = 'rows.jsonl'\n";
    check(
        "version = 1\ntitle = 't'\nsead = 3\n[data]\nsft = 'x'\n",
        "p.toml:3: unknown key `sead`: did you mean `seed`?",
    );
    check(&base.replace("version = 1", "version = 9"), "version 9 is unknown");
    check(&format!("{base}[model]\nid = 'nobody/no-such-model-at-all'\n"), "rows.jsonl");
    std::fs::write(dir.path().join("rows.jsonl"), "").unwrap();
    let tiny = config().parent().unwrap().join("llama");
    let model = format!("[model]\nid = '{}'\ndtype = 'fp32'\n", tiny.display());
    check(&format!("{base}{model}"), "rows.jsonl");
    std::fs::write(dir.path().join("rows.jsonl"), "{\"question\": \"a\", \"answer\": \"ok\"}\n".repeat(3))
        .unwrap();
    check(&format!("{base}{model}"), "no conversation is left to train on");
    let words = |i: usize| (0..12).map(|k| format!("w{i}x{k}")).collect::<Vec<_>>().join(" ");
    let rows: String = (0..20)
        .map(|i| format!("{{\"question\": \"Why {}?\", \"answer\": \"{}.\"}}\n", words(i), words(i + 50)))
        .collect();
    std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    std::fs::write(
        dir.path().join("r.toml"),
        "version = 1\nname = 'splits'\n[[step]]\nkind = 'split'\nvalidation = 0.5\n",
    )
    .unwrap();
    check(&format!("{base}{model}[curate]\nrecipe = 'r.toml'\n"), "take the step `split` out");
}
