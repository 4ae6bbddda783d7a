use ferrotune_types::{Embed, ModelError};

use crate::batch::in_parallel;
use crate::{Client, LlmError, wire};

/// Texts sent in one request.
const BATCH: usize = 64;

/// An embedding model behind an OpenAI-compatible API.
#[derive(Debug)]
pub struct EmbedClient {
    client: Client,
    name: String,
    dim: usize,
}

impl EmbedClient {
    /// Asks for one vector to learn its length. (From the cache, where it has been asked before.)
    ///
    /// # Errors
    /// Those of a request.
    pub fn new(client: Client) -> Result<Self, LlmError> {
        let dim = request(&client, &["length"])?.first().map_or(0, Vec::len);
        let name = client.config().model.clone();
        Ok(EmbedClient { client, name, dim })
    }
}

impl Embed for EmbedClient {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let batches: Vec<&[&str]> = texts.chunks(BATCH).collect();
        let rows =
            in_parallel(&batches, self.client.config().concurrency, |batch| request(&self.client, batch))?;
        let rows: Vec<Vec<f32>> = rows.into_iter().flatten().collect();
        match rows.iter().find(|row| row.len() != self.dim) {
            Some(row) => Err(ModelError::failed(format!(
                "{} gave a vector of {} numbers among those of {}",
                self.name,
                row.len(),
                self.dim
            ))),
            None => Ok(rows),
        }
    }
}

fn request(client: &Client, texts: &[&str]) -> Result<Vec<Vec<f32>>, LlmError> {
    // Some servers refuse an empty text; a space embeds to the same nothing.
    let texts: Vec<&str> = texts.iter().map(|text| if text.is_empty() { " " } else { text }).collect();
    client.ask("embeddings", &wire::embed_body(client.config(), &texts), 0, |url, reply| {
        wire::vectors(url, texts.len(), reply)
    })
}
