"""The work of spin-pair in pandas or Hugging Face datasets.

    python tests/bench/pair_peers.py pandas|datasets SAMPLES TOKENS|- OUT.parquet MAX_LENGTH [DEMONSTRATIONS MODEL]
    python tests/bench/pair_peers.py compare PAIRS OUT.parquet

SAMPLES, DEMONSTRATIONS and PAIRS have the parts of artifacts, TOKENS.parquet the demonstrations in tokens
(row_id, prompt_ids, response_ids). With `-` in its place the peer makes these with transformers, from
demonstrations and a model's directory, as spin-pair does: the chat template of every prompt and of every
conversation, all texts of a batch to the tokenizer at once, which uses all cores; the answer is what the
conversation has behind the prompt.

Keeps a sample that did not fail, says something, is not the human's answer, was sampled from the
demonstration's prompt and is not too long with it; writes the pairs. Prints a line of JSON.

`compare` ends with an error unless spin-pair's pairs and a peer's are the same, token for token.
"""

import json
import sys
import time
from pathlib import Path

# Conversations that are rendered and tokenised together.
BATCH = 16_384


def parts_of(directory):
    return [str(part) for part in sorted(Path(directory).glob("part-*.parquet"))]


class Tokens:
    """The tokens of demonstrations, as transformers makes them."""

    def __init__(self, model):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def encode(self, texts):
        # What `tokenizer(texts)` calls, without the offsets and masks that nobody reads here.
        encodings = self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def of(self, prompts, responses):
        render = self.tokenizer.apply_chat_template
        prompts = [list(prompt) for prompt in prompts]
        whole = [[*prompt, {"role": "assistant", "content": said}] for prompt, said in zip(prompts, responses)]
        prompt_ids = self.encode(render(prompts, tokenize=False, add_generation_prompt=True))
        whole_ids = self.encode(render(whole, tokenize=False))
        assert all(ids[: len(own)] == own for ids, own in zip(whole_ids, prompt_ids))
        return prompt_ids, [ids[len(own) :] for ids, own in zip(whole_ids, prompt_ids)]


def with_pandas(samples, tokens, out, longest, demonstrations=None, model=None):
    import pandas

    started = time.perf_counter()
    if demonstrations:
        make, made = Tokens(model), []
        for part in parts_of(demonstrations):
            rows = pandas.read_parquet(part)
            for i in range(0, len(rows), BATCH):
                some = rows.iloc[i : i + BATCH]
                prompt_ids, response_ids = make.of(some["prompt"], some["response"])
                made.append(
                    pandas.DataFrame({"row_id": some["row_id"], "prompt_ids": prompt_ids, "response_ids": response_ids})
                )
        real = pandas.concat(made, ignore_index=True)
    else:
        real = pandas.read_parquet(tokens, columns=["row_id", "prompt_ids", "response_ids"])
    real = real.rename(columns={"prompt_ids": "real_prompt_ids", "response_ids": "real_ids"})
    columns = ["row_id", "sample_index", "prompt_ids", "response_ids", "response", "finish_reason"]
    parts = [pandas.read_parquet(part, columns=columns) for part in parts_of(samples)]
    joined = pandas.concat(parts, ignore_index=True).merge(real, on="row_id", validate="many_to_one")

    def same(left, right):
        return [len(a) == len(b) and all(a == b) for a, b in zip(joined[left], joined[right])]

    if demonstrations:
        # Lists on one side: the arrays of the other become such, which is faster to compare.
        for column in ["prompt_ids", "response_ids"]:
            joined[column] = [ids.tolist() for ids in joined[column]]

        def same(left, right):
            return [a == b for a, b in zip(joined[left], joined[right])]

    assert all(same("prompt_ids", "real_prompt_ids"))
    identical = pandas.Series(same("response_ids", "real_ids"))
    longer = joined["response_ids"].map(len).clip(lower=joined["real_ids"].map(len))
    fits = joined["prompt_ids"].map(len) + longer <= longest
    keep = (joined["finish_reason"] != "error") & (joined["response"] != "") & fits & ~identical
    kept = joined[keep].drop(columns=["real_prompt_ids", "finish_reason"])
    kept.to_parquet(out, index=False)
    return len(kept), time.perf_counter() - started, pandas.__version__


def with_datasets(samples, tokens, out, longest, demonstrations=None, model=None):
    import datasets

    started = time.perf_counter()
    datasets.disable_progress_bars()

    def load(files):
        return datasets.load_dataset("parquet", data_files=files, split="train")

    if demonstrations:
        make = Tokens(model)

        def tokenise(batch):
            prompt_ids, response_ids = make.of(batch["prompt"], batch["response"])
            return {"prompt_ids": prompt_ids, "response_ids": response_ids}

        real = load(parts_of(demonstrations))
        real = real.map(tokenise, batched=True, batch_size=BATCH, remove_columns=["prompt", "response"])
    else:
        real = load(tokens).select_columns(["row_id", "prompt_ids", "response_ids"])
    samples = load(parts_of(samples))
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


def compare(pairs, out):
    import pyarrow
    import pyarrow.parquet

    own = pyarrow.concat_tables(pyarrow.parquet.read_table(part) for part in parts_of(pairs)).sort_by("row_id")
    theirs = pyarrow.parquet.read_table(out).sort_by("row_id")
    said = [turns[-1]["content"] for turns in own["generated"].to_pylist()]
    assert said == theirs["response"].to_pylist(), "other texts"
    names = {"generated_ids": "response_ids"}
    for name in ["row_id", "sample_index", "prompt_ids", "real_ids", "generated_ids"]:
        assert own[name].to_pylist() == theirs[names.get(name, name)].to_pylist(), f"other {name}"
    return len(said)


def main():
    who, *rest = sys.argv[1:]
    if who == "compare":
        print(json.dumps({"who": who, "kept": compare(*rest)}))
        return
    samples, tokens, out, longest, *more = rest
    run = {"pandas": with_pandas, "datasets": with_datasets}[who]
    kept, seconds, version = run(samples, tokens, out, int(longest), *more)
    print(json.dumps({"who": who, "kept": kept, "seconds": seconds, "version": version}))


if __name__ == "__main__":
    main()
