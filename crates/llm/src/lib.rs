//! An OpenAI-compatible client: providers, retry, fallback, budget.
