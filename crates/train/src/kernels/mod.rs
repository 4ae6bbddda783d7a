//! Kernels of the optimiser's steps, row by row as those of [`ferrotune_model::kernels`].

mod adamw8_rows;
mod adamw_rows;

pub(crate) use adamw_rows::{AdamRow, AdamShared, adamw_rows, takes as adamw_takes};
pub(crate) use adamw8_rows::{Adam8Row, adamw8_row};
