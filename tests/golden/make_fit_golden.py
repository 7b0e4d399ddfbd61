"""Expected values for spin-model and spin-fit, computed by transformers, torch and TRL.

    python make_fit_golden.py OUT_DIR           # write OUT_DIR/<name>/ for every model below
    python make_fit_golden.py --check DIR       # make them again and compare with DIR

Each directory holds a tiny random model as transformers saves it, cases.json
(pairs, reference log-probabilities, objectives, curves) and expected.safetensors:

    logits.PAIR.SIDE, token_logps.PAIR.SIDE, logps [pairs, 2]
    loss.OBJECTIVE, grad.OBJECTIVE.PARAMETER
    curve.KEY, grad_norm.KEY [20]      loss before each update, norm before clipping
    bf16.logits.PAIR.SIDE, bf16.logps  the model in bfloat16, stored as float32;
                                       the log-softmax is taken in float32
    final.PARAMETER                    (llama) the weights after cases["final_curve"]
    trl.*                              (llama) losses of TRL's own trainer, see below

Made with torch 2.15, transformers 5.23 and trl 1.16 on the CPU, in float32, one
thread. Sequences are run one at a time, so no padding takes part in the expected
values; only TRL pads.

What TRL 1.16.0 computes, `DPOTrainer._compute_loss` (trl/trainer/dpo_trainer.py),
with r = log p(answer) - log p_ref(answer), summed over the answer's tokens,
d = r_real - r_generated, mean over pairs:

    sigmoid   -logsigmoid(beta * d). `label_smoothing` does NOT enter: only "robust"
              and "exo_pair" read it since the refactor.
    hinge     relu(1 - beta * d)
    ipo       (r_real / n_real - r_generated / n_generated - 1 / (2 * beta))^2, n the
              number of answer tokens: normalised by length, with beta as tau

Conservative DPO, -(1 - e) * logsigmoid(beta * d) - e * logsigmoid(-beta * d), is what
"sigmoid" with label_smoothing meant before; 1.16 gives it only as the combination
2 (1 - e) * sigmoid - (1 - 2 e) * robust, which is how it is run here.

SFT is `SFTTrainer.compute_loss` with completion-only loss: the summed negative
log-probability over the number of answer tokens in the whole batch; with label
smoothing it is transformers' `LabelSmoother`, the same as torch's cross_entropy.

Weight decay: `Trainer.get_decay_parameter_names` leaves out parameters whose name
matches `bias`, `layernorm`, `rmsnorm`, `norm` or `_norm` as a whole part, and those of
nn.LayerNorm. For all models here that is every tensor of fewer than 2 dimensions;
embeddings and the head do decay. RMSprop runs without decay.
"""

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    Trainer,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

VOCAB = 28
EOS = 2
STEPS = 20
BETA = 0.1
SIDES = ("real", "generated")
# (prompt length, real length, generated length) of each pair. The totals, 5 to 24, lie on
# both sides of the sliding windows and beyond llama3's original context.
LENGTHS = [(3, 2, 9), (9, 15, 6), (6, 8, 13)]
# How much more likely each answer is than under the reference. The margins times beta are
# -0.6, 0.4 and 1.7: two pairs inside the hinge, one beyond its kink.
AHEAD = [(-4.0, 2.0), (5.0, 1.0), (9.0, -8.0)]

OBJECTIVES = [
    {"name": "spin_logistic", "loss": "spin", "function": "logistic", "beta": BETA},
    {"name": "spin_hinge", "loss": "spin", "function": "hinge", "beta": BETA},
    {"name": "spin_exponential", "loss": "spin", "function": "exponential", "beta": BETA},
    {"name": "spin_correlation", "loss": "spin", "function": "correlation", "beta": BETA},
    {"name": "dpo_sigmoid", "loss": "dpo", "function": "sigmoid", "beta": 0.2},
    {
        "name": "dpo_sigmoid_smoothed",
        "loss": "dpo",
        "function": "sigmoid",
        "beta": BETA,
        "label_smoothing": 0.1,
    },
    {"name": "dpo_hinge", "loss": "dpo", "function": "hinge", "beta": 0.2},
    {"name": "dpo_ipo", "loss": "dpo", "function": "ipo", "beta": 0.25},
    {"name": "sft", "loss": "sft", "function": "nll"},
    {"name": "sft_smoothed", "loss": "sft", "function": "nll", "label_smoothing": 0.1},
]
for objective in OBJECTIVES:
    objective.setdefault("beta", BETA)
    objective.setdefault("label_smoothing", 0.0)
BY_NAME = {objective["name"]: objective for objective in OBJECTIVES}

# The largest difference that --check accepts, relative to max(1, |expected|). Processors
# round bfloat16 products differently.
TOLERANCE = 1e-5
BF16_TOLERANCE = 5e-2


def rope(kind: str = "default", theta: float = 500.0, **more) -> dict:
    return {"rope_type": kind, "rope_theta": theta, **more}


def configs() -> dict[str, PretrainedConfig]:
    """Every model, and what is special about it."""
    small = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 18,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": 0,
        "rope_parameters": rope(),
    }
    tied = {"tie_word_embeddings": True}
    untied = {"tie_word_embeddings": False}
    llama3 = rope(
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    three_groups = {"hidden_size": 24, "num_attention_heads": 6}
    return {
        "llama": LlamaConfig(**small | untied),
        # With 8 dimensions a head has 4 frequencies: one is kept, one blended, two divided.
        "llama3": LlamaConfig(**small | tied | {"rope_parameters": llama3, "head_dim": 8}),
        "llama_linear": LlamaConfig(
            **small | untied | {"rope_parameters": rope("linear", factor=4.0)},
            attention_bias=True,
            mlp_bias=True,
        ),
        "smollm": LlamaConfig(**small | tied | three_groups),
        "smollm3": SmolLM3Config(**small | tied, no_rope_layers=[1, 0]),
        "mistral": MistralConfig(**small | untied, sliding_window=6),
        "qwen2": Qwen2Config(**small | tied, use_sliding_window=False),
        "qwen2_window": Qwen2Config(
            **small | untied, use_sliding_window=True, sliding_window=6, max_window_layers=1
        ),
        "qwen3": Qwen3Config(**small | tied, head_dim=8),
        # Heads of 8, of which 4 rotate: two frequencies.
        "phi3": Phi3Config(
            **small
            | untied
            | {
                "hidden_size": 24,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "rope_parameters": rope(partial_rotary_factor=0.5),
            },
            sliding_window=7,
            original_max_position_embeddings=64,
        ),
        "gemma2": Gemma2Config(
            **small | tied,
            head_dim=8,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=10,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
            sliding_window=6,
        ),
    }


def build(name: str, config: PretrainedConfig) -> PreTrainedModel:
    """A model whose every weight is far from what initialisation gives."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(sum(name.encode()))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                # Gemma multiplies by 1 + weight.
                low = -0.5 if name == "gemma2" else 0.5
                parameter.uniform_(low, low + 1.0, generator=generator)
            else:
                parameter.normal_(0.0, 0.25, generator=generator)
    return model


def load(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=dtype
    ).eval()


def make_pairs() -> list[dict]:
    generator = torch.Generator().manual_seed(7)
    ids = lambda n: torch.randint(3, VOCAB, (n,), generator=generator).tolist()
    pairs = []
    for prompt, real, generated in LENGTHS:
        # TRL ends every answer with the end token if it does not end with it already.
        pairs.append(
            {
                "prompt": ids(prompt),
                "real": [*ids(real - 1), EOS],
                "generated": [*ids(generated - 1), EOS],
            }
        )
    return pairs


def answer_logits(model, pair: dict, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All logits of prompt and answer, and the log-probability of every answer token."""
    tokens = torch.tensor([pair["prompt"] + pair[side]])
    logits = model(tokens, use_cache=False).logits[0]
    start = len(pair["prompt"])
    logps = F.log_softmax(logits[start - 1 : -1].float(), dim=-1)
    return logits, logps.gather(1, tokens[0, start:, None])[:, 0]


def answer_logps(model, pairs: list[dict]) -> torch.Tensor:
    """[pairs, 2]: real, generated."""
    rows = [[answer_logits(model, pair, side)[1].sum() for side in SIDES] for pair in pairs]
    return torch.stack([torch.stack(row) for row in rows])


def loss_of(objective: dict, model, pairs: list[dict], reference: torch.Tensor) -> torch.Tensor:
    beta, smoothing = objective["beta"], objective["label_smoothing"]
    if objective["loss"] == "sft":
        logits, targets = [], []
        for pair in pairs:
            start = len(pair["prompt"])
            logits.append(answer_logits(model, pair, "real")[0][start - 1 : -1])
            targets.extend(pair["real"])
        return F.cross_entropy(torch.cat(logits), torch.tensor(targets), label_smoothing=smoothing)

    ratios = answer_logps(model, pairs) - reference
    delta = ratios[:, 0] - ratios[:, 1]
    match objective["loss"], objective["function"]:
        case ("spin", "logistic"):
            losses = F.softplus(-beta * delta)
        case ("spin" | "dpo", "hinge"):
            losses = torch.relu(1 - beta * delta)
        case ("spin", "exponential"):
            losses = torch.exp(-beta * delta)
        case ("spin", "correlation"):
            losses = 1 - beta * delta
        case ("dpo", "sigmoid"):
            losses = -(1 - smoothing) * F.logsigmoid(beta * delta)
            losses = losses - smoothing * F.logsigmoid(-beta * delta)
        case ("dpo", "ipo"):
            lengths = torch.tensor([[len(pair[side]) for side in SIDES] for pair in pairs])
            means = ratios / lengths
            losses = (means[:, 0] - means[:, 1] - 1 / (2 * beta)) ** 2
    return losses.mean()


def decay_groups(model, weight_decay: float) -> list[dict]:
    """The two parameter groups of transformers' Trainer."""
    names = set(Trainer.get_decay_parameter_names(None, model))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # The rule that the Rust side implements: no decay below two dimensions.
    assert all((name in names) == (p.dim() >= 2) for name, p in named)
    return [
        {"params": [p for name, p in named if name in names], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name not in names], "weight_decay": 0.0},
    ]


def make_schedule(optimizer, curve: dict) -> LRScheduler:
    warmup = curve["warmup_steps"]
    match curve["scheduler"]:
        case "constant":
            return get_constant_schedule_with_warmup(optimizer, warmup)
        case "linear":
            return get_linear_schedule_with_warmup(optimizer, warmup, STEPS)
        case "cosine":
            return get_cosine_schedule_with_warmup(optimizer, warmup, STEPS)


def train(model, curve: dict, pairs: list[dict], reference: torch.Tensor):
    """Trains `model` on all pairs at once; the loss and the gradient norm of every step."""
    if curve["optimizer"] == "rmsprop":
        optimizer = torch.optim.RMSprop(
            [p for p in model.parameters() if p.requires_grad], lr=curve["lr"]
        )
    else:
        optimizer = torch.optim.AdamW(
            decay_groups(model, curve["weight_decay"]),
            lr=curve["lr"],
            betas=(0.9, 0.999),
            eps=1e-8,
        )
    schedule = make_schedule(optimizer, curve)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses, norms = [], []
    for _ in range(STEPS):
        loss = loss_of(BY_NAME[curve["objective"]], model, pairs, reference)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, curve["max_grad_norm"]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(norms)


def curve_settings(name: str) -> list[dict]:
    def curve(objective, optimizer, scheduler, warmup, max_grad_norm=1.0, note=""):
        return {
            "key": f"{objective}.{optimizer}.{scheduler}{note}",
            "objective": objective,
            "optimizer": optimizer,
            # RMSprop's first step without warm-up moves every weight by ten learning
            # rates: at 1e-3 torch's own curves differ by 3e-4 between float32 and
            # float64, at 1e-4 by 5e-6.
            "lr": 1e-4 if optimizer == "rmsprop" and scheduler != "linear" else 1e-3,
            "scheduler": scheduler,
            "warmup_steps": warmup,
            "max_grad_norm": max_grad_norm,
            "weight_decay": 0.01 if optimizer == "adamw" else 0.0,
        }

    curves = [curve("spin_logistic", "rmsprop", "linear", 2)]
    if name == "llama":
        for objective in BY_NAME:
            for optimizer in ("rmsprop", "adamw"):
                curves.append(curve(objective, optimizer, "constant", 0))
                curves.append(curve(objective, optimizer, "cosine", 3))
        # Clipping that never acts.
        curves.append(curve("spin_logistic", "adamw", "constant", 0, 1000.0, ".unclipped"))
    return curves


def trl_run(model_dir: Path, pairs: list[dict], loss: dict, scratch: Path):
    """20 steps of TRL's DPOTrainer from the saved model, which is its own reference."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    # TRL 1.16 calls what transformers 5.23 deprecates.
    warnings.simplefilter("ignore", FutureWarning)
    # DPOTrainer 1.16 takes text only, so every id is a word of its own. Two digits, because
    # the end token is found inside other words.
    word = lambda i: f"w{i:02}"
    words = Tokenizer(models.WordLevel({word(i): i for i in range(VOCAB)}, unk_token=word(0)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=word(EOS), pad_token=word(0), unk_token=word(0)
    )
    text = lambda ids: "".join(f"{word(i)} " for i in ids)
    rows = [
        {
            "prompt": text(pair["prompt"]),
            "chosen": text(pair["real"]).strip(),
            "rejected": text(pair["generated"]).strip(),
        }
        for pair in pairs
    ]
    arguments = DPOConfig(
        output_dir=str(scratch),
        max_steps=STEPS,
        per_device_train_batch_size=len(pairs),
        train_sampling_strategy="sequential",
        precompute_ref_log_probs=True,
        loss_type=loss["loss_type"],
        loss_weights=loss["loss_weights"],
        label_smoothing=loss["label_smoothing"],
        beta=loss["beta"],
        learning_rate=loss["lr"],
        lr_scheduler_type=loss["scheduler"],
        weight_decay=loss["weight_decay"],
        max_grad_norm=loss["max_grad_norm"],
        optim="adamw_torch",
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        load(model_dir),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for row, pair in zip(trainer.train_dataset, pairs, strict=True):
        ids = (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"])
        assert ids == (pair["prompt"], pair["real"], pair["generated"]), ids
    reference = torch.tensor(
        [[row["ref_chosen_logps"], row["ref_rejected_logps"]] for row in trainer.train_dataset]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses = torch.tensor([entry["loss"] for entry in steps])
    norms = torch.tensor([entry["grad_norm"] for entry in steps])
    return losses, norms, reference


def trl_settings() -> list[dict]:
    common = {
        "optimizer": "adamw",
        "lr": 1e-3,
        "scheduler": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        # The initial model; its log-probabilities are trl.reference.
        "reference": "initial",
    }
    runs = []
    for name in ("dpo_sigmoid", "dpo_sigmoid_smoothed", "dpo_hinge", "dpo_ipo"):
        objective = BY_NAME[name]
        smoothing = objective["label_smoothing"]
        run = {
            "key": name.removeprefix("dpo_"),
            "objective": name,
            "beta": objective["beta"],
            "label_smoothing": smoothing,
            "loss_type": [objective["function"]],
            "loss_weights": [1.0],
        }
        if smoothing > 0:
            run["loss_type"] = ["sigmoid", "robust"]
            run["loss_weights"] = [2 * (1 - smoothing), -(1 - 2 * smoothing)]
        runs.append(run | common)
    return runs


def write(out: Path, name: str, config: PretrainedConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model = build(name, config)
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    del model

    model = load(out)
    pairs = make_pairs()
    expected = {}
    for index, pair in enumerate(pairs):
        for side in SIDES:
            logits, token_logps = answer_logits(model, pair, side)
            expected[f"logits.{index}.{side}"] = logits.detach()
            expected[f"token_logps.{index}.{side}"] = token_logps.detach()
    expected["logps"] = answer_logps(model, pairs).detach()
    # One decimal, so that every machine writes the same.
    reference = ((expected["logps"] - torch.tensor(AHEAD)) * 10).round() / 10
    margins = BETA * ((expected["logps"] - reference) @ torch.tensor([1.0, -1.0]))
    assert margins.min() < 0.9 and margins.max() > 1.1, margins

    for objective in OBJECTIVES:
        key = objective["name"]
        model.zero_grad()
        loss = loss_of(objective, model, pairs, reference)
        loss.backward()
        expected[f"loss.{key}"] = loss.detach().reshape(1)
        for parameter_name, parameter in model.named_parameters():
            gradient = parameter.grad.clone()
            assert gradient.abs().max() > 1e-6, (name, key, parameter_name)
            expected[f"grad.{key}.{parameter_name}"] = gradient

    half = load(out, torch.bfloat16)
    with torch.no_grad():
        for index, pair in enumerate(pairs):
            for side in SIDES:
                logits = answer_logits(half, pair, side)[0]
                expected[f"bf16.logits.{index}.{side}"] = logits.float()
        expected["bf16.logps"] = answer_logps(half, pairs)

    curves = curve_settings(name)
    cases = {
        "beta": BETA,
        "pairs": pairs,
        "reference": [[round(value, 1) for value in row] for row in reference.tolist()],
        "ipo_length_normalized": True,
        "objectives": OBJECTIVES,
        "curves": curves,
    }
    for curve in curves:
        model = load(out)
        losses, norms = train(model, curve, pairs, reference)
        expected[f"curve.{curve['key']}"] = losses
        expected[f"grad_norm.{curve['key']}"] = norms
        if curve["key"] == "spin_logistic.adamw.cosine":
            cases["final_curve"] = curve["key"]
            for parameter_name, parameter in model.named_parameters():
                expected[f"final.{parameter_name}"] = parameter.detach().clone()

    if name == "llama":
        cases["trl"] = trl_settings()
        for run in cases["trl"]:
            with tempfile.TemporaryDirectory() as scratch:
                losses, norms, initial = trl_run(out, pairs, run, Path(scratch))
            own, own_norms = train(load(out), run, pairs, initial)
            difference = (losses - own).abs().max().item()
            norm_difference = ((norms - own_norms).abs() / own_norms.clamp(min=1.0)).max().item()
            print(
                f"{name}: trl {run['key']} differs from the curve here by at most"
                f" {difference:.1e}, its gradient norm by {norm_difference:.1e}"
            )
            assert difference < 1e-5 and norm_difference < 1e-4
            assert (initial - expected["logps"]).abs().max() < 1e-4
            expected[f"trl.{run['key']}"] = losses
            expected["trl.reference"] = initial

    save(expected, out / "expected.safetensors")
    (out / "cases.json").write_text(to_json(cases))


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({key: tensors[key].contiguous() for key in sorted(tensors)}, path)
    for written in path.parent.glob("*.safetensors"):
        # safetensors creates its files for the owner only.
        written.chmod(0o644)


def to_json(cases: dict) -> str:
    """One line per pair, objective and curve."""
    lines = []
    for key, value in cases.items():
        if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def largest_difference(left: Path, right: Path) -> tuple[float, float, str]:
    """Largest differences of two tensor files outside and inside bf16.*, and a complaint."""
    left, right = load_file(left), load_file(right)
    if left.keys() != right.keys():
        return math.inf, math.inf, f"keys differ: {sorted(left.keys() ^ right.keys())[:5]}"
    single, half, complaint = 0.0, 0.0, ""
    for key in left:
        if left[key].shape != right[key].shape:
            return math.inf, math.inf, f"{key} has another shape"
        a, b = left[key].double(), right[key].double()
        difference = ((a - b).abs() / b.abs().clamp(min=1.0)).max().item()
        if not math.isfinite(difference):
            return math.inf, math.inf, f"{key} is not finite"
        if key.startswith("bf16."):
            half = max(half, difference)
        elif difference > single:
            single, complaint = difference, key
    return single, half, complaint if single > TOLERANCE else ""


def settings(path: Path) -> dict:
    """A JSON file without what only names versions."""
    content = json.loads(path.read_text())
    return {k: v for k, v in content.items() if k not in ("transformers_version", "peft_version")}


def compare(made: Path, kept: Path) -> bool:
    """Compares one directory, prints one line, says whether it is the same."""
    single, half, complaints = 0.0, 0.0, []
    for path in sorted(made.glob("*.safetensors")):
        if not (kept / path.name).exists():
            complaints.append(f"{path.name} is missing")
            continue
        one, two, complaint = largest_difference(path, kept / path.name)
        single, half = max(single, one), max(half, two)
        complaints += [f"{path.name}: {complaint}"] if complaint else []
    for path in sorted(made.glob("*.json")):
        if not (kept / path.name).exists() or settings(path) != settings(kept / path.name):
            complaints.append(f"{path.name} differs")
    if half > BF16_TOLERANCE:
        complaints.append("bf16 values differ")
    print(f"{made.name}: {single:.1e} (bf16 {half:.1e}) {'; '.join(complaints) or 'ok'}")
    return not complaints


def main(make, description: str) -> None:
    """`make(directory)` writes everything below `directory`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--check", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if (arguments.out is None) == (arguments.check is None):
        parser.error("give either OUT_DIR or --check DIR")
    torch.set_num_threads(1)
    if arguments.out:
        make(arguments.out)
        return
    scratch = Path(tempfile.mkdtemp())
    try:
        make(scratch)
        made = {path.name for path in scratch.iterdir()}
        strangers = {path.name for path in arguments.check.iterdir()} - made
        same = [compare(scratch / name, arguments.check / name) for name in sorted(made)]
    finally:
        shutil.rmtree(scratch)
    if strangers:
        print(f"not made by this script: {', '.join(sorted(strangers))}")
    sys.exit(0 if all(same) and not strangers else 1)


def make_all(out: Path) -> None:
    for name, config in configs().items():
        write(out / name, name, config)


if __name__ == "__main__":
    main(make_all, __doc__.split("\n")[0])
