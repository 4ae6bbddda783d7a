//! Row-by-row kernels on CPU tensors, for what libtorch takes many passes over memory to do.
//!
//! A matrix product is libtorch's business. Between two products a block does little arithmetic on much memory,
//! and there each operation of libtorch reads and writes everything once more; its autograd keeps copies besides.
//! Each kernel here goes over its rows once, computes in fp32 whatever the tensors' dtype, and rounds once.
//!
//! **Invariants.** A row's numbers do not depend on how many threads share the work, nor on the vector width of
//! the machine: sums run in a fixed number of lanes. Tensors are checked (dtype, contiguity, size) where they
//! become slices, so a kernel's own code is safe Rust but for writing disjoint rows from several threads.

mod adamw8_rows;
mod adamw_rows;
mod attention_rows;
mod element;
mod head_rows;
mod norm_rows;
mod parallel;
mod rotary_rows;
mod silu_rows;

pub(crate) use adamw_rows::{AdamRow, AdamShared, adamw_rows, takes as adamw_takes};
pub(crate) use adamw8_rows::{Adam8Row, adamw8_row};
pub(crate) use attention_rows::{softmax_backward, softmax_seen};
pub(crate) use head_rows::{HeadRow, head_rows};
pub(crate) use norm_rows::{rms_backward, rms_forward, rms_normed};
pub(crate) use rotary_rows::{Heads, join_heads, split_heads, split_qkv, unsplit_qkv};
pub(crate) use silu_rows::{silu_backward, silu_forward};

use tch::Kind;

/// Whether the kernels compute in this dtype.
pub(crate) fn computes(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::BFloat16)
}

/// Calls a function that is generic over the element with the element that `kind` names.
macro_rules! by_kind {
    ($kind:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $kind {
            tch::Kind::BFloat16 => $function::<crate::kernels::element::Bf16>($($argument),*),
            _ => $function::<f32>($($argument),*),
        }
    };
}

/// Compiles a function for AVX-512, for AVX2 and for any machine, and picks when it is called.
macro_rules! for_each_width {
    ($(#[$doc:meta])* fn $name:ident<E: Element>($($argument:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        fn $name<E: Element>($($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain<E: Element>($($argument: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
                fn avx512<E: Element>($($argument: $type),*) $(-> $out)? {
                    plain::<E>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<E: Element>($($argument: $type),*) $(-> $out)? {
                    plain::<E>($($argument),*)
                }
                if crate::kernels::element::has_avx512() {
                    // SAFETY: the machine has these instructions.
                    return unsafe { avx512::<E>($($argument),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2::<E>($($argument),*) };
                }
            }
            plain::<E>($($argument),*)
        }
    };
}

pub(crate) use {by_kind, for_each_width};
