//! Is the tuned model better than its base, and how sure is that?
//!
//! The key type is the [`JudgeReport`]: the same questions answered by two models, each pair judged, and a
//! verdict with its confidence interval. Around it stand what else a comparison needs: text metrics
//! ([`rouge_l`], [`bleu`], [`chrf`], [`exact_match`], [`token_f1`]), [`perplexity`], benchmark tasks in lm-eval's formats
//! ([`run_choices`], [`run_gsm8k`]) and statistics ([`paired_bootstrap`], [`sign_test`], [`cohen_kappa`]).
//!
//! **Invariants.**
//! - This crate sees models only through the traits of `ferrotune-types`: the same code measures a model in
//!   this process and one behind an HTTP API.
//! - A judge never rewards an empty or a looping answer, however many words it shares with the reference.
//! - Swapping the two models mirrors every report: no judge here prefers a place.
//! - Whatever is drawn at random is drawn from a seed: the same input gives the same report, byte for byte.
//! - A difference is called `better` or `worse` only where chance is an unlikely explanation by a stated rule.
//!
//! ```
//! use ferrotune_eval::{Case, ReferenceJudge, Verdict, judge};
//!
//! let case = |id: usize| Case {
//!     id: id.to_string(),
//!     question: "How long do I have to return an item?".into(),
//!     before: Vec::new(),
//!     reference: Some("You have 30 days to return an item with its receipt.".into()),
//!     base: "Thank you for asking! You have 90 days to return an item with its receipt.".into(),
//!     tuned: "Returns are accepted for 30 days with a receipt.".into(),
//! };
//! let cases: Vec<Case> = (0..8).map(case).collect();
//! let report = judge(&ReferenceJudge::default(), &cases, 0)?;
//! assert_eq!((report.tuned, report.base, report.tie), (8, 0, 0));
//! assert_eq!(report.verdict, Verdict::Better);
//! # Ok::<(), ferrotune_eval::EvalError>(())
//! ```

mod error;
mod judge;
mod perplexity;
mod stats;
mod tasks;
mod text;

pub use error::EvalError;
pub use judge::{
    Basis, Case, Decision, Judge, JudgeReport, JudgeRow, LlmJudge, ReferenceJudge, Score, Verdict, Winner,
    agreement, is_degenerate, is_degenerate_beside, judge, parse_verdict,
};
pub use perplexity::{Perplexity, perplexity};
pub use stats::{
    Interval, PairedDifference, bootstrap_mean, cohen_kappa, mcnemar, paired_bootstrap, sign_test,
    standard_error, wilson, win_rate,
};
pub use tasks::{
    Choices, Gold, GsmReport, GsmRow, McRow, McTask, Shots, TaskReport, gsm8k_answer, parse_csv, run_choices,
    run_gsm8k,
};
pub use text::{
    Prf, bleu, chrf, chrf_plus_plus, corpus_bleu, corpus_chrf, exact_match, rouge_l, rouge_n, token_f1,
};
