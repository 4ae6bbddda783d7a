"""AdamW whose moments are kept in 8 bits, block by block, made with bitsandbytes' own table and blockwise quantisation
on the CPU and the formula of AdamW in torch: eight_bit.json.

    python eight_bit.py        (needs bitsandbytes beside torch)

Both moments are dequantised, updated and used in fp32, then quantised again; bitsandbytes' own optimiser runs on GPUs
only and does the same. Weight decay comes first, as in torch.optim.AdamW.
"""
import json
from pathlib import Path

import torch
from bitsandbytes.functional import create_dynamic_map, dequantize_blockwise, quantize_blockwise

N, STEPS, LR, WD = 5000, 6, 1e-2, 0.1
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

# Numbers that Rust makes too, exactly.
i = torch.arange(N, dtype=torch.int64)


def unit(seed):
    return (((i + seed * N) * 2654435761) % 2**32 // 256).double() / 2**24 - 0.5


signed, unsigned = create_dynamic_map(signed=True), create_dynamic_map(signed=False)
weight = unit(0).float()
zeros = torch.zeros(N)
m = quantize_blockwise(zeros, code=signed, blocksize=256)
v = quantize_blockwise(zeros, code=unsigned, blocksize=256)
for step in range(1, STEPS + 1):
    gradient = (unit(step) ** 3 * (1 + i // 256 % 7)).float()
    exp_avg = dequantize_blockwise(*m)
    exp_avg_sq = dequantize_blockwise(*v)
    exp_avg.lerp_(gradient, 1 - BETA1)
    exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    weight.mul_(1 - LR * WD)
    denominator = exp_avg_sq.sqrt() / (1 - BETA2**step) ** 0.5 + EPS
    weight.addcdiv_(exp_avg, denominator, value=-LR / (1 - BETA1**step))
    m = quantize_blockwise(exp_avg, code=signed, blocksize=256)
    v = quantize_blockwise(exp_avg_sq, code=unsigned, blocksize=256)

short = lambda t: [float(f"{x:.7g}") for x in t.tolist()]
out = {
    "n": N, "steps": STEPS, "lr": LR, "weight_decay": WD,
    "signed": short(signed), "unsigned": short(unsigned),
    "weight": short(weight[::7]),
    "exp_avg.codes": m[0][::7].tolist(), "exp_avg_sq.codes": v[0][::7].tolist(),
    "exp_avg.absmax": short(m[1].absmax), "exp_avg_sq.absmax": short(v[1].absmax),
}
Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
