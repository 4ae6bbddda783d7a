"""The first steps of TRL's ORPO, CPO, KTO and reward trainers on the tiny Llama.

All begin with the adapter and the pairs of trl_dpo.py, which runs first. Writes trl_relatives.json: for each run its
settings, the token ids that TRL made of every row, and everything that it logged, in fp32. TRL 1.16's ORPO and CPO put a
token before and one behind what DPO's rows are: the ids are those of each trainer.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

here = Path(__file__).parent
base = here.parents[3] / "fixtures/tiny/llama"
adapter = here / "trl_dpo"
STEPS, BATCH, LR = 6, 4, 5e-3
pairs = [json.loads(line) for line in (adapter / "pairs.jsonl").read_text().splitlines()][: STEPS * BATCH]
tokenizer = AutoTokenizer.from_pretrained(base)


def settings(**more):
    return dict(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=LR,
        lr_scheduler_type="constant", logging_steps=1, max_length=1024, report_to=[], save_strategy="no", use_cpu=True,
        bf16=False, gradient_checkpointing=False, disable_tqdm=True, seed=0, train_sampling_strategy="sequential",
        max_grad_norm=1.0, weight_decay=0.0, **more,
    )


def policy():
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter, is_trainable=True)


def run(trainer):
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: float(value) for name, value in entry.items()} for entry in log]


def free(trainer, config, **more):
    """A loss without a reference."""
    trainer = trainer(model=policy(), args=config(**settings(), **more), train_dataset=Dataset.from_list(pairs),
                      processing_class=tokenizer)
    rows = []
    for row in trainer.train_dataset:
        n = len(row["prompt_input_ids"])
        rows.append({"prompt": row["prompt_input_ids"], "chosen": row["chosen_input_ids"][n:],
                     "rejected": row["rejected_input_ids"][n:]})
    return {"settings": more, "rows": rows, "log": run(trainer)}


def thumbs(**more):
    """Two of three rows have a thumb up."""
    rows = []
    for i, pair in enumerate(pairs):
        label = i % 3 != 1
        chat = pair["chosen"] if label else pair["rejected"]
        rows.append({"prompt": chat[:-1], "completion": chat[-1:], "label": label})
    trainer = KTOTrainer(model=policy(), args=KTOConfig(**settings(), **more), train_dataset=Dataset.from_list(rows),
                         processing_class=tokenizer)
    rows = [{"prompt": list(row["prompt_ids"]), "answer": list(row["completion_ids"]), "desirable": row["label"]}
            for row in trainer.train_dataset]
    return {"settings": more, "rows": rows, "log": run(trainer)}


def reward(**more):
    """Some pairs are to be further apart than others."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    head = 0.1 * torch.randn(model.score.weight.shape, generator=torch.Generator().manual_seed(4))
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="SEQ_CLS", target_modules=layers,
                                             modules_to_save=["score"]))
    from safetensors.torch import load_file
    saved = load_file(adapter / "adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data = head.clone()
        elif "lora_" in name:
            parameter.data = saved[name.replace(".default", "")].clone()
    rows = [{**pair, "margin": 0.5 * (i % 3)} for i, pair in enumerate(pairs)]
    trainer = RewardTrainer(model=model, args=RewardConfig(**settings(), **more), train_dataset=Dataset.from_list(rows),
                            processing_class=tokenizer)
    rows = [{"chosen": list(row["chosen_ids"]), "rejected": list(row["rejected_ids"]), "margin": row["margin"]}
            for row in trainer.train_dataset]
    return {"settings": more, "head": head.flatten().tolist(), "rows": rows, "log": run(trainer)}


golden = {
    "batch": BATCH, "learning_rate": LR, "max_grad_norm": 1.0,
    "orpo": free(ORPOTrainer, ORPOConfig, beta=0.2),
    "cpo": free(CPOTrainer, CPOConfig, loss_type="sigmoid", beta=0.2, label_smoothing=0.1, cpo_alpha=0.5),
    "simpo": free(CPOTrainer, CPOConfig, loss_type="simpo", beta=2.0, simpo_gamma=0.6, cpo_alpha=0.0),
    "kto": thumbs(beta=0.2, desirable_weight=0.8, undesirable_weight=1.5),
    "apo": thumbs(beta=0.2, loss_type="apo_zero_unpaired"),
    "reward": reward(center_rewards_coefficient=0.01),
}
(here / "trl_relatives.json").write_text(json.dumps(golden) + "\n")
for name, made in golden.items():
    if isinstance(made, dict):
        print(name, json.dumps(made["log"][0]), json.dumps(made["log"][-1]))
