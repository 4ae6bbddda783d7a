//! Running other programs, and where things lie.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The repository's root: that of the checkout whose command runs, which another one that shares the target folder may have
/// built.
pub(crate) fn root() -> PathBuf {
    let built_for = || PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let runs_for = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let folder = runs_for.filter(|folder| folder.ends_with("xtask")).unwrap_or_else(built_for);
    folder.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The user's cache folder for Ferrotune: `FERROTUNE_CACHE`, else `XDG_CACHE_HOME/ferrotune`, else
/// `~/.cache/ferrotune`. The `ferrotune` command looks for models at the same place.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("FERROTUNE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("ferrotune")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/ferrotune")))
        .context("no cache folder: set FERROTUNE_CACHE (neither XDG_CACHE_HOME nor HOME is set)")
}

/// `cargo ARGS` in the root.
pub(crate) fn cargo<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    // Set by the cargo that runs us, for us alone; build scripts that watch them would run again, and half of the
    // dependencies be built twice.
    let for_us = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(for_us)) {
        command.env_remove(name);
    }
    command
}

/// Says what it runs, runs it, and fails where it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("\x1b[1m$ {shown}\x1b[0m");
    let status = command.status().with_context(|| format!("cannot start: {shown}"))?;
    if !status.success() {
        bail!("failed ({status}): {shown}");
    }
    Ok(())
}

/// What it prints on stdout; fails where it fails, with the last line of its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start: {shown}"))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        bail!("failed ({}): {shown}\n{last}", out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether `program ARGS` starts and succeeds.
pub(crate) fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn show(command: &Command) -> String {
    let word = |s: &OsStr| {
        let s = s.to_string_lossy().into_owned();
        let name = Path::new(&s).file_name().map(|f| f.to_string_lossy().into_owned());
        if s.ends_with("cargo") || s.ends_with("python") { name.unwrap_or(s) } else { s }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(word).collect::<Vec<_>>().join(" ")
}
