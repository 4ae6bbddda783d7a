//! A model in this process as evaluation sees it.
#![cfg(feature = "torch")]

use std::path::Path;

use ferrotune::local_model::LocalModel;
use ferrotune::model_store::{self, Place};
use ferrotune_types::{GenerateParams, LanguageModel as _, Message, Role};

fn tiny() -> LocalModel {
    tch::set_num_threads(1); // the model is too small to share
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny/llama");
    let model =
        model_store::load(&path.display().to_string(), Place::parse("cpu", "fp32").unwrap(), "").unwrap();
    LocalModel::new("tiny", model)
}

fn request(context: &str, continuation: &str) -> (String, String) {
    (context.to_owned(), continuation.to_owned())
}

#[test]
fn every_token_of_a_continuation_is_scored() {
    let model = tiny();
    for (context, continuation, before, after) in [
        ("", "Where is my order?", "", "Where is my order?"),
        ("   ", "my order", "", "   my order"),
        ("Where is", " my order?", "Where is", " my order?"),
        // White space at the seam goes with what follows it.
        ("Where is ", "my order?", "Where is", " my order?"),
    ] {
        let scored = model.loglikelihood(&[request(context, continuation)]).unwrap().remove(0);
        let prompt = if before.is_empty() {
            model.plain_prompt("").unwrap()
        } else {
            let whole = model.plain_prompt(before).unwrap();
            // Without BOS, as lm-eval asks.
            let bos = model.plain_prompt("").unwrap();
            whole.strip_prefix(&bos[..]).map_or(whole.clone(), <[u32]>::to_vec)
        };
        let (expect, tokens) = model.score(&prompt, after).unwrap();
        assert_eq!((scored.n_tokens, tokens.len()), (expect.n_tokens, expect.n_tokens), "{context:?}");
        assert!((scored.sum - expect.sum).abs() < 1e-4, "{context:?}: {scored:?} {expect:?}");
    }
}

#[test]
fn answers_to_one_question_are_scored_together_as_apart() {
    let model = tiny();
    let mut requests = vec![request("", "Yes."), request("", "No.")];
    for question in ["May I return it?", "May I return it after a month?", "May I return it?"] {
        requests.extend(
            [" Yes.", " No, never.", " Ask", ""].iter().take(3).map(|answer| request(question, answer)),
        );
    }
    let together = model.loglikelihood(&requests).unwrap();
    assert_eq!(together.len(), requests.len());
    for (one, request) in together.iter().zip(&requests) {
        let alone = model.loglikelihood(std::slice::from_ref(request)).unwrap().remove(0);
        assert_eq!((one.n_tokens, one.is_greedy), (alone.n_tokens, alone.is_greedy));
        assert!((one.sum - alone.sum).abs() < 1e-4, "{request:?}: {one:?} {alone:?}");
    }
}

#[test]
fn what_is_drawn_depends_on_the_place_and_not_on_the_neighbours() {
    let model = tiny();
    let ask = |text: &str| vec![Message::new(Role::User, text)];
    let params = GenerateParams { max_new_tokens: 8, temperature: 1.5, seed: 3, ..GenerateParams::default() };
    // Sorted by length, the second comes first or last.
    let [short, long] = ["no", "a much longer question than the other one, which goes on and on and on"];
    let say = |first: &str| model.chat_batch(&[ask(first), ask("Where is my order?")], &params).unwrap();
    assert_eq!(say(short)[1].ids, say(long)[1].ids);
    assert_ne!(say(short)[0].ids, say(long)[0].ids);
}
