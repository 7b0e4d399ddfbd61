"""Greedy texts and logits of a model by transformers, and their comparison with ours.

    python tests/parity/real.py --model DIR --rows gsm8k/test.jsonl --tokens 64 --out FILE.json
    python tests/parity/real.py --model DIR --compare FILE.json --store STORE --logits PROGRAM --out docs/bench/NAME

The first form asks the model 50 questions in its chat template, one at a time, greedily. The second compares the
answers' tokens and texts with the samples `real/bench/iter-0/greedy` of a store, and the logits of eight of the
sequences, all positions, relative to the largest.
"""

import argparse
import json
import subprocess
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

BOUND = 1e-4


def ask(model_dir: str, rows: Path, count: int, tokens: int) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    answers = []
    for line in rows.read_text().splitlines()[:count]:
        messages = [{"role": "user", "content": json.loads(line)["question"]}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            # Neither the penalties nor the temperature that the model's own settings may have.
            ids = model.generate(**prompt, max_new_tokens=tokens, do_sample=False, repetition_penalty=1.0)[0].tolist()
        start = prompt["input_ids"].shape[1]
        text = tokenizer.decode(ids[start:], skip_special_tokens=True)
        answers.append({"prompt_ids": ids[:start], "response_ids": ids[start:], "text": text})
    return {"transformers": transformers.__version__, "torch": torch.__version__, "tokens": tokens, "answers": answers}


def compare(model_dir: str, theirs: dict, store: Path, program: str) -> dict:
    import pyarrow.parquet as pq

    folder = sorted((store / "samples/real/bench/iter-0/greedy").glob("v*"))[-1]
    ours = [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    pairs = list(zip(theirs["answers"], sorted(ours, key=lambda row: row["row_id"]), strict=True))
    same = {
        key: sum(their[key] == our[key] for their, our in pairs) for key in ("prompt_ids", "response_ids")
    } | {"text": sum(their["text"] == our["response"] for their, our in pairs)}
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    worst = 0.0
    for answer in theirs["answers"][:8]:
        ids = answer["prompt_ids"] + answer["response_ids"]
        found = json.loads(subprocess.run([program, model_dir, *map(str, ids)], check=True, capture_output=True).stdout)
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0].double()
        difference = (torch.tensor(found["logits"], dtype=torch.float64) - expected).abs().max()
        worst = max(worst, (difference / expected.abs().max()).item())
    return {"questions": len(pairs), "same": same, "logits": worst}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--logits")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.compare is None:
        given.out.write_text(json.dumps(ask(given.model, given.rows, given.count, given.tokens)) + "\n")
        raise SystemExit
    theirs = json.loads(given.compare.read_text())
    found = compare(given.model, theirs, given.store, given.logits)
    versions = {key: theirs[key] for key in ("transformers", "torch", "tokens")}
    given.out.with_suffix(".json").write_text(json.dumps(versions | found, indent=1) + "\n")
    print(found)
    count = found["questions"]
    if any(same != count for same in found["same"].values()) or found["logits"] > BOUND:
        raise SystemExit("they differ")
