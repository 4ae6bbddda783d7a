"""NF4 weights made by bitsandbytes 0.50 on the CPU: nf4.safetensors (plain scales) and nf4_double.safetensors (double
quantisation), each the state that bitsandbytes saves plus `dequantized`, the first 8 rows it turns into.

    python make_nf4.py
"""
import pathlib

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
ROWS, COLUMNS = 161, 136  # 342.125 blocks of 64: the last one is short, and the scales fill two blocks of 256

# Numbers that Rust makes too, exactly: a linear congruence, cubed so that blocks differ.
i = torch.arange(ROWS * COLUMNS, dtype=torch.int64)
unit = ((i * 2654435761) % 2**32 // 256).double() / 2**24 - 0.5
weight = ((unit**3) * (1 + (i // 64) % 5)).float().view(ROWS, COLUMNS)

for name, double in [("nf4", False), ("nf4_double", True)]:
    packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type="nf4")
    tensors = {f"layer.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    tensors["layer.weight"] = packed
    tensors["dequantized"] = dequantize_4bit(packed, state)[:8].clone()
    save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / f"{name}.safetensors")
    print({k: (tuple(v.shape), v.dtype) for k, v in tensors.items()})
    print(bytes(tensors["layer.weight.quant_state.bitsandbytes__nf4"].tolist()))
