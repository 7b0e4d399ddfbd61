"""The join and filter of spin-pair in pandas or Hugging Face datasets.

    python tests/bench/pair_peers.py pandas|datasets SAMPLES_DIR TOKENS.parquet OUT.parquet MAX_LENGTH

SAMPLES_DIR has the parts of a samples artifact, TOKENS.parquet the demonstrations in tokens
(row_id, prompt_ids, response_ids). Keeps a sample that did not fail, says something, is not
the human's answer, was sampled from the demonstration's prompt and is not too long with it;
writes the pairs. Prints a line of JSON.
"""

import json
import sys
import time
from pathlib import Path


def with_pandas(parts, tokens, out, longest):
    import pandas

    started = time.perf_counter()
    columns = ["row_id", "sample_index", "prompt_ids", "response_ids", "response", "finish_reason"]
    samples = pandas.concat([pandas.read_parquet(part, columns=columns) for part in parts], ignore_index=True)
    real = pandas.read_parquet(tokens, columns=["row_id", "prompt_ids", "response_ids"])
    joined = samples.merge(real, on="row_id", suffixes=("", "_real"), validate="many_to_one")
    same_prompt = [
        len(a) == len(b) and (a == b).all() for a, b in zip(joined["prompt_ids"], joined["prompt_ids_real"])
    ]
    assert all(same_prompt)
    identical = [
        len(a) == len(b) and (a == b).all() for a, b in zip(joined["response_ids"], joined["response_ids_real"])
    ]
    longer = joined["response_ids"].map(len).clip(lower=joined["response_ids_real"].map(len))
    fits = joined["prompt_ids"].map(len) + longer <= longest
    keep = (joined["finish_reason"] != "error") & (joined["response"] != "") & fits & ~pandas.Series(identical)
    kept = joined[keep].drop(columns=["prompt_ids_real", "finish_reason"])
    kept.to_parquet(out, index=False)
    return len(kept), time.perf_counter() - started, pandas.__version__


def with_datasets(parts, tokens, out, longest):
    import datasets

    started = time.perf_counter()
    datasets.disable_progress_bars()
    samples = datasets.load_dataset("parquet", data_files=[str(part) for part in parts], split="train")
    real = datasets.load_dataset("parquet", data_files=str(tokens), split="train")
    place = {row_id: i for i, row_id in enumerate(real["row_id"])}

    def join(batch):
        rows = real[[place[row_id] for row_id in batch["row_id"]]]
        assert rows["prompt_ids"] == batch["prompt_ids"]
        return {"real_ids": rows["response_ids"]}

    def keep(batch):
        rows = zip(
            batch["prompt_ids"], batch["response_ids"], batch["real_ids"], batch["response"], batch["finish_reason"]
        )
        return [
            reason != "error" and said != "" and ids != own and len(prompt) + max(len(ids), len(own)) <= longest
            for prompt, ids, own, said, reason in rows
        ]

    joined = samples.map(join, batched=True).filter(keep, batched=True)
    joined = joined.select_columns(["row_id", "sample_index", "prompt_ids", "response_ids", "real_ids", "response"])
    joined.to_parquet(str(out))
    return len(joined), time.perf_counter() - started, datasets.__version__


def main():
    who, samples, tokens, out, longest = sys.argv[1:]
    parts = sorted(Path(samples).glob("part-*.parquet"))
    run = {"pandas": with_pandas, "datasets": with_datasets}[who]
    kept, seconds, version = run(parts, tokens, out, int(longest))
    print(json.dumps({"who": who, "kept": kept, "seconds": seconds, "version": version}))


if __name__ == "__main__":
    main()
