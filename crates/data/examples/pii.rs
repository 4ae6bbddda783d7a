//! Strips personal data from text: standard input, or a few tickets of a made-up shop.
//!
//! `cargo run -p ferrotune-data --example pii < letter.txt`

use std::io::{IsTerminal, Read, Write};

use ferrotune_data::pii::{self, PiiConfig};

const TICKETS: &str = "\
Hi Sarah, my order #BS-10482 from 3/4/2024 never came. You can call 785 8949 or mail sam.o@example.org.
Returns within 30 days? I paid $75 with card 4929 3600 0381 1724; my new address is 12 Main Street, Springfield, IL 62704.
I was born on 5 May 1990, my password is Tr0ub4dor, and I see \"86.231.85.193 blocked\" in version 2.10.3.
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_string(&mut text)?;
    }
    if text.is_empty() {
        TICKETS.clone_into(&mut text);
    }
    let redacted = pii::redact(&text, &PiiConfig::default())?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", redacted.text)?;
    for r in &redacted.replacements {
        writeln!(out, "{:16} {:.2}  {} -> {}", r.span.kind.to_string(), r.span.score, r.before, r.after)?;
    }
    Ok(())
}
