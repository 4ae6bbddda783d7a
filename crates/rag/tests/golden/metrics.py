"""Writes metrics.json: pytrec-eval-terrier's figures for random rankings. Run: python metrics.py > metrics.json"""
import json
import random

import pytrec_eval

random.seed(7)
measures = {"recall.1,3,10", "P.1,3,10", "ndcg_cut.1,3,10", "map", "recip_rank", "success.1,3,10"}
cases = []
for case in range(24):
    n = random.randint(1, 15)
    pool = [f"d{i}" for i in range(20)]
    ranking = random.sample(pool, n)
    grades = {d: random.choice([1, 1, 2, 3]) for d in random.sample(pool, random.randint(1, 6))}
    run = {"q": {d: float(100 - i) for i, d in enumerate(ranking)}}
    got = pytrec_eval.RelevanceEvaluator({"q": grades}, measures).evaluate(run)["q"]
    cases.append({"ranking": ranking, "grades": grades, "expect": {k: round(v, 12) for k, v in got.items()}})
print(json.dumps(cases, indent=0))
