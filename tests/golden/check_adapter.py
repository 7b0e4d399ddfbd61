"""Compare an adapter that spin-fit saved with PEFT.

    python tests/golden/check_adapter.py BASE_DIR ADAPTER_DIR IDS.json LOGITS.safetensors

IDS is a list of lists of token ids. LOGITS holds what we compute for them with the
adapter on, `logits.0`, `logits.1`, ..., each [tokens, vocabulary]; PEFT's must lie
within 1e-4 of them. With --write, PEFT's logits are written there instead.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("base", type=Path)
parser.add_argument("adapter", type=Path)
parser.add_argument("ids", type=Path)
parser.add_argument("logits", type=Path)
parser.add_argument("--write", action="store_true")
arguments = parser.parse_args()

base = AutoModelForCausalLM.from_pretrained(
    arguments.base, attn_implementation="eager", dtype=torch.float32
)
model = PeftModel.from_pretrained(base, arguments.adapter).eval()
loaded = model.load_adapter(arguments.adapter, "again")
if loaded.unexpected_keys or any("lora_" in key for key in loaded.missing_keys):
    sys.exit(f"PEFT finds other tensors than it expects: {loaded}")

sequences = json.loads(arguments.ids.read_text())
theirs = {}
with torch.no_grad():
    for index, ids in enumerate(sequences):
        theirs[f"logits.{index}"] = model(torch.tensor([ids]), use_cache=False).logits[0]
    with model.disable_adapter():
        plain = model(torch.tensor([sequences[0]]), use_cache=False).logits[0]
effect = (theirs["logits.0"] - plain).abs().max().item()

if arguments.write:
    save_file({key: value.contiguous() for key, value in theirs.items()}, arguments.logits)
    sys.exit(0)

ours = load_file(arguments.logits)
if ours.keys() != theirs.keys():
    sys.exit(f"{arguments.logits} holds {sorted(ours)}, not {sorted(theirs)}")
difference = max((ours[key].float() - theirs[key]).abs().max().item() for key in theirs)
print(
    f"logits of {len(sequences)} sequences: largest difference {difference:.2e}"
    f" (the adapter changes them by {effect:.2e})"
)
sys.exit(0 if difference <= TOLERANCE else 1)
