//! `ferrotune pairs`, `ferrotune rlaif`, and how `ferrotune dpo` treats the pairs it is given.

use serde_json::{Value, json};

use super::{Files, fails, ferrotune, tiny};

/// Runs a command that must succeed; its one JSON document and what it said on stderr.
fn json_of(args: &[&str]) -> (Value, String) {
    let out = ferrotune(&[args, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?}: {stderr}");
    (serde_json::from_slice(&out.stdout).unwrap(), stderr)
}

/// The rows of a file that a command wrote.
fn read(files: &Files, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(files.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const NOUNS: [&str; 8] = ["kettle", "lamp", "ladder", "violin", "carpet", "hammer", "teapot", "bicycle"];

fn pair(i: usize, chosen: &str) -> Value {
    let noun = NOUNS[i % 8];
    let prompt = format!(
        "Question {i}: what should somebody know who wants to buy a {noun} and has {i} hours for it?"
    );
    json!({"prompt": prompt, "chosen": chosen, "rejected": "No."})
}

#[test]
fn pairs_are_checked_set_aside_and_split() {
    let files = Files::new();
    let mut rows: Vec<Value> = (0..16).map(|i| pair(i, "Yes, and it is a good one too.")).collect();
    rows.push(json!({"prompt": "Is it?", "chosen": "No. ", "rejected": "No."}));
    rows.push(json!({"prompt": "May I?", "chosen": "I'm sorry, but I can't help.", "rejected": "Sure."}));
    let file = files.rows("pairs.jsonl", &rows);
    let (seen, _) = json_of(&["pairs", &file]);
    assert_eq!(seen["check"]["n_pairs"], 18);
    assert_eq!(seen["check"]["counts"], json!({"identical": 1, "refusal_chosen": 1}));
    assert!(seen["check"]["length"]["longer_is_chosen"].as_f64().unwrap() > 0.9);

    let out = files.path("out");
    let args =
        ["pairs", &file, "--set-aside", "identical,refusal_chosen", "--held-out", "0.25", "--out", &out];
    let (seen, _) = json_of(&[&args[..], &["--model", &tiny(), "--max-length", "90"]].concat());
    assert_eq!(seen["written"]["aside"], 2);
    assert_eq!(seen["written"]["train"].as_u64().unwrap() + seen["written"]["held"].as_u64().unwrap(), 16);
    assert!(seen["written"]["held"].as_u64().unwrap() >= 2, "{}", seen["written"]);
    let fit = &seen["fit"];
    let all = ["whole", "cut", "lost"].map(|key| fit[key].as_u64().unwrap());
    assert_eq!(all.iter().sum::<u64>(), 18, "{fit}");
    assert!(all[0] > 0 && all[1] + all[2] > 0, "{fit}");
    let asked =
        |name: &str| read(&files, name).iter().map(|row| row["prompt"].to_string()).collect::<Vec<_>>();
    let held = asked("out/held.jsonl");
    assert!(asked("out/train.jsonl").iter().all(|prompt| !held.contains(prompt)));
    assert_eq!(read(&files, "out/aside.jsonl")[0]["flag"]["flag"], "identical");
    // What was written is read again as pairs.
    assert_eq!(json_of(&["pairs", &files.path("out/held.jsonl")]).0["check"]["n_pairs"], held.len());

    fails(&["pairs", &file, "--set-aside", "identical"], 1, "--out FOLDER");
    fails(&["pairs", &file, "--set-aside", "same", "--out", &out], 1, "unknown flag \"same\"");
}

#[test]
fn scores_thumbs_and_logs_become_pairs() {
    let files = Files::new();
    let scored = files.rows(
        "scored.jsonl",
        &[
            json!({"id": "a", "prompt": "q", "answers": ["x y", "y", "z"], "scores": [3, 1, 2.5]}),
            json!({"prompt": "q", "answers": ["x"]}),
            json!({"prompt": "q", "answers": ["x", "y"], "scores": [1, 1]}),
        ],
    );
    let out = files.path("scored");
    let (seen, stderr) = json_of(&["pairs", &scored, "--from", "scores", "--min-gap", "1", "--out", &out]);
    assert_eq!((&seen["written"]["train"], &seen["unusable_rows"]), (&json!(2), &json!(2)));
    assert!(stderr.contains("scored.jsonl:2: no answer has a score"), "{stderr}");
    assert!(stderr.contains("scored.jsonl:3: no two scores differ, or not by 1"), "{stderr}");
    let aside = read(&files, "scored/aside.jsonl");
    assert_eq!((&aside[0]["line"], &aside[1]["row"]["scores"]), (&json!(2), &json!([1, 1])));
    assert_eq!(aside[1]["flag"], "unusable");
    // The file is read as any other: a mark at its beginning, a broken line, scores as texts.
    let odd = files.with(
        "odd.jsonl",
        "\u{feff}{\"prompt\": \"q\", \"answers\": [\"x\", \"y\"], \"scores\": [\"3\", \"1\"]}\n{broken\n",
    );
    let (seen, stderr) = json_of(&["pairs", &odd, "--from", "scores"]);
    assert_eq!((&seen["check"]["n_pairs"], &seen["unusable_rows"]), (&json!(1), &json!(1)), "{stderr}");
    fails(&["pairs", &scored, "--from", "scores", "--min-gap", "NaN"], 1, "--min-gap is NaN");
    assert_eq!(read(&files, "scored/train.jsonl")[0]["meta"]["margin"], 2.0);

    let log = files.rows(
        "log.jsonl",
        &[json!({"prompt": "q", "shown": [
        {"answer": "a", "outcome": "regenerated"}, {"answer": "b", "outcome": "copied"}]})],
    );
    assert_eq!(json_of(&["pairs", &log, "--from", "log"]).0["check"]["n_pairs"], 1);
    let thumb = |label: bool, answer: &str| json!({"prompt": "q", "completion": answer, "label": label});
    let thumbs = files.rows("thumbs.jsonl", &[thumb(true, "x"), thumb(false, "y")]);
    assert_eq!(json_of(&["pairs", &thumbs, "--from", "thumbs"]).0["check"]["n_pairs"], 1);
    // Thumbs are read as KTO reads them: any format, and bad rows told with their lines.
    let csv = files.path("thumbs.csv");
    std::fs::write(&csv, "prompt,completion,label\nq,x,true\nq,y,0\nq,z,maybe\nr,x,true\n").unwrap();
    let (seen, stderr) = json_of(&["pairs", &csv, "--from", "thumbs"]);
    assert_eq!(seen["check"]["n_pairs"], 1);
    assert!(stderr.contains("thumbs.csv:4: bad_value (`label` must be true or false"), "{stderr}");
    let apart = files.rows("apart.jsonl", &[thumb(true, "x")]);
    fails(&["pairs", &apart, "--from", "thumbs"], 1, "no prompt has an answer with a thumb up and one with");
    fails(&["pairs", &scored, "--from", "thumbs"], 1, "holds pairs already");
    fails(&["pairs", &log, "--from", "thumbs"], 1, "no known shape has the columns [prompt, shown]");
    fails(&["pairs", &log, "--from", "likes"], 1, "known: pairs, scores, ranking, thumbs, log");
    fails(&["pairs", &log, "--from", "scores"], 1, "no row gave a pair");
}

/// `ferrotune dpo` on `data` in batches of two into `out`, and what it said.
fn dpo(files: &Files, data: &str, out: &str, more: &[&str]) -> (Value, String) {
    let (tiny, out) = (tiny(), files.path(out));
    let args = ["dpo", "--model", &tiny, "--data", data, "--batch", "2", "--dtype", "fp32", "--out", &out];
    json_of(&[&args[..], more].concat())
}

#[test]
fn thumbs_train_kto_as_they_are() {
    let files = Files::new();
    let thumb = |i: usize| json!({"prompt": format!("q {i}"), "completion": format!("answer {i}"), "label": i.is_multiple_of(2)});
    let thumbs = files.rows("thumbs.jsonl", (0..6).map(thumb));
    let held = files.rows("held.jsonl", &[pair(0, "Yes."), pair(1, "Yes, it is.")]);
    let more = ["--loss", "kto", "--validation", &held, "--steps", "2"];
    let (seen, stderr) = dpo(&files, &thumbs, "kto", &more);
    assert!(stderr.contains("6 of 6 rows"), "{stderr}");
    assert_eq!(seen["steps"], 2);
    let last = seen["validations"].as_array().unwrap().last().unwrap();
    assert!(last[1]["eval_drift/kl"].as_f64().unwrap() >= 0.0, "{last}");
}

#[test]
fn long_pairs_are_cut_unless_they_are_to_be_dropped() {
    let files = Files::new();
    let long = "word ".repeat(60);
    let rows: Vec<Value> = (0..4).map(|i| pair(i, if i % 2 == 0 { "Yes." } else { &long })).collect();
    let file = files.rows("pairs.jsonl", &rows);
    let run = |truncation: &[&str], out: &str| {
        dpo(&files, &file, out, &[&["--max-length", "120", "--steps", "1"], truncation].concat())
    };
    let (seen, said) = run(&[], "kept");
    assert!(said.contains("4 of 4 rows") && said.contains("truncated"), "{said}");
    assert!(said.contains("4 pairs of 4 prompts"), "the pairs' check is shown: {said}");
    // One step of two pairs needs the reference of two pairs.
    assert_eq!(seen["reference_pairs"], 2);
    let (_, said) = run(&["--truncation", "drop"], "dropped");
    assert!(said.contains("2 of 4 rows") && said.contains("too_long"), "{said}");
    run(&["--truncation", "keep_end"], "end");
}

#[test]
fn the_reference_may_be_another_model() {
    let files = Files::new();
    let rows: Vec<Value> = (0..4).map(|i| pair(i, "Yes, it is.")).collect();
    let (file, held) = (files.rows("pairs.jsonl", &rows), files.rows("held.jsonl", &rows[..2]));
    let run = |more: &[&str], out: &str| {
        let answers = ["--answers", "2", "--answer-tokens", "8"];
        let settings = ["--validation", &held, "--steps", "2", "--lr", "1e-2"];
        dpo(&files, &file, out, &[&settings[..], &answers, more].concat())
    };
    let (first, _) = run(&[], "first");
    assert!((first["losses"][0].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6);
    assert_eq!(first["validations"][0][1]["drift"]["kl"], 0.0);
    assert_eq!(first["answer_tokens"]["before"]["n"], 2);

    // The same model under its own name is the same reference; its head is its own, so the KL is not told.
    let (same, said) = run(&["--reference", &tiny()], "same");
    assert!(said.contains("the reference is the model"), "{said}");
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-5;
    assert!(
        (0..2).all(|i| close(&first["losses"][i], &same["losses"][i])),
        "{} {}",
        first["losses"],
        same["losses"]
    );
    assert_eq!(same["validations"][0][1]["drift"]["kl"], Value::Null);

    // With the adapter that the first run made, the reference has moved: the first loss is not ln 2.
    let adapter = files.path("first/adapter");
    let (moved, said) = run(&["--reference", &tiny(), "--reference-adapter", &adapter], "moved");
    assert!(said.contains("with the adapter"), "{said}");
    assert!((moved["losses"][0].as_f64().unwrap() - std::f64::consts::LN_2).abs() > 1e-3);
    fails(
        &[
            "dpo",
            "--loss",
            "orpo",
            "--reference",
            "base",
            "--model",
            &tiny(),
            "--data",
            &file,
            "--out",
            &files.path("x"),
        ],
        1,
        "goes with DPO",
    );
}

#[test]
fn answers_are_sampled_and_judged() {
    let files = Files::new();
    let ask = |i: usize| json!({"id": format!("q{i}"), "question": format!("May I return item {i}?"), "reference": "Yes, within 30 days."});
    let prompts = files.rows("prompts.jsonl", (0..3).map(ask));
    let out = files.path("pairs.jsonl");
    let args = [
        "rlaif",
        "--model",
        &tiny(),
        "--dtype",
        "fp32",
        "--samples",
        "2",
        "--max-new-tokens",
        "6",
        "--out",
        &out,
    ];
    let (seen, _) = json_of(&[&args[..], &["--prompts", &prompts]].concat());
    assert_eq!(
        (&seen["prompts"], &seen["answers"], &seen["judge"]),
        (&json!(3), &json!(6), &json!("reference"))
    );
    let sum = ["ties", "inconsistent", "cycles", "pairs"]
        .map(|key| seen[key].as_u64().unwrap())
        .iter()
        .sum::<u64>();
    assert_eq!(sum, seen["comparisons"].as_u64().unwrap());
    assert_eq!(read(&files, "pairs.jsonl").len() as u64, seen["pairs"].as_u64().unwrap());
    let open = files.rows("open.jsonl", &[json!({"prompt": "Tell me a story."})]);
    fails(&[&args[..], &["--prompts", &open]].concat(), 1, "no reference answer");
    fails(
        &[&args[..], &["--prompts", &files.rows("odd.jsonl", &[json!({"text": "x"})])]].concat(),
        1,
        "no question",
    );
}
