use std::time::{Duration, Instant};

use ferrotune_llm::{Budget, Client, ClientConfig, EmbedClient, Fallback, LlmError, Prices, Provider};
use ferrotune_types::{Embed, Finish, GenerateParams, LanguageModel, Message, ModelError, Role};
use serde_json::json;

use crate::server::{Act, Server, says};
use crate::{config, hello};

#[test]
fn a_request_says_what_was_asked_and_the_reply_is_read() {
    let server = Server::new(vec![says("Hi!")]);
    let model = Client::new(config(&server)).unwrap();
    let params = GenerateParams {
        max_new_tokens: 7,
        temperature: 0.5,
        top_k: Some(3),
        stop: vec!["X".into()],
        seed: 9,
        ..GenerateParams::default()
    };
    let found = model.chat(&hello(), &params).unwrap();
    assert_eq!((found.text.as_str(), found.finish), ("Hi!", Finish::Stop));
    assert_eq!((found.prompt_tokens, found.completion_tokens), (10, 5));
    let seen = &server.seen()[0];
    assert_eq!(seen.path, "/v1/chat/completions");
    let expect = json!({
        "model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 7, "temperature": 0.5,
        "seed": 9, "stop": ["X"], "top_k": 3,
    });
    assert_eq!(seen.body, expect);
    assert!(!seen.headers.to_lowercase().contains("authorization"));
}

#[test]
fn providers_get_the_words_they_know() {
    let server = Server::new(vec![says("ok")]);
    let ask = |provider, params: &GenerateParams| {
        let config = ClientConfig { provider, api_key_env: Some("PATH".into()), ..config(&server) };
        Client::new(config).unwrap().chat(&hello(), params)
    };
    ask(Provider::OpenAi, &GenerateParams::default()).unwrap();
    ask(Provider::Azure, &GenerateParams::default()).unwrap();
    ask(Provider::Mistral, &GenerateParams::default()).unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].body["max_completion_tokens"], 256);
    assert!(seen[0].headers.to_lowercase().contains("authorization: bearer "));
    assert!(seen[1].headers.to_lowercase().contains("api-key: "));
    assert_eq!(seen[2].body["random_seed"], 0);
    let error =
        ask(Provider::OpenAi, &GenerateParams { top_k: Some(5), ..GenerateParams::default() }).unwrap_err();
    assert!(matches!(&error, ModelError::BadRequest(reason) if reason.contains("top_k")), "{error}");
}

#[test]
fn extra_fields_are_added_and_null_takes_one_out() {
    let server = Server::new(vec![says("ok")]);
    let extra = json!({"think": false, "temperature": null});
    let config = ClientConfig { extra_body: extra.as_object().unwrap().clone(), ..config(&server) };
    Client::new(config).unwrap().chat(&hello(), &GenerateParams::default()).unwrap();
    let body = &server.seen()[0].body;
    assert_eq!(body["think"], false);
    assert!(body.get("temperature").is_none());
}

#[test]
fn a_batch_keeps_its_order_and_runs_side_by_side() {
    let server = Server::new(vec![Act::Echo(Duration::from_millis(60))]);
    let model = Client::new(ClientConfig { concurrency: 8, ..config(&server) }).unwrap();
    let chats: Vec<Vec<Message>> = (0..16).map(|i| vec![Message::new(Role::User, format!("n{i}"))]).collect();
    let start = Instant::now();
    let replies = model.chat_batch(&chats, &GenerateParams::default()).unwrap();
    assert!(start.elapsed() < Duration::from_millis(16 * 60), "one after the other");
    assert_eq!(
        replies.iter().map(|r| r.text.as_str()).collect::<Vec<_>>(),
        (0..16).map(|i| format!("n{i}")).collect::<Vec<_>>()
    );
    assert_eq!(model.spent().requests, 16);
}

#[test]
fn a_budget_stops_before_it_is_overdrawn() {
    let check = |budget: Budget, expect: usize, word: &str| {
        let server = Server::new(vec![says("ok")]);
        let prices = Prices { prompt_per_million: 1e6, completion_per_million: 1e6 };
        let model = Client::new(ClientConfig { budget, prices, ..config(&server) }).unwrap();
        let params = GenerateParams { max_new_tokens: 5, ..GenerateParams::default() };
        let error = (0..50).find_map(|_| model.chat(&hello(), &params).err()).unwrap();
        assert!(matches!(&error, ModelError::Budget(reason) if reason.contains(word)), "{error}");
        assert_eq!(server.seen().len(), expect);
    };
    check(Budget { max_requests: Some(3), ..Budget::default() }, 3, "3 requests");
    // Each request uses 15 tokens and sets some 20 aside first.
    check(Budget { max_tokens: Some(60), ..Budget::default() }, 3, "60 tokens");
    check(Budget { max_cost: Some(60.0), ..Budget::default() }, 3, "cost of 60");
}

#[test]
fn the_cache_answers_the_same_request_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(vec![says("first"), says("second")]);
    let make = || {
        let config = ClientConfig { cache: Some(folder.path().to_owned()), ..config(&server) };
        Client::new(config).unwrap()
    };
    let model = make();
    let params = GenerateParams::default();
    assert_eq!(model.chat(&hello(), &params).unwrap().text, "first");
    assert_eq!(make().chat(&hello(), &params).unwrap().text, "first");
    let other = GenerateParams { seed: 1, ..params.clone() };
    assert_eq!(model.chat(&hello(), &other).unwrap().text, "second");
    assert_eq!(model.chat(&hello(), &params).unwrap().text, "first");
    assert_eq!((server.seen().len(), model.spent().cached), (2, 1));
    // A damaged entry is asked for again.
    for folder in std::fs::read_dir(folder.path()).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            std::fs::write(file.unwrap().path(), "{\"version\": 1").unwrap();
        }
    }
    assert_eq!(model.chat(&hello(), &params).unwrap().text, "second");
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn likelihoods_are_summed_over_the_continuation() {
    // "Paris is" + " big": é makes characters differ from bytes.
    let body = json!({"choices": [{"logprobs": {
        "tokens": ["Caf", "é is", " b", "ig", "!"],
        "token_logprobs": [null, -1.0, -2.0, -0.25, -9.0],
        "text_offset": [0, 3, 7, 9, 11],
        "top_logprobs": [null, {"é is": -1.0}, {" s": -0.5, " b": -2.0}, {"ig": -0.25}, {"!": -9.0}],
    }}]});
    let server = Server::new(vec![Act::Answer(200, "", body.to_string())]);
    let model = Client::new(config(&server)).unwrap();
    let found = model.loglikelihood(&[("Café is".into(), " big".into())]).unwrap()[0];
    assert_eq!((found.sum, found.n_tokens, found.is_greedy), (-2.25, 2, false));
    let rolling = model.loglikelihood_rolling(&["Café is big".into()]).unwrap()[0];
    assert_eq!((rolling.sum, rolling.n_tokens), (-3.25, 3));
    assert_eq!(server.seen()[0].body["echo"], true);
    let key = Some("PATH".to_owned());
    let hosted =
        Client::new(ClientConfig { provider: Provider::OpenAi, api_key_env: key, ..config(&server) })
            .unwrap();
    assert!(matches!(hosted.loglikelihood(&[]), Err(ModelError::Unsupported { .. })));
}

#[test]
fn vectors_come_in_order_and_of_unit_length() {
    let one = json!({"data": [{"index": 0, "embedding": [3.0, 4.0]}]}).to_string();
    let two = json!({"data": [{"index": 1, "embedding": [0.0, 2.0]}, {"index": 0, "embedding": [5.0, 0.0]}]})
        .to_string();
    let bad = json!({"data": [{"index": 0, "embedding": [0.0, 0.0]}, {"index": 0, "embedding": [1.0, 0.0]}]})
        .to_string();
    let answer = |body| Act::Answer(200, "", body);
    let server = Server::new(vec![answer(one), answer(two), answer(bad)]);
    let model = EmbedClient::new(Client::new(config(&server)).unwrap()).unwrap();
    assert_eq!((model.name(), model.dim()), ("m", 2));
    assert_eq!(model.embed(&["a", ""]).unwrap(), [vec![1.0, 0.0], vec![0.0, 1.0]]);
    assert_eq!(server.seen()[1].body["input"], json!(["a", " "]));
    assert!(model.embed(&["a", "b"]).is_err());
}

#[test]
fn a_stream_is_handed_over_piece_by_piece() {
    let events = concat!(
        ": keep-alive\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n",
        "data:{\"choices\":[{\"delta\":{\"content\":\"lo\"},\"finish_reason\":\"length\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n"
    );
    let cut = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    let answer = |body: &str| Act::Answer(200, "content-type: text/event-stream", body.to_owned());
    let server = Server::new(vec![Act::Answer(503, "", String::new()), answer(events), answer(cut)]);
    let model = Client::new(config(&server)).unwrap();
    let mut pieces = Vec::new();
    let mut ask = || {
        model.chat_stream(&hello(), &GenerateParams::default(), &mut |piece| pieces.push(piece.to_owned()))
    };
    let found = ask().unwrap();
    assert_eq!((found.text.as_str(), found.finish, found.completion_tokens), ("Hello", Finish::Length, 2));
    let error = ask().unwrap_err().to_string();
    assert!(error.contains("ended in the middle"), "{error}");
    assert_eq!(pieces, ["Hel", "lo", "Hel"]);
    assert_eq!(model.spent().completion_tokens, 2);
}

#[test]
fn every_attempt_of_a_stream_is_paid_for() {
    let server = Server::new(vec![Act::Answer(503, "", String::new())]);
    let budget = Budget { max_requests: Some(2), ..Budget::default() };
    let model = Client::new(ClientConfig { budget, ..config(&server) }).unwrap();
    let error = model.chat_stream(&hello(), &GenerateParams::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, ModelError::Budget(reason) if reason.contains("2 requests")), "{error}");
    assert_eq!((server.seen().len(), model.spent().requests), (2, 2));
    // What failed is paid back in tokens.
    let budget = Budget { max_tokens: Some(400), ..Budget::default() };
    let model = Client::new(ClientConfig { budget, ..config(&server) }).unwrap();
    let error = model.chat_stream(&hello(), &GenerateParams::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("failed 3 times"), "{error}");
    assert_eq!((model.spent().requests, model.spent().prompt_tokens), (3, 0));
}

#[test]
fn a_text_in_parts_is_joined() {
    let parts = json!([{"type": "text", "text": "Hello"}, {"type": "image"}, " you"]);
    let body = json!({"choices": [{"message": {"content": parts}}]}).to_string();
    let server = Server::new(vec![Act::Answer(200, "", body)]);
    let model = Client::new(config(&server)).unwrap();
    assert_eq!(model.chat(&hello(), &GenerateParams::default()).unwrap().text, "Hello you");
}

#[test]
fn the_other_name_of_the_token_limit_is_tried_once() {
    let refuses = |message: &str| Act::Answer(400, "", json!({"error": {"message": message}}).to_string());
    let old = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(vec![refuses(old), says("one"), says("two")]);
    let with_cache = ClientConfig { cache: Some(folder.path().to_owned()), ..config(&server) };
    let model = Client::new(with_cache.clone()).unwrap();
    let ask = |model: &Client, seed| {
        model.chat(&hello(), &GenerateParams { seed, ..GenerateParams::default() }).unwrap().text
    };
    assert_eq!((ask(&model, 0).as_str(), ask(&model, 1).as_str()), ("one", "two"));
    let names = server.seen().into_iter().map(|seen| seen.body.get("max_tokens").is_some());
    assert_eq!(names.collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(server.seen()[1].body["max_completion_tokens"], 256);
    // A client that has not found out yet reads what the other kept.
    assert_eq!(ask(&Client::new(with_cache).unwrap(), 1), "two");

    let server = Server::new(vec![refuses(old)]);
    assert!(Client::new(config(&server)).unwrap().chat(&hello(), &GenerateParams::default()).is_err());
    assert_eq!(server.seen().len(), 2);

    let check = |message: &str, n: usize| {
        let server = Server::new(vec![refuses(message), says("one")]);
        let key = Some("PATH".to_owned());
        let openai = ClientConfig { provider: Provider::OpenAi, api_key_env: key, ..config(&server) };
        let _ = Client::new(openai).unwrap().chat(&hello(), &GenerateParams::default());
        assert_eq!(server.seen().len(), n, "{message}");
    };
    check("Unrecognized request argument supplied: max_completion_tokens", 2);
    check("max_completion_tokens is too large: 256. This model supports at most 128", 1);
}

#[test]
fn a_fallback_passes_on_what_is_too_long_and_no_other_bad_request() {
    let refuses = |message: &str| Act::Answer(400, "", json!({"error": {"message": message}}).to_string());
    let check = |message: &str, expect: Option<&str>| {
        let (short, long) = (Server::new(vec![refuses(message)]), Server::new(vec![says("second")]));
        let client =
            |server: &Server| -> Box<dyn LanguageModel> { Box::new(Client::new(config(server)).unwrap()) };
        let both = Fallback::new(vec![client(&short), client(&long)]).unwrap();
        let found = both.chat(&hello(), &GenerateParams::default()).ok().map(|reply| reply.text);
        assert_eq!(found.as_deref(), expect, "{message}");
        let found = both.chat_batch(&[hello()], &GenerateParams::default()).ok();
        assert_eq!(found.map(|mut replies| replies.remove(0).text).as_deref(), expect, "{message}");
    };
    check("This model's maximum context length is 4096 tokens. You sent 5000 tokens.", Some("second"));
    check("the request exceeds the available context size", Some("second"));
    check("temperature must be at most 2", None);
}

#[test]
fn a_fallback_asks_the_next() {
    let (down, up) = (Server::new(vec![Act::HangUp]), Server::new(vec![says("second")]));
    let client = |server: &Server, model: &str| -> Box<dyn LanguageModel> {
        Box::new(Client::new(ClientConfig { model: model.into(), ..config(server) }).unwrap())
    };
    let both = Fallback::new(vec![client(&down, "a"), client(&up, "b")]).unwrap();
    assert_eq!(both.name(), "a|b");
    assert_eq!(both.chat(&hello(), &GenerateParams::default()).unwrap().text, "second");
    assert_eq!(both.chat_batch(&[hello(), hello()], &GenerateParams::default()).unwrap().len(), 2);
    let neither = Fallback::new(vec![client(&down, "a"), client(&down, "b")]).unwrap();
    let error = neither.chat(&hello(), &GenerateParams::default()).unwrap_err().to_string();
    assert!(error.contains("a: ") && error.contains("b: "), "{error}");
    assert!(Fallback::new(vec![]).is_err());
}

#[test]
fn bad_settings_are_refused() {
    let check = |change: &dyn Fn(&mut ClientConfig), expect: &str| {
        let mut config = ClientConfig::at("http://127.0.0.1:9", "m");
        config.api_key_env = None;
        change(&mut config);
        let error = Client::new(config).unwrap_err();
        assert!(matches!(error, LlmError::Config { .. }) && error.to_string().contains(expect), "{error}");
    };
    check(&|c| c.model = " ".into(), "model");
    check(&|c| c.base_url = Some("ftp://x".into()), "http://");
    check(&|c| c.base_url = None, "base_url");
    check(&|c| c.base_url = Some("https://user:pw@host/v1".into()), "no user or password");
    check(&|c| c.api_key_env = Some("FERROTUNE_NO_SUCH_VARIABLE".into()), "FERROTUNE_NO_SUCH_VARIABLE");
    let text = r#"{"provider": "vllm", "model": "m", "modle": 1}"#;
    assert!(serde_json::from_str::<ClientConfig>(text).unwrap_err().to_string().contains("modle"));
    let made: ClientConfig = serde_json::from_str(r#"{"provider": "llamacpp", "model": "m"}"#).unwrap();
    assert_eq!(made, ClientConfig::new(Provider::LlamaCpp, "m"));
}
