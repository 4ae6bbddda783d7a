//! Row-by-row kernels on CPU tensors, for what libtorch takes many passes over memory to do, and what it takes to write
//! more of them.
//!
//! A matrix product is libtorch's business. Between two products a block does little arithmetic on much memory,
//! and there each operation of libtorch reads and writes everything once more; its autograd keeps copies besides.
//! Each kernel here goes over its rows once, computes in fp32 whatever the tensors' dtype, and rounds once.
//!
//! **Invariants.** A row's numbers do not depend on how many threads share the work, nor on the vector width of
//! the machine: sums run in a fixed number of lanes. Tensors are checked (dtype, contiguity, size) where they
//! become slices, so a kernel's own code is safe Rust but for writing disjoint rows from several threads.

mod attention_rows;
mod element;
mod head_rows;
mod norm_rows;
mod parallel;
mod rotary_rows;
mod silu_rows;
mod wide;

pub(crate) use attention_rows::{softmax_backward, softmax_seen};
pub use element::{Bf16, Element, Rows, elements, exp, has_avx512, max, sum, sum_zipped};
pub use head_rows::{HeadRow, head_rows};
pub(crate) use head_rows::{RunningHead, head_part};
pub(crate) use norm_rows::{rms_backward, rms_forward, rms_normed};
pub use parallel::{parallel, rows_worth};
pub(crate) use rotary_rows::{Heads, join_heads, split_heads, split_qkv, unsplit_qkv};
pub(crate) use silu_rows::{silu_backward, silu_forward};

use tch::Kind;

/// Whether the kernels compute in this dtype.
pub fn computes(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::BFloat16)
}

/// Calls a function that is generic over the element with the element that `kind` names.
#[macro_export]
macro_rules! by_kind {
    ($kind:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $kind {
            tch::Kind::BFloat16 => $function::<$crate::kernels::Bf16>($($argument),*),
            _ => $function::<f32>($($argument),*),
        }
    };
}

/// Compiles a function for AVX-512, for AVX2 and for any machine, and picks when it is called. It does the same operations
/// in the same order, so it gives the same bits everywhere.
#[macro_export]
macro_rules! for_each_width {
    (
        $(#[$doc:meta])* $visible:vis fn $name:ident $(<$element:ident: $bound:path>)?
        ($($argument:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block
    ) => {
        $(#[$doc])*
        $visible fn $name $(<$element: $bound>)? ($($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain $(<$element: $bound>)? ($($argument: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
                fn avx512 $(<$element: $bound>)? ($($argument: $type),*) $(-> $out)? {
                    plain $(::<$element>)? ($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$element: $bound>)? ($($argument: $type),*) $(-> $out)? {
                    plain $(::<$element>)? ($($argument),*)
                }
                if $crate::kernels::has_avx512() {
                    // SAFETY: the machine has these instructions.
                    return unsafe { avx512 $(::<$element>)? ($($argument),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2 $(::<$element>)? ($($argument),*) };
                }
            }
            plain $(::<$element>)? ($($argument),*)
        }
    };
}

pub use wide::{wide, widens};
pub use {by_kind, for_each_width};
