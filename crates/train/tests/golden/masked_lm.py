"""Masked language modelling as transformers does it: masked_lm.json.

A batch of DataCollatorForLanguageModeling (texts of unequal length, padded), the loss and gradient norms of the tiny BERT
of fixtures/golden on it; and how often the collator hides, replaces and keeps tokens in 200,000 of them.
"""
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertForMaskedLM, DataCollatorForLanguageModeling, PreTrainedTokenizerFast

here = Path(__file__).parent
model = BertForMaskedLM.from_pretrained(here.parents[3] / "fixtures/golden/tiny_models/bert_mlm").eval()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(43)]
core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
collator = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)

torch.manual_seed(3)
random = torch.Generator().manual_seed(4)
text = lambda n: [2] + torch.randint(5, 48, (n,), generator=random).tolist() + [3]
texts = [text(n) for n in (20, 9, 30, 14)]
batch = collator([{"input_ids": ids} for ids in texts])
loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
loss.backward()
norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
rows = [
    {"ids": ids, "masked": row[: len(ids)].tolist(), "labels": labels[: len(ids)].tolist()}
    for ids, row, labels in zip(texts, batch["input_ids"], batch["labels"])
]

many = torch.tensor([text(198) for _ in range(1000)])
seen = collator([{"input_ids": ids} for ids in many.tolist()])
hidden = seen["labels"] != -100
counts = {
    "tokens": many.numel(),
    "hidden": int(hidden.sum()),
    "replaced": int((hidden & (seen["input_ids"] == 4)).sum()),
    "kept": int((hidden & (seen["input_ids"] == many)).sum()),
    "special_hidden": int((hidden & (many < 5)).sum()),
}
out = {"rows": rows, "loss": loss.item(), "gradient_norms": norms, "collator": counts}
(here / "masked_lm.json").write_text(json.dumps(out) + "\n")
