"""AdamW whose moments are kept in 8 bits, block by block, made with bitsandbytes' own tables and the formulas in torch:
eight_bit.json.

    python eight_bit.py        (needs bitsandbytes beside torch)

Both moments are dequantised, updated and used in fp32, then each becomes the nearest value of its table, as in the
GPU kernels of bitsandbytes' optimiser. (Its quantize_blockwise on the CPU takes a short cut: of small values a fifth
come out some places beside the nearest, so it is not used here.) Weight decay comes first, as in torch.optim.AdamW.
"""
import json
from pathlib import Path

import torch
from bitsandbytes.functional import create_dynamic_map

N, STEPS, LR, WD = 5000, 6, 1e-2, 0.1
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

# Numbers that Rust makes too, exactly.
i = torch.arange(N, dtype=torch.int64)


def unit(seed):
    return (((i + seed * N) * 2654435761) % 2**32 // 256).double() / 2**24 - 0.5


def quantize(t, table):
    blocks = torch.nn.functional.pad(t, (0, -N % 256)).view(-1, 256)
    absmax = blocks.abs().amax(1)
    scaled = blocks / absmax.clamp_min(1e-38)[:, None]
    return torch.bucketize(scaled, (table[1:] + table[:-1]) / 2).flatten()[:N], absmax


def dequantize(codes, absmax, table):
    return table[codes] * absmax.repeat_interleave(256)[:N]


signed, unsigned = create_dynamic_map(signed=True), create_dynamic_map(signed=False)
weight = unit(0).float()
zeros = torch.zeros(N)
m, v = quantize(zeros, signed), quantize(zeros, unsigned)
for step in range(1, STEPS + 1):
    gradient = (unit(step) ** 3 * (1 + i // 256 % 7)).float()
    exp_avg, exp_avg_sq = dequantize(*m, signed), dequantize(*v, unsigned)
    exp_avg.lerp_(gradient, 1 - BETA1)
    exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    weight.mul_(1 - LR * WD)
    denominator = exp_avg_sq.sqrt() / (1 - BETA2**step) ** 0.5 + EPS
    weight.addcdiv_(exp_avg, denominator, value=-LR / (1 - BETA1**step))
    m, v = quantize(exp_avg, signed), quantize(exp_avg_sq, unsigned)

short = lambda t: [float(f"{x:.7g}") for x in t.tolist()]
out = {
    "n": N, "steps": STEPS, "lr": LR, "weight_decay": WD,
    "signed": short(signed), "unsigned": short(unsigned),
    "weight": short(weight[::7]),
    "exp_avg.codes": m[0][::7].tolist(), "exp_avg_sq.codes": v[0][::7].tolist(),
    "exp_avg.absmax": short(m[1]), "exp_avg_sq.absmax": short(v[1]),
}
Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
