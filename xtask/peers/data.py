"""What a user would pick instead for deduplication, personal data and quality rules, on the same machine and texts.

usage: data.py prepare WORK DATA            texts.jsonl (for deduplication), sentences.jsonl (for personal data) and
                                            pages.jsonl (for quality rules)
       data.py rensa|datasketch WORK PERMUTATIONS   one JSON line with the figures
       data.py presidio|datatrove WORK              likewise

Called by `cargo xtask bench --peer dedup`, `--peer presidio` and `--peer datatrove`, which take turns between this and
Ferrotune.
Each side's clock starts when the texts are in memory and stops when its answer is there. rensa and datasketch are
called by their fastest interfaces for many texts; neither verifies its candidates, as Ferrotune does.
"""

import json
import random
import resource
import sys
import time
from pathlib import Path

NGRAM, THRESHOLD = 5, 0.7
PAGES = [
    "llama_factory/c4_demo.jsonl",
    "dolma_cc/cc_en_head-0091.jsonl",
    "dolma_cc/cc_en_head-0174.jsonl",
    "data_juicer/redpajama-cc-2023-06-refined.jsonl",
]
# Where a line of these files holds its text.
SOURCES = [
    *((name, ["text"]) for name in PAGES),
    ("data_juicer/stack_exchange.jsonl", ["text"]),
    ("gsm8k/train.jsonl", ["question", "answer"]),
    ("gsm8k/test.jsonl", ["question", "answer"]),
]


def prepare(work, data):
    """Real texts, and after every tenth one a copy with a word in fifty changed."""
    work, data = Path(work), Path(data)
    work.mkdir(parents=True, exist_ok=True)
    texts = []
    for name, keys in SOURCES:
        for line in (data / name).read_text().splitlines():
            row = json.loads(line)
            texts.append("\n".join(row[k] for k in keys))
    articles = (data / "near_dup_mccormick/articles_1000.train").read_text()
    texts += [line.split(" ", 1)[1] for line in articles.splitlines()]
    tasks = json.loads((data / "llama_factory/alpaca_en_demo.json").read_text())
    texts += [row["instruction"] + "\n" + row["output"] for row in tasks]
    draw = random.Random(42)
    with open(work / "texts.jsonl", "w") as out:
        for i, text in enumerate(texts):
            out.write(json.dumps({"text": text}) + "\n")
            if i % 10 == 9:
                words = text.split(" ")
                for _ in range(max(1, len(words) // 50)):
                    words[draw.randrange(len(words))] = "altered"
                out.write(json.dumps({"text": " ".join(words)}) + "\n")
    with open(work / "pages.jsonl", "w") as out:
        for name in PAGES:
            for line in (data / name).read_text().splitlines():
                out.write(json.dumps({"text": json.loads(line)["text"]}) + "\n")
    rows = json.loads((data / "presidio_research/generated_large.json").read_text())
    with open(work / "sentences.jsonl", "w") as out:
        for row in rows:
            out.write(json.dumps({"text": row["full_text"]}) + "\n")


def texts(work, name):
    return [json.loads(line)["text"] for line in (Path(work) / name).read_text().splitlines()]


def shingles(text):
    words = text.lower().split()
    if len(words) < NGRAM:
        return [" ".join(words)]
    return [" ".join(gram) for gram in zip(*(words[i:] for i in range(NGRAM)))]


def rensa(work, permutations):
    from rensa import RMinHash, RMinHashLSH

    rows = texts(work, "texts.jsonl")
    start = time.perf_counter()
    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=permutations, num_bands=permutations // 4)
    digests = RMinHash.digest_matrix_from_token_sets([shingles(t) for t in rows], permutations, 42)
    found = sum(lsh.query_duplicate_flags_matrix_one_shot(digests))
    return rows, time.perf_counter() - start, found


def datasketch(work, permutations):
    from datasketch import MinHash, MinHashLSH

    rows = texts(work, "texts.jsonl")
    start = time.perf_counter()
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=permutations)
    sets = ([s.encode() for s in shingles(t)] for t in rows)
    in_cluster = set()
    for i, sketch in enumerate(MinHash.generator(sets, num_perm=permutations, seed=42)):
        twins = lsh.query(sketch)
        if twins:
            in_cluster.add(i)
            in_cluster.update(twins)
        lsh.insert(i, sketch, check_duplication=False)
    return rows, time.perf_counter() - start, len(in_cluster)


def presidio(work, _):
    """The recognizers that need no language model: patterns, checksums and context-free scores."""
    import logging

    import presidio_analyzer.predefined_recognizers as known
    from presidio_analyzer import PatternRecognizer

    logging.disable(logging.CRITICAL)
    rows = texts(work, "sentences.jsonl")
    names = [
        "CreditCardRecognizer", "CryptoRecognizer", "DateRecognizer", "EmailRecognizer", "IbanRecognizer",
        "IpRecognizer", "MacAddressRecognizer", "PhoneRecognizer", "UsSsnRecognizer", "UsItinRecognizer",
        "NhsRecognizer", "UkNinoRecognizer", "EsNifRecognizer", "EsNieRecognizer", "ItFiscalCodeRecognizer",
        "InAadhaarRecognizer", "InPanRecognizer", "DeTaxIdRecognizer", "UrlRecognizer",
    ]  # fmt: skip
    recognizers = [getattr(known, name)() for name in names if hasattr(known, name)]
    for recognizer in recognizers:
        recognizer.load()
    # Phone formats are loaded at the first use: not on the clock, here as there.
    for text in rows[:200]:
        for recognizer in recognizers:
            recognizer.analyze(text, recognizer.supported_entities, None)
    start = time.perf_counter()
    found = 0
    for text in rows:
        for recognizer in recognizers:
            if isinstance(recognizer, PatternRecognizer):
                hits = recognizer.analyze(text, recognizer.supported_entities)
            else:
                hits = recognizer.analyze(text, recognizer.supported_entities, None)
            found += len(hits)
    return rows, time.perf_counter() - start, found


def datatrove(work, _):
    """Gopher's two rule sets, C4's and FineWeb's, each on every page."""
    from datatrove.data import Document
    from datatrove.pipeline import filters

    rules = [
        filters.GopherQualityFilter(), filters.GopherRepetitionFilter(), filters.C4QualityFilter(),
        filters.FineWebQualityFilter(),
    ]  # fmt: skip
    rows = texts(work, "pages.jsonl")
    # The cutter of words is loaded at the first use: not on the clock, here as there.
    for rule in rules:
        rule.filter(Document(text=rows[0], id="0"))
    start = time.perf_counter()
    found = sum(rule.filter(Document(text=text, id="0")) is True for text in rows for rule in rules)
    return rows, time.perf_counter() - start, found


def main():
    command, work, *rest = sys.argv[1:]
    if command == "prepare":
        return prepare(work, rest[0])
    job = {"rensa": rensa, "datasketch": datasketch, "presidio": presidio, "datatrove": datatrove}[command]
    rows, seconds, found = job(work, int(rest[0]) if rest else 0)
    mb = sum(len(t.encode()) for t in rows) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"docs": len(rows), "mb": mb, "seconds": seconds, "found": found, "peak_rss_mib": peak}
    print(json.dumps(figures | {"docs_per_s": len(rows) / seconds, "mb_per_s": mb / seconds}))


main()
