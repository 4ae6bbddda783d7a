//! LoRA and its relatives, NF4, PEFT-format adapters, merge.
