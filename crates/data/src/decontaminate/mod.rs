//! decontaminate
