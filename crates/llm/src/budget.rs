use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::LlmError;

/// What may be spent; an absent limit is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Requests over the network, repeated attempts counted.
    pub max_requests: Option<u64>,
    /// Tokens, of prompts and replies together.
    pub max_tokens: Option<u64>,
    /// Money, in the unit of [`Prices`].
    pub max_cost: Option<f64>,
}

/// What tokens cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// A million tokens of prompts.
    pub prompt_per_million: f64,
    /// A million tokens of replies.
    pub completion_per_million: f64,
}

impl Prices {
    fn cost(&self, prompt: u64, completion: u64) -> f64 {
        (prompt as f64 * self.prompt_per_million + completion as f64 * self.completion_per_million) / 1e6
    }
}

/// What has been spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Requests over the network.
    pub requests: u64,
    /// Tokens of prompts, as the server counted them.
    pub prompt_tokens: u64,
    /// Tokens of replies.
    pub completion_tokens: u64,
    /// Money.
    pub cost: f64,
    /// Replies that came from the cache and cost nothing.
    pub cached: u64,
}

/// Keeps account of a budget for any number of threads; several clients may share one.
#[derive(Debug, Default)]
pub struct Ledger {
    budget: Budget,
    prices: Prices,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spent: Spent,
    /// Set aside by requests that are under way.
    reserved_tokens: u64,
    reserved_cost: f64,
}

/// What one request has set aside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reservation {
    prompt: u64,
    completion: u64,
}

impl Ledger {
    /// An account with nothing spent.
    pub fn new(budget: Budget, prices: Prices) -> Self {
        Ledger { budget, prices, state: Mutex::default() }
    }

    /// What has been spent so far.
    pub fn spent(&self) -> Spent {
        self.lock().spent
    }

    /// Sets the worst case aside, or refuses where the budget cannot pay for it.
    pub(crate) fn reserve(&self, prompt: u64, completion: u64) -> Result<Reservation, LlmError> {
        let mut state = self.lock();
        let refuse = |limit: String| Err(LlmError::Budget(format!("the next request may exceed {limit}")));
        if let Some(max) = self.budget.max_requests.filter(|max| state.spent.requests >= *max) {
            return refuse(format!("{max} requests"));
        }
        let tokens = state.spent.prompt_tokens
            + state.spent.completion_tokens
            + state.reserved_tokens
            + prompt
            + completion;
        if let Some(max) = self.budget.max_tokens.filter(|max| tokens > *max) {
            return refuse(format!("{max} tokens"));
        }
        let cost = self.prices.cost(prompt, completion);
        if let Some(max) =
            self.budget.max_cost.filter(|max| state.spent.cost + state.reserved_cost + cost > *max)
        {
            return refuse(format!("a cost of {max}"));
        }
        state.spent.requests += 1;
        state.reserved_tokens += prompt + completion;
        state.reserved_cost += cost;
        Ok(Reservation { prompt, completion })
    }

    /// Replaces what was set aside by what was used: nothing, where the request failed.
    pub(crate) fn settle(&self, held: Reservation, used: Option<(u64, u64)>) {
        let mut state = self.lock();
        state.reserved_tokens = state.reserved_tokens.saturating_sub(held.prompt + held.completion);
        state.reserved_cost = (state.reserved_cost - self.prices.cost(held.prompt, held.completion)).max(0.0);
        if let Some((prompt, completion)) = used {
            state.spent.prompt_tokens += prompt;
            state.spent.completion_tokens += completion;
            state.spent.cost += self.prices.cost(prompt, completion);
        }
    }

    pub(crate) fn count_cached(&self) {
        self.lock().spent.cached += 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_order_of_requests_overdraws(
            requests in prop::collection::vec((0..500u64, 0..500u64, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let budget = Budget { max_requests: Some(40), max_tokens: Some(5000), max_cost: Some(0.004) };
            let ledger = Ledger::new(budget, Prices { prompt_per_million: 1.0, completion_per_million: 2.0 });
            let mut open = Vec::new();
            for (prompt, completion, fails, waits) in requests {
                let Ok(held) = ledger.reserve(prompt, completion) else { continue };
                open.push((held, (!fails).then_some((prompt, completion))));
                if !waits {
                    for (held, used) in open.drain(..) {
                        ledger.settle(held, used);
                    }
                }
            }
            for (held, used) in open {
                ledger.settle(held, used);
            }
            let spent = ledger.spent();
            prop_assert!(spent.requests <= 40 && spent.prompt_tokens + spent.completion_tokens <= 5000);
            prop_assert!(spent.cost <= 0.004 + 1e-12);
        }
    }
}
