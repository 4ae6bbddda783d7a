"""What a user would pick instead, on the same machine, model and data: TRL, PEFT and transformers.

usage: baseline.py prepare WORK DATA                      the model as a transformers checkpoint, and the data files
       baseline.py sft|sft-full|qlora|dpo|generate|perplexity DTYPE WORK   one JSON line with the figures

Called by `cargo xtask bench --peer …`, which takes turns between this and the `ferrotune` command. DATA holds
`llama_factory/alpaca_en_demo.json`, `llama_factory/dpo_en_demo.json` and `wikitext2/valid.txt`.
"""

import json
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# The first steps are left out of every rate; a short look takes BENCH_STEPS=4.
STEPS = int(os.environ.get("BENCH_STEPS", "10"))
WARM = 2 if STEPS > 4 else 1


def models():
    cache = os.environ.get("FERROTUNE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache or os.path.join(home, "ferrotune")) / "models"


def prepare(work, data):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    work, data = Path(work), Path(data)
    work.mkdir(parents=True, exist_ok=True)
    roles = {"human": "user", "gpt": "assistant"}
    with open(work / "sft.jsonl", "w") as out:
        for row in json.load(open(data / "llama_factory/alpaca_en_demo.json")):
            ask = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
            turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": row["output"]}]
            out.write(json.dumps({"messages": turns}) + "\n")
    with open(work / "dpo.jsonl", "w") as out:
        for row in json.load(open(data / "llama_factory/dpo_en_demo.json")):
            prompt = [{"role": roles.get(m["from"], m["from"]), "content": m["value"]} for m in row["conversations"]]
            answer = lambda side: [{"role": "assistant", "content": row[side]["value"]}]
            out.write(json.dumps({"prompt": prompt, "chosen": answer("chosen"), "rejected": answer("rejected")}) + "\n")
    (work / "ppl.txt").write_text((data / "wikitext2/valid.txt").read_text())
    if not (work / "hf/model.safetensors").exists():
        folder = models() / "smollm2-135m-instruct"
        gguf = next(folder.glob("*.gguf")).name
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            delattr(model.config, "quantization_config")
        model.save_pretrained(work / "hf")
        tokenizer.save_pretrained(work / "hf")


def load(work, dtype):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    return AutoTokenizer.from_pretrained(f"{work}/hf"), AutoModelForCausalLM.from_pretrained(f"{work}/hf", dtype=kind)


def lora():
    from peft import LoraConfig

    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=layers)


def timer():
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def __init__(self):
            self.seconds, self.losses = [], []

        def on_step_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            self.seconds.append(time.perf_counter() - self.start)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "loss" in logs:
                self.losses.append(logs["loss"])

    return Timer()


def common(batch):
    return dict(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, max_steps=STEPS, logging_steps=1,
                max_length=512, report_to=[], save_strategy="no", use_cpu=True, bf16=False, seed=0, disable_tqdm=True,
                gradient_checkpointing=False, lr_scheduler_type="constant")


def sft_full(work, dtype):
    return sft(work, dtype, full=True)


def qlora(work, dtype):
    """The base in NF4 with double quantisation, by bitsandbytes on the CPU."""
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    torch.manual_seed(0)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=kind)
    model = AutoModelForCausalLM.from_pretrained(f"{work}/hf", dtype=kind, quantization_config=four)
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return sft(work, dtype, loaded=(AutoTokenizer.from_pretrained(f"{work}/hf"), model))


def sft(work, dtype, full=False, loaded=None):
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer, model = loaded or load(work, dtype)
    rows = load_dataset("json", data_files=f"{work}/sft.jsonl", split="train")
    clock, seen = timer(), []
    trainer = SFTTrainer(model=model, args=SFTConfig(learning_rate=2e-5 if full else 2e-4, **common(4)),
                         train_dataset=rows, processing_class=tokenizer, peft_config=None if full else lora(),
                         callbacks=[clock])
    inner = trainer.compute_loss

    def counted(model, inputs, *args, **kwargs):
        mask = inputs.get("attention_mask")
        seen.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    trainer.train()
    return {"real_tokens_per_s": sum(seen[WARM:]) / sum(clock.seconds[WARM:]), "losses": clock.losses}


def dpo(work, dtype):
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer, model = load(work, dtype)
    rows = load_dataset("json", data_files=f"{work}/dpo.jsonl", split="train")
    clock = timer()
    trainer = DPOTrainer(model=model, args=DPOConfig(learning_rate=1e-5, beta=0.1, **common(2)), train_dataset=rows,
                         processing_class=tokenizer, peft_config=lora(), callbacks=[clock])
    trainer.train()
    return {"pairs_per_s": 2 * len(clock.seconds[WARM:]) / sum(clock.seconds[WARM:]), "losses": clock.losses}


def generate(work, dtype):
    import torch

    tokenizer, model = load(work, dtype)
    turns = [{"role": "user", "content": "Explain how to return an item bought online, step by step."}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        model.generate(**ids, max_new_tokens=8, do_sample=False)
        start = time.perf_counter()
        out = model.generate(**ids, max_new_tokens=128, min_new_tokens=128, do_sample=False)
        seconds = time.perf_counter() - start
    return {"tokens_per_s": 128 / seconds, "text": tokenizer.decode(out[0][ids["input_ids"].shape[1]:])[:120]}


def perplexity(work, dtype):
    import torch

    tokenizer, model = load(work, dtype)
    ids = tokenizer(open(f"{work}/ppl.txt").read(), return_tensors="pt").input_ids[:, : 10 * 512]
    nll, n, start = 0.0, 0, time.perf_counter()
    with torch.no_grad():
        for i in range(0, ids.shape[1], 512):
            window = ids[:, i : i + 512]
            if window.shape[1] > 1:
                nll += model(input_ids=window, labels=window).loss.item() * (window.shape[1] - 1)
                n += window.shape[1] - 1
    return {"tokens_per_s": n / (time.perf_counter() - start), "perplexity": math.exp(nll / n)}


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2], sys.argv[3])
    else:
        job = {"sft": sft, "sft-full": sft_full, "qlora": qlora, "dpo": dpo, "generate": generate, "perplexity": perplexity}[sys.argv[1]]
        figures = job(sys.argv[3], sys.argv[2])
        figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
