"""Golden values for ferrotune-tokenizer: what transformers makes of add_bos_token and add_eos_token.

    python flags.py

Writes flags.json: tokenizer.json files by name, and for each with each class and each setting of the two flags in
tokenizer_config.json the ids of "the". Made with transformers 5.23.0, tokenizers 0.23.3, a few seconds.

A folder that has a tokenizer.json is read without the two flags (PreTrainedTokenizerBase._from_pretrained drops them),
whatever the class; what stands around a text is what the file's post-processor says.
"""
import itertools
import json
import os
import pathlib
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

HERE = pathlib.Path(__file__).parent
TOKENS = ["<unk>", "<s>", "</s>", "▁", "t", "h", "e"]
SURROUNDINGS = {"none": None, "bos": "<s> $A", "both": "<s> $A </s>"}
CLASSES = {
    "byte_level": ["PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer"],
    "metaspace": ["PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast"],
}


def tokenizer(kind, around):
    ids = {token: i for i, token in enumerate(TOKENS)}
    if kind == "byte_level":
        tok = Tokenizer(models.BPE(ids, []))
        tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        tok = Tokenizer(models.BPE(ids, [], unk_token="<unk>", fuse_unk=True))
        tok.pre_tokenizer, tok.decoder = pre_tokenizers.Metaspace(prepend_scheme="first", split=False), decoders.Metaspace()
    tok.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in TOKENS[:3]])
    if around:
        tok.post_processor = processors.TemplateProcessing(
            single=around, pair=f"{around} $B:1", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tok


def main():
    files, cases = {}, []
    for kind, (name, around) in itertools.product(CLASSES, SURROUNDINGS.items()):
        file = tokenizer(kind, around).to_str()
        files[f"{kind}_{name}"] = json.loads(file)
        for cls, bos, eos in itertools.product(CLASSES[kind], [None, False, True], [None, False, True]):
            config = {"tokenizer_class": cls, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                      "add_bos_token": bos, "add_eos_token": eos}
            config = {key: value for key, value in config.items() if value is not None}
            with tempfile.TemporaryDirectory() as folder:
                (pathlib.Path(folder) / "tokenizer.json").write_text(file)
                (pathlib.Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
                ids = AutoTokenizer.from_pretrained(folder)("the")["input_ids"]
            cases.append({"tokenizer": f"{kind}_{name}", "config": config, "ids": ids})
    lines = [json.dumps(case, separators=(",", ":")) for case in cases]
    tokenizers = json.dumps(files, ensure_ascii=True, separators=(",", ":"))
    (HERE / "flags.json").write_text(f'{{\n"tokenizers": {tokenizers},\n"cases": [\n' + ",\n".join(lines) + "\n]\n}\n")


if __name__ == "__main__":
    main()
