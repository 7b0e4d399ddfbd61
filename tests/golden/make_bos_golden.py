"""Ids of chat templates that write the beginning-of-sequence token in odd places.

    python tests/golden/make_bos_golden.py tests/golden/text [--check]

gives the tokenizer in `text/chatml` several templates and writes, to `text/bos.json`, the
ids of `apply_chat_template`, which adds no token to what a template wrote. With --check it
compares with the file instead.

Made for transformers 5.24.
"""

import argparse
import json
from pathlib import Path

from transformers import AutoTokenizer

BODY = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}[assistant]{% endif %}"
TEMPLATES = {
    "in front": "{{ bos_token }}" + BODY + PROMPT,
    "after a line break": "\n{{ bos_token }}" + BODY + PROMPT,
    "after two line breaks": "{% set x = 1 %}\n\n\n{{ bos_token }}" + BODY + PROMPT,
    "after a space": " {{ bos_token }}" + BODY + PROMPT,
    "after a word": "Chat: {{ bos_token }}" + BODY + PROMPT,
    "twice": "{{ bos_token }}{{ bos_token }}" + BODY + PROMPT,
    "every turn": "{% for m in messages %}{{ bos_token }}[{{ m.role }}] {{ m.content }}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}[assistant]{% endif %}",
}
MESSAGES = [{"role": "user", "content": "How many apples?"}]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.directory / "chatml")
    cases = []
    for name, template in TEMPLATES.items():
        tokenizer.chat_template = template
        ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=False)
        cases.append({"name": name, "template": template, "ids": list(ids)})
    found = {"bos": tokenizer.bos_token_id, "content": MESSAGES[0]["content"], "cases": cases}
    path = args.directory / "bos.json"
    if args.check:
        if json.loads(path.read_text()) != found:
            raise SystemExit(f"{path} differs")
        print("bos: as in the file")
    else:
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
