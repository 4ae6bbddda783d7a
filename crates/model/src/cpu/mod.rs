//! One token at a time on the CPU, without libtorch.
//!
//! A step of generation multiplies every weight with a single row: it is bound by memory, and libtorch's product
//! reads memory at a third of the speed that this machine's allows, on top of some twenty calls a block. So here
//! the whole step is plain Rust over the decoder's own weights: a few kernels over 512- or 256-bit vectors, and a
//! team of threads that wait for each other without going to sleep. Numbers are fp32 throughout, whatever the
//! weights are stored in.
//!
//! Layers that these kernels do not know (with an adapter, in NF4, a mixture of experts) go through libtorch, so
//! every decoder runs. More than [`MAX_ROWS`] rows are libtorch's business: there its products are good.

mod kernels;
mod matrix;
mod plan;
mod simd;
mod step;
mod team;

pub(crate) use plan::Plan;

/// Batches of up to so many rows run here.
pub(crate) const MAX_ROWS: usize = 4;
