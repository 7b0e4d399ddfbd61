"""The distributions that transformers' logits processors leave to draw from.

    python tests/golden/make_sampling_golden.py tests/golden/sampling.json [--check]

writes, for fixed logits and several settings, which tokens are left and their natural
log-probabilities: repetition penalty, temperature, top-k, top-p and min-p in the order in
which `generate` applies them. With --check it compares with the file instead.

Made for transformers 5.23 and torch 2.15.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

SETTINGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.8},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 50},
    {"top_p": 0.1},
    {"top_p": 0.7},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 0.5},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.5, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1},
]


def distribution(logits: list[float], context: list[int], setting: dict) -> dict:
    steps = LogitsProcessorList()
    if "repetition_penalty" in setting:
        steps.append(RepetitionPenaltyLogitsProcessor(setting["repetition_penalty"]))
    if "temperature" in setting:
        steps.append(TemperatureLogitsWarper(setting["temperature"]))
    if "top_k" in setting:
        steps.append(TopKLogitsWarper(setting["top_k"]))
    if "top_p" in setting:
        steps.append(TopPLogitsWarper(setting["top_p"]))
    if "min_p" in setting:
        steps.append(MinPLogitsWarper(setting["min_p"]))
    scores = steps(torch.tensor([context]), torch.tensor([logits]))[0]
    kept = torch.isfinite(scores).nonzero()[:, 0]
    logps = torch.log_softmax(scores.double(), -1)
    return {
        **setting,
        "kept": kept.tolist(),
        "logps": [round(value, 7) for value in logps[kept].tolist()],
    }


def make() -> list[dict]:
    numbers = random.Random(11)
    cases = []
    for count, spread in [(12, 1.0), (120, 2.5)]:
        # Exactly f32, and no two alike: ties are cut by their positions there.
        values = numbers.sample(range(-4096, 4096), count)
        logits = [spread * value / 1024 for value in values]
        context = numbers.choices(range(count), k=6)
        cases.append(
            {
                "logits": logits,
                "context": context,
                "settings": [distribution(logits, context, setting) for setting in SETTINGS],
            }
        )
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    cases = make()
    if not arguments.check:
        arguments.file.write_text(json.dumps(cases) + "\n")
        return
    for stored, made in zip(json.loads(arguments.file.read_text()), cases, strict=True):
        assert stored["logits"] == made["logits"] and stored["context"] == made["context"]
        for a, b in zip(stored["settings"], made["settings"], strict=True):
            assert a["kept"] == b["kept"], a
            assert all(abs(x - y) < 1e-5 for x, y in zip(a["logps"], b["logps"], strict=True)), a
    print(f"{arguments.file}: as transformers says")


if __name__ == "__main__":
    main()
