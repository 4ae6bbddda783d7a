//! The parts of a training run on libtorch: forward and backward without waste, losses over graded tokens
//! only, AdamW, schedules, checkpoints that resume bit for bit, a metric log and a loss plot.
//!
//! There is no trainer here. A recipe (see `ferrotune::recipes`) is one loop that a person reads top to bottom:
//!
//! ```text
//! for batch in sampler:
//!     forward  = Forward::run(&decoder, &batch, checkpointing)     hidden states (T, C), graph kept
//!     scored   = score(&decoder, &forward.graded(..), ..)          ln p of graded tokens (N) and its gradient (N, C)
//!     weights  = d loss / d ln p  (N)                              −1/N for SFT; from the pair's loss for DPO
//!     forward.backward(&scored, &weights)                          gradients of the adapters
//! optimizer.step(learning_rate)
//! ```
//!
//! The key idea is [`Scored`]: the LM head is visited once, in chunks, only for graded positions, and leaves
//! behind each token's log-probability and the gradient of that log-probability with respect to its hidden
//! state. Every loss that is a function of token log-probabilities (SFT, DPO and its relatives, KTO, ORPO, DFT)
//! is then a vector of weights, and no loss ever holds the logits of a batch.
//!
//! **Invariants**, each a test: accumulated gradients equal the big batch's; packing, padding and batch order
//! do not move the loss; chunked equals whole cross entropy in value and gradient; activation checkpointing
//! changes memory only; frozen weights stay bit-identical; a resumed run equals an uninterrupted one.
//!
//! ```
//! use ferrotune_train::Schedule;
//! let schedule = Schedule::Cosine { warmup_steps: 10 };
//! assert_eq!(schedule.factor(4, 100), 0.5);
//! assert_eq!(schedule.factor(9, 100), 1.0);
//! assert!(schedule.factor(99, 100) < 0.01);
//! ```

mod forward;
mod head;
mod sft;

mod masked_lm;

mod kernels;

mod adamw;
mod blockwise;
mod clip;
mod freeze;
mod sampler;
mod schedule;

mod checkpoint;
mod early_stop;
mod error;
mod estimate;
mod guard;
mod lr_find;
mod metrics;
mod plot;
mod tensorboard;

pub use adamw::{AdamW, AdamWConfig, Param};
pub use checkpoint::{
    CHECKPOINT_VERSION, Checkpoint, RunState, latest_checkpoint, load_checkpoint, save_checkpoint,
};
pub use clip::clip_grad_norm;
pub use early_stop::{EarlyStop, Turn};
pub use error::TrainError;
pub use estimate::{Estimate, HeldMemory, PassCost, PassLoad};
pub use forward::Forward;
pub use freeze::{Freeze, unfreeze};
pub use guard::check_loss;
pub use head::{HeadOptions, Scored, score};
pub use lr_find::{LrPoint, LrSweep};
pub use masked_lm::{MaskedBatch, Masking, mask_tokens, mlm_accumulate, mlm_nll};
pub use metrics::MetricLog;
pub use plot::{Curve, draw_loss, draw_lr_sweep};
pub use sampler::Sampler;
pub use schedule::Schedule;
pub use sft::{SftStats, evaluate_nll, sft_accumulate, sft_accumulate_from};
pub use tensorboard::EventFile;
