//! DPO and its relatives: one loss a file.
