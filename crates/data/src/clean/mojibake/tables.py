"""Writes tables.rs from the installed ftfy 6.3.1: `python tables.py > tables.rs`."""
import re

import ftfy.bad_codecs  # registers the sloppy codecs
from ftfy.badness import MOJIBAKE_CATEGORIES
from ftfy.chardata import CHARMAP_ENCODINGS, UTF8_CLUES

ftfy.bad_codecs.ok()


def escape(text):
    """Letters as they are, ranges kept, everything else as a regex escape."""
    return "".join(c if c.isalpha() or c == "-" else f"\\u{{{ord(c):X}}}" for c in text)


def split(text, width=88):
    out, line = [], ""
    for piece in re.findall(r"\\u\{[0-9A-F]+\}|.", text):
        if len(line) + len(piece) > width:
            out.append(line)
            line = ""
        line += piece
    return out + [line]


def constant(name, text, doc):
    print(f"/// {doc}")
    parts = split(text)
    if len(parts) == 1:
        print(f'pub(super) const {name}: &str = r"{parts[0]}";')
    else:
        # `concat!` of raw strings keeps the lines short.
        print(f"pub(super) const {name}: &str = concat!(")
        for part in parts:
            print(f'    r"{part}",')
        print(");")


print("//! Character classes and code pages of ftfy 6.3.1 (Robyn Speer, Apache-2.0), written by `tables.py`.")
print()
for name, text in MOJIBAKE_CATEGORIES.items():
    constant(name.upper(), escape(text), f"ftfy's category `{name}`, as the inside of a regex class.")
for name, text in UTF8_CLUES.items():
    constant(name.upper(), escape(text), f"ftfy's clue `{name}`, as the inside of a regex class.")
print("/// What the bytes 0x80 to 0xFF mean in each code page that mojibake goes through, in the order to try them.")
print(f"pub(super) const CODE_PAGES: [(&str, [u16; 128]); {len(CHARMAP_ENCODINGS)}] = [")
for name in CHARMAP_ENCODINGS:
    points = [ord(c) for c in bytes(range(0x80, 0x100)).decode(name)]
    assert max(points) < 0x10000
    print(f'    ("{name}", [')
    for row in range(0, 128, 16):
        print("        " + ", ".join(f"0x{p:X}" for p in points[row : row + 16]) + ",")
    print("    ]),")
print("];")
