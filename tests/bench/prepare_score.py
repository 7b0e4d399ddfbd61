"""Model and tokenizer for the benchmark of spin-bench against lm-evaluation-harness.

    python tests/bench/prepare_score.py OUT_DIR --text ../shared/benchmarks

writes a Hugging Face directory: the 56 million random float32 weights and the
byte-level BPE tokenizer of prepare.py, with a context of 2048 tokens. The vocabulary is
padded to 32,000 when the text yields fewer tokens.

Made for tokenizers 0.23 and transformers 5.23.
"""

import argparse
from pathlib import Path

import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()

    tokenizer = prepare.train_tokenizer(prepare.documents(arguments.text))
    prepare.make_model(arguments.out, tokenizer, context=2048)


if __name__ == "__main__":
    main()
