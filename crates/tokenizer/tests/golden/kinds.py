"""Golden values for every kind of tokenizer: small ones trained here, and what transformers makes of shared texts.

    python kinds.py SHARED_DATA_FOLDER [MINILM_FOLDER]

Writes kinds.json.gz (by name: the metadata that a GGUF file would hold, or a tokenizer.json) and kinds.json (the texts,
and by name the ids of a few odd ones, and number and CRC of the ids of the first 20,000 characters of every shared one). Made with
transformers 5.23.0, tokenizers 0.23.3, sentencepiece 0.2.3, a minute.

The oracle of a GGUF file is transformers' own reading of its metadata, but for three things that it leaves out:
SentencePiece's normalisation of the unigram kind (given to its T5Tokenizer here), and DeepSeek's words (the pre-tokenizers
of the published tokenizer.json files).
"""
import gzip
import io
import json
import pathlib
import sys
import tempfile

import numpy as np
import sentencepiece as spm
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

from tokenizer import crc

HERE = pathlib.Path(__file__).parent
ODD = [
    "", " ", "  ", " leading", "two  spaces", "tab\tand\nline\r\n\r\nbreaks", "trailing ", "\n\nstart", "don't I'LL we've",
    "12345 1 22 333 4444", "naïve cafe\u0301 Å \u212b ﬁ ½ ①", "北京市 ひらがな カタカナ 한국어 مرحبا हिन्दी ไทย", "😀👩‍👩‍👧 \u200b \ufeff\u00a0x",
    "<s>hello</s> there", "a<unk>b", "x = {'a': [1, 2], \"b\": f(3)}  # note\n\tpass", "CamelCaseWORDS snake_case_words",
    "<|endoftext|>after", "▁literal ▁▁ bar", "e" * 200, "!?!?... --- ___ $$$ €5,99",
]


def texts(shared):
    for path in sorted(pathlib.Path(shared).rglob("*")):
        if path.is_file() and path.name != "README.md":
            try:
                with open(path, encoding="utf-8", newline="") as file:
                    yield path.relative_to(shared).as_posix(), file.read()[:20_000]
            except UnicodeDecodeError:
                continue


def corpus(shared):
    data = pathlib.Path(shared)
    parts = [(data / "wikitext2/valid.txt").read_text()[:300_000]]
    parts += [p.read_text()[:20_000] for p in sorted((data / "lingua_testdata").rglob("sentences.txt"))]
    return "\n".join(parts).split("\n")


def sentencepiece(lines, kind, **kwargs):
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter([x for x in lines if x.strip()]), model_writer=out, model_type=kind,
                                   vocab_size=1200, minloglevel=2, num_threads=1, **kwargs)
    sp = spm.SentencePieceProcessor(model_proto=out.getvalue())
    n = range(len(sp))
    types = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in n]
    from sentencepiece import sentencepiece_model_pb2 as pb
    proto = pb.ModelProto.FromString(out.getvalue())
    return {"tokens": [sp.id_to_piece(i) for i in n], "scores": [float(np.float32(sp.get_score(i))) for i in n],
            "token_type": types, "unk": sp.unk_id(), "bos": sp.bos_id() if sp.bos_id() >= 0 else None, "eos": sp.eos_id(),
            "pad": sp.pad_id() if sp.pad_id() >= 0 else None}, list(proto.normalizer_spec.precompiled_charsmap)


def byte_level(lines):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    model = json.loads(tok.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {"tokens": tokens, "merges": [" ".join(m) for m in model["merges"]], "token_type": [3] + [1] * (len(tokens) - 1),
            "bos": 0, "eos": 0, "scores": []}


def by_transformers(architecture, meta):
    names = {"model": "tokenizer_type", "pre": "pre_tokenizer_type", "tokens": "tokens", "scores": "scores",
             "token_type": "token_type", "merges": "merges"}
    known = {theirs: meta[ours] for ours, theirs in names.items() if meta.get(ours)}
    return convert_gguf_tokenizer(architecture, known)[0]


def isolated(*expressions):
    return [pre_tokenizers.Split(Regex(e), "isolated") for e in expressions]


CJK = "[一-龥ࠀ-一가-퟿]+"
# The published expression lists the letters of scripts with capitals one by one.
LETTERS = "\\s?[\\p{Lu}\\p{Ll}\\p{Lt}]+"
DEEPSEEK = {
    "deepseek-llm": isolated("[\r\n]", LETTERS, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$", CJK) + [pre_tokenizers.Digits(False)],
    "deepseek-coder": isolated("[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK) + [pre_tokenizers.Digits(True)],
    "deepseek-v3": isolated("\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
}


def wordpiece(lines):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer()
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=1200, special_tokens=special, show_progress=False))
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tok


def main():
    shared = sys.argv[1]
    lines = corpus(shared)
    given, oracle = {}, {}
    bpe, _ = sentencepiece(lines, "bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)
    gemma, _ = sentencepiece(lines, "bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                             add_dummy_prefix=False, user_defined_symbols=["▁▁", "▁▁▁▁"], pad_id=0, eos_id=1, bos_id=2, unk_id=3)
    # As llama.cpp's converter writes Gemma's runs of spaces.
    gemma["tokens"] = [t.replace("▁", " ") if set(t) == {"▁"} and len(t) > 1 else t for t in gemma["tokens"]]
    gemma["token_type"] = [4 if set(t) == {" "} else k for t, k in zip(gemma["tokens"], gemma["token_type"])]
    for name, architecture, meta in [
        ("llama", "llama", {**bpe, "model": "llama", "pre": "default"}),
        ("phi3", "phi3", {**bpe, "model": "llama", "pre": "default"}),
        ("gemma", "gemma2", {**gemma, "model": "llama", "pre": "default", "add_space_prefix": False}),
    ]:
        given[name] = {"gguf": {**meta, "architecture": architecture}}
        oracle[name] = by_transformers(architecture, meta)
    unigram, charsmap = sentencepiece(lines, "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    given["t5"] = {"gguf": {**unigram, "model": "t5", "architecture": "t5", "precompiled_charsmap": charsmap}}
    t5 = T5Tokenizer(vocab=list(zip(unigram["tokens"], unigram["scores"])), extra_ids=0, additional_special_tokens=[],
                     _spm_precompiled_charsmap=bytes(charsmap)).backend_tokenizer
    oracle["t5"] = t5
    words = byte_level(lines)
    given["bytes"] = {"gguf": {**words, "model": "gpt2", "architecture": "llama"}}
    for pre in ["gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o", "qwen35"]:
        given[pre] = {"base": "bytes", "pre": pre}
        oracle[pre] = by_transformers("llama", {**words, "model": "gpt2", "pre": pre})
    for pre, parts in DEEPSEEK.items():
        given[pre] = {"base": "bytes", "pre": pre}
        oracle[pre] = by_transformers("llama", {**words, "model": "gpt2", "pre": "gpt-2"})
        oracle[pre].pre_tokenizer = pre_tokenizers.Sequence(parts + [pre_tokenizers.ByteLevel(False, use_regex=False)])
    qwen = Qwen2Tokenizer({t: i for i, t in enumerate(words["tokens"])}, [tuple(m.split(" ")) for m in words["merges"]])
    for name, tok in [("qwen2_folder", qwen.backend_tokenizer), ("wordpiece_folder", wordpiece(lines))]:
        given[name] = {"tokenizer_json": json.loads(tok.to_str())}
        # As AutoTokenizer reads it back.
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "tokenizer.json").write_text(tok.to_str())
            (pathlib.Path(folder) / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
            oracle[name] = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    if len(sys.argv) > 2:
        oracle["minilm"] = AutoTokenizer.from_pretrained(sys.argv[2]).backend_tokenizer
    golden = {}
    for name, tok in oracle.items():
        tok.no_truncation()
        tok.no_padding()
        ids = lambda text: tok.encode(text, add_special_tokens=False).ids  # noqa: B023, E731
        golden[name] = {"odd": [ids(t) for t in ODD], "files": [[len(i), crc(i)] for i in (ids(t) for _, t in texts(shared))]}
        print(name, sum(n for n, _ in golden[name]["files"]))
    raw = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
    with open(HERE / "kinds.json.gz", "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as z:
        z.write(raw)
    golden = {"texts": {"odd": ODD, "files": [path for path, _ in texts(shared)]}, **golden}
    rows = [f'"{name}": ' + json.dumps(value, ensure_ascii=True, separators=(",", ":")) for name, value in golden.items()]
    (HERE / "kinds.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
