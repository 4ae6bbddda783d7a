//! One token at a time on the CPU, without libtorch.
//!
//! A step of generation multiplies every weight with a single row: it is bound by memory, and libtorch's product
//! for one row reads memory well below the speed that the machine allows, on top of some twenty calls a block. So
//! here the whole step is plain Rust over the decoder's own weights, in fp32 throughout, whatever the weights are
//! stored in: fp32, bf16, or 8 bits with a scale for each row (whose products run in whole numbers).
//!
//! [`Plan`] is a decoder laid out for that: borrowed weights, norms as plain numbers. It knows dense and 8-bit
//! layers. fp32 weights that came from fewer bits go back into them ([`Plan::compact`]), which changes no number. Where a
//! decoder has others (an adapter, NF4, a mixture of experts), is in fp16, or lies on a GPU, there
//! is no plan, and libtorch takes the steps as it takes everything else.
//!
//! **Invariants.** A row of a product is summed by one thread in a fixed order, so numbers do not depend on the
//! number of threads. Nor do they depend on a row's neighbours, but for bf16 on a CPU that multiplies tiles: there
//! eight rows and more are summed in another order than fewer, and differ in the last bits. The loops are compiled for
//! several kinds of CPU; which one runs is asked at run time.

mod attend;
mod bytes;
mod compact;
mod kernels;
mod math;
mod matrix;
mod norm;
mod pack;
mod parallel;
mod plan;
mod step;
mod tiles;
mod vectors;

pub(crate) use matrix::{floats, int8_product};
pub(crate) use pack::{Packed, pack};
pub(crate) use plan::Plan;
pub(crate) use step::{RopeRows, StepInput};
