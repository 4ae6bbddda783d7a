//! Deduplicates millions of made-up short documents within a memory bound, and says how long it took.
//!
//! `cargo run --release -p ferrotune-data --example dedup_at_scale -- 5000000 512`
//! (documents, MiB for band columns). Without arguments: twenty thousand documents, all in memory.

use std::borrow::Cow;
use std::time::Instant;

use ferrotune_data::dedup::{Facet, MinHashConfig, Texts, clusters};

/// Documents that are made anew each time they are read, so that only the index takes memory. Every tenth repeats
/// the one before it with a word changed.
struct MadeUp(usize);

/// Sixty-four syllables; three of them are a word.
const SYLLABLES: &str = "ba be bi bo da de di do fa fe fi fo ga ge gi go ha he hi ho ka ke ki ko la le li lo ma me mi mo \
    na ne ni no pa pe pi po ra re ri ro sa se si so ta te ti to va ve vi vo wa we wi wo za ze zi zo";

impl MadeUp {
    /// Twenty-four words of fifty thousand, as unevenly as in a language: the nth word comes 1/n as often as the first.
    fn text(i: usize) -> String {
        let is_copy = i % 10 == 9;
        let mut state = (if is_copy { i - 1 } else { i }) as u64 + 1;
        let mut text = String::new();
        for _ in 0..24 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let rank =
                (f64::from((state >> 40) as u32) / f64::from(1 << 24) * 50_000_f64.ln()).exp() as usize;
            // Neighbouring ranks look unlike each other.
            let word = rank * 40_503 % (1 << 18);
            for place in [0, 6, 12] {
                let at = (word >> place) % 64 * 3;
                text.push_str(&SYLLABLES[at..at + 2]);
            }
            text.push(' ');
        }
        text.push_str(if is_copy { "thanks" } else { "please" });
        text
    }
}

impl Texts for MadeUp {
    fn count(&self) -> usize {
        self.0
    }

    fn facets(&self, text: usize) -> Vec<Facet<'_>> {
        vec![Facet { tag: 0, text: Cow::Owned(MadeUp::text(text)) }]
    }
}

#[expect(clippy::print_stdout, reason = "an example program")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let n = arguments.next().map_or(Ok(20_000), |n| n.parse())?;
    let memory_mib = arguments.next().map_or(Ok(1024), |m| m.parse())?;
    let config = MinHashConfig { memory_mib, ..MinHashConfig::default() };
    println!("{}", config.banding());
    let start = Instant::now();
    let found = clusters(&MadeUp(n), &config)?;
    let seconds = start.elapsed().as_secs_f64();
    let joined = found.of.iter().enumerate().filter(|&(i, &first)| i != first).count();
    println!("{n} documents in {seconds:.1} s, {:.0} a second", n as f64 / seconds);
    println!("{joined} of {} copies found; {:?}", n / 10, found.stats);
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
        println!("peak memory {}", peak.trim_start_matches("VmHWM:").trim());
    }
    Ok(())
}
