"""lm-evaluation-harness's side of the scoring benchmark, on the CPU.

    python tests/bench/lm_eval_score.py --model DIR --data ../shared/benchmarks
        --task arc_challenge [--docs 50] [--num-fewshot 25] [--batch-size 4]
        [--threads 2] [--keep-memory] [--dtype bfloat16]

prints one line of JSON:

    seconds         in the harness's `evaluate`: building prompts, tokenising, running
                    the model and scoring; loading model and data is not in it
    documents, requests
    peak_rss_bytes  of the process, loading included
    metrics         {task: metrics}, so that it can be seen that the same was computed
    options, versions

A task is one of tests/parity/harness.py, where the data is described too; `mmlu` is all
57 subjects here, evaluated together, and --docs counts per subject. HFLM groups
requests that differ in the last token only, so one pass answers the four letters of
MMLU.

The logits of a batch are hundreds of megabytes that malloc gets from the system and
gives back each time; --keep-memory starts Python again with GLIBC_TUNABLES that make it
keep what it has. Compare times with it and memory without it.

Made for lm_eval 0.4.13, transformers 5.23 and torch 2.15.
"""

import argparse
import json
import os
import sys
from pathlib import Path

KEEP_MEMORY = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592"
if "--keep-memory" in sys.argv and os.environ.get("GLIBC_TUNABLES") != KEEP_MEMORY:
    # glibc reads them once, when a process starts.
    os.environ["GLIBC_TUNABLES"] = KEEP_MEMORY
    os.execv(sys.executable, [sys.executable, *sys.argv])

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

import harness
import torch
from lm_eval.tasks import TaskManager


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/benchmarks"))
    parser.add_argument("--task", required=True)
    parser.add_argument("--docs", type=int)
    parser.add_argument("--num-fewshot", type=int, help="default: the leaderboard's")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-memory", action="store_true")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    harness.use_local_data(arguments.data)
    tasks = harness.expand([arguments.task], arguments.data, every_subject=True)
    names = [name for name, _ in tasks]
    shots = tasks[0][1] if arguments.num_fewshot is None else arguments.num_fewshot
    lm = harness.load_model(arguments.model, arguments.batch_size, dtype=arguments.dtype)
    results, seconds = harness.simple_evaluate(
        lm,
        names,
        TaskManager(),
        num_fewshot=shots,
        limit=arguments.docs,
    )
    # A generation task has a sample for every filter.
    first = {name: results["samples"][name][0]["filter"] for name in names}
    counted = [
        sample
        for name in names
        for sample in results["samples"][name]
        if sample["filter"] == first[name]
    ]
    output = {
        "seconds": seconds,
        "documents": len(counted),
        "requests": sum(len(sample["arguments"]) for sample in counted),
        "peak_rss_bytes": harness.peak_rss_bytes(),
        "metrics": {name: harness.metrics(results, name) for name in names},
        "options": {
            "task": arguments.task,
            "docs": arguments.docs,
            "num_fewshot": results["n-shot"][names[0]],
            "batch_size": arguments.batch_size,
            "threads": arguments.threads,
            "keep_memory": arguments.keep_memory,
            "dtype": arguments.dtype,
        },
        "versions": harness.versions(),
    }
    print(json.dumps(output))


if __name__ == "__main__":
    main()
