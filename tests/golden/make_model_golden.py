"""Expected values for spin-model, computed by transformers.

    python make_model_golden.py OUT_DIR

writes OUT_DIR/{untied,tied}/: a tiny random Llama as transformers saves it,
cases.json (prompts, responses, reference log-probabilities) and
expected.safetensors (the logits of every sequence, the log-probability of every
response, the SPIN loss of the pairs, and its gradient for every parameter).

Made with torch 2.15 and transformers 5.23 on the CPU, in float32. Sequences are
run one at a time, so no padding takes part in the expected values.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

BETA = 0.1
# (prompt length, real length, generated length) of each pair.
PAIRS = [(5, 9, 4), (3, 2, 12)]
REFERENCE = [(-35.0, -20.0), (-9.5, -48.0)]


def build(tied: bool) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        initializer_range=0.25,
        tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 500.0, "rope_type": "default"},
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(20 + tied)
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 0.25)
    return model


def write(out: Path, tied: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model = build(tied)
    model.save_pretrained(out)

    generator = torch.Generator().manual_seed(7)
    ids = lambda n: torch.randint(3, 64, (n,), generator=generator).tolist()
    pairs = []
    for prompt, real, generated in PAIRS:
        pairs.append({"prompt": ids(prompt), "real": ids(real), "generated": ids(generated)})

    expected = {}
    logps = []
    for index, pair in enumerate(pairs):
        for side in ("real", "generated"):
            tokens = torch.tensor([pair["prompt"] + pair[side]])
            logits = model(tokens).logits[0]
            start = len(pair["prompt"])
            token_logps = F.log_softmax(logits[start - 1 : -1], dim=-1)
            token_logps = token_logps.gather(1, tokens[0, start:, None])[:, 0]
            logps.append(token_logps.sum())
            expected[f"logits.{index}.{side}"] = logits.detach().contiguous()
            expected[f"token_logps.{index}.{side}"] = token_logps.detach().contiguous()

    reference = torch.tensor(REFERENCE)
    policy = torch.stack(logps).view(-1, 2)
    margins = (policy - reference)[:, 0] - (policy - reference)[:, 1]
    loss = -F.logsigmoid(BETA * margins).mean()
    loss.backward()

    expected["logps"] = policy.detach().contiguous()
    expected["loss"] = loss.detach().reshape(1)
    for name, parameter in model.named_parameters():
        expected[f"grad.{name}"] = parameter.grad.contiguous()
    save_file(expected, out / "expected.safetensors")
    cases = {"beta": BETA, "reference": REFERENCE, "pairs": pairs}
    (out / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    write(out / "untied", tied=False)
    write(out / "tied", tied=True)
