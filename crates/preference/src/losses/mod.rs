//! One file a loss: pure functions of (B) tensors, each returning (B).
//!
//! Letters as in the papers: Δc and Δr are the log-ratios of policy to reference of the chosen and the
//! rejected answer, d = Δc − Δr the margin (or its f-divergence form), β the strength, ε label smoothing.
//! Every loss falls as d grows, unless its doc says otherwise: its gradient raises the chosen answer's
//! log-probability and lowers the rejected one's.

mod aot;
mod apo;
mod bco;
mod discopop;
mod exo;
mod hinge;
mod ipo;
mod nca;
mod robust;
mod sft;
mod sigmoid;
mod sppo;

pub use aot::{aot, aot_unpaired};
pub use apo::{apo_down, apo_zero};
pub use bco::bco_pair;
pub use discopop::discopop;
pub use exo::exo_pair;
pub use hinge::hinge;
pub use ipo::ipo;
pub use nca::nca_pair;
pub use robust::robust;
pub use sft::sft;
pub use sigmoid::{cdpo, sigmoid};
pub use sppo::sppo_hard;
