"""The first steps of TRL's DPOTrainer on the tiny Llama, from pairs of whole chats whose prompt is implicit.

Writes trl_dpo/pairs.jsonl (the data as a user would have it), trl_dpo/adapter_config.json and
trl_dpo/adapter_model.safetensors (the adapter that training began with; its B is not zero, so the reference is not the
base), and trl_dpo.json: TRL's token ids of every pair, its settings, and everything that it logged, in fp32.
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
from trl import DPOConfig, DPOTrainer

here = Path(__file__).parent
base = here.parents[3] / "fixtures/tiny/llama"
STEPS, BATCH, ACCUMULATION, LR, BETA = 8, 2, 2, 1e-2, 0.2

torch.manual_seed(0)
random = torch.Generator().manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=layers))
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=random)
out = here / "trl_dpo"
model.save_pretrained(out)
(out / "README.md").unlink(missing_ok=True)
config = json.loads((out / "adapter_config.json").read_text())
config["base_model_name_or_path"] = "fixtures/tiny/llama"
(out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")

# Answers of different lengths, some prompts of several turns, one with a system turn.
things = ["kettle", "lamp", "chair", "clock"]
rows = []
for i in range(STEPS * BATCH * ACCUMULATION):
    thing = things[i % 4]
    prompt = [{"role": "user", "content": f"May I return the {thing} that I bought {i} days ago?"}]
    if i % 3 == 1:
        prompt = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello, what is it?"}] + prompt
    if i % 5 == 2:
        prompt = [{"role": "system", "content": "You work in a shop."}] + prompt
    good = f"Yes, within 30 days." + (" Please bring the receipt with you." if i % 2 else "")
    bad = "No." if i % 4 else f"Never ask me about that {thing} again, we are closed."
    side = lambda text: prompt + [{"role": "assistant", "content": text}]
    rows.append({"chosen": side(good), "rejected": side(bad)})
(out / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

config = DPOConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION,
    max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant", logging_steps=1, max_length=1024, beta=BETA,
    report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, seed=0,
    train_sampling_strategy="sequential", max_grad_norm=1.0, weight_decay=0.0,
)
trainer = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows),
                     processing_class=AutoTokenizer.from_pretrained(base))
ids = [{side: list(row[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")} for row in trainer.train_dataset]
trainer.train()
log = [entry for entry in trainer.state.log_history if "loss" in entry]
golden = {"batch": BATCH, "accumulation": ACCUMULATION, "learning_rate": LR, "beta": BETA, "max_grad_norm": 1.0,
          "pairs": ids, "log": [{name: float(value) for name, value in entry.items()} for entry in log]}
(here / "trl_dpo.json").write_text(json.dumps(golden) + "\n")
print(json.dumps(log, indent=1))
