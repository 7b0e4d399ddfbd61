"""transformers' side of the generation benchmark, on the CPU.

    python tests/bench/transformers_generate.py SPEC.json

SPEC is what `bench-sample` writes: model, prompts (a JSON file of token ids), count,
new_tokens, batch_size, threads, temperature, dtype (f32 or bf16). Prompts are padded on the left, in the order
of their lengths, so that padding is least; tokens are drawn from the whole distribution.
Prints one line of JSON: seconds (in `generate`), tokens, peak_rss_bytes (loading
included), versions.

Made for transformers 5.23 and torch 2.15.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
import transformers


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    prompts = json.loads(Path(spec["prompts"]).read_text())
    every = max(len(prompts) // max(spec["count"], 1), 1)
    prompts = prompts[::every][: spec["count"]]
    prompts.sort(key=len, reverse=True)
    dtype = torch.bfloat16 if spec.get("dtype") == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype)
    model.eval()
    # The model has no end: every answer has its full length.
    sampled = {"do_sample": True, "temperature": spec["temperature"], "top_k": 0, "top_p": 1.0}
    config = transformers.GenerationConfig(
        max_new_tokens=spec["new_tokens"],
        min_new_tokens=spec["new_tokens"],
        pad_token_id=0,
        eos_token_id=None,
        **(sampled if spec["temperature"] > 0 else {"do_sample": False}),
    )
    tokens = 0
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(prompts), spec["batch_size"]):
            batch = prompts[first : first + spec["batch_size"]]
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            tokens += out[:, width:].numel()
    seconds = time.perf_counter() - start
    assert tokens == len(prompts) * spec["new_tokens"], tokens
    print(
        json.dumps(
            {
                "seconds": seconds,
                "tokens": tokens,
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "versions": {
                    "transformers": transformers.__version__,
                    "torch": torch.__version__,
                    "python": sys.version.split()[0],
                },
            }
        )
    )


if __name__ == "__main__":
    main()
