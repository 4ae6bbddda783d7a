//! Judging rows: each filter a file, each with a stable key for its reason.
//!
//! A filter never changes a row. It is a [`RecordStep`](crate::RecordStep) that returns the reason for setting
//! the row aside, with the figures that decided. Most look at the *answers* of a row (what training learns to
//! say: the assistant's turns, both sides of a pair, a document's text); language, toxicity and length can look
//! at the person's turns too.
//!
//! | reason | filter |
//! |---|---|
//! | `empty_answer`, `placeholder` | [`Placeholder`] |
//! | `too_short`, `too_long`, `too_few_words`, `too_few_tokens`, `too_many_tokens` | [`Length`] |
//! | `truncated` | [`Truncated`] |
//! | `repetition` | [`Repetition`] |
//! | `wrong_language`, `unknown_language` | [`Language`] |
//! | `mixed_language` | [`MixedLanguage`] |
//! | `toxic` | [`Toxic`] |
//! | `refusal`, `says_nothing`, `no_information` | [`Refusal`] |
//! | `low_satisfaction`, `slow_resolution`, `missing_column`, `column_value` | [`Tickets`], [`Column`] |
//! | `no_answer`, `bad_turns`, `identical_pair` | [`Turns`] |
//! | `gopher_…`, `dup_line_frac`, `top_2_gram`, … | [`GopherQuality`], [`GopherRepetition`] |
//! | `too_few_sentences`, `lorem_ipsum`, `curly_bracket` | [`C4Quality`] |
//! | `line_punct_ratio`, `short_line_ratio`, `char_dup_ratio`, `list_ratio` | [`FineWebQuality`] |

mod column;
mod language;
mod length;
mod mixed_language;
mod placeholder;
mod quality;
mod refusal;
mod repetition;
pub mod toxicity;
mod truncated;
mod turns;

pub use column::{Column, Missing, Tickets};
pub use language::{Engine, Language, LanguageId, identify};
pub use length::{CountTokens, Length, approximate_tokens};
pub use mixed_language::MixedLanguage;
pub use placeholder::Placeholder;
pub use quality::{C4Quality, FineWebQuality, GopherQuality, GopherRepetition, sentences, words};
pub use refusal::Refusal;
pub use repetition::{Loop, Repetition, find_loop};
pub use toxicity::Toxic;
pub use truncated::{Truncated, is_truncated};
pub use turns::Turns;

/// The beginning of a text, for the detail of a verdict.
fn shown(text: &str) -> String {
    let text = text.trim();
    let cut = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    if cut < text.len() { format!("{:?}…", &text[..cut]) } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests;
