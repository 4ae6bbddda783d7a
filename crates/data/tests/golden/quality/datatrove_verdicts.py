"""Writes datatrove_verdicts.json: what datatrove 0.10.1 (with spaCy 3.8) says of each document of the shared files.

    python datatrove_verdicts.py FOLDER_OF_SHARED_DATA

Per file and filter, a verdict a document: null keeps it, a text is the reason to drop it. For C4 a kept document
also has the number of characters of the lines that stay. `words` and `sentences` are counts of the first document
lines, to find a difference in the cut of words at its root.
"""
import json
import pathlib
import sys

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_sentences, split_into_words

FILES = [
    "dolma_cc/cc_en_head-0091.jsonl",
    "dolma_cc/cc_en_head-0174.jsonl",
    "llama_factory/c4_demo.jsonl",
    "data_juicer/redpajama-cc-2023-06-refined.jsonl",
]
FILTERS = {
    "gopher_quality": GopherQualityFilter(),
    "gopher_repetition": GopherRepetitionFilter(),
    "c4_quality": C4QualityFilter(),
    "c4_quality_no_punct": C4QualityFilter(filter_no_terminal_punct=False),
    "fineweb_quality": FineWebQualityFilter(),
}

# Texts at the edge of one rule each, since real pages break few of them.
PROSE = "The people of the town have to be with that and this in the long warm evening of late summer."
LINES = [f"Line number {i} of the text says that people have to walk with care and to look twice." for i in range(12)]
CRAFTED = [
    "\n".join(LINES),
    "\n".join([*LINES, *LINES[:6]]),
    "\n\n".join([*LINES[:6], *LINES[:4]]),
    "\n".join(LINES[:5] * 2 + ["ok"] * 9),
    " ".join([PROSE] * 3 + ["to be or not to be"] * 9),
    " ".join(LINES) + " and so the man said it" * 12,
    " ".join(["a I o"] * 40 + [PROSE]),
    " ".join(["extraordinarily incomprehensible internationalization"] * 25),
    PROSE * 3 + " # # # # # # # # # # # #",
    PROSE * 3 + " ... ... ... ... … … … …",
    "\n".join("- " + line for line in LINES),
    "\n".join("• " + line for line in LINES[:9]) + "\n" + LINES[9],
    "\n".join(line[:-1] + ("..." if i % 3 == 0 else ".") for i, line in enumerate(LINES)),
    "\n".join(line[:-1] + ("…" if i % 3 else ".") for i, line in enumerate(LINES)),
    " ".join(["Prices rose by 5 % 10 % 20 % 30 %"] * 12),
    " ".join(f"Seven brown foxes jump over lazy dogs number {i} near my house today." for i in range(9)),
    "\n".join([*LINES[:7], "This page says lorem ipsum dolor sit amet."]),
    "\n".join([*LINES[:7], "function f() { return 1; } is a function."]),
    "\n".join([*LINES[:4], "Please enable JavaScript to see this page.", "We use cookies on this site."]),
    "\n".join([*LINES[:4], "A citation[12] and an edit[edit] here.", "Two words."]),
    "\n".join(line[:-1] for line in LINES),
    "\n".join(["Short line", "Menu", "Home"] * 4 + LINES[:4]),
    "\n".join(f"One two {i}." for i in range(40)),
    "\n".join([*LINES, "x" * 1001 + " ends here."]),
    "First.\r\nSecond one is here.\x0bThird one is here.\x85Fourth one is here.\u2028Fifth one is here. Sixth.",
    "...",
]


def verdict(name, rule, text):
    document = Document(text=text, id="0")
    result = rule.filter(document)
    reason = None if result is True else result[1]
    if name.startswith("c4") and reason is None:
        return len(document.text)
    return reason


def main(folder):
    golden = {}
    for name in [*FILES, "crafted"]:
        if name == "crafted":
            texts = CRAFTED
        else:
            texts = [json.loads(line)["text"] for line in open(folder / name, encoding="utf-8")]
        golden[name] = {key: [verdict(key, rule, text) for text in texts] for key, rule in FILTERS.items()}
        if name == "crafted":
            golden[name]["texts"] = texts
        golden[name]["words"] = [len(split_into_words(text)) for text in texts]
        golden[name]["sentences"] = [len(split_into_sentences(text)) for text in texts]
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden, separators=(",", ":")).replace('},"', '},\n"').replace('],"', '],\n"') + "\n")


main(pathlib.Path(sys.argv[1]))
