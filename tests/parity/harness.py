"""Run lm-evaluation-harness on local data and keep what it computed, request by request.

    python tests/parity/harness.py --model DIR --data ../shared/benchmarks --out FILE.json
        [--tasks arc_challenge mmlu ...] [--limit 20 [--limit-seed 1]] [--limit-generation 3] [--limit-subject 10]
        [--batch-size 4] [--num-fewshot N] [--gen-kwargs max_gen_toks=64]
        [--apply-chat-template [--fewshot-as-multiturn]] [--threads 2] [--dtype float64]

The tasks are those installed with lm_eval: their YAML, samplers, filters, metrics and
HFLM are used as they are (on the CPU; float32, or float64 to tell whose rounding a
difference is). Only `datasets.load_dataset` is replaced, by
one that returns the local files in the columns of the Hugging Face hub. HellaSwag comes
from hellaswag.jsonl (validation) and hellaswag_train.jsonl beside this script.

A task is a name of SHOTS below, with its number of shots; `mmlu` and `bbh` stand for
the subjects listed there, and `mmlu_SUBJECT` and `bbh_cot_fewshot_TASK` also work.
Without --fewshot-as-multiturn the shots of a chat prompt share one user turn; the
harness's own default with a chat template is several turns.

The output is one JSON object:

    versions      of lm_eval, torch, transformers, tokenizers, datasets, python
    model         name of the directory
    options       limit, limit_seed, limit_generation, limit_subject, batch_size, num_fewshot, gen_kwargs,
                  apply_chat_template, fewshot_as_multiturn
    max_length, bos_token_id, eos_token_id, prefix_token_id, pad_token_id
    wall_seconds  of everything after loading the model
    peak_rss_bytes
    tasks         {name: task} in the order asked for, where a task is

    version, output_type, num_fewshot, documents
    seconds       in `evaluate`: prompts, tokens and the model, without loading data
    requests      number of them
    truncated     number of requests whose beginning was cut off
    metrics       as the harness names them: {"acc,none": .., "acc_stderr,none": ..};
                  the standard error is "N/A" with a limit of 1
    until, max_gen_toks   of a generation task (without the end token, which the harness
                          appends to `until`)
    docs          in the order of evaluation; sha256 is of UTF-8, in hex

A document of a multiple-choice task:

    {"doc_id", "target", "metrics": {"acc": 1.0, ..}, "requests": [{"context_sha256",
     "continuation", "loglikelihood", "is_greedy", "tokens": [context, continuation],
     "ids_sha256", "cut"}]}

`continuation` is the request's, before the context's trailing white space moves to it;
`tokens` counts after that. `ids_sha256` is of the ids of context and continuation in
decimal with commas between, before truncation; `cut` is how many of them truncation
drops. Log-likelihoods are the harness's floats, printed so that they read back equal.

A document of a generation task:

    {"doc_id", "target", "prompt_sha256", "prompt_tokens", "ids_sha256", "cut",
     "generated", "filters": {"strict-match": {"prediction", "exact_match"}, ..}}

`generated` is after cutting at the stop strings.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import datasets
import lm_eval
import lm_eval.evaluator
import tokenizers
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HERE = Path(__file__).parent
MMLU = [
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "college_biology",
    "computer_security",
    "econometrics",
    "formal_logic",
    "high_school_physics",
    "human_sexuality",
    "jurisprudence",
    "moral_scenarios",
    "professional_law",
    "world_religions",
]
BBH = ["causal_judgement", "sports_understanding", "formal_fallacies"]
# None: as many as the task's own YAML says.
SHOTS = {
    "arc_challenge": 25,
    "hellaswag": 10,
    "winogrande": 5,
    "openbookqa": 0,
    "truthfulqa_mc1": None,
    "truthfulqa_mc2": None,
    "mmlu": 5,
    "gsm8k": 5,
    "bbh": None,
}


def rows(file: Path) -> list[dict]:
    # Not splitlines(): texts may hold U+2028 and the like.
    return [json.loads(line) for line in file.read_text().split("\n") if line]


def lettered(row: dict, question: str) -> dict:
    labels = [chr(ord("A") + index) for index in range(len(row["choices"]))]
    return {
        "id": row["id"],
        question: row[question],
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[row["gold"]],
    }


def truthfulqa(file: Path) -> list[dict]:
    targets = lambda row, key: {
        "choices": list(row[key].keys()),
        "labels": list(row[key].values()),
    }
    return [
        {
            "question": row["question"],
            "mc1_targets": targets(row, "mc1_targets"),
            "mc2_targets": targets(row, "mc2_targets"),
        }
        for row in json.loads(file.read_text())
    ]


def splits(data: Path, path: str, name: str | None) -> dict[str, list[dict]]:
    """The rows that the hub has under this name."""
    match path:
        case "allenai/ai2_arc" if name == "ARC-Challenge":
            return {
                split: [
                    lettered(row, "question")
                    for row in rows(data / f"arc_challenge/{split}.jsonl")
                ]
                for split in ("train", "validation", "test")
            }
        case "allenai/openbookqa":
            return {
                split: [
                    lettered(row, "question_stem")
                    for row in rows(data / f"openbookqa/{split}.jsonl")
                ]
                for split in ("train", "validation", "test")
            }
        case "allenai/winogrande":
            return {
                split: rows(data / f"winogrande_xl/{split}.jsonl")
                for split in ("train", "validation")
            }
        case "Rowan/hellaswag":
            return {
                "train": rows(HERE / "hellaswag_train.jsonl"),
                "validation": rows(HERE / "hellaswag.jsonl"),
            }
        case "truthfulqa/truthful_qa":
            return {"validation": truthfulqa(data / "truthfulqa/mc_task.json")}
        case "cais/mmlu":
            return {
                split: rows(data / f"mmlu/{split}/{name}.jsonl")
                for split in ("dev", "validation", "test")
            }
        case "openai/gsm8k":
            return {split: rows(data / f"gsm8k/{split}.jsonl") for split in ("train", "test")}
        case "SaylorTwift/bbh":
            return {"test": json.loads((data / f"bbh/{name}.json").read_text())["examples"]}
    raise ValueError(f"no local data for {path} {name}")


def use_local_data(data: Path) -> None:
    def load_dataset(path, name=None, **_):
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_list(found)
                for split, found in splits(data, path, name).items()
            }
        )

    datasets.load_dataset = load_dataset


def expand(names: list[str], data: Path, every_subject: bool = False) -> list[tuple]:
    """Pairs of a task's name and its number of shots."""
    found = []
    for name in names:
        if name == "mmlu":
            subjects = (
                sorted(file.stem for file in (data / "mmlu/test").iterdir())
                if every_subject
                else MMLU
            )
            found += [(f"mmlu_{subject}", SHOTS["mmlu"]) for subject in subjects]
        elif name == "bbh":
            found += [(f"bbh_cot_fewshot_{task}", SHOTS["bbh"]) for task in BBH]
        elif name.startswith("mmlu_"):
            found.append((name, SHOTS["mmlu"]))
        elif name.startswith("bbh_cot_fewshot_"):
            found.append((name, SHOTS["bbh"]))
        else:
            found.append((name, SHOTS[name]))
    return found


class ObservedLM(HFLM):
    """HFLM that remembers the ids of every log-likelihood request."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.ids = {}

    def _loglikelihood_tokens(self, requests, **kwargs):
        for key, context, continuation in requests:
            self.ids[key] = (context, continuation)
        return super()._loglikelihood_tokens(requests, **kwargs)


def load_model(path: Path, batch_size: int, cls: type[HFLM] = HFLM, dtype: str = "float32") -> HFLM:
    return cls(pretrained=str(path), device="cpu", dtype=dtype, batch_size=batch_size)


def simple_evaluate(lm: HFLM, tasks: list[str], manager: TaskManager, **options) -> tuple:
    """The harness's results, and the seconds of them spent in `evaluate`."""
    inner = lm_eval.evaluator.evaluate
    seconds = 0.0

    def timed(*args, **kwargs):
        nonlocal seconds
        start = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            seconds = time.perf_counter() - start

    lm_eval.evaluator.evaluate = timed
    try:
        results = lm_eval.simple_evaluate(model=lm, tasks=tasks, task_manager=manager, **options)
    finally:
        lm_eval.evaluator.evaluate = inner
    return results, seconds


def metrics(results: dict, task: str) -> dict:
    return {key: value for key, value in results["results"][task].items() if "," in key}


def versions() -> dict:
    modules = (lm_eval, torch, transformers, tokenizers, datasets)
    found = {module.__name__: module.__version__ for module in modules}
    return {**found, "python": platform.python_version()}


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def ids_sha256(ids: list[int]) -> str:
    return sha256(",".join(map(str, ids)))


def choice_doc(lm: ObservedLM, sample: dict) -> dict:
    requests = []
    for (context, continuation), response in zip(
        sample["arguments"], sample["filtered_resps"], strict=True
    ):
        context_ids, continuation_ids = lm.ids[context, continuation]
        ids = context_ids + continuation_ids
        requests.append(
            {
                "context_sha256": sha256(context),
                "continuation": continuation,
                "loglikelihood": float(response[0]),
                "is_greedy": bool(response[1]),
                "tokens": [len(context_ids), len(continuation_ids)],
                "ids_sha256": ids_sha256(ids),
                "cut": max(0, len(ids) - (lm.max_length + 1)),
            }
        )
    return {
        "doc_id": sample["doc_id"],
        "target": sample["target"],
        "metrics": {name: float(sample[name]) for name in sample["metrics"]},
        "requests": requests,
    }


def generation_doc(lm: HFLM, samples: list[dict], max_gen_toks: int) -> dict:
    """`samples` are those of one document, one for each filter."""
    first = samples[0]
    ((prompt, _),) = first["arguments"]
    ids = lm.tok_encode(prompt)
    return {
        "doc_id": first["doc_id"],
        "target": first["target"],
        "prompt_sha256": sha256(prompt),
        "prompt_tokens": len(ids),
        "ids_sha256": ids_sha256(ids),
        "cut": max(0, len(ids) - (lm.max_length - max_gen_toks)),
        "generated": first["resps"][0][0],
        "filters": {
            sample["filter"]: {
                "prediction": sample["filtered_resps"][0],
                **{name: float(sample[name]) for name in sample["metrics"]},
            }
            for sample in samples
        },
    }


def record(lm: ObservedLM, results: dict, task: str) -> dict:
    config = results["configs"][task]
    samples = results["samples"][task]
    found = {
        "version": results["versions"][task],
        "output_type": config["output_type"],
        "num_fewshot": results["n-shot"][task],
        "metrics": metrics(results, task),
    }
    if config["output_type"] == "generate_until":
        options = config["generation_kwargs"]
        max_gen_toks = int(options.get("max_gen_toks", lm.max_gen_toks))
        found |= {"until": options["until"], "max_gen_toks": max_gen_toks}
        by_doc = {}
        for sample in samples:
            by_doc.setdefault(sample["doc_id"], []).append(sample)
        docs = [generation_doc(lm, group, max_gen_toks) for group in by_doc.values()]
        requests = docs
    else:
        docs = [choice_doc(lm, sample) for sample in samples]
        requests = [request for doc in docs for request in doc["requests"]]
    return {
        **found,
        "documents": len(docs),
        "requests": len(requests),
        "truncated": sum(request["cut"] > 0 for request in requests),
        "docs": docs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--tasks", nargs="+", default=list(SHOTS))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--limit-seed", type=int, help="so many documents drawn at random, not the first")
    parser.add_argument("--limit-generation", type=int, help="instead of --limit")
    parser.add_argument("--limit-subject", type=int, help="of MMLU, instead of --limit")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-fewshot", type=int, help="where the task's is not 0")
    parser.add_argument("--gen-kwargs", help="for example max_gen_toks=64")
    parser.add_argument("--apply-chat-template", action="store_true")
    parser.add_argument("--fewshot-as-multiturn", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    use_local_data(arguments.data)
    lm = load_model(arguments.model, arguments.batch_size, ObservedLM, arguments.dtype)
    start = time.perf_counter()
    manager = TaskManager()
    tasks = {}
    for task, shots in expand(arguments.tasks, arguments.data):
        generates = task == "gsm8k" or task.startswith("bbh_")
        limit = arguments.limit
        if generates and arguments.limit_generation is not None:
            limit = arguments.limit_generation
        if task.startswith("mmlu_") and arguments.limit_subject is not None:
            limit = arguments.limit_subject
        lm.ids.clear()
        samples = None
        if arguments.limit_seed is not None and limit is not None:
            documents = len(lm_eval.tasks.get_task_dict([task], manager)[task].eval_docs)
            if limit < documents:
                samples = {task: sorted(random.Random(arguments.limit_seed).sample(range(documents), limit))}
                limit = None
        results, seconds = simple_evaluate(
            lm,
            [task],
            manager,
            samples=samples,
            num_fewshot=shots if arguments.num_fewshot is None else arguments.num_fewshot,
            limit=limit,
            gen_kwargs=arguments.gen_kwargs,
            apply_chat_template=arguments.apply_chat_template,
            fewshot_as_multiturn=arguments.fewshot_as_multiturn,
        )
        tasks[task] = {"seconds": round(seconds, 3), **record(lm, results, task)}
        summary = {key: value for key, value in tasks[task].items() if key != "docs"}
        print(task, json.dumps(summary), flush=True)

    output = {
        "versions": versions(),
        "model": arguments.model.resolve().name,
        "options": {
            key: getattr(arguments, key)
            for key in (
                "limit",
                "limit_seed",
                "limit_generation",
                "limit_subject",
                "batch_size",
                "num_fewshot",
                "gen_kwargs",
                "apply_chat_template",
                "fewshot_as_multiturn",
            )
        },
        "max_length": lm.max_length,
        "bos_token_id": lm.tokenizer.bos_token_id,
        "eos_token_id": lm.tokenizer.eos_token_id,
        "prefix_token_id": lm.prefix_token_id,
        "pad_token_id": lm.tokenizer.pad_token_id,
        "wall_seconds": round(time.perf_counter() - start, 3),
        "peak_rss_bytes": peak_rss_bytes(),
        "tasks": tasks,
    }
    arguments.out.write_text(json.dumps(output, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
