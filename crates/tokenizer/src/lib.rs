//! Rendered conversations to token ids with an exact loss mask; packing and batches.
