"""Writes config_tokens.json: what transformers makes of tokens that stand only in the files beside tokenizer.json.

    python config_tokens.py

Made with transformers 5.23.0, tokenizers 0.23.2. A small tokenizer.json, and for each case the files beside it, the added
tokens with their flags (`[content, special, normalized, lstrip, rstrip, single_word]` by id), the named special tokens, and the
ids of each text.
"""
import json
import pathlib
import tempfile

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
TEXTS = ["ab <pad> c<x> d <y>e <z> <s>f</s>", "<q> a <r> b <pad><pad> <x> <b>", "a b c", "x<X> <image> <pad>"]


def flags(content, **changed):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
            "special": True, **changed}


def wrapped(content, **changed):
    return {"__type": "AddedToken", **flags(content, **changed)}


# Each: tokenizer_config.json, special_tokens_map.json, added_tokens.json.
CASES = {
    "nothing": [{}, {}, {}],
    "a named token": [{"pad_token": "<pad>"}, {}, {}],
    "a named token with flags": [{"pad_token": wrapped("<pad>", lstrip=True, normalized=True, special=False)}, {}, {}],
    "a named token of the map": [{}, {"pad_token": "<pad>"}, {}],
    "a named token of the map with flags": [{}, {"pad_token": flags("<pad>", lstrip=True, special=False)}, {}],
    "the map has the last word": [{"pad_token": "<x>", "bos_token": "<s>"}, {"pad_token": "<pad>"}, {}],
    "the map is not read beside added_tokens_decoder": [
        {"added_tokens_decoder": {"262": flags("<pad>")}, "extra_special_tokens": ["<x>"]},
        {"pad_token": "<pad>", "bos_token": "<y>"}, {}],
    "an empty added_tokens_decoder": [{"added_tokens_decoder": {}}, {"pad_token": "<pad>"}, {}],
    "extra tokens": [{"extra_special_tokens": ["<x>", "<y>"]}, {}, {}],
    "extra tokens with flags": [{"extra_special_tokens": [wrapped("<x>", rstrip=True), "<y>"]}, {}, {}],
    "extra tokens with names": [
        {"extra_special_tokens": {"image_token": "<image>", "x_token": "<x>"}, "a_token": "<y>"}, {}, {}],
    "extra tokens of the map": [{"extra_special_tokens": ["<x>"]}, {"extra_special_tokens": ["<y>", "<x>"]}, {}],
    "the older name": [{"additional_special_tokens": ["<x>"]}, {}, {}],
    "the older name in the map": [{}, {"additional_special_tokens": ["<x>", "<y>"]}, {}],
    "both names": [{"additional_special_tokens": ["<x>"], "extra_special_tokens": ["<y>"]}, {}, {}],
    "a model's own names": [
        {"image_token": "<image>", "z_token": wrapped("<z>", special=False), "x_token": "<x>", "x_token_id": 5,
         "add_bos_token": False}, {}, {}],
    "listed names": [{"model_specific_special_tokens": {"image_token": "<image>"}}, {}, {}],
    "listed names give way": [
        {"model_specific_special_tokens": {"image_token": "<image>"}, "x_token": "<x>"}, {}, {}],
    "added_tokens_decoder": [{"added_tokens_decoder": {"263": flags("<y>", special=False), "262": flags("<x>")}}, {}, {}],
    "flags that are not given": [
        {"added_tokens_decoder": {"262": {"content": "<x>"}, "263": {"content": "<y>", "special": True}}}, {}, {}],
    "a plain token that is named": [
        {"added_tokens_decoder": {"262": flags("<pad>", special=False)}, "pad_token": "<pad>"}, {}, {}],
    "other flags for a known token": [{"added_tokens_decoder": {"260": flags("<q>", rstrip=True, special=False)}}, {}, {}],
    "a name for a known token": [{"pad_token": "<r>"}, {}, {}],
    "a name for a known token beside added_tokens_decoder": [{"pad_token": "<r>", "added_tokens_decoder": {}}, {}, {}],
    "an extra token that is known": [{"extra_special_tokens": ["<q>", "<r>"]}, {}, {}],
    "tokens of the vocabulary": [{"extra_special_tokens": ["a"], "pad_token": "b"}, {}, {}],
    "no token": [{"pad_token": "", "unk_token": None}, {}, {}],
    "the older file of added tokens": [{"pad_token": "<pad>"}, {}, {"<x>": 262, "<pad>": 263, "<q>": 260}],
    "every name": [
        {"mask_token": "<z>", "cls_token": "<c>", "pad_token": "<pad>", "sep_token": "<y>", "unk_token": "<x>",
         "eos_token": "</s>", "bos_token": "<b>", "image_token": "<image>", "extra_special_tokens": ["<X>"],
         "added_tokens_decoder": {"262": flags("<c>")}}, {}, {}],
}


def base():
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["Ġa"], vocabulary["Ġb"] = 256, 257
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "a"), ("Ġ", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<q>", lstrip=True, special=True, normalized=True), AddedToken("<r>", rstrip=True)])
    return tokenizer


def main():
    tokenizer_json = json.loads(base().to_str())
    cases = []
    for name, (config, special, added) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json))
            config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            for file, content in [("special_tokens_map.json", special), ("added_tokens.json", added)]:
                if content:
                    (folder / file).write_text(json.dumps(content))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            cases.append({
                "name": name, "config": config, "map": special, "added": added,
                "tokens": {i: [t.content, t.special, t.normalized, t.lstrip, t.rstrip, t.single_word]
                           for i, t in sorted(tokenizer.added_tokens_decoder.items())},
                "named": [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token],
                "ids": [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS],
            })
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "config_tokens.json").write_text(
        f'{{"texts": {json.dumps(TEXTS)},\n"tokenizer": {json.dumps(tokenizer_json, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
