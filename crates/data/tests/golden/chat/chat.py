"""Golden values for data::chat: what transformers renders, and where its generation blocks lie.

    python chat.py            writes chat.json (and refreshes trl/ from the installed trl)

Made with transformers 5.23.0, jinja2 3.1.6, trl 1.16.0. For each template and each conversation of
conversations.json, without and with the generation prompt: the first 16 hex digits of the SHA-256 of the text, and
where the template has generation blocks their spans in characters. `null` where transformers raises.
"""
import datetime as dt
import hashlib
import importlib.util
import json
import pathlib
import re
import shutil
import sys

import transformers.utils.chat_template_utils as ctu

HERE = pathlib.Path(__file__).parent
BUILTIN = HERE / "../../../src/chat/templates"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


class Frozen(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 22, 10, 20, 30)


ctu.datetime = Frozen


def wants_parts(source):
    # ferrotune's rule: templates that index the content and never ask whether it is a string are shown parts.
    return "'content'][0]" in source and "is string" not in source and "is not string" not in source


def messages(conversation, null_content, parts):
    out = []
    for message in conversation["messages"]:
        message = dict(message)
        if null_content and not message["content"] and message.get("tool_calls"):
            message["content"] = None
        elif parts:
            message["content"] = [{"type": "text", "text": message["content"]}]
        out.append(message)
    return out


def render(source, conversation, **kwargs):
    # ferrotune's rule: `content` of a turn that holds only tool calls is null where the template asks for that.
    null_content = re.search(r"content'?\]? is (not )?none", source) is not None
    if "developer" not in source:
        conversation = dict(conversation, messages=[
            dict(m, role="system") if m["role"] == "developer" else m for m in conversation["messages"]])
    has_blocks = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
    texts, spans = ctu.render_jinja_template(
        [messages(conversation, null_content, wants_parts(source))], tools=conversation.get("tools"), chat_template=source,
        return_assistant_tokens_mask=has_blocks, **SPECIAL, **kwargs)
    return texts[0], spans[0] if has_blocks else None


def cases(source, conversation):
    for kwargs in ({}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "enable_thinking": False}):
        yield kwargs
    if conversation["messages"][-1]["role"] == "assistant":
        yield {"continue_final_message": True}


def main():
    trl = pathlib.Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
    (HERE / "trl").mkdir(exist_ok=True)
    for path in trl.glob("*.jinja"):
        shutil.copy(path, HERE / "trl" / path.name)
    conversations = json.loads((HERE / "conversations.json").read_text())
    golden = {}
    full = {}
    for folder in (HERE / "trl", BUILTIN):
        for path in sorted(folder.glob("*.jinja")):
            source = path.read_text()
            name = ("trl/" if folder.name == "trl" else "builtin/") + path.stem
            golden[name] = {}
            for conversation in conversations:
                row = []
                for kwargs in cases(source, conversation):
                    try:
                        text, spans = render(source, conversation, **kwargs)
                    except Exception as error:  # noqa: BLE001, whatever a template raises
                        row.append(None)
                        full[f"{name} {conversation['name']} {kwargs}"] = repr(error)
                        continue
                    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
                    row.append([digest] if spans is None else [digest, spans])
                    full[f"{name} {conversation['name']} {kwargs}"] = text
                golden[name][conversation["name"]] = row
    lines = [f'  {json.dumps(n)}: {{\n' + ",\n".join(
        f"    {json.dumps(c)}: {json.dumps(r, separators=(',', ':'))}" for c, r in rows.items()) + "\n  }"
        for n, rows in golden.items()]
    (HERE / "chat.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if len(sys.argv) > 1:  # a path: every text in full, to look at differences
        pathlib.Path(sys.argv[1]).write_text(json.dumps(full, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
