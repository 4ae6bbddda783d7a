//! The model hub: a cache laid out as the hub lays it out, and a server that speaks the hub's protocol.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ferrotune_model::checkpoint::{HubOptions, Source, load_decoder};
use tch::{Device, Kind};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn tiny_llama() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama")
}

/// What the server does to the next transfers of a file.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The connection closes half way.
    BreaksOff,
    /// A 500 with a page of text, which the client stores as if it were the file.
    ErrorPage,
}

/// A server on a free port with one repository, `owner/tiny`; gives its address and a log of requests.
fn serve(files: &Path, faults: Vec<Fault>) -> (String, Arc<Mutex<Vec<String>>>) {
    serve_with(files, "model.safetensors", faults)
}

/// As [`serve`], with faults in transfers of `faulty`.
fn serve_with(files: &Path, faulty: &'static str, faults: Vec<Fault>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files: HashMap<String, Vec<u8>> = std::fs::read_dir(files)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(p).unwrap()))
        .chain([
            ("pytorch_model.bin".to_owned(), vec![0; 8]),
            ("consolidated.safetensors".to_owned(), vec![0; 8]),
        ])
        .collect();
    let (files, faults) = (Arc::new(files), Arc::new(Mutex::new(faults)));
    let log = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&log);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (files, faults, log) = (Arc::clone(&files), Arc::clone(&faults), Arc::clone(&requests));
            std::thread::spawn(move || answer(stream, &files, faulty, &faults, &log));
        }
    });
    (address, log)
}

fn answer(
    mut stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    faulty: &str,
    faults: &Mutex<Vec<Fault>>,
    log: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let token =
        headers.iter().find_map(|h| h.to_lowercase().strip_prefix("authorization: ").map(str::to_owned));
    log.lock().ok()?.push(format!("{request} {}", token.unwrap_or_default()));
    let mut parts = request.split(' ');
    let (method, path) = (parts.next()?, parts.next()?);
    let mut respond = |status: &str, extra: &str, body: &[u8], sent: usize| -> Option<()> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        if method == "GET" {
            stream.write_all(&body[..sent]).ok()?;
        }
        stream.flush().ok()
    };
    if path.starts_with("/api/models/owner/tiny/revision/") {
        let body = format!("{{\"id\": \"owner/tiny\", \"sha\": \"{COMMIT}\"}}");
        return respond("200 OK", "Content-Type: application/json\r\n", body.as_bytes(), body.len());
    }
    if path.starts_with("/api/models/owner/tiny/tree/") {
        let list: Vec<_> = files
            .iter()
            .map(|(name, bytes)| {
                format!("{{\"type\":\"file\",\"oid\":\"0\",\"size\":{},\"path\":{name:?}}}", bytes.len())
            })
            .collect();
        let body = format!("[{}]", list.join(","));
        return respond("200 OK", "Content-Type: application/json\r\n", body.as_bytes(), body.len());
    }
    let name = path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/"));
    match name.and_then(|name| Some((name, files.get(name)?))) {
        Some((name, body)) => {
            let fault = match (method, name) {
                ("GET", name) if name == faulty => faults.lock().ok()?.pop(),
                _ => None,
            };
            let extra = format!("ETag: \"{name}-etag\"\r\nX-Repo-Commit: {COMMIT}\r\n");
            match fault {
                None => respond("200 OK", &extra, body, body.len()),
                Some(Fault::BreaksOff) => respond("200 OK", &extra, body, body.len() / 2),
                Some(Fault::ErrorPage) => respond("404 Not Found", &extra, b"<html>", 6),
            }
        }
        None => respond("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"", 0),
    }
}

fn options(endpoint: &str, cache: &Path) -> HubOptions {
    HubOptions {
        endpoint: Some(endpoint.to_owned()),
        cache: Some(cache.to_owned()),
        token: Some("secret".to_owned()),
        ..HubOptions::default()
    }
}

fn check_loads(source: &Source) {
    let loaded = load_decoder(source, Kind::Float, Device::Cpu).unwrap();
    assert_eq!((loaded.decoder.blocks.len(), loaded.eos_ids.as_slice()), (2, [2].as_slice()));
}

#[test]
fn a_model_is_fetched_once_and_then_found_offline() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, log) = serve(&tiny_llama(), Vec::new());
    let hub = options(&endpoint, cache.path());
    check_loads(&Source::resolve("owner/tiny", &hub).unwrap());
    let seen = log.lock().unwrap().clone();
    assert!(seen.iter().all(|r| r.ends_with("bearer secret")), "{seen:?}");
    assert!(!seen.iter().any(|r| r.contains("pytorch_model.bin")), "no pickles: {seen:?}");
    assert!(!seen.iter().any(|r| r.contains("consolidated")), "no weights twice: {seen:?}");
    assert!(!format!("{hub:?}").contains("secret"), "{hub:?}");

    let revision = HubOptions { revision: Some("v1.0".to_owned()), ..hub.clone() };
    check_loads(&Source::resolve("owner/tiny", &revision).unwrap());
    let seen = log.lock().unwrap().clone();
    assert!(
        seen.iter().any(|r| r.contains("/revision/v1.0")),
        "another revision is asked for by name: {seen:?}"
    );
    let weights = |r: &&String| r.starts_with("GET") && r.contains("model.safetensors");
    assert_eq!(seen.iter().filter(weights).count(), 1, "the same commit is not fetched again: {seen:?}");

    let offline = HubOptions { offline: true, ..hub };
    check_loads(&Source::resolve("owner/tiny", &offline).unwrap());
    assert_eq!(log.lock().unwrap().len(), seen.len(), "offline asks nobody");
    let error = Source::resolve("owner/other", &offline).unwrap_err().to_string();
    assert!(error.contains("owner/other") && error.contains("offline"), "{error}");
}

#[test]
fn a_broken_transfer_is_tried_again() {
    for fault in [Fault::BreaksOff, Fault::ErrorPage] {
        let cache = tempfile::tempdir().unwrap();
        let (endpoint, log) = serve(&tiny_llama(), vec![fault]);
        check_loads(&Source::resolve("owner/tiny", &options(&endpoint, cache.path())).unwrap());
        let is_transfer = |r: &&String| r.starts_with("GET") && r.contains("model.safetensors");
        assert_eq!(log.lock().unwrap().iter().filter(is_transfer).count(), 2);
    }
}

#[test]
fn a_page_in_the_place_of_a_json_file_does_not_stay() {
    for file in ["config.json", "tokenizer.json"] {
        let cache = tempfile::tempdir().unwrap();
        let (endpoint, log) = serve_with(&tiny_llama(), file, vec![Fault::ErrorPage]);
        check_loads(&Source::resolve("owner/tiny", &options(&endpoint, cache.path())).unwrap());
        let is_transfer = |r: &&String| r.starts_with("GET") && r.contains(&format!("/{file}"));
        assert_eq!(log.lock().unwrap().iter().filter(is_transfer).count(), 2, "{file}");
    }
}

#[test]
fn what_was_fetched_serves_where_the_hub_is_out_of_reach() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, log) = serve(&tiny_llama(), Vec::new());
    let hub = options(&endpoint, cache.path());
    check_loads(&Source::resolve("owner/tiny@v1.0", &hub).unwrap());
    assert!(log.lock().unwrap().iter().any(|r| r.contains("/revision/v1.0")), "the id names the revision");
    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = HubOptions { endpoint: Some(format!("http://{nobody}")), ..hub };
    check_loads(&Source::resolve("owner/tiny@v1.0", &away).unwrap());
    let error = Source::resolve("owner/other", &away).unwrap_err().to_string();
    assert!(error.contains("owner/other") && !error.contains("offline"), "{error}");
}

#[test]
fn a_transfer_that_never_succeeds_is_an_error() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(&tiny_llama(), vec![Fault::BreaksOff; 9]);
    let error = Source::resolve("owner/tiny", &options(&endpoint, cache.path())).unwrap_err().to_string();
    assert!(error.contains("owner/tiny"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_cache_that_another_tool_filled_is_read() {
    // As huggingface_hub lays it out: blobs by hash, a snapshot of links to them, a ref with the commit.
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--owner--tiny");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots").join(COMMIT));
    for folder in [&blobs, &snapshot, &repository.join("refs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    for (i, entry) in std::fs::read_dir(tiny_llama()).unwrap().enumerate() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), blobs.join(i.to_string())).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{i}"), snapshot.join(entry.file_name())).unwrap();
    }
    let hub = HubOptions { cache: Some(cache.path().to_owned()), offline: true, ..HubOptions::default() };
    check_loads(&Source::resolve("owner/tiny", &hub).unwrap());
    let hub = HubOptions { revision: Some(COMMIT.to_owned()), ..hub };
    check_loads(&Source::resolve("owner/tiny", &hub).unwrap());
}

#[test]
fn paths_win_and_nonsense_is_named() {
    let hub = HubOptions { offline: true, ..HubOptions::default() };
    let tiny = tiny_llama();
    let resolved = Source::resolve(&tiny.display().to_string(), &hub).unwrap();
    assert_eq!(resolved, Source::Directory(tiny.clone()));
    for (id, expect) in [
        (tiny.join("config.json").display().to_string(), "neither a directory nor a .gguf file"),
        ("no/such/folder/at-all".to_owned(), "does not exist"),
        ("../x".to_owned(), "does not exist"),
        ("owner/tiny@../../x".to_owned(), "does not exist"),
        ("owner/tiny@".to_owned(), "does not exist"),
        ("model".to_owned(), "does not exist"),
    ] {
        let error = Source::resolve(&id, &hub).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
}
