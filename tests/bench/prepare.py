"""Model, tokenizer and pairs for the benchmark of spin-fit against TRL.

    python tests/bench/prepare.py OUT_DIR --text ../shared/benchmarks ../shared/sft

trains a byte-level BPE tokenizer on the text in the .json, .jsonl, .parquet and .txt
files below the --text paths and writes

    OUT_DIR/model/              a Llama of 56 million random weights in float32, with
                                the tokenizer
    OUT_DIR/pairs-LENGTH.jsonl  pairs of real text, one for each length below

Prompt and real answer, and prompt and generated answer, are exactly LENGTH tokens each,
half of them prompt. The answers' ids end with the end token, which their text leaves
out: TRL appends it. Every text is cut between words, so that tokenising prompt and
answer together gives the ids in the file; that is checked here.

Made for tokenizers 0.23 and transformers 5.23.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB = 32_000
LENGTHS = (128, 256, 512, 1024, 2048)
EOS, PAD = "<|endoftext|>", "<|padding|>"


def strings(value) -> Iterator[str]:
    """The pieces of running text in a JSON value; labels and keys are not."""
    if isinstance(value, str):
        if value.count(" ") >= 4:
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def documents(paths: list[Path]) -> list[str]:
    """Every different piece of text, in the order of the files' names."""
    files = sorted(
        file
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.suffix in (".json", ".jsonl", ".parquet", ".txt")
    )
    found = {}
    for file in files:
        match file.suffix:
            case ".parquet":
                rows = pyarrow.parquet.read_table(file).to_pylist()
            case ".jsonl":
                rows = [json.loads(line) for line in file.read_text().split("\n") if line]
            case ".json":
                rows = json.loads(file.read_text())
            case _:
                rows = file.read_text()
        for text in strings(rows):
            found[text.strip()] = None
    return list(found)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size < VOCAB:
        print(f"the text yields {size} tokens; ids {size} to {VOCAB - 1} stay unused")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def make_pairs(
    tokenizer, stream: list[int], starts: list[bool], length: int, rows: int
) -> list[dict]:
    """`starts` says which tokens of the stream begin a word."""
    choose = random.Random(length)
    prompt = length // 2
    answer = length - prompt - 1
    text = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    encode = lambda text: tokenizer(text)["input_ids"]
    pairs = []
    while len(pairs) < rows:
        at = choose.randrange(len(stream) - length)
        other = choose.randrange(len(stream) - length)
        cuts = (at, at + prompt, at + prompt + answer, other, other + answer)
        if not all(starts[cut] for cut in cuts):
            continue
        ids = {
            "prompt_ids": stream[at : at + prompt],
            "real_ids": [*stream[at + prompt : at + prompt + answer], tokenizer.eos_token_id],
            "generated_ids": [*stream[other : other + answer], tokenizer.eos_token_id],
        }
        row = {
            "prompt": text(ids["prompt_ids"]),
            "chosen": text(ids["real_ids"][:-1]),
            "rejected": text(ids["generated_ids"][:-1]),
            **ids,
        }
        assert encode(row["prompt"]) == row["prompt_ids"]
        for side, key in (("chosen", "real_ids"), ("rejected", "generated_ids")):
            assert encode(row["prompt"] + row[side] + EOS) == row["prompt_ids"] + row[key]
            assert len(row["prompt_ids"]) + len(row[key]) == length
        pairs.append(row)
    return pairs


def make_model(out: Path, tokenizer: PreTrainedTokenizerFast, context: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).float()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{model.num_parameters()} parameters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=64)
    arguments = parser.parse_args()

    texts = documents(arguments.text)
    tokenizer = train_tokenizer(texts)
    stream = tokenizer(" ".join(texts))["input_ids"]
    # With the byte-level pattern a token that is a space and a letter begins a word, and no
    # merge crosses the beginning of a word.
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    begins = [re.match("Ġ[A-Za-z]", token) is not None for token in tokens]
    starts = [begins[token] for token in stream]
    print(f"{len(texts)} texts, {len(stream)} tokens")

    make_model(arguments.out / "model", tokenizer, context=4096)

    for length in LENGTHS:
        pairs = make_pairs(tokenizer, stream, starts, length, arguments.rows)
        with open(arguments.out / f"pairs-{length}.jsonl", "w") as file:
            for row in pairs:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{len(pairs)} pairs of {length} tokens")


if __name__ == "__main__":
    main()
