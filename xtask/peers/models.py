"""The Python peers of running a model: transformers, llama-cpp-python, sentence-transformers.

usage: models.py prepare WORK DATA                    as baseline.py, and abstracts.jsonl and chats.jsonl
       models.py JOB DTYPE WORK                       one JSON line with the figures

JOB is generate, batch, prefill, perplexity or chats (transformers), llama (llama-cpp-python on the GGUF file, 2 threads)
or embed (sentence-transformers). Called by `cargo xtask bench --peer …`. DATA holds `cranfield/cran.all.1400.xml` besides.
"""

import json
import math
import os
import re
import resource
import sys
import time
from pathlib import Path

import baseline

NEW, ROWS, PROMPT, WINDOW, WINDOWS = 128, 16, 1024, 1024, 5
ASK = "Explain how to return an item bought online, step by step."


def prepare(work, data):
    baseline.prepare(work, data)
    text = (Path(data) / "cranfield/cran.all.1400.xml").read_text(errors="replace")
    abstracts = [" ".join(t.split()) for t in re.findall(r"<text>(.*?)</text>", text, re.DOTALL)]
    # The 256 whose lengths are nearest to 1,150 characters, in the order of the file.
    near = sorted(range(len(abstracts)), key=lambda i: (abs(len(abstracts[i]) - 1150), i))[:256]
    with open(Path(work) / "abstracts.jsonl", "w") as out:
        for i in sorted(near):
            out.write(json.dumps({"id": str(i), "text": abstracts[i]}) + "\n")


def timed(job, rounds=3):
    """Seconds of the fastest of several calls; the first warms up."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def windows(work, tokenizer):
    text = open(f"{work}/ppl.txt").read()[: WINDOW * WINDOWS * 6]
    return tokenizer(text, return_tensors="pt").input_ids[:, : WINDOW * WINDOWS]


def generate(work, dtype):
    import torch

    tokenizer, model = baseline.load(work, dtype)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": ASK}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)
    with torch.no_grad():
        model.generate(**ids, max_new_tokens=8, do_sample=False)
        run = lambda: model.generate(**ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        return {"tokens_per_s": NEW / timed(run, 2)}


def batch(work, dtype):
    import torch

    tokenizer, model = baseline.load(work, dtype)
    ids = windows(work, tokenizer)[0, : ROWS * 32].view(ROWS, 32)
    run = lambda rows, new: lambda: model.generate(ids[:rows], attention_mask=torch.ones_like(ids[:rows]),
                                                   max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    # From the first new token to the last, as ours: reading the prompts is left out.
    rate = lambda rows: rows * 63 / (timed(run(rows, 64), 2) - timed(run(rows, 1), 2))
    with torch.no_grad():
        model.generate(ids[:1], max_new_tokens=4, do_sample=False, pad_token_id=0)
        one, all_rows = rate(1), rate(ROWS)
    return {"tokens_per_s": all_rows, "one": one, "times_one": all_rows / one}


def prefill(work, dtype):
    import torch

    tokenizer, model = baseline.load(work, dtype)
    ids = windows(work, tokenizer)[:, :PROMPT]
    with torch.no_grad():
        return {"tokens_per_s": PROMPT / timed(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1))}


def perplexity(work, dtype):
    import torch

    tokenizer, model = baseline.load(work, dtype)
    ids = windows(work, tokenizer)
    nll, n, start = 0.0, 0, time.perf_counter()
    with torch.no_grad():
        for i in range(0, ids.shape[1], WINDOW):
            window = ids[:, i : i + WINDOW]
            if window.shape[1] > 1:
                nll += model(input_ids=window, labels=window).loss.item() * (window.shape[1] - 1)
                n += window.shape[1] - 1
    return {"tokens_per_s": n / (time.perf_counter() - start), "perplexity": math.exp(nll / n)}


def llama(work, _dtype):
    import llama_cpp.llama
    from llama_cpp import Llama

    if "amx_tile" in Path("/proc/cpuinfo").read_text():
        # llama-cpp-python 0.3.36 dies in its first product in AMX's own layout of the weights.
        default = llama_cpp.llama_model_default_params

        def plain():
            params = default()
            params.use_extra_bufts = False
            return params

        llama_cpp.llama.llama_cpp.llama_model_default_params = plain
    gguf = next((baseline.models() / "smollm2-135m-instruct").glob("*.gguf"))
    model = Llama(str(gguf), n_ctx=2048, n_threads=2, n_threads_batch=2, verbose=False)
    text = f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n"
    ids = model.tokenize(text.encode(), add_bos=False, special=True)

    def run():
        model.reset()
        model.eval(ids)
        for _ in range(NEW - 1):
            model.eval([model.sample(temp=0)])
        model.sample(temp=0)

    return {"tokens_per_s": NEW / timed(run)}


def embed(work, dtype):
    import torch
    from sentence_transformers import SentenceTransformer

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = SentenceTransformer(str(baseline.models() / "all-minilm-l6-v2"), device="cpu", model_kwargs={"dtype": kind})
    texts = [json.loads(line)["text"] for line in open(f"{work}/abstracts.jsonl")]
    model.encode(texts[:8])
    return {"docs_per_s": len(texts) / timed(lambda: model.encode(texts, batch_size=32), 2)}


def chats(work, _dtype):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(f"{work}/hf")
    rows = [json.loads(line)["messages"] for line in open(f"{work}/sft.jsonl")]
    tokenizer.apply_chat_template(rows[0], tokenize=True)
    seconds = timed(lambda: [tokenizer.apply_chat_template(row, tokenize=True) for row in rows])
    return {"chats_per_s": len(rows) / seconds}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2], sys.argv[3])
    else:
        jobs = {f.__name__: f for f in [generate, batch, prefill, perplexity, llama, embed, chats]}
        figures = jobs[sys.argv[1]](sys.argv[3], sys.argv[2])
        figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
