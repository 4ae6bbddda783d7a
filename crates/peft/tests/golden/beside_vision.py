"""An adapter that peft hangs on the text part of a Gemma 3 that sees too, as transformers' AutoModelForCausalLM loads it.

    python beside_vision.py    reads fixtures/golden/tiny_models/gemma3, writes beside_vision/ and its logits there

Made with torch 2.13, transformers 5.23, peft 0.21.2.
"""
import json, pathlib

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
IDS = [1, 17, 5, 33, 40, 2, 8]

base = AutoModelForCausalLM.from_pretrained(HERE.parents[3] / "fixtures/golden/tiny_models/gemma3").eval()
torch.manual_seed(3)
model = get_peft_model(base, LoraConfig(
    task_type="CAUSAL_LM", r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"],
    exclude_modules=r".*\.(vision_tower|multi_modal_projector)\..*")).eval()
with torch.no_grad():
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.copy_(torch.randn_like(p) * 0.3)
    logits = model(input_ids=torch.tensor([IDS])).logits[0].flatten().tolist()
folder = HERE / "beside_vision"
model.save_pretrained(folder)
(folder / "README.md").unlink(missing_ok=True)
config = json.loads((folder / "adapter_config.json").read_text())
config["base_model_name_or_path"] = ""
(folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
(folder / "logits.json").write_text(json.dumps({"ids": IDS, "logits": [float(f"{x:.8g}") for x in logits]}) + "\n")
