"""Writes expressions.json: what transformers' Jinja makes of expressions that chat templates use.

    python expressions.py     reads expressions.json, a list of [template, text], and fills in the texts

The messages are those of the conversation `system` of conversations.json. A new expression is added as [template, ""].
"""
import json

import chat


def main():
    path = chat.HERE / "expressions.json"
    conversation = next(c for c in json.loads((chat.HERE / "conversations.json").read_text()) if c["name"] == "system")
    rows = []
    for source, _ in json.loads(path.read_text()):
        try:
            text, _ = chat.render(source, conversation)
        except Exception:  # noqa: BLE001, whatever a template raises
            text = None
        rows.append(json.dumps([source, text], ensure_ascii=False))
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
