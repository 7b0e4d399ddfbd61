#!/usr/bin/env python3
"""Write tests/golden/mt_bench.json: digests of the judge prompts of MT-Bench, filled by Python.

    python tests/golden/make_mt_bench_golden.py DIR [--check]

DIR      holds question.jsonl, judge_prompts.jsonl and reference_answer_gpt-4.jsonl of FastChat
--check  compare with the file that is there instead of writing it

Per "<question>-<turn>" the sha256 of prompt name, system message and user message, joined by line
breaks. The choice of prompts and arguments is that of fastchat/llm_judge/gen_judgment.py and
common.run_judge_single; the answers are made up, with braces in them.
"""

import argparse
import hashlib
import json
import pathlib
import sys

NEED_REF_CATS = ["math", "reasoning", "coding"]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def fake_answers(question_id):
    return [
        f"Answer one to {question_id}: {{question}} {{{{x}}}} \u00e9\U0001f600\n[[3]]",
        f"  Answer two to {question_id}, {{ref_answer_1}} }} {{\n\n",
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    prompts = {line["name"]: line for line in lines(args.dir / "judge_prompts.jsonl")}
    references = {line["question_id"]: line for line in lines(args.dir / "reference_answer_gpt-4.jsonl")}
    digests = {}
    for question in lines(args.dir / "question.jsonl"):
        number, (first, second) = question["question_id"], question["turns"]
        answers = fake_answers(number)
        math = question["category"] in NEED_REF_CATS
        given = {}
        if math:
            turns = references[number]["choices"][0]["turns"]
            given = {"ref_answer_1": turns[0], "ref_answer_2": turns[1]}
        single = prompts["single-math-v1" if math else "single-v1"]
        multi = prompts["single-math-v1-multi-turn" if math else "single-v1-multi-turn"]
        users = [
            single["prompt_template"].format(question=first, answer=answers[0], **given),
            multi["prompt_template"].format(
                question_1=first, question_2=second, answer_1=answers[0], answer_2=answers[1], **given
            ),
        ]
        for turn, (prompt, user) in enumerate(zip([single, multi], users), 1):
            text = f"{prompt['name']}\n{prompt['system_prompt']}\n{user}"
            digests[f"{number}-{turn}"] = hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(digests, indent=0) + "\n"
    out = pathlib.Path(__file__).parent / "mt_bench.json"
    if not args.check:
        out.write_text(text)
    elif out.read_text() != text:
        sys.exit(f"{out} differs")


if __name__ == "__main__":
    main()
