use std::time::{Duration, Instant};

use ferrotune_llm::{Client, ClientConfig, EmbedClient, RetryConfig};
use ferrotune_types::{GenerateParams, LanguageModel, ModelError};

use crate::server::{Act, Server, says};
use crate::{config, hello};

fn answer(status: u16, body: &str) -> Act {
    Act::Answer(status, "", body.to_owned())
}

fn ask(server: &Server) -> Result<String, ModelError> {
    let model = Client::new(config(server)).unwrap();
    model.chat(&hello(), &GenerateParams::default()).map(|reply| reply.text)
}

const PER_MINUTE: &str = r#"{"error": {"message": "Rate limit reached on tokens per minute. Please try again in 1.2s. Need more tokens? Upgrade at https://console.example/settings/billing", "type": "tokens", "code": "rate_limit_exceeded"}}"#;

#[test]
fn what_may_pass_is_tried_again() {
    for fault in [
        answer(500, "oops"),
        answer(502, "<html>bad gateway</html>"),
        answer(429, r#"{"error": {"message": "slow down"}}"#),
        // Groq ends what passes in a minute with this link.
        answer(429, PER_MINUTE),
        answer(
            429,
            r#"{"error": {"message": "tokens per min", "type": "insufficient_quota", "code": "rate_limit_exceeded"}}"#,
        ),
        Act::Answer(429, "retry-after: 0", r#"{"error": {"code": "insufficient_quota"}}"#.to_owned()),
        Act::Answer(429, "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", "insufficient_quota".to_owned()),
        answer(408, ""),
        answer(200, "{\"choices\": [{\"mess"),
        answer(200, "not json"),
        Act::CutShort("{\"choices\"".to_owned()),
        Act::HangUp,
        Act::Sleep,
    ] {
        let server = Server::new(vec![fault.clone(), says("fine")]);
        assert_eq!(ask(&server).unwrap(), "fine", "{fault:?}");
        assert_eq!(server.seen().len(), 2, "{fault:?}");
    }
}

#[test]
fn what_cannot_pass_is_not() {
    let check = |status, body: &str, expect: &str| {
        let server = Server::new(vec![answer(status, body), says("fine")]);
        let error = ask(&server).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        assert_eq!(server.seen().len(), 1, "{status}");
    };
    check(400, r#"{"error": {"message": "context too long"}}"#, "400: context too long");
    check(401, r#"{"error": "no key"}"#, "refuses the API key (401): no key; the key is read from nowhere");
    check(404, r#"{"detail": "no such model"}"#, "404: no such model");
    check(422, "bad field", "422: bad field");
    check(501, "never", "501: never");
    check(
        429,
        r#"{"error": {"message": "You exceeded", "code": "insufficient_quota"}}"#,
        "429: You exceeded",
    );
    check(
        429,
        r#"{"error": {"message": "Paid?", "type": "billing_not_active", "code": null}}"#,
        "429: Paid?",
    );
    check(429, r#"{"error": {"message": "Full", "code": "billing_hard_limit_reached"}}"#, "429: Full");
    check(429, "insufficient_quota: add funds", "429: insufficient_quota");
    check(302, "", "302");
    check(200, r#"{"object": "list"}"#, "replied without choices[0].message");
}

#[test]
fn a_bad_request_is_told_apart() {
    let server = Server::new(vec![answer(400, "no")]);
    assert!(matches!(ask(&server), Err(ModelError::BadRequest(_))));
    let server = Server::new(vec![answer(500, "no")]);
    let error = ask(&server).unwrap_err();
    assert!(matches!(error, ModelError::Failed(_)));
    assert!(error.to_string().contains("failed 3 times, last: 500") && server.seen().len() == 3, "{error}");
}

#[test]
fn retry_after_is_obeyed_within_its_limit() {
    let timed = |header: &'static str| {
        let server = Server::new(vec![Act::Answer(429, header, String::new()), says("fine")]);
        let start = Instant::now();
        (ask(&server), start.elapsed(), server.seen().len())
    };
    let (found, took, n) = timed("Retry-After: 0.3");
    assert_eq!((found.unwrap().as_str(), n), ("fine", 2));
    assert!(took >= Duration::from_millis(300), "{took:?}");
    let (found, took, _) = timed("retry-after-ms: 200");
    assert!(found.is_ok() && took >= Duration::from_millis(200), "{took:?}");
    let (found, _, n) = timed("Retry-After: 3600");
    assert!(found.unwrap_err().to_string().contains("asks to wait 3600 s") && n == 1);
    // A date, or nonsense, leaves our own wait.
    assert!(timed("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT").0.is_ok());
    assert!(timed("Retry-After: -5").0.is_ok());
}

#[test]
fn a_server_that_is_not_there_is_an_error_and_not_a_hang() {
    let retry = RetryConfig { attempts: 2, base_ms: 1, ..RetryConfig::default() };
    let config = ClientConfig {
        api_key_env: None,
        retry,
        timeout_s: 1,
        ..ClientConfig::at("http://127.0.0.1:1", "m")
    };
    let start = Instant::now();
    let error = Client::new(config).unwrap().chat(&hello(), &GenerateParams::default()).unwrap_err();
    assert!(error.to_string().contains("failed 2 times"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_prompt_that_is_too_long_is_told_apart() {
    let check = |status, body: &str, expect: Option<(usize, usize)>| {
        let server = Server::new(vec![answer(status, body)]);
        match (ask(&server).unwrap_err(), expect) {
            (ModelError::TooLong { tokens, limit }, Some(expect)) => assert_eq!((tokens, limit), expect),
            (ModelError::BadRequest(text), None) => {
                assert!(text.contains(&format!("{status}: ")) && text.contains("longer than the model's"));
            }
            (error, _) => panic!("{error} of {body}"),
        }
        assert_eq!(server.seen().len(), 1);
    };
    check(
        400,
        r#"{"error": {"message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.", "code": "context_length_exceeded"}}"#,
        Some((9001, 8192)),
    );
    check(
        400,
        r#"{"message": "This model's maximum context length is 4,096 tokens. However, you requested 5,000 tokens (4,900 in the messages, 100 in the completion)."}"#,
        Some((5000, 4096)),
    );
    check(
        400,
        r#"{"error": {"message": "prompt is too long: 208310 tokens > 200000 maximum"}}"#,
        Some((208_310, 200_000)),
    );
    check(
        413,
        r#"{"error": {"message": "Please reduce the length of the messages.", "code": "context_length_exceeded"}}"#,
        None,
    );
    check(
        400,
        r#"{"error": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}}"#,
        None,
    );
}

/// The key is this process's PATH, so that no test sets an environment variable.
fn with_key(server: &Server) -> ClientConfig {
    let retry = RetryConfig { attempts: 1, ..RetryConfig::default() };
    ClientConfig { api_key_env: Some("PATH".into()), retry, ..config(server) }
}

#[test]
fn no_reply_however_odd_shows_the_key() {
    let key = std::env::var("PATH").unwrap();
    let beginning: String = key.chars().take(12).collect();
    let folder = tempfile::tempdir().unwrap();
    let says = |text: &str| serde_json::json!({"error": {"message": text}}).to_string();
    let (plain, late) = (says(&key), says(&format!("{} {key}", "x".repeat(490))));
    let escaped = plain.replace('/', "\\/");
    let note = serde_json::json!({"choices": [], "note": key}).to_string();
    let event = format!("data: {plain}\n\n");
    let script = [
        (200, &plain),
        (200, &late),
        (200, &escaped),
        (200, &note),
        (401, &late),
        (400, &late),
        (500, &late),
        (400, &format!("context length {late}")),
    ];
    for (status, body) in script {
        let server = Server::new(vec![answer(status, body)]);
        let model = Client::new(ClientConfig { cache: Some(folder.path().into()), ..with_key(&server) });
        let error = model.unwrap().chat(&hello(), &GenerateParams::default()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(&beginning), "{status} {body}: {shown}");
    }
    let server = Server::new(vec![answer(200, &event), answer(200, &plain)]);
    let model = Client::new(with_key(&server)).unwrap();
    let error = model.chat_stream(&hello(), &GenerateParams::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("[hidden]") && !format!("{error:?}").contains(&beginning), "{error}");
    let error = EmbedClient::new(model).unwrap_err();
    assert!(error.to_string().contains("[hidden]") && !format!("{error:?}").contains(&beginning), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing of it is worth keeping");
}

#[test]
fn the_key_is_never_shown() {
    let key = std::env::var("PATH").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let complaint = serde_json::json!({"error": {"message": format!("Incorrect API key provided: {key}")}});
    let body = complaint.to_string();
    let server = Server::new(vec![answer(401, &body), answer(500, &body), answer(200, &key), says("ok")]);
    let config = ClientConfig { cache: Some(folder.path().to_owned()), ..with_key(&server) };
    let model = Client::new(config).unwrap();
    let mut shown = vec![format!("{model:?}")];
    for _ in 0..3 {
        let error = model.chat(&hello(), &GenerateParams::default()).unwrap_err();
        shown.extend([error.to_string(), format!("{error:?}")]);
    }
    assert!(model.chat(&hello(), &GenerateParams::default()).is_ok());
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        for file in std::fs::read_dir(entry.unwrap().path()).unwrap() {
            shown.push(std::fs::read_to_string(file.unwrap().path()).unwrap());
        }
    }
    assert_eq!(shown.len(), 8);
    assert!(shown.iter().all(|text| !text.contains(&key)));
    assert!(shown[1].contains("[hidden]") && shown[1].contains("read from PATH"), "{}", shown[1]);
    assert!(server.seen()[0].headers.contains(&key), "and yet it was sent");
}
