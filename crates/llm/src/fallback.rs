use ferrotune_types::{Completion, GenerateParams, LanguageModel, LogLikelihood, Message, ModelError};

use crate::error::is_too_long;

/// Models in a row: where one fails, the next is asked.
///
/// A failure is an unreachable or refusing server, a prompt too long for the model, or something it cannot do. A
/// spent budget and a bad request are not passed on: the next model would spend more, or refuse as well. In a
/// batch each conversation falls back alone.
pub struct Fallback {
    name: String,
    models: Vec<Box<dyn LanguageModel>>,
}

impl Fallback {
    /// The first model is asked first. Its name is all their names, joined by `|`.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] where there is no model.
    pub fn new(models: Vec<Box<dyn LanguageModel>>) -> Result<Self, ModelError> {
        if models.is_empty() {
            return Err(ModelError::BadRequest("a fallback needs at least one model".to_owned()));
        }
        let names: Vec<&str> = models.iter().map(|model| model.name()).collect();
        Ok(Fallback { name: names.join("|"), models })
    }

    fn first_of<T>(
        &self,
        ask: impl Fn(&dyn LanguageModel) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        let mut faults = Vec::new();
        for model in &self.models {
            match ask(model.as_ref()) {
                Ok(found) => return Ok(found),
                Err(error) if ends_the_row(&error) => return Err(error),
                Err(error) => faults.push((model.name(), error)),
            }
        }
        if faults.len() == 1
            && let Some((_, error)) = faults.pop()
        {
            return Err(error);
        }
        let told: Vec<String> = faults.iter().map(|(name, error)| format!("{name}: {error}")).collect();
        Err(ModelError::failed(format!("every model failed: {}", told.join("; "))))
    }
}

fn ends_the_row(error: &ModelError) -> bool {
    matches!(error, ModelError::Budget(_) | ModelError::BadRequest(_)) && !is_too_long(error)
}

impl LanguageModel for Fallback {
    fn name(&self) -> &str {
        &self.name
    }

    fn chat(&self, messages: &[Message], params: &GenerateParams) -> Result<Completion, ModelError> {
        self.first_of(|model| model.chat(messages, params))
    }

    fn chat_batch(
        &self,
        conversations: &[Vec<Message>],
        params: &GenerateParams,
    ) -> Result<Vec<Completion>, ModelError> {
        // The first model may answer the batch side by side; only where that fails are they asked one by one.
        match self.models.first().map(|model| model.chat_batch(conversations, params)) {
            Some(Ok(replies)) => Ok(replies),
            Some(Err(error)) if ends_the_row(&error) => Err(error),
            _ => conversations.iter().map(|messages| self.chat(messages, params)).collect(),
        }
    }

    fn loglikelihood(&self, requests: &[(String, String)]) -> Result<Vec<LogLikelihood>, ModelError> {
        self.first_of(|model| model.loglikelihood(requests))
    }

    fn loglikelihood_rolling(&self, texts: &[String]) -> Result<Vec<LogLikelihood>, ModelError> {
        self.first_of(|model| model.loglikelihood_rolling(texts))
    }
}
