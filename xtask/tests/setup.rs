//! `cargo xtask setup` on a machine that lacks what it needs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn setup(cache: &std::path::Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .arg("setup")
        .env_remove("LIBTORCH")
        .env_remove("LIBTORCH_USE_PYTORCH")
        .env("FERROTUNE_CACHE", cache);
    command.envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn everything_missing_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    let out = setup(&folder.path().join("cache"), &[("PATH", &empty.to_string_lossy())]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    for wanted in ["C++ compiler", "apt-get install g++", "python3 with pip", "apt-get install python3-pip"] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
    assert!(!folder.path().join("cache").exists());
}

#[test]
fn a_libtorch_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = setup(folder.path(), &[("LIBTORCH", "/no/such/libtorch")]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains("LIBTORCH=/no/such/libtorch") && said.contains("2.13.0"), "{said}");
}
