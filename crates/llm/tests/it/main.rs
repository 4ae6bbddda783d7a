//! The client against a server that misbehaves in every way that servers do.

mod asking;
mod failing;
mod server;

use ferrotune_llm::{ClientConfig, Provider, RetryConfig};
use ferrotune_types::{Message, Role};

use server::Server;

/// A client's settings for a test's server: quick retries, short waits.
fn config(server: &Server) -> ClientConfig {
    ClientConfig {
        base_url: Some(server.url()),
        timeout_s: 1,
        retry: RetryConfig { attempts: 3, base_ms: 2, max_ms: 1000, seed: 0 },
        ..ClientConfig::new(Provider::Custom, "m")
    }
}

fn hello() -> Vec<Message> {
    vec![Message::new(Role::User, "Hello")]
}
