"""The fields of generation_config.json and tokenizer_config.json that transformers reads.

    python tests/golden/make_fields_golden.py tests/golden/text/fields.json [--check]

writes their names: of generation_config.json all that `GenerationConfig` knows; of
tokenizer_config.json all that the code of fast tokenizers takes out of the keywords it is
given, and the keywords of the classes of the architectures that spin-model trains. With
--check it compares with the file instead.

Made for transformers 5.24.
"""

import argparse
import importlib
import inspect
import json
import re
from pathlib import Path

import transformers
import transformers.tokenization_utils_base as base
import transformers.tokenization_utils_tokenizers as fast
from transformers import GenerationConfig

CLASSES = {
    "llama.tokenization_llama": "LlamaTokenizer",
    "qwen2.tokenization_qwen2": "Qwen2Tokenizer",
    "gemma.tokenization_gemma": "GemmaTokenizer",
}
READS = [
    r'kwargs\.(?:pop|get)\(\s*"([a-z_0-9]+)"',
    r'kwargs\["([a-z_0-9]+)"\]',
    r'"([a-z_0-9]+)" (?:not )?in (?:init_)?kwargs',
]


def generation() -> list[str]:
    popped = re.findall(r'kwargs\.pop\("([a-z_0-9]+)"', inspect.getsource(GenerationConfig.__init__))
    return sorted({*GenerationConfig().__dict__, *popped})


def tokenizer() -> list[str]:
    names = set(base.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)
    for module in (base, fast):
        for pattern in READS:
            names.update(re.findall(pattern, inspect.getsource(module)))
    for module, name in CLASSES.items():
        cls = getattr(importlib.import_module(f"transformers.models.{module}"), name)
        names.update(inspect.signature(cls.__init__).parameters)
    return sorted(names - {"self", "kwargs"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    found = {"generation_config.json": generation(), "tokenizer_config.json": tokenizer()}
    if not args.check:
        made = {"transformers": transformers.__version__, **found}
        args.file.write_text(json.dumps(made, indent=1) + "\n")
        return
    known = json.loads(args.file.read_text())
    for name, fields in found.items():
        new, gone = set(fields) - set(known[name]), set(known[name]) - set(fields)
        if new or gone:
            raise SystemExit(f"{name}: transformers {transformers.__version__} also reads {new}, no longer {gone}")
    print("fields: as in the file")


if __name__ == "__main__":
    main()
