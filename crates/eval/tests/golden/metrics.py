"""Writes metrics.json: text metrics and statistics as their own programs compute them.

Needs rouge_score 0.1.2, sacrebleu 2.6, scipy, scikit-learn. Run: python metrics.py > metrics.json
"""
import json
import random
import re
import string
from collections import Counter

import sacrebleu
from rouge_score import rouge_scorer
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

PAIRS = [
    ("You may return items within 30 days.", "Items can be returned within 30 days of purchase with a receipt."),
    ("The cat sat on the mat.", "The cat sat on the mat."),
    ("the the the the", "The cat is on the mat."),
    ("", "Nothing here."),
    ("Orders over $75.00 ship free, others pay $6.95!", "Shipping is free over $75; otherwise it's $6.95."),
    ("No.", "Yes, we do ship to Canada & Mexico (2-3 weeks)."),
    ("Größe 42 – für Füße &quot;groß&quot;", "Größe 42 ist für große Füße."),
    ("A quick brown fox jumps over the lazy dog near the river bank today", "The quick brown fox jumped over a lazy dog by the river bank"),
    ("well-known 3-4 items, e.g. e-mail: a@b.c", "Well known: 3 - 4 items (e.g., e-mail a@b.c)"),
    ("one two three four five six", "six five four three two one"),
]


def normal(s):
    s = "".join(c for c in s.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", s).split()


def squad_f1(a, b):
    a, b = normal(a), normal(b)
    if not a or not b:
        return float(a == b)
    same = sum((Counter(a) & Counter(b)).values())
    return 0.0 if same == 0 else 2 * (same / len(a)) * (same / len(b)) / (same / len(a) + same / len(b))


scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
rows = []
for answer, reference in PAIRS:
    rouge = scorer.score(reference, answer)
    rows.append({
        "answer": answer, "reference": reference,
        "rouge1": list(rouge["rouge1"]), "rouge2": list(rouge["rouge2"]), "rougeL": list(rouge["rougeL"]),
        "bleu": sacrebleu.sentence_bleu(answer, [reference]).score,
        "chrf": sacrebleu.sentence_chrf(answer, [reference]).score,
        "chrf++": sacrebleu.sentence_chrf(answer, [reference], word_order=2).score,
        "exact": normal(answer) == normal(reference), "f1": squad_f1(answer, reference),
    })
answers, references = [a for a, _ in PAIRS], [r for _, r in PAIRS]
random.seed(1)
a, b = [random.choice("abc") for _ in range(40)], [random.choice("abc") for _ in range(40)]
out = {
    "pairs": rows,
    "corpus_bleu": sacrebleu.corpus_bleu(answers, [references]).score,
    "corpus_chrf": sacrebleu.corpus_chrf(answers, [references]).score,
    "sign": [[w, l, binomtest(w, w + l).pvalue if w + l else 1.0]
             for w, l in [(0, 0), (1, 0), (5, 5), (9, 1), (40, 20), (0, 12), (130, 90), (3, 400), (2100, 1900)]],
    "wilson": [[k, n, *binomtest(k, n).proportion_ci(method="wilson")] for k, n in [(0, 10), (7, 10), (60, 60), (123, 456)]],
    "kappa": {"a": "".join(a), "b": "".join(b), "expect": cohen_kappa_score(a, b)},
}
print(json.dumps(out, indent=0, ensure_ascii=False))
