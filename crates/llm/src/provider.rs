use serde::{Deserialize, Serialize};

/// Who serves the model. Decides the address, the key's variable and which parameters may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// OpenAI.
    OpenAi,
    /// Azure OpenAI, v1 API: set `base_url` to `https://RESOURCE.openai.azure.com/openai/v1`.
    Azure,
    /// Together AI.
    Together,
    /// Groq.
    Groq,
    /// Mistral.
    Mistral,
    /// DeepSeek.
    DeepSeek,
    /// OpenRouter.
    OpenRouter,
    /// Ollama on this machine.
    Ollama,
    /// vLLM; by default on this machine.
    Vllm,
    /// llama.cpp's `llama-server`; by default on this machine.
    LlamaCpp,
    /// LM Studio on this machine.
    LmStudio,
    /// Anything else that speaks the API: set `base_url`, and `api_key_env` where it wants a key.
    Custom,
}

/// What is known of a provider. One line a provider, in [`Provider::traits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// Address of the API, without a slash at its end; empty where it must be given.
    pub base_url: &'static str,
    /// Where the key is read from; empty where none is needed.
    pub api_key_env: &'static str,
    /// The header that carries the key.
    pub key_header: &'static str,
    /// The field that bounds the generated tokens.
    pub max_tokens_field: &'static str,
    /// The field of the seed; empty where there is none.
    pub seed_field: &'static str,
    /// Whether `top_k` and `repetition_penalty` may be sent.
    pub samples_freely: bool,
    /// Whether `/completions` gives a prompt's own log-probabilities (`echo`).
    pub echoes: bool,
}

impl Provider {
    /// What is known of it.
    pub const fn traits(self) -> Traits {
        match self {
            Provider::OpenAi => {
                row("https://api.openai.com/v1", "OPENAI_API_KEY", "max_completion_tokens", "seed")
            }
            Provider::Azure => Traits {
                key_header: "api-key",
                ..row("", "AZURE_OPENAI_API_KEY", "max_completion_tokens", "seed")
            },
            Provider::Together => Traits {
                samples_freely: true,
                echoes: true,
                ..row("https://api.together.xyz/v1", "TOGETHER_API_KEY", "max_tokens", "seed")
            },
            Provider::Groq => row("https://api.groq.com/openai/v1", "GROQ_API_KEY", "max_tokens", "seed"),
            Provider::Mistral => {
                row("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "max_tokens", "random_seed")
            }
            Provider::DeepSeek => row("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "max_tokens", ""),
            Provider::OpenRouter => Traits {
                samples_freely: true,
                ..row("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "max_tokens", "seed")
            },
            Provider::Ollama => row("http://127.0.0.1:11434/v1", "", "max_tokens", "seed"),
            Provider::Vllm => Traits {
                samples_freely: true,
                echoes: true,
                ..row("http://127.0.0.1:8000/v1", "", "max_tokens", "seed")
            },
            Provider::LlamaCpp => {
                Traits { samples_freely: true, ..row("http://127.0.0.1:8080/v1", "", "max_tokens", "seed") }
            }
            Provider::LmStudio => row("http://127.0.0.1:1234/v1", "", "max_tokens", "seed"),
            Provider::Custom => {
                Traits { samples_freely: true, echoes: true, ..row("", "", "max_tokens", "seed") }
            }
        }
    }
}

const fn row(
    base_url: &'static str,
    api_key_env: &'static str,
    max_tokens_field: &'static str,
    seed_field: &'static str,
) -> Traits {
    Traits {
        base_url,
        api_key_env,
        key_header: "authorization",
        max_tokens_field,
        seed_field,
        samples_freely: false,
        echoes: false,
    }
}
