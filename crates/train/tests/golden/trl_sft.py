"""The first ten losses of TRL's SFTTrainer on the tiny Llama, beside the adapter that it began with.

Writes trl_sft/adapter_config.json and trl_sft/adapter_model.safetensors (LoRA whose B is not zero, so that both
factors learn from the first step) and trl_sft.json: the examples in the order in which TRL saw them, TRL's settings,
its losses and its gradient norms, in fp32.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

here = Path(__file__).parent
base = here.parents[3] / "fixtures/tiny/llama"
STEPS, BATCH, ACCUMULATION, LR = 10, 2, 2, 1e-2

torch.manual_seed(0)
random = torch.Generator().manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=layers))
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=random)
model.save_pretrained(here / "trl_sft")
(here / "trl_sft/README.md").unlink(missing_ok=True)
config = json.loads((here / "trl_sft/adapter_config.json").read_text())
config["base_model_name_or_path"] = "fixtures/tiny/llama"
(here / "trl_sft/adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")

rows = []
for _ in range(STEPS * BATCH * ACCUMULATION):
    n = int(torch.randint(6, 40, (1,), generator=random))
    prompt = int(torch.randint(1, n - 3, (1,), generator=random))
    # Counting from somewhere near ten, so that there is something to learn.
    start = int(torch.randint(10, 14, (1,), generator=random))
    ids = [start + i for i in range(n)]
    rows.append({"input_ids": ids, "completion_mask": [0] * prompt + [1] * (n - prompt)})

config = SFTConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION,
    max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant", logging_steps=1, max_length=64, report_to=[],
    save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, seed=0,
    train_sampling_strategy="sequential", max_grad_norm=1.0, weight_decay=0.0, completion_only_loss=True,
)
trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows),
                     processing_class=AutoTokenizer.from_pretrained(base))
seen = []
inner = trainer.compute_loss


def watched(model, inputs, *args, **kwargs):
    seen.extend(ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"]))
    return inner(model, inputs, *args, **kwargs)


trainer.compute_loss = watched
trainer.train()
assert seen == [row["input_ids"] for row in rows], "TRL saw the rows in another order"
log = [entry for entry in trainer.state.log_history if "loss" in entry]
examples = [{"ids": row["input_ids"], "loss_mask": [bool(m) for m in row["completion_mask"]]} for row in rows]
out = {"batch": BATCH * ACCUMULATION, "learning_rate": LR, "max_grad_norm": 1.0, "examples": examples,
       "log": [{name: float(value) for name, value in entry.items()} for entry in log]}
(here / "trl_sft.json").write_text(json.dumps(out) + "\n")
