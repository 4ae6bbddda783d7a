//! `cargo xtask tidy`: the architecture's invariants, written as absences and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Which workspace crates each crate may depend on. `ferrotune` is the only place that wires.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("ferrotune-types", &[]),
    ("ferrotune-data", &["ferrotune-types"]),
    ("ferrotune-tokenizer", &["ferrotune-types"]),
    ("ferrotune-llm", &["ferrotune-types"]),
    ("ferrotune-eval", &["ferrotune-types"]),
    ("ferrotune-rag", &["ferrotune-types"]),
    ("ferrotune-model", &["ferrotune-types"]),
    ("ferrotune-peft", &["ferrotune-types", "ferrotune-model"]),
    ("ferrotune-train", &["ferrotune-types", "ferrotune-model"]),
    ("ferrotune-preference", &["ferrotune-types"]),
    (
        "ferrotune",
        &[
            "ferrotune-types",
            "ferrotune-data",
            "ferrotune-tokenizer",
            "ferrotune-llm",
            "ferrotune-eval",
            "ferrotune-rag",
            "ferrotune-model",
            "ferrotune-peft",
            "ferrotune-train",
            "ferrotune-preference",
        ],
    ),
    ("xtask", &[]),
];

/// What a crate's tests may use beyond that: train's hold its hand-written passes to autograd's with real adapters.
const TESTS_MAY_USE: [(&str, &str); 1] = [("ferrotune-train", "ferrotune-peft")];

/// Crates above the libtorch line: nothing they pull in may be tch.
const ABOVE_THE_LINE: [&str; 7] = [
    "ferrotune-types",
    "ferrotune-data",
    "ferrotune-tokenizer",
    "ferrotune-llm",
    "ferrotune-eval",
    "ferrotune-rag",
    "xtask",
];

/// Files of more than 1 MiB that are meant to be here.
const LARGE: [&str; 0] = [];

pub(crate) fn run() -> Result<()> {
    let mut faults = Vec::new();
    dependencies(&mut faults)?;
    files(&mut faults)?;
    crates(&mut faults)?;
    if faults.is_empty() {
        eprintln!("tidy: nothing to mend");
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} things to mend", faults.len());
}

fn dependencies(faults: &mut Vec<String>) -> Result<()> {
    let metadata = shell::output(&mut shell::cargo(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let ours = dependencies
            .filter_map(|d| Some((d["name"].as_str()?, d["kind"] == "dev")))
            .filter(|(other, _)| other.starts_with("ferrotune"))
            .filter(|(other, in_tests)| !(*in_tests && TESTS_MAY_USE.contains(&(name.as_str(), *other))))
            .map(|(other, _)| other.to_owned());
        let ours = ours.collect();
        uses.insert(name, ours);
    }
    for (name, used) in &uses {
        let Some((_, allowed)) = MAY_USE.iter().find(|(n, _)| n == name) else {
            faults.push(format!("{name} has no row in the dependency table of xtask/src/tidy.rs"));
            continue;
        };
        for other in used.iter().filter(|u| !allowed.contains(&u.as_str())) {
            faults
                .push(format!("{name} must not depend on {other} (docs/architecture.md, dependency rules)"));
        }
    }
    for name in ABOVE_THE_LINE {
        let mut tree =
            shell::cargo(["tree", "--package", name, "--edges", "normal,build", "--prefix", "none"]);
        let tree = shell::output(tree.arg("--all-features"))?;
        for line in tree.lines().filter(|l| l.starts_with("tch ") || l.starts_with("torch-sys ")) {
            faults.push(format!("{name} stands above the libtorch line but reaches {line}"));
        }
    }
    Ok(())
}

fn files(faults: &mut Vec<String>) -> Result<()> {
    let root = shell::root();
    let listed = shell::output(std::process::Command::new("git").arg("ls-files").current_dir(&root))?;
    // Spelled in pieces so that this file does not find itself.
    let places: Vec<String> =
        ["tmp", "home", "root", "work", "Users"].iter().map(|p| format!("/{p}/")).collect();
    for name in listed.lines() {
        let path = root.join(name);
        let Ok(bytes) = fs::read(&path) else { continue };
        if bytes.len() > 1 << 20 && !LARGE.contains(&name) {
            faults.push(format!("{name} has {} bytes, more than 1 MiB", bytes.len()));
        }
        let Ok(text) = String::from_utf8(bytes) else { continue };
        for (i, line) in text.lines().enumerate() {
            let before = |at: usize| line[..at].chars().next_back();
            let absolute = |place: &String| {
                line.match_indices(place.as_str())
                    .any(|(at, _)| before(at).is_none_or(|c| c.is_whitespace() || "\"'`(=:[".contains(c)))
            };
            if places.iter().any(absolute) {
                faults.push(format!("{name}:{} names a path of a machine", i + 1));
            }
            let is_rust =
                Path::new(name).extension().is_some_and(|e| e == "rs") && name != "xtask/src/tidy.rs";
            if is_rust && (line.contains("todo!(") || line.contains("#[ignore")) {
                faults.push(format!("{name}:{} is unfinished or ignored", i + 1));
            }
        }
    }
    Ok(())
}

fn crates(faults: &mut Vec<String>) -> Result<()> {
    let root = shell::root();
    let architecture =
        fs::read_to_string(root.join("docs/architecture.md")).context("docs/architecture.md")?;
    let mut folders: Vec<_> = fs::read_dir(root.join("crates"))?.collect::<Result<_, _>>()?;
    folders.sort_by_key(fs::DirEntry::file_name);
    for folder in folders {
        let name = folder.file_name().to_string_lossy().into_owned();
        if !architecture.contains(&format!("crates/{name}")) {
            faults.push(format!("docs/architecture.md does not name crates/{name}"));
        }
        let essay = fs::read_to_string(folder.path().join("src/lib.rs")).unwrap_or_default();
        if essay.lines().take_while(|l| l.starts_with("//!")).count() < 8 {
            faults.push(format!("crates/{name}/src/lib.rs does not open with an essay"));
        }
        let examples = fs::read_dir(folder.path().join("examples")).into_iter().flatten().flatten();
        if examples.count() == 0 {
            faults.push(format!("crates/{name} has no example program"));
        }
    }
    Ok(())
}
