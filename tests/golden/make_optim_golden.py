"""Expected values for spin-fit's optimisers and schedules, from torch.

    python make_optim_golden.py OUT_FILE

Made with torch 2.15 and transformers 5.23 on the CPU, in float32. Gradients
are fixed numbers, the same in every step up to a factor, so that nothing but
the optimiser takes part.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import optimization

STEPS = 8
SHAPES = {"a.weight": (3, 4), "b.weight": (5,)}


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def flat(values: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    return {name: value.detach().flatten().tolist() for name, value in values.items()}


def optimiser_case(name: str, make, options: dict, max_norm: float | None) -> dict:
    params = {key: value.requires_grad_() for key, value in tensors(1).items()}
    grads = tensors(2)
    optimiser = make(list(params.values()), **options)
    steps = []
    for step in range(STEPS):
        for key, param in params.items():
            # The factor changes size and sign, so that averages have work.
            param.grad = grads[key] * (1.5 - step % 3)
        norm = None
        if max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(params.values(), max_norm).item()
        optimiser.step()
        steps.append({"norm": norm, "params": flat(params)})
    return {"optimiser": name, "options": options, "max_norm": max_norm, "steps": steps}


def optimiser_cases() -> list[dict]:
    rms, adamw = torch.optim.RMSprop, torch.optim.AdamW
    return [
        optimiser_case("rmsprop", rms, dict(lr=0.01), None),
        optimiser_case("rmsprop", rms, dict(lr=0.01, alpha=0.9, eps=1e-6, weight_decay=0.1), 1.0),
        optimiser_case("adamw", adamw, dict(lr=0.01), None),
        optimiser_case(
            "adamw", adamw, dict(lr=0.02, betas=[0.8, 0.95], eps=1e-6, weight_decay=0.1), 1.0
        ),
    ]


def schedule_case(name: str, warmup: int, total: int) -> dict:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    if name == "constant":
        schedule = optimization.get_constant_schedule_with_warmup(optimiser, warmup)
    elif name == "linear":
        schedule = optimization.get_linear_schedule_with_warmup(optimiser, warmup, total)
    else:
        schedule = optimization.get_cosine_schedule_with_warmup(optimiser, warmup, total)
    factors = []
    for _ in range(total + 2):
        factors.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    return {"schedule": name, "warmup": warmup, "total": total, "factors": factors}


def objective_case() -> dict:
    values = {
        "policy_real": [-10.0, -50.0, -3.0, -400.0],
        "policy_generated": [-12.0, -20.0, -3.0, -20.0],
        "ref_real": [-11.0, -60.0, -2.0, -20.0],
        "ref_generated": [-10.0, -25.0, -2.0, -400.0],
    }
    beta = 0.3
    given = {key: torch.tensor(value, requires_grad=True) for key, value in values.items()}
    margins = (given["policy_real"] - given["ref_real"]) - (
        given["policy_generated"] - given["ref_generated"]
    )
    losses = -torch.nn.functional.logsigmoid(beta * margins)
    losses.sum().backward()
    return {
        **values,
        "beta": beta,
        "losses": losses.tolist(),
        "grad_policy_real": given["policy_real"].grad.tolist(),
        "grad_policy_generated": given["policy_generated"].grad.tolist(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    golden = {
        "initial": flat(tensors(1)),
        "gradients": flat(tensors(2)),
        "shapes": SHAPES,
        "optimisers": optimiser_cases(),
        "schedules": [
            schedule_case(name, warmup, 18)
            for name in ("constant", "linear", "cosine")
            for warmup in (0, 4)
        ],
        "objective": objective_case(),
    }
    parser.parse_args().out.write_text(json.dumps(golden, indent=1) + "\n")
