"""Expected values for LoRA adapters, computed by PEFT on the models of make_fit_golden.py.

    python make_lora_golden.py OUT_DIR          # write OUT_DIR/<base>-<variant>/
    python make_lora_golden.py --check DIR      # make them again and compare with DIR

Each directory holds an adapter with random A and B as PEFT saves it, cases.json (which
base under ../fit, and its pairs and reference) and expected.safetensors:

    logits.PAIR.SIDE                    with the adapter
    logps [pairs, 2]
    loss.spin_logistic, grad.spin_logistic.TENSOR   named as in adapter_model.safetensors
    curve.KEY, grad_norm.KEY [20]       training of the adapter alone
    merged.PARAMETER                    (rslora, patterns) the target weights after merging

Variants: `attention` scales by alpha / r, `rslora` by alpha / sqrt(r) and covers every
projection, `bare` is an adapter_config.json with the few keys that PEFT wrote in its
first releases and the suffixed names that it still accepts. For some bases `patterns`
has ranks, scales and exceptions by name, `layers` some layers alone, `regex`
expressions instead of lists.

Made with torch 2.15, transformers 5.23 and peft 0.21 on the CPU, in float32, one
thread. The bases are those in fit/ beside this script.
"""

import json
import warnings
from pathlib import Path

import make_fit_golden as fit
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file

BASES = ["llama", "qwen2", "phi3", "gemma2"]
# Bases with adapters whose settings differ between projections.
PATTERNED = ["llama", "phi3"]
CURVE = {
    "key": "spin_logistic.rmsprop.linear",
    "objective": "spin_logistic",
    "optimizer": "rmsprop",
    "lr": 1e-3,
    "scheduler": "linear",
    "warmup_steps": 2,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
}
# What PEFT 0.3 wrote, without the keys that came later (use_rslora, rank_pattern, ...).
BARE_KEYS = {
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "target_modules",
    "task_type",
}


def variants(base: str) -> dict[str, LoraConfig]:
    if base == "phi3":
        attention = ["qkv_proj"]
        every = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    else:
        attention = ["q_proj", "v_proj"]
        every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    suffixed = ["self_attn.o_proj", "mlp.down_proj"]
    common = {"task_type": "CAUSAL_LM", "lora_dropout": 0.0}
    made = {
        "attention": LoraConfig(r=4, lora_alpha=8, target_modules=attention, **common),
        "rslora": LoraConfig(r=3, lora_alpha=6, target_modules=every, use_rslora=True, **common),
        "bare": LoraConfig(r=2, lora_alpha=5, target_modules=suffixed, **common),
    }
    if base in PATTERNED:
        made["patterns"] = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=[*attention, "down_proj", "layers.0.self_attn.o_proj"],
            rank_pattern={"down_proj": 2, "o_proj": 3},
            alpha_pattern={r"layers\.[01]\.self_attn\..*": 5, "down_proj": 12},
            exclude_modules=["layers.1.self_attn." + attention[0]],
            **common,
        )
        made["layers"] = LoraConfig(
            r=2,
            lora_alpha=3,
            target_modules=every[:-1],
            layers_to_transform=[1],
            layers_pattern=["layers"],
            use_rslora=True,
            rank_pattern={attention[0]: 5},
            **common,
        )
        made["regex"] = LoraConfig(
            r=3,
            lora_alpha=4,
            target_modules=r"model\.layers\.(?P<layer>[0-9]+)\.(?!mlp).*_proj|.*\.1\.mlp\.down_proj",
            exclude_modules=r".*layers\.0\.self_attn\.o_.*",
            **common,
        )
    return made


def write(out: Path, base_dir: Path, base: str, variant: str, config: LoraConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model = get_peft_model(fit.load(base_dir), config).eval()
    generator = torch.Generator().manual_seed(sum(out.name.encode()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.3, generator=generator)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)

    path = out / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["base_model_name_or_path"] = f"../../fit/{base}"
    # PEFT writes the set of names in any order.
    for key in ["target_modules", "exclude_modules"]:
        if isinstance(saved[key], list):
            saved[key] = sorted(saved[key])
    if variant == "bare":
        saved = {key: value for key, value in saved.items() if key in BARE_KEYS}
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")

    # From here on with what was written, not with what is in memory.
    def load(trainable: bool = False) -> PeftModel:
        return PeftModel.from_pretrained(fit.load(base_dir), out, is_trainable=trainable).eval()

    base_cases = json.loads((base_dir / "cases.json").read_text())
    pairs, reference = base_cases["pairs"], torch.tensor(base_cases["reference"])
    expected = {}
    model = load(trainable=True)
    for index, pair in enumerate(pairs):
        for side in fit.SIDES:
            logits = fit.answer_logits(model, pair, side)[0]
            expected[f"logits.{index}.{side}"] = logits.detach()
    expected["logps"] = fit.answer_logps(model, pairs).detach()

    loss = fit.loss_of(fit.BY_NAME["spin_logistic"], model, pairs, reference)
    loss.backward()
    expected["loss.spin_logistic"] = loss.detach().reshape(1)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    gradients = get_peft_model_state_dict(model, state_dict=gradients)
    assert gradients.keys() == load_file(out / "adapter_model.safetensors").keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 1e-6, (out.name, name)
        expected[f"grad.spin_logistic.{name}"] = gradient.clone()

    # Adapters of all projections make these models so steep that rounding decides the
    # curve: torch's own differs by up to 9e-3 between float32 and float64. With fewer
    # it is within 3e-7.
    curves = [CURVE] if variant in ("attention", "bare") else []
    for curve in curves:
        model.zero_grad()
        losses, norms = fit.train(model, curve, pairs, reference)
        expected[f"curve.{curve['key']}"] = losses
        expected[f"grad_norm.{curve['key']}"] = norms

    if variant in ("rslora", "patterns"):
        merged = load().merge_and_unload()
        before = fit.load(base_dir).state_dict()
        for name, weight in merged.state_dict().items():
            if not torch.equal(weight, before[name]):
                expected[f"merged.{name}"] = weight
        for index, pair in enumerate(pairs):
            for side in fit.SIDES:
                logits = fit.answer_logits(merged, pair, side)[0]
                assert (logits - expected[f"logits.{index}.{side}"]).abs().max() < 1e-4

    fit.save(expected, out / "expected.safetensors")
    cases = {
        "base": f"fit/{base}",
        "beta": fit.BETA,
        "pairs": pairs,
        "reference": base_cases["reference"],
        "objectives": [fit.BY_NAME["spin_logistic"]],
        "curves": curves,
    }
    (out / "cases.json").write_text(fit.to_json(cases))


def make_all(out: Path) -> None:
    # peft 0.21 calls what transformers 5.23 deprecates, and looks for the base, whose path is
    # relative to the adapter, from the working directory.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.filterwarnings("ignore", message="Could not find a config file")
    for base in BASES:
        base_dir = Path(__file__).parent / "fit" / base
        for variant, config in variants(base).items():
            name = f"{base}-{variant}"
            write(out / name, base_dir, base, variant, config)


if __name__ == "__main__":
    fit.main(make_all, __doc__.split("\n")[0])
