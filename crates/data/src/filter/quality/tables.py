"""Writes tables.rs and exceptions_en.txt from the installed datatrove 0.10.1 and spaCy 3.8."""
import pathlib
import unicodedata

import spacy
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION

folder = pathlib.Path(__file__).parent


def constant(name, chars, doc):
    chars = sorted(chars)
    lines = [f"/// {doc}", f"pub(super) const {name}: [char; {len(chars)}] = ["]
    for row in range(0, len(chars), 10):
        cells = []
        for c in chars[row : row + 10]:
            visible = c.isprintable() and not unicodedata.combining(c) and ord(c) < 0x3000
            cells.append(f"'\\{c}'" if c in "'\\" else f"'{c}'" if visible else f"'\\u{{{ord(c):x}}}'")
        lines.append("    " + ", ".join(cells) + ",")
    return "\n".join(lines + ["];"])


text = "\n".join([
    "//! Punctuation as datatrove 0.10.1 (Apache-2.0) lists it, sorted; written by `tables.py`.",
    "",
    constant("PUNCTUATION", PUNCTUATION_SET, "What makes a word a symbol if it has nothing else."),
    constant("TERMINAL", TERMINAL_PUNCTUATION, "What ends a sentence, in every script."),
    "",
])
(folder / "tables.rs").write_text(text)

rules = spacy.blank("en").tokenizer.rules
lines = ["# Words that spaCy 3.8's English tokenizer (MIT) cuts by rule or keeps whole: the word, then its parts."]
for word, parts in sorted(rules.items()):
    if word.strip() and not word.startswith("#"):
        lines.append("\t".join([word] + [part[spacy.symbols.ORTH] for part in parts]))
(folder / "exceptions_en.txt").write_text("\n".join(lines) + "\n")
