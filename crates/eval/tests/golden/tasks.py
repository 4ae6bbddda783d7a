"""Writes tasks.json: the requests that lm-eval 0.4.13's task files make of sample rows.

Needs lm_eval; renders each task's own templates without its data sets. Run: python tasks.py > tasks.json
"""
import importlib.util
import json
import os

import lm_eval
import yaml
from lm_eval.utils import apply_template

ROOT = os.path.join(os.path.dirname(lm_eval.__file__), "tasks")


def module(path):
    spec = importlib.util.spec_from_file_location("m", os.path.join(ROOT, path))
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!function", lambda loader, node: None)


def config(path):
    path = os.path.join(ROOT, path)
    c = yaml.load(open(path), Loader)
    if "include" in c:
        base = yaml.load(open(os.path.join(os.path.dirname(path), c["include"])), Loader)
        c = {**base, **c}
    return c


def requests(path, doc, choices=None):
    c = config(path)
    text = doc[c["doc_to_text"]] if c["doc_to_text"] in doc else apply_template(c["doc_to_text"], doc)
    if choices is None:
        spec = c["doc_to_choice"]
        if isinstance(spec, list):
            choices = spec
        elif spec in doc:
            choices = doc[spec]
        else:
            choices = eval(apply_template(spec, doc))  # the template prints a Python list
    return [[text, " " + choice] for choice in choices]


arc = {"id": "x1", "question": "Which is hot?", "choices": {"text": ["ice", "fire", "snow"], "label": ["A", "B", "C"]}, "answerKey": "B"}
hella = {"ctx_a": "A man is sitting on a roof.", "ctx_b": "he Starts [step] pulling", "activity_label": "Roof [header] work",
         "endings": [" is using [substeps] wrap.", "falls [title] Off  it.", "sings.", "sleeps"], "label": "1"}
piqa = {"goal": "How do I open a jar?", "sol1": "Twist the lid.", "sol2": "Eat the jar.", "label": 0}
wino = {"sentence": "Sarah was a better surgeon than Maria so _ always got the hard cases.", "option1": "Sarah", "option2": "Maria", "answer": "1"}
mmlu = {"question": " What is 2+2? ", "choices": ["1", "2", "3", "4"], "answer": 3}
csqa = {"id": "c", "question": "Where do you sleep? ", "choices": {"label": list("ABCDE"), "text": ["bed", "road", "sky", "sea", "sun"]}, "answerKey": "A"}
obqa = {"id": "o", "question_stem": "The sun is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}, "answerKey": "A"}
truth = {"question": "Is the Earth flat?", "mc1_targets": {"choices": ["No", "Yes"], "labels": [1, 0]},
         "mc2_targets": {"choices": ["No", "It is round", "Yes"], "labels": [1, 1, 0]}}

hu = module("hellaswag/utils.py")
hella_doc = {"query": hu.preprocess(hella["activity_label"] + ": " + hella["ctx_a"] + " " + hella["ctx_b"].capitalize()),
             "choices": [hu.preprocess(e) for e in hella["endings"]], "label": 1}
wu = module("winogrande/preprocess_winogrande.py")
cases = [
    ["arc", arc, requests("arc/arc_easy.yaml", arc)],
    ["hellaswag", hella, requests("hellaswag/hellaswag.yaml", hella_doc)],
    ["piqa", piqa, requests("piqa/piqa.yaml", piqa)],
    ["winogrande", wino, [[c, " " + wu.doc_to_target(wino)] for c in wu.doc_to_choice(wino)]],
    ["mmlu", mmlu, requests("mmlu/default/_default_template_yaml", mmlu)],
    ["commonsense_qa", csqa, requests("commonsense_qa/default.yaml", csqa)],
    ["openbookqa", obqa, requests("openbookqa/openbookqa.yaml", obqa)],
    ["truthfulqa_mc1", truth, requests("truthfulqa/truthfulqa_mc1.yaml", truth, truth["mc1_targets"]["choices"])],
    ["truthfulqa_mc2", truth, requests("truthfulqa/truthfulqa_mc2.yaml", truth, truth["mc2_targets"]["choices"])],
]
description = config("mmlu/default/mmlu_abstract_algebra.yaml")["description"]
print(json.dumps({"cases": cases, "mmlu_description": description}, indent=1))
