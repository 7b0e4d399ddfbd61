"""Losses and slopes of T-SPIN and SPACE by torch's autograd, in f64.

Written down from the papers (arXiv 2601.08198, 2512.07175), not from their code, of which there is none.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid, relu

LOSSES = {
    "logistic": lambda t: -logsigmoid(t),
    "hinge": lambda t: relu(1 - t),
    "exponential": lambda t: torch.exp(-t),
    "correlation": lambda t: 1 - t,
}


def answers(**values: list[float]) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value, dtype=torch.float64, requires_grad=True) for key, value in values.items()}


def slopes(losses: torch.Tensor, given: dict[str, torch.Tensor]) -> dict:
    losses.sum().backward()
    return {"losses": losses.tolist(), **{f"by_{key}": value.grad.tolist() for key, value in given.items()}}


def tspin(name: str, alpha: float, weight: float) -> dict:
    values = {"real": [-10.0, -5.0, -3.0, -40.0], "generated": [-12.0, -2.0, -3.0, -20.0]}
    values["initial"] = [-11.0, -8.0, -3.0, -2.5]
    given = answers(**values)
    loss = LOSSES[name]
    losses = loss(alpha * (given["real"] - given["generated"]))
    losses = losses + weight * loss(alpha * (given["generated"] - given["initial"]))
    return {"loss": name, "alpha": alpha, "weight": weight, **values, **slopes(losses, given)}


def space(mu: float) -> dict:
    values = {"real": [-10.0, -5.0, -3.0, -40.0], "generated": [-12.0, -2.0, -3.0, -20.0]}
    reference = {"ref_real": [-11.0, -6.0, -2.0, -40.0], "ref_generated": [-10.0, -2.5, -2.0, -60.0]}
    given = answers(**values)
    sigma = lambda x: 1 / (1 + mu * torch.exp(-x))  # noqa: E731
    real = given["real"] - torch.tensor(reference["ref_real"], dtype=torch.float64)
    generated = given["generated"] - torch.tensor(reference["ref_generated"], dtype=torch.float64)
    # log(1 - σ_μ(x)) without the difference of two numbers near 1: 1 - σ_μ(x) = μ e^-x σ_μ(x).
    rest = torch.log(torch.tensor(mu, dtype=torch.float64)) - generated + torch.log(sigma(generated))
    losses = -torch.log(sigma(real)) - mu * rest
    return {"mu": mu, **values, **reference, **slopes(losses, given)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--check", action="store_true", help="compare with OUT instead of writing it")
    given = parser.parse_args()
    golden = {
        "tspin": [tspin(name, alpha, weight) for name in LOSSES for alpha, weight in ((1.0, 0.1), (0.5, 1.0))],
        "space": [space(mu) for mu in (0.5, 1.0, 8.0)],
    }
    text = json.dumps(golden, indent=1) + "\n"
    if given.check:
        assert given.out.read_text() == text, f"{given.out} differs"
    else:
        given.out.write_text(text)
