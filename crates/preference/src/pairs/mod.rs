//! Preference data: making pairs from what people or judges left behind, and finding what is wrong with them.

mod check;
mod graph;
mod make;
mod rows;

pub use check::{
    Flag, Flagged, LengthBias, PairCheck, PairReport, PairTokens, SetAside, check_pairs, is_refusal,
    set_aside,
};
pub use make::{
    Outcome, Pairing, Thumb, Verdict, agreed, from_log, from_ranking, from_scores, from_thumbs, to_thumbs,
};
pub use rows::{BadRow, RowKind, pairs_from_rows};
