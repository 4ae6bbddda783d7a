"""Models of other sizes with random weights, to measure what a step costs: as large as the real ones, and as slow.

usage: sizes.py WORK TOKENIZER    WORK/smollm2-360m and the others, with the tokenizer of the folder TOKENIZER

Called by `cargo xtask bench --cost`. The sizes are those of SmolLM2-360M, Qwen2.5-0.5B and SmolLM2-1.7B (their
config.json on the hub); the vocabulary is the tokenizer's own.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

SIZES = {
    "smollm2-360m": LlamaConfig(
        hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5
    ),
    "qwen2.5-0.5b": Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2
    ),
    "smollm2-1.7b": LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32, num_key_value_heads=32
    ),
}


def main(work, source):
    tokenizer = AutoTokenizer.from_pretrained(source)
    for name, config in SIZES.items():
        folder = Path(work) / name
        if (folder / "done").exists():
            continue
        config.vocab_size, config.max_position_embeddings, config.tie_word_embeddings = len(tokenizer), 8192, True
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "done").touch()


main(*sys.argv[1:])
