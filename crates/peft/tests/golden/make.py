"""Golden values for ferrotune-peft, from transformers and peft.

    python make.py            writes base/ and one folder for each adapter that peft makes, with its logits
    python make.py ours DIR   reads the adapters that `cargo run -p ferrotune-peft --example write_golden -- DIR`
                              wrote, puts them on the base with peft, and writes ours_logits.json

Made with torch 2.13, transformers 5.23, peft 0.21.2.
"""
import json, pathlib, sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
IDS = [1, 17, 5, 33, 60, 2, 8]

def base(tied=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attention_bias=True, tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.25 + (1.0 if "norm" in name else 0.0))
    return model

def logits(model):
    with torch.no_grad():
        return [float(f"{x:.8g}") for x in model(torch.tensor([IDS])).logits[0].flatten().tolist()]

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
THEIRS = {
    "lora": dict(r=4, lora_alpha=8, target_modules=LINEAR),
    "second": dict(r=4, lora_alpha=12, target_modules=LINEAR),  # to combine with the first
    "patterns": dict(
        r=4, lora_alpha=8, use_rslora=True, target_modules=r".*\.(q_proj|v_proj|down_proj)",
        rank_pattern={r"layers\.0\.self_attn\.q_proj": 2, "down_proj": 3}, alpha_pattern={"v_proj": 5},
    ),
    "dora": dict(r=3, lora_alpha=6, use_dora=True, target_modules=LINEAR),
    "whole": dict(
        r=2, lora_alpha=2, bias="lora_only", target_modules=["q_proj", "v_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
    ),
    "pissa": dict(r=4, lora_alpha=8, init_lora_weights="pissa", target_modules=["q_proj", "down_proj"]),
    "olora": dict(r=4, lora_alpha=8, init_lora_weights="olora", target_modules=["q_proj", "down_proj"]),
    "layers": dict(
        r=2, lora_alpha=3, bias="all", target_modules=LINEAR, layers_to_transform=[1], exclude_modules=["k_proj"],
    ),
    "dora_rslora": dict(
        r=4, lora_alpha=8, use_dora=True, use_rslora=True, init_lora_weights="gaussian",
        target_modules=["v_proj", "o_proj"], modules_to_save=["lm_head"],
    ),
    # peft compares the name in small letters.
    "olora_capitals": dict(r=4, lora_alpha=8, init_lora_weights="OLoRA", target_modules=["q_proj", "down_proj"]),
    # The one tensor of embedding and tied head is written under both names.
    "tied_both": dict(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
}

WEIGHTS = [0.7, -0.4]
COMBINED = {
    "linear": dict(combination_type="linear"),
    "cat": dict(combination_type="cat"),
    "svd": dict(combination_type="svd", svd_rank=3),
    "ties": dict(combination_type="ties", density=0.4),
    "ties_svd": dict(combination_type="ties_svd", density=0.5, svd_rank=5),
}

def theirs():
    base().save_pretrained(HERE / "base")
    (HERE / "base" / "generation_config.json").unlink(missing_ok=True)
    out = {"ids": IDS, "base": logits(base()), "tied_base": logits(base(tied=True))}
    for name, settings in THEIRS.items():
        torch.manual_seed(2 if name == "second" else 1)
        tied = name.startswith("tied")
        model = get_peft_model(base(tied), LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if p.requires_grad:  # as if trained: nothing is at its initial value
                    p.add_(torch.randn_like(p) * 0.1)
        model.save_pretrained(HERE / name)
        (HERE / name / "README.md").unlink(missing_ok=True)
        path = HERE / name / "adapter_config.json"
        config = json.loads(path.read_text())
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()  # peft writes a set
        path.write_text(json.dumps(config, indent=2) + "\n")
        # What counts is what the files mean to peft.
        out[name] = logits(PeftModel.from_pretrained(base(tied), HERE / name).eval())
        print(name, max(abs(a - b) for a, b in zip(out[name], logits(model))))
    for name, settings in COMBINED.items():
        model = PeftModel.from_pretrained(base(), HERE / "lora", adapter_name="lora").eval()
        model.load_adapter(HERE / "second", adapter_name="second")
        model.add_weighted_adapter(["lora", "second"], WEIGHTS, "combined", **settings)
        model.set_adapter("combined")
        out[f"combined_{name}"] = logits(model)
    (HERE / "theirs_logits.json").write_text(json.dumps(out))

def ours(folder):
    out = {}
    for case in sorted(p for p in pathlib.Path(folder).iterdir() if p.is_dir()):
        model = PeftModel.from_pretrained(base(tied=case.name.startswith("tied")), case).eval()
        out[case.name] = logits(model)
    (HERE / "ours_logits.json").write_text(json.dumps(out))
    print({k: len(v) for k, v in out.items()})

if __name__ == "__main__":
    ours(sys.argv[2]) if sys.argv[1:2] == ["ours"] else theirs()
