"""Compare lm-evaluation-harness's numbers with spin-bench's, request by request.

    python tests/parity/compare.py --out docs/bench/parity NAME=HARNESS.json=STORE[=FLOAT64.json] ...

HARNESS.json is harness.py's output, STORE a store with the evaluations that spin-bench
made of the same model, tasks and limits. Prints a table and writes OUT.md and OUT.json;
exits with 1 when a log-likelihood differs by more than 1e-4, a prompt, a choice, a
prediction or a metric differs at all, or more than 2% of generated texts do.

A log-likelihood is compared absolutely up to 100 nats and relatively beyond: sums of
hundreds of float32 terms cannot agree better than the type allows. Where a model is deep
enough that two float32 programs differ by more than that, FLOAT64.json, harness.py's output
in float64, tells whose rounding it is: the bound is then that spin-bench is no farther from
float64 than the harness is, in the largest difference and in the root mean square.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

BOUND = 1e-4


def newest(store):
    """Rows of the newest version of every evaluation, by task."""
    tasks = {}
    for manifest in Path(store).glob("evaluations/**/manifest.json"):
        version = int(manifest.parent.name[1:])
        name = manifest.parent.parent
        tasks.setdefault(name, []).append((version, manifest.parent))
    rows = {}
    for versions in tasks.values():
        folder = max(versions)[1]
        table = pa.concat_tables(pq.read_table(part) for part in sorted(folder.glob("part-*.parquet")))
        for row in table.to_pylist():
            rows.setdefault(row["task"], []).append(row)
    return rows


def mean_stderr(values):
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1)) / math.sqrt(n)


def compare_task(name, harness, ours, exact):
    """One line of the table, with what differs; `exact` is the harness in float64, or None."""
    found = {"task": name, "documents": len(harness["docs"]), "requests": 0, "largest": 0.0, "other_texts": 0, "problems": []}
    problem = found["problems"].append
    if len(ours) != len(harness["docs"]):
        problem(f"{len(ours)} documents instead of {len(harness['docs'])}")
        return found
    cuts = 0
    from_exact = {"harness": [], "spin-bench": []}
    for at, (doc, row) in enumerate(zip(harness["docs"], ours)):
        place = f"document {doc['doc_id']}"
        if doc["doc_id"] != row["doc_id"]:
            problem(f"{place}: ours is {row['doc_id']}")
            continue
        if "requests" not in doc:
            found["requests"] += 1
            cuts += doc["cut"] > 0
            if doc["prompt_sha256"] != row["prompt_hash"]:
                problem(f"{place}: another prompt")
            # Two likeliest tokens that are a rounding apart: torch and mistral.rs
            # then go on with different ones.
            found["other_texts"] += doc["generated"] != row["response"]
            for filter_name, values in doc["filters"].items():
                ours_value = row["values"][row["metrics"].index(f"exact_match,{filter_name}")]
                if ours_value != values["exact_match"]:
                    problem(f"{place}: {filter_name} {ours_value} instead of {values['exact_match']}")
            continue
        if doc["requests"][0]["context_sha256"] != row["prompt_hash"]:
            problem(f"{place}: another prompt")
        if [r["continuation"] for r in doc["requests"]] != row["continuations"]:
            problem(f"{place}: other continuations")
            continue
        for i, request in enumerate(doc["requests"]):
            found["requests"] += 1
            cuts += request["cut"] > 0
            expected = request["loglikelihood"]
            difference = abs(expected - row["logps"][i]) / max(1.0, abs(expected) / 100)
            found["largest"] = max(found["largest"], difference)
            if exact:
                reference = exact["docs"][at]["requests"][i]["loglikelihood"]
                from_exact["harness"].append(expected - reference)
                from_exact["spin-bench"].append(row["logps"][i] - reference)
            elif not difference <= BOUND:
                problem(f"{place}, choice {i}: {row['logps'][i]} instead of {expected}")
            if request["is_greedy"] != row["is_greedy"][i]:
                problem(f"{place}, choice {i}: is_greedy {row['is_greedy'][i]}")
            tokens = [row["context_tokens"][i] + row["truncated_tokens"][i], row["continuation_tokens"][i]]
            if request["tokens"] != tokens or request["cut"] != row["truncated_tokens"][i]:
                problem(f"{place}, choice {i}: tokens {tokens}, {row['truncated_tokens'][i]} cut; expected {request['tokens']}, {request['cut']}")
    found["truncated"] = cuts
    if exact:
        found["from_float64"] = {
            who: {"largest": max(map(abs, values)), "rms": math.sqrt(sum(v * v for v in values) / len(values))}
            for who, values in from_exact.items()
        }
        theirs, own = found["from_float64"]["harness"], found["from_float64"]["spin-bench"]
        if own["largest"] > theirs["largest"] or own["rms"] > theirs["rms"]:
            problem(f"farther from float64 than the harness: {own} and {theirs}")
    if found["other_texts"] > 0.02 * len(ours):
        problem(f"{found['other_texts']} generated texts differ")
    metrics = {}
    for metric in ours[0]["metrics"]:
        kind, name_of_filter = metric.split(",")
        value, stderr = mean_stderr([row["values"][row["metrics"].index(metric)] for row in ours])
        expected = harness["metrics"].get(metric)
        expected_stderr = harness["metrics"].get(f"{kind}_stderr,{name_of_filter}")
        metrics[metric] = {"harness": expected, "spin-bench": value, "harness_stderr": expected_stderr, "spin-bench_stderr": stderr}
        # mc2 is a mean of probabilities: equal as far as log-likelihoods are.
        close = 1e-12 if name != "truthfulqa_mc2" else 1e-5
        if expected is None or abs(expected - value) > close:
            problem(f"{metric}: {value} instead of {expected}")
        if stderr is not None and isinstance(expected_stderr, float) and abs(expected_stderr - stderr) > close:
            problem(f"{metric}: standard error {stderr} instead of {expected_stderr}")
    found["metrics"] = metrics
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=HARNESS.json=STORE[=FLOAT64.json]")
    args = parser.parse_args()
    lines = ["| model | task | documents | requests | truncated | largest difference of log-likelihoods | metrics, harness = spin-bench |", "|---|---|---|---|---|---|---|"]
    report, failed = {"bound": BOUND, "models": {}}, False
    for run in args.runs:
        name, path, store, *rest = run.split("=")
        exact = json.loads(Path(rest[0]).read_text())["tasks"] if rest else {}
        harness, ours = json.loads(Path(path).read_text()), newest(store)
        report["versions"] = harness["versions"]
        report["models"][name] = found = []
        for task, expected in harness["tasks"].items():
            result = compare_task(task, expected, ours.get(task, []), exact.get(task))
            found.append(result)
            metrics = ", ".join(
                f"{metric.removesuffix(',none')} {values['harness']:.4f}" for metric, values in result.get("metrics", {}).items()
            )
            same = result["documents"] - result["other_texts"]
            generated = expected["output_type"] == "generate_until"
            largest = f"{same} texts equal" if generated else f"{result['largest']:.1e}"
            for who, off in result.get("from_float64", {}).items():
                largest += f"; {who} from float64 {off['largest']:.1e} (rms {off['rms']:.1e})"
            verdict = metrics
            if result["problems"]:
                failed, verdict = True, f"**{len(result['problems'])} differences**: {metrics}"
                for problem in result["problems"][:5]:
                    print(f"{name} {task}: {problem}", file=sys.stderr)
            lines.append(
                f"| {name} | {task} | {result['documents']} | {result['requests']} | {result.get('truncated', '')} | {largest} | {verdict} |"
            )
    with_exact = any(run.count("=") == 3 for run in args.runs)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
        head = (
            "# spin-bench against lm-evaluation-harness\n\nThe same models, documents and profile (`current`), float32 on the CPU, "
            f"request by request; made by `{'tests/parity/real.sh' if with_exact else 'just parity bench'}`. {versions}.\n\n"
        )
        if with_exact:
            head += (
                "Two float32 programs differ by more than 1e-4 on a model this deep. The harness in float64 tells whose "
                "rounding it is: \"from float64\" are the largest and the root mean square difference from its log-likelihoods.\n\n"
            )
        args.out.with_suffix(".md").write_text(head + text)
        args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
