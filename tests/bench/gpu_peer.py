"""torch's side of `gpu-check`: updates by DPO's loss, and transformers' generate.

    python tests/bench/gpu_peer.py '{"model": DIR, "device": "cuda", "dtype": "bf16", "pairs": 8,
        "tokens": 512, "batch": 256, "new_tokens": 128}'

prints one line of JSON: tokens per second of each, as spin-fit and spin-sample count
them, and versions. Updates are what TRL's DPOTrainer computes with precomputed reference
log-probabilities and activation checkpointing: both answers of all pairs in one forward
pass of the model in its own type, RMSprop; without its loading, logging and padding.
"""

import json
import statistics
import sys
import time

import torch
import transformers

SPEC = json.loads(sys.argv[1])
DEVICE = torch.device(SPEC["device"])


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def load():
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[SPEC["dtype"]]
    model = transformers.AutoModelForCausalLM.from_pretrained(SPEC["model"], dtype=dtype)
    return model.to(DEVICE)


def fit() -> float:
    pairs, tokens = SPEC["pairs"], SPEC["tokens"]
    model = load()
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-6)
    ids = torch.randint(3, model.config.vocab_size, (2 * pairs, 2 * tokens), device=DEVICE)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        logits = model(input_ids=ids, logits_to_keep=tokens + 1, use_cache=False).logits[:, :-1].float()
        logps = logits.log_softmax(-1).gather(-1, ids[:, tokens:, None]).squeeze(-1).sum(-1)
        real, generated = (logps + 10.0 * tokens).split(pairs)
        loss = -torch.nn.functional.logsigmoid(0.1 * (real - generated)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize()
        seconds.append(time.perf_counter() - start)
    return 4 * pairs * tokens / statistics.median(seconds[1:])


def sample() -> float:
    batch, new_tokens = SPEC["batch"], SPEC["new_tokens"]
    model = load().eval()
    ids = torch.randint(3, model.config.vocab_size, (batch, 64), device=DEVICE)
    config = transformers.GenerationConfig(
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
        eos_token_id=None,
    )
    with torch.inference_mode():
        model.generate(input_ids=ids[:, :8], attention_mask=torch.ones_like(ids[:, :8]), generation_config=config)
        synchronize()
        start = time.perf_counter()
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        synchronize()
    return batch * (out.shape[1] - 64) / (time.perf_counter() - start)


if __name__ == "__main__":
    result = {"fit": fit(), "sample": sample()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**result, "versions": versions}))
