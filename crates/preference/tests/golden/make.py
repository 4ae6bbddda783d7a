"""Golden values for ferrotune-preference: runs the loss code of the installed trl itself, on made-up
log-probabilities, and writes trl.json with losses, gradients and metrics.

    python make.py

Made with trl 1.16, torch 2.13. The trainers are not built: their loss methods run on a stand-in for `self` that
holds the settings, and a stand-in for the model that returns the given log-probabilities.
"""
import json, pathlib, re
from collections import defaultdict
from types import SimpleNamespace as Box

import torch
from datasets import Dataset
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

ACCELERATOR = Box(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
LENGTHS = [(5, 3), (2, 7), (4, 4), (6, 1), (3, 5)]  # tokens of (chosen, rejected)
PROMPT, B = 2, 5
WIDTH = PROMPT + max(max(l) for l in LENGTHS)

torch.manual_seed(0)
def tokens(scale):
    return -torch.rand(2 * B, WIDTH - 1) * scale
# Wide margins both ways, so that every branch of every loss is seen.
POLICY, REFERENCE = tokens(9.0), tokens(9.0)
MASK = torch.zeros(2 * B, WIDTH, dtype=torch.long)
for i, (c, r) in enumerate(LENGTHS):
    MASK[i, PROMPT:PROMPT + c] = 1
    MASK[B + i, PROMPT:PROMPT + r] = 1
POLICY, REFERENCE = POLICY * MASK[:, 1:], REFERENCE * MASK[:, 1:]

def plain(x):
    return x.detach().double().flatten().tolist() if isinstance(x, torch.Tensor) else x

def answers(x):
    """Token values in the order pair 0 chosen, pair 0 rejected, pair 1 chosen, …"""
    rows = [row[mask.bool()] for i in range(B) for row, mask in ((x[i], MASK[i, 1:]), (x[B + i], MASK[B + i, 1:]))]
    return plain(torch.cat(rows))

def dpo(**settings):
    logps = POLICY.clone().requires_grad_(True)
    zeros = torch.zeros_like(logps)
    outputs = lambda p: Box(log_probs=p, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    trainer = Box(
        model=Box(training=True), accelerator=ACCELERATOR, aux_loss_enabled=False, precompute_ref_logps=False,
        ref_model=lambda **_: outputs(REFERENCE), args=Box(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
        use_weighting=False, ld_alpha=None, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5, beta=0.1,
        label_smoothing=0.0, loss_types=["sigmoid"], loss_weights=[1.0], _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1,
    )
    vars(trainer).update(settings)
    inputs = dict(input_ids=torch.ones(2 * B, WIDTH, dtype=torch.long), completion_mask=MASK, attention_mask=MASK)
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs(logps), inputs, False)
    loss.backward()
    metrics = {k: v[-1] for k, v in trainer._metrics["train"].items() if k.startswith(("rewards/", "logps/"))}
    return dict(settings={k: v for k, v in settings.items()}, loss=loss.item(), gradient=answers(logps.grad), metrics=metrics)

import trl.trainer.dpo_trainer as module
module.is_peft_model = lambda _: False
from contextlib import nullcontext
module.disable_gradient_checkpointing = lambda *_: nullcontext()

cases = [dpo(loss_types=[name]) for name in [
    "sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down",
    "discopop", "sft", "sigmoid_norm"]]
cases += [dpo(loss_types=[name], beta=0.7, label_smoothing=0.2) for name in ["robust", "exo_pair", "aot", "aot_unpaired"]]
cases += [dpo(loss_types=[name], beta=1.5) for name in ["sigmoid", "hinge", "ipo", "discopop", "sppo_hard", "nca_pair"]]
cases += [dpo(f_divergence_type=kind, loss_types=[name]) for kind in ["forward_kl", "js_divergence", "alpha_divergence"]
          for name in ["sigmoid", "ipo", "sigmoid_norm"]]
cases += [dpo(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=a) for a in [1.0, 1.4]]
cases += [dpo(loss_types=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]), dpo(ld_alpha=0.4)]
# LD-DPO's α with every loss that reads sums; beside sft at 1, where it weighs nothing.
cases += [dpo(loss_types=[name], ld_alpha=0.4) for name in [
    "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
    "sigmoid_norm"]]
cases += [dpo(loss_types=[name], ld_alpha=0.25, beta=0.7, label_smoothing=0.2) for name in ["robust", "exo_pair"]]
cases += [dpo(loss_types=["sigmoid", "ipo"], loss_weights=[0.5, 2.0], ld_alpha=0.0),
          dpo(f_divergence_type="js_divergence", ld_alpha=0.4), dpo(loss_types=["sigmoid", "sft"], loss_weights=[1.0, 0.5], ld_alpha=1.0)]

def cpo(averages, **settings):
    trainer = Box(accelerator=ACCELERATOR, beta=0.1, label_smoothing=0.0, simpo_gamma=0.5, alpha=0.0, loss_type="sigmoid")
    vars(trainer).update(settings)
    c, r = policy(averages)
    losses, *rewards = CPOTrainer.cpo_loss(trainer, c, r)
    losses.mean().backward()
    return dict(settings=settings, averages=averages, losses=plain(losses), gradient=[plain(c.grad), plain(r.grad)],
                rewards=[plain(x) for x in rewards])

def policy(averages):
    sums = (POLICY * MASK[:, 1:]).sum(1)
    values = sums / MASK.sum(1) if averages else sums
    return [x.clone().requires_grad_(True) for x in values.chunk(2)]

def orpo(beta):
    c, r = policy(True)
    losses, cr, rr, ratio, odds = ORPOTrainer.odds_ratio_loss(Box(accelerator=ACCELERATOR, beta=beta), c, r)
    (-losses.mean()).backward()
    return dict(beta=beta, losses=plain(-losses), gradient=[plain(c.grad), plain(r.grad)], rewards=[plain(cr), plain(rr)],
                log_odds_ratio=ratio.item(), log_odds_chosen=odds.item())

import trl.trainer.kto_trainer as kto_module
kto_module.is_peft_model = lambda _: False
kto_module.disable_gradient_checkpointing = lambda *_: nullcontext()
LABELS = torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 1, 0])
SHIFTED = [POLICY.roll(1, 0) * 0.6, REFERENCE.roll(1, 0) * 0.6]  # log-probabilities of mismatched answers

def kto(labels=LABELS, **settings):
    logps = POLICY.clone().requires_grad_(True)
    zeros = torch.zeros_like(logps)
    outputs = lambda p: Box(log_probs=p, entropy=zeros, mean_logits=zeros)
    pick = lambda own, kl: (lambda **kw: outputs(kl if kw["input_ids"][0, 0] == 9 else own))
    trainer = Box(
        model=Box(training=True), accelerator=ACCELERATOR, aux_loss_enabled=False, precompute_ref_logps=False,
        calculate_KL=settings.get("loss_type", "kto") == "kto", ref_model=pick(REFERENCE, SHIFTED[1]),
        args=Box(gradient_checkpointing_kwargs=None), beta=0.1, desirable_weight=1.0, undesirable_weight=1.0,
        loss_type="kto", _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )
    vars(trainer).update(settings)
    trainer._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(trainer, model, batch)
    ones = torch.ones(2 * B, WIDTH, dtype=torch.long)
    inputs = dict(input_ids=ones, completion_mask=MASK, attention_mask=MASK, label=labels, KL_input_ids=ones * 9,
                  KL_attention_mask=MASK, KL_completion_mask=MASK)
    loss = KTOTrainer._compute_loss(trainer, pick(logps, SHIFTED[0]), inputs, False)
    loss.backward()
    keep = lambda k: k.startswith(("rewards/", "logps/")) or k == "kl"
    first = MASK[:, 1:].argmax(1)
    return dict(settings=settings, labels=labels.bool().tolist(), loss=loss.item(), gradient=plain(logps.grad.gather(1, first[:, None])),
                metrics={k: v[-1] for k, v in trainer._metrics["train"].items() if keep(k)})

def kto_balance(n_up, n_down, up, down):
    """The weights that the trainer's warning names, or null where it does not warn."""
    told = []
    kto_module.logger = Box(warning=told.append, warning_once=told.append)
    kto_module._tokenize = lambda _, text: dict(input_ids=[1] * len(text))
    rows = [dict(prompt="a", completion="b.", label=i < n_up) for i in range(n_up + n_down)]
    trainer = Box(desirable_weight=up, undesirable_weight=down, calculate_KL=False, _tokenizer=Box(eos_token="."))
    args = Box(dataset_num_proc=None, max_length=None)
    KTOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), None, args, "train")
    named = [[float(x) for x in pair] for text in told for pair in re.findall(r"\[([\d.]+), ([\d.]+)\]", text)]
    return dict(n_up=n_up, n_down=n_down, desirable_weight=up, undesirable_weight=down, named=named or None)

def reward(margin, centering):
    scores = torch.linspace(-2, 3, 2 * B)[torch.randperm(2 * B, generator=torch.Generator().manual_seed(1))]
    scores = scores.clone().requires_grad_(True)
    trainer = Box(model=Box(training=True), accelerator=ACCELERATOR, args=Box(center_rewards_coefficient=centering),
                  _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1)
    inputs = dict(attention_mask=MASK, **({"margin": torch.tensor(margin)} if margin else {}))
    loss = RewardTrainer.compute_loss(trainer, lambda **_: Box(logits=scores[:, None]), inputs)
    loss.backward()
    metrics = {k: v[-1] for k, v in trainer._metrics["train"].items() if k != "num_tokens"}
    return dict(margin=margin, centering=centering, scores=plain(scores), loss=loss.item(), gradient=plain(scores.grad),
                metrics=metrics)

out = dict(
    lengths=LENGTHS, policy=answers(POLICY), reference=answers(REFERENCE), dpo=cases,
    cpo=[cpo(False), cpo(False, label_smoothing=0.1), cpo(False, loss_type="hinge", beta=0.3), cpo(True, loss_type="ipo"),
         cpo(True, loss_type="simpo", beta=2.5, simpo_gamma=1.2), cpo(True, loss_type="simpo", beta=2.0, alpha=0.25)],
    orpo=[orpo(0.1), orpo(1.0)],
    kto=dict(policy=plain(POLICY.sum(1)), reference=plain(REFERENCE.sum(1)),
             mismatched=[plain(x.sum(1)) for x in SHIFTED],
             cases=[kto(), kto(beta=0.5, desirable_weight=1.5, undesirable_weight=0.7), kto(loss_type="apo_zero_unpaired")] + [
                 kto(labels, loss_type=kind, beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
                 for kind in ["kto", "apo_zero_unpaired"] for labels in [torch.ones_like(LABELS), torch.zeros_like(LABELS)]],
             balance=[kto_balance(*case) for case in [(30, 10, 1.0, 1.0), (10, 40, 1.0, 2.0), (30, 10, 0.4, 1.0),
                                                      (30, 10, 1.0, 2.5), (11, 10, 1.0, 1.0), (10, 11, 1.0, 1.0)]]),
    reward=[reward(None, None), reward([0.5, 0.0, 1.0, 2.0, 0.1], 0.01)],
)
def short(x):
    if isinstance(x, float): return float(f"{x:.9g}")
    if isinstance(x, dict): return {k: short(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)): return [short(v) for v in x]
    return x
(pathlib.Path(__file__).parent / "trl.json").write_text(json.dumps(short(out)))
print({k: len(v) for k, v in out.items()}, [round(c["loss"], 4) for c in cases])
