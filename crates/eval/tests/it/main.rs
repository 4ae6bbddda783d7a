//! The crate as its users see it, against the programs whose figures it must reproduce.

mod judges;
mod llm_judge;
mod metrics;
mod statistics;
mod tasks;

use std::sync::Mutex;

use ferrotune_types::{
    Completion, Finish, GenerateParams, LanguageModel, LogLikelihood, Message, ModelError,
};

/// A file of the shared test data, or a note and nothing where this checkout has none.
fn shared(path: &str) -> Option<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    let found = std::fs::read_to_string(&path).ok();
    if found.is_none() {
        eprintln!("skipped: {} is not here", path.display());
    }
    found
}

/// A model made of two functions, which keeps what it was asked.
struct Scripted<F, L> {
    say: F,
    weigh: L,
    asked: Mutex<Vec<Vec<Message>>>,
}

impl<F: Fn(&str) -> String, L: Fn(&str, &str) -> f64> Scripted<F, L> {
    fn new(say: F, weigh: L) -> Self {
        Scripted { say, weigh, asked: Mutex::new(Vec::new()) }
    }
}

impl<F: Fn(&str) -> String, L: Fn(&str, &str) -> f64> LanguageModel for Scripted<F, L> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn chat(&self, messages: &[Message], _: &GenerateParams) -> Result<Completion, ModelError> {
        self.asked.lock().unwrap().push(messages.to_vec());
        let text = (self.say)(&messages.last().unwrap().content);
        Ok(Completion {
            text,
            ids: vec![],
            finish: Finish::Stop,
            prompt_tokens: 0,
            completion_tokens: 0,
            logprobs: vec![],
        })
    }

    fn loglikelihood(&self, requests: &[(String, String)]) -> Result<Vec<LogLikelihood>, ModelError> {
        let weigh = |(c, k): &(String, String)| LogLikelihood {
            sum: (self.weigh)(c, k),
            n_tokens: 1,
            is_greedy: false,
        };
        Ok(requests.iter().map(weigh).collect())
    }
}
