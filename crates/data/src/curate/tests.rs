#![expect(clippy::print_stdout, reason = "tests tell what they measured, or why they are skipped")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bluesky").join(name)
}

#[test]
fn the_tickets_recipe_catches_what_was_planted() {
    let planted: Value = serde_json::from_slice(&fs::read(fixture("planted.json")).unwrap()).unwrap();
    let outcome = run(&[fixture("tickets.jsonl")], &Recipe::builtin("tickets").unwrap(), &mut ()).unwrap();
    let kept: BTreeMap<&str, String> = outcome
        .kept
        .iter()
        .map(|r| (r.id(), r.texts().iter().map(|t| t.1).collect::<Vec<_>>().join("\n")))
        .collect();
    let lines: BTreeSet<usize> = outcome.dropped.iter().map(|d| d.origin.line).collect();
    let text = |v: &Value, key: &str| v[key].as_str().map(str::to_owned);
    let mut failures = Vec::new();
    for (kind, entries) in planted["planted"].as_object().unwrap() {
        let entries = entries.as_array().unwrap();
        let is_caught = |e: &&Value| {
            if let Some(line) = e["line"].as_u64() {
                return lines.contains(&(line as usize));
            }
            if let Some(cluster) = e["cluster"].as_array() {
                return cluster.iter().filter(|id| kept.contains_key(id.as_str().unwrap())).count() <= 1;
            }
            let row = kept.get(e["id"].as_str().unwrap());
            match e["expect"].as_str() {
                Some("dropped") => row.is_none(),
                _ => row.is_none_or(|row| {
                    // A repaired name is personal data, and goes as such.
                    let stays = |p: String| row.contains(&p) || row.contains("[PERSON_");
                    text(e, "absent").is_none_or(|a| !row.contains(&a))
                        && text(e, "present").is_none_or(stays)
                }),
            }
        };
        let missed: Vec<&Value> = entries.iter().filter(|e| !is_caught(e)).collect();
        println!("{kind}: {} of {}", entries.len() - missed.len(), entries.len());
        for e in &missed {
            println!("  missed {e}: {:?}", e["id"].as_str().and_then(|id| kept.get(id)));
        }
        if (missed.len() as f64) > 0.05 * entries.len() as f64 {
            failures.push(kind.clone());
        }
    }
    let clean: Vec<&str> = planted["clean"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    let lost: Vec<&&str> = clean.iter().filter(|id| !kept.contains_key(**id)).collect();
    println!("clean rows lost: {} of {}", lost.len(), clean.len());
    for d in outcome.dropped.iter().filter(|d| lost.iter().any(|id| **id == d.id)) {
        println!("  lost {} {} {}", d.id, d.reason, d.detail);
    }
    for e in planted["not_pii"].as_array().unwrap() {
        let present = text(e, "present").unwrap();
        if kept.get(e["id"].as_str().unwrap()).is_some_and(|row| !row.contains(&present)) {
            println!("  not PII but gone: {e}");
            failures.push("not_pii".into());
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
    assert!(lost.len() as f64 <= 0.02 * clean.len() as f64);
    assert_eq!(
        outcome.report.read,
        outcome.kept.len() + outcome.dropped.len(),
        "no row is lost without a word"
    );
    assert_eq!(outcome.report.n_dropped(), outcome.dropped.len());
}

/// The first tickets, in a file of their own: enough of every kind, and quick.
fn some_tickets(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("some.jsonl");
    let bytes = fs::read(fixture("tickets.jsonl")).unwrap();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').take(250).collect();
    fs::write(&path, lines.concat()).unwrap();
    path
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let recipe = Recipe::builtin("tickets").unwrap();
    let folder = TempDir::new().unwrap();
    let path = some_tickets(&folder);
    let with = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| run(std::slice::from_ref(&path), &recipe, &mut ()).unwrap())
    };
    assert_eq!(with(1), with(5));
}

#[test]
fn a_second_run_over_what_was_kept_keeps_it() {
    let recipe = Recipe::builtin("tickets").unwrap();
    let folder = TempDir::new().unwrap();
    let report = run_to(folder.path(), &[some_tickets(&folder)], &recipe, &mut ()).unwrap();
    let again = run(&[folder.path().join("kept.jsonl")], &recipe, &mut ()).unwrap();
    assert_eq!(
        again.kept.len(),
        report.kept,
        "{:?}",
        again.dropped.iter().map(|d| (&d.id, &d.reason, &d.detail)).collect::<Vec<_>>()
    );
    assert_eq!(again.edits, vec![]);
    for name in ["dropped.jsonl", "edits.jsonl", "report.json"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
}

#[test]
fn disk_and_memory_agree() {
    let recipe =
        Recipe::parse("version = 1\n[[step]]\nkind = \"placeholder\"\n[[step]]\nkind = \"html\"").unwrap();
    let folder = TempDir::new().unwrap();
    let outcome = run(&[fixture("tickets.jsonl")], &recipe, &mut ()).unwrap();
    let report = run_to(folder.path(), &[fixture("tickets.jsonl")], &recipe, &mut ()).unwrap();
    assert_eq!(report, outcome.report);
    let lines = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap().lines().count();
    assert_eq!(lines("kept.jsonl"), outcome.kept.len());
    assert_eq!(lines("dropped.jsonl"), outcome.dropped.len());
    assert_eq!(lines("edits.jsonl"), outcome.edits.len());
}

/// A folder with a recipe, its inputs and the files that its settings name.
fn run_in(folder: &TempDir, inputs: &[&str], recipe: &str) -> Result<Outcome, DataError> {
    fs::write(folder.path().join("r.toml"), format!("version = 1\n{recipe}")).unwrap();
    let recipe = Recipe::load(&folder.path().join("r.toml"))?;
    let inputs: Vec<PathBuf> = inputs.iter().map(|name| folder.path().join(name)).collect();
    let outcome = run(&inputs, &recipe, &mut ())?;
    let held_out: usize = outcome.held_out.values().map(Vec::len).sum();
    let out = outcome.kept.len() + outcome.dropped.len() + held_out;
    assert_eq!(outcome.report.read + outcome.report.repeats, out, "no row is lost without a word");
    Ok(outcome)
}

/// `n` rows that have nothing in common with each other or another file's, in a file.
fn write_rows(folder: &TempDir, name: &str, n: usize) {
    let word = |i: usize| ["river", "copper", "window", "melon", "engine", "feather", "island"][i % 7];
    let text = |i: usize| {
        let words: Vec<String> = (0..8).map(|k| format!("{}{name}{}", word(i + k * k), i * 31 + k)).collect();
        words.join(" ")
    };
    let line =
        |i| json!({"id": format!("{name}-{i}"), "question": text(i), "answer": text(i + n)}).to_string();
    let lines: Vec<String> = (0..n).map(line).collect();
    fs::write(folder.path().join(format!("{name}.jsonl")), lines.join("\n")).unwrap();
}

#[test]
fn a_recipe_keeps_apart_splits_and_mixes() {
    let folder = TempDir::new().unwrap();
    write_rows(&folder, "desk", 100);
    write_rows(&folder, "general", 40);
    let desk = fs::read_to_string(folder.path().join("desk.jsonl")).unwrap();
    fs::write(folder.path().join("exam.jsonl"), desk.lines().take(3).collect::<Vec<_>>().join("\n")).unwrap();
    let outcome = run_in(
        &folder,
        &["desk.jsonl", "general.jsonl"],
        r#"
        [[step]]
        kind = "decontaminate"
        against = [{ path = "exam.jsonl", name = "exam" }]
        [[step]]
        kind = "split"
        validation = 0.1
        [[step]]
        kind = "mix"
        replay = 0.2
        [[step.source]]
        name = "general.jsonl"
        replay = true"#,
    )
    .unwrap();
    assert_eq!(outcome.report.dropped["contaminated"], 3);
    assert!(outcome.dropped[0].detail.starts_with("exam desk-0"), "{}", outcome.dropped[0].detail);
    assert_eq!(outcome.held_out["validation"].len(), outcome.report.held_out["validation"]);
    assert_eq!(outcome.report.held_out["validation"], 14);
    let general = outcome.kept.iter().filter(|r| r.origin.file == "general.jsonl").count();
    let share = general as f64 / outcome.kept.len() as f64;
    assert!((share - 0.2).abs() < 0.02, "{share}");
    assert!(outcome.report.dropped["not_sampled"] > 0);
    assert_eq!(outcome.report.per_step[2].notes["general.jsonl"]["taken"], general);
    let out = TempDir::new().unwrap();
    let recipe = Recipe::load(&folder.path().join("r.toml")).unwrap();
    let inputs = ["desk.jsonl", "general.jsonl"].map(|name| folder.path().join(name));
    run_to(out.path(), &inputs, &recipe, &mut ()).unwrap();
    let lines = |name: &str| fs::read_to_string(out.path().join(name)).unwrap().lines().count();
    assert_eq!((lines("kept.jsonl"), lines("validation.jsonl")), (outcome.kept.len(), 14));
}

#[test]
fn a_mixture_may_repeat_rows_and_tells_so() {
    let folder = TempDir::new().unwrap();
    write_rows(&folder, "desk", 20);
    let outcome = run_in(&folder, &["desk.jsonl"], "[[step]]\nkind = \"mix\"\nrows = 50").unwrap();
    assert_eq!((outcome.kept.len(), outcome.report.repeats, outcome.dropped.len()), (50, 30, 0));
    let error = run_in(
        &folder,
        &["desk.jsonl"],
        "[[step]]\nkind = \"mix\"\nsource = [{ name = \"dsk.jsonl\", weight = 2.0 }]",
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("dsk.jsonl") && error.contains("there are desk.jsonl"), "{error}");
}

#[test]
fn what_another_file_holds_goes_and_copied_passages_too() {
    let folder = TempDir::new().unwrap();
    write_rows(&folder, "desk", 20);
    let desk = fs::read_to_string(folder.path().join("desk.jsonl")).unwrap();
    fs::write(folder.path().join("old.jsonl"), desk.lines().skip(15).collect::<Vec<_>>().join("\n")).unwrap();
    let step = "[[step]]\nkind = \"dedup_against\"\nagainst = [\"old.jsonl\"]\nexact_only = true";
    let outcome = run_in(&folder, &["desk.jsonl"], step).unwrap();
    assert_eq!(outcome.report.dropped["exact_duplicate"], 5);
    let passage = "we use cookies to make this site better for you";
    let line = |text: &str| json!({"text": format!("{text} {passage}")}).to_string();
    fs::write(folder.path().join("pages.jsonl"), [line("one"), line("two")].join("\n")).unwrap();
    let step = "[[step]]\nkind = \"substring\"\nmin_words = 6\nmin_left = 1";
    let outcome = run_in(&folder, &["pages.jsonl"], step).unwrap();
    assert_eq!((outcome.kept.len(), outcome.edits.len()), (2, 1));
    let absent =
        run_in(&folder, &["desk.jsonl"], "[[step]]\nkind = \"dedup_against\"\nagainst = [\"no.jsonl\"]");
    assert!(absent.unwrap_err().to_string().contains("no.jsonl"));
}

#[test]
fn the_audit_hides_what_the_rows_no_longer_have() {
    let folder = TempDir::new().unwrap();
    let rows = [
        json!({"id": "1", "question": "<p>Write to sam@example.org</p>", "answer": "asdf", "phone": "785 8949"}),
        json!({"id": "2", "question": "Am I sam@example.org?", "answer": "That is the address we have on file."}),
    ];
    let broken = "{\"id\": \"3\", \"question\": \"I am sam@example.org";
    let lines = [rows[0].to_string(), rows[1].to_string(), broken.to_owned()].join("\n");
    fs::write(folder.path().join("t.jsonl"), lines).unwrap();
    let steps = "[[step]]\nkind = \"html\"\n[[step]]\nkind = \"placeholder\"\n[[step]]\nkind = \"pii\"\n";
    let told = |recipe: &str| {
        let outcome = run_in(&folder, &["t.jsonl"], recipe).unwrap();
        let dropped = serde_json::to_string(&outcome.dropped).unwrap();
        (outcome.dropped.len(), dropped + &serde_json::to_string(&outcome.edits).unwrap())
    };
    let (n, audit) = told(steps);
    assert_eq!(n, 2);
    assert!(!audit.contains("sam@example.org") && !audit.contains("785 8949"), "{audit}");
    assert!(audit.contains("Write to [EMAIL_1]") && audit.contains("\"id\":\"1\""), "{audit}");
    assert!(told(&format!("{steps}audit_originals = true")).1.contains("sam@example.org"));
}

fn write(folder: &TempDir, name: &str, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(folder.path().join(name), lines.join("\n")).unwrap();
}

/// What stands in the files of a folder.
fn all_files(folder: &Path) -> String {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn evaluation_rows_that_cannot_be_read_are_told() {
    let folder = TempDir::new().unwrap();
    write_rows(&folder, "desk", 6);
    let question =
        |i: usize| json!({"question": format!("What is asked here, as number {i} of all?"), "answer": null});
    let good = json!({"question": "What is asked here, as the only good one?", "answer": "This."});
    let lines = [good.to_string(), question(1).to_string(), "{\"question\": ".to_owned()];
    fs::write(folder.path().join("exam.jsonl"), lines.join("\n")).unwrap();
    for step in [
        "kind = \"decontaminate\"\nagainst = [{ path = \"exam.jsonl\", name = \"exam\" }]",
        "kind = \"dedup_against\"\nagainst = [\"exam.jsonl\"]",
    ] {
        let report = run_in(&folder, &["desk.jsonl"], &format!("[[step]]\n{step}")).unwrap().report;
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
        let warning = &report.warnings[0];
        assert!(warning.contains("exam.jsonl: 2 of 3 rows cannot be compared with"), "{warning}");
        assert!(warning.contains("the first is line 2: missing_field"), "{warning}");
        let notes = &report.per_step[0].notes;
        let notes = notes.get("exam").unwrap_or(notes);
        assert_eq!(notes["unusable"], 2, "{notes}");
    }
    let read = "read = { shape = \"document\", columns = { text = \"question\" } }";
    let step = format!("[[step]]\nkind = \"decontaminate\"\nagainst = [{{ path = \"exam.jsonl\", {read} }}]");
    let report = run_in(&folder, &["desk.jsonl"], &step).unwrap().report;
    assert!(report.warnings[0].contains("exam.jsonl: 1 of 3 rows"), "{:?}", report.warnings);
    write(&folder, "exam.jsonl", &[question(1), question(2)]);
    let step = "[[step]]\nkind = \"decontaminate\"\nagainst = [{ path = \"exam.jsonl\" }]";
    let error = run_in(&folder, &["desk.jsonl"], step).unwrap_err().to_string();
    assert!(error.contains("exam.jsonl:1: none of its 2 rows can be compared with"), "{error}");
}

#[test]
fn a_rejected_answer_may_be_empty() {
    let folder = TempDir::new().unwrap();
    let pair = |id: &str, chosen: &str, rejected: &str| {
        json!({"id": id, "prompt": format!("Is it open, {id}?"),
        "chosen": chosen, "rejected": rejected})
    };
    write(&folder, "pairs.jsonl", &[pair("a", "Yes, until six.", ""), pair("b", "", "Yes, until six.")]);
    let outcome =
        run(&[folder.path().join("pairs.jsonl")], &Recipe::builtin("preferences").unwrap(), &mut ()).unwrap();
    assert_eq!(outcome.kept.iter().map(Record::id).collect::<Vec<_>>(), ["a"], "{:?}", outcome.dropped);
}

#[test]
fn pairs_lose_the_personal_data_that_conversations_lose() {
    let folder = TempDir::new().unwrap();
    let row = json!({"id": "ann@example.org", "prompt": "Who writes?", "chosen": "It is ann@example.org who writes.",
        "rejected": "bob@example.org, I think."});
    write(&folder, "pairs.jsonl", &[row]);
    let tickets = Recipe::builtin("tickets").unwrap();
    let pairs = Recipe::builtin("preferences").unwrap().with_pii_of(&tickets).unwrap();
    assert_eq!(pairs.kinds().skip(3).collect::<Vec<_>>(), ["turns", "length", "pii", "dedup"]);
    let outcome = run(&[folder.path().join("pairs.jsonl")], &pairs, &mut ()).unwrap();
    let kept = serde_json::to_string(&outcome.kept[0].item).unwrap();
    assert!(!kept.contains("example.org") && kept.contains("[EMAIL_1]"), "{kept}");
    assert_eq!(outcome.kept[0].id(), "pairs-1");
    let none = Recipe::builtin("instructions").unwrap();
    let as_before = Recipe::builtin("preferences").unwrap().with_pii_of(&none).unwrap();
    assert!(as_before.kinds().eq(Recipe::builtin("preferences").unwrap().kinds()));
}

#[test]
fn what_is_read_is_never_replaced() {
    let folder = TempDir::new().unwrap();
    write_rows(&folder, "kept", 4);
    write_rows(&folder, "test", 4);
    let before = all_files(folder.path());
    let recipe = Recipe::parse("version = 1").unwrap();
    for name in ["kept.jsonl", "./test.jsonl"] {
        let input = folder.path().join(name);
        let error = run_to(folder.path(), &[input], &recipe, &mut ()).unwrap_err().to_string();
        assert!(error.contains("is read") && error.contains("name another folder"), "{error}");
    }
    assert_eq!(all_files(folder.path()), before);
    let step = "version = 1\n[[step]]\nkind = \"dedup_against\"\nagainst = [\"kept.jsonl\"]";
    fs::write(folder.path().join("r.toml"), step).unwrap();
    let against = Recipe::load(&folder.path().join("r.toml")).unwrap();
    let other = TempDir::new().unwrap();
    write_rows(&other, "desk", 4);
    let input = other.path().join("desk.jsonl");
    assert!(run_to(folder.path(), std::slice::from_ref(&input), &against, &mut ()).is_err());
    assert!(run_to(&other.path().join("out"), &[input], &against, &mut ()).is_ok());
}

#[test]
fn an_earlier_runs_held_out_rows_go() {
    let folder = TempDir::new().unwrap();
    write_rows(&folder, "desk", 20);
    let (out, input) = (folder.path().join("out"), folder.path().join("desk.jsonl"));
    let run = |steps: &str| {
        let recipe = Recipe::parse(&format!("version = 1\n{steps}")).unwrap();
        run_to(&out, std::slice::from_ref(&input), &recipe, &mut ()).unwrap()
    };
    let exists = || ["validation.jsonl", "test.jsonl"].map(|name| out.join(name).exists());
    let report = run("[[step]]\nkind = \"split\"\nvalidation = 0.2\ntest = 0.2");
    assert_eq!((report.held_out["validation"], report.held_out["test"], exists()), (4, 4, [true, true]));
    run("[[step]]\nkind = \"split\"\nvalidation = 0.2");
    assert_eq!(exists(), [true, false]);
    assert_eq!(run("").warnings, Vec::<String>::new());
    assert_eq!(exists(), [false, false]);
    fs::write(out.join("test.jsonl"), "mine").unwrap();
    assert!(run("").warnings[0].contains("test.jsonl is not of this run"));
    assert_eq!(exists(), [false, true]);
}

#[test]
fn what_a_split_has_to_say_is_a_warning() {
    let folder = TempDir::new().unwrap();
    write_rows(&folder, "desk", 3);
    let report =
        run_in(&folder, &["desk.jsonl"], "[[step]]\nkind = \"split\"\nvalidation = 0.01").unwrap().report;
    assert!(report.warnings[0].starts_with("split: validation is empty"), "{:?}", report.warnings);
}

#[test]
fn rows_are_held_out_only_without_their_personal_data() {
    let error = |steps: &[&str]| {
        let steps: String = steps.iter().map(|kind| format!("[[step]]\nkind = \"{kind}\"\n")).collect();
        Recipe::parse(&format!("version = 1\n{steps}")).err().map(|e| e.to_string())
    };
    let told = error(&["html", "split", "dedup", "pii"]).unwrap();
    assert!(
        told.contains("step 2 (split) stands before step 4 (pii)") && told.contains("move `split`"),
        "{told}"
    );
    assert_eq!(error(&["pii", "split"]), None);
    assert_eq!(error(&["split"]), None);
}

#[test]
fn no_file_shows_personal_data_in_notes_ids_and_keys() {
    let folder = TempDir::new().unwrap();
    let footer = "Questions? Write to help.desk@example.org at any time.";
    let row = |i: usize| {
        json!({"id": format!("sam{i}@example.org"), "text": format!("Story {i} is told.\n{footer}"),
        "meta": {"sam@example.org": "owner"}})
    };
    let mut rows: Vec<Value> = (0..12).map(row).collect();
    rows.push(rows[0].clone());
    rows.push(json!({"id": "sam0@example.org", "text": null}));
    rows.push(json!({"id": "plain", "text": "A story of its own."}));
    write(&folder, "t.jsonl", &rows);
    let recipe = |more: &str| {
        let steps =
            "[[step]]\nkind = \"boilerplate\"\n[[step]]\nkind = \"dedup\"\n[[step]]\nkind = \"pii\"\n";
        Recipe::parse(&format!("version = 1\n{steps}{more}")).unwrap()
    };
    let (out, input) = (folder.path().join("out"), folder.path().join("t.jsonl"));
    let report = run_to(&out, std::slice::from_ref(&input), &recipe(""), &mut ()).unwrap();
    let shown = all_files(&out);
    assert!(!shown.contains("@example.org"), "{shown}");
    assert_eq!(
        report.per_step[0].notes["removed_lines"][0]["line"],
        "Questions? Write to [EMAIL_1] at any time."
    );
    let outcome = run(&[input], &recipe("audit_originals = true"), &mut ()).unwrap();
    let mut ids: Vec<&str> = outcome.kept.iter().map(Record::id).collect();
    ids.extend(outcome.dropped.iter().map(|d| d.id.as_str()));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 15, "each row has an id of its own: {ids:?}");
    assert!(ids.contains(&"t-1") && ids.contains(&"t-14") && ids.contains(&"plain"), "{ids:?}");
    let told = outcome.edits.iter().find(|e| e.field == "id" && e.id == "t-1").unwrap();
    assert_eq!((told.before.as_str(), told.after.as_str()), ("sam0@example.org", "t-1"));
    let again = run_records(outcome.kept.clone(), &recipe(""), &mut ()).unwrap();
    assert_eq!(again.kept, outcome.kept);
}

#[test]
fn equal_ids_in_two_files_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let paths = ["a.jsonl", "b.jsonl"].map(|name| folder.path().join(name));
    for path in &paths {
        fs::write(path, "{\"id\": \"1\", \"text\": \"x\"}\n").unwrap();
    }
    let outcome = run(&paths, &Recipe::parse("version = 1").unwrap(), &mut ()).unwrap();
    assert_eq!(outcome.kept.iter().map(Record::id).collect::<Vec<_>>(), ["1", "b:1"]);
    assert_eq!(outcome.edits[0].after, "b:1");
}

#[test]
fn faults_of_a_recipe_are_named() {
    let check = |text: &str, expect: &str| {
        let error = Recipe::parse(text).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check("version = 2", "version 2 is not known");
    check("", "`version = 1` is missing");
    check("version = 1\nsteps = []", "did you mean `step`?");
    check("version = 1\n[[step]]\nkind = \"mojibak\"", "did you mean `mojibake`?");
    check("version = 1\n[[step]]\nkind = \"length\"\nmin_chrs = 3", "did you mean `min_chars`?");
    check("version = 1\n[[step]]\nkind = \"html\"\nx = 3", "step 1 (html): unknown field `x`");
    check("version = 1\n[[step]]\nkind = \"length\"\nmin_chars = \"a\"", "step 1 (length): invalid type");
    check("version = 1\n[[step]]\nmin_chars = 1", "step 1 has no `kind`");
    check("version = 1\n[read]\nshap = \"alpaca\"", "did you mean `shape`?");
    check("version = 1\n[[step]]\nkind = \"toxic\"\nword_lists = [\"/no/such/file\"]", "/no/such/file");
    assert!(Recipe::builtin("nope").unwrap_err().to_string().contains("tickets, instructions"));
}

#[test]
fn every_builtin_recipe_parses() {
    for name in ["tickets", "instructions", "web", "preferences"] {
        let recipe = Recipe::builtin(name).unwrap();
        assert_eq!(recipe.name, name);
        assert!(recipe.kinds().count() > 4);
    }
}

#[test]
fn inputs_that_give_nothing_are_errors() {
    let recipe = Recipe::builtin("tickets").unwrap();
    let error = |inputs: &[PathBuf]| run(inputs, &recipe, &mut ()).unwrap_err().to_string();
    assert!(error(&[]).contains("no input files"));
    assert!(error(&["/no/such.jsonl".into()]).contains("/no/such.jsonl"));
}

#[test]
fn a_set_of_only_dropped_rows_is_an_empty_outcome() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("t.jsonl");
    fs::write(&path, "{\"question\": \"a\", \"answer\": \"\"}\n{\"question\": \"b\", \"answer\": \"-\"}\n")
        .unwrap();
    let outcome = run(&[path], &Recipe::builtin("tickets").unwrap(), &mut ()).unwrap();
    assert_eq!((outcome.kept.len(), outcome.dropped.len()), (0, 2));
}
