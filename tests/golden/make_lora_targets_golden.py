"""Which modules PEFT gives adapters under settings of every kind, with rank and scale.

    python make_lora_targets_golden.py OUT.json           # write
    python make_lora_targets_golden.py --check FILE.json  # make it again and compare

Each case is an adapter_config.json as PEFT saves it and, for the Llama of fit/ beside
this script, the modules that have adapters: name, [rank, scale].

Made with torch 2.15, transformers 5.24 and peft 0.21 on the CPU.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import make_fit_golden as fit
from peft import LoraConfig, get_peft_model

warnings.filterwarnings("ignore")

NAMES = ["q_proj", "v_proj", "down_proj"]
SETTINGS = [
    {"target_modules": NAMES},
    {"target_modules": ["proj"], "expect": "none"},
    {"target_modules": ["self_attn.q_proj", "layers.1.mlp.up_proj", "model.layers.0.mlp.gate_proj"]},
    {"target_modules": NAMES, "rank_pattern": {"q_proj": 2}},
    {"target_modules": NAMES, "rank_pattern": {"proj": 2}},
    {"target_modules": NAMES, "rank_pattern": {".*_proj": 2, "q_proj": 3}},
    {"target_modules": NAMES, "rank_pattern": {"q_proj": 3, ".*_proj": 2}},
    {"target_modules": NAMES, "rank_pattern": {"^model.layers.0.self_attn.q_proj": 5}},
    {"target_modules": NAMES, "rank_pattern": {"layers.0.self_attn.q_proj|v_proj": 5}},
    {"target_modules": NAMES, "rank_pattern": {r"layers\.[0-9]+\.mlp\..*": 6}, "alpha_pattern": {"mlp.down_proj": 3}},
    {"target_modules": NAMES, "alpha_pattern": {"layers.0.self_attn.q_proj": 64}},
    {"target_modules": NAMES, "alpha_pattern": {"q_proj": 2.5}, "rank_pattern": {"q_proj": 7}, "use_rslora": True},
    {"target_modules": NAMES, "layers_to_transform": [1]},
    {"target_modules": NAMES, "layers_to_transform": 0},
    {"target_modules": NAMES, "layers_to_transform": []},
    {"target_modules": NAMES, "layers_to_transform": [0], "layers_pattern": "layers"},
    {"target_modules": NAMES, "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    {"target_modules": NAMES, "layers_to_transform": [1], "layers_pattern": "h", "expect": "none"},
    {"target_modules": [*NAMES, "model.layers.0.mlp.up_proj"], "layers_to_transform": [1]},
    {"target_modules": NAMES, "exclude_modules": ["layers.0.self_attn.q_proj"]},
    {"target_modules": NAMES, "exclude_modules": ["q_proj", "model.layers.1.mlp.down_proj"]},
    {"target_modules": NAMES, "exclude_modules": r".*\.0\..*"},
    {"target_modules": r".*\.(q|v)_proj"},
    {"target_modules": r"model\.layers\.\d+\.self_attn\.[qk]_proj"},
    {"target_modules": r".*(?<!o)_proj", "exclude_modules": r".*mlp.*", "rank_pattern": {"k_proj": 1}},
    {"target_modules": r"(?i).*Q_PROJ"},
    {"target_modules": "q_proj", "expect": "none"},
    {"target_modules": "all-linear"},
]


def cases():
    base = Path(__file__).parent / "fit" / "llama"
    modules = [name for name, _ in fit.load(base).named_modules() if name.endswith("_proj")]
    out = []
    for settings in SETTINGS:
        settings = dict(settings)
        expect = settings.pop("expect", None)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **settings)
        try:
            # As it is read, not as it was meant: PEFT sorts the keys of patterns when it saves.
            with tempfile.TemporaryDirectory() as directory:
                get_peft_model(fit.load(base), config).peft_config["default"].save_pretrained(directory)
                saved = json.loads((Path(directory) / "adapter_config.json").read_text())
                model = get_peft_model(fit.load(base), LoraConfig.from_pretrained(directory))
            assert expect is None, settings
            found = {name: module for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}
            chosen = {
                name: [module.r["default"], module.scaling["default"]] for name, module in found.items()
            }
        except ValueError:
            assert expect == "none", settings
            chosen, saved = {}, {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | settings
        saved = {key: value for key, value in saved.items() if value is not None and value is not False and value != {}}
        for key in ["peft_version", "base_model_name_or_path"]:
            saved.pop(key, None)
        if isinstance(saved["target_modules"], list):
            saved["target_modules"] = sorted(saved["target_modules"])
        if isinstance(saved.get("exclude_modules"), list):
            saved["exclude_modules"] = sorted(saved["exclude_modules"])
        out.append({"config": saved, "chosen": chosen})
    return {"modules": modules, "cases": out}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    made = cases()
    if not arguments.check:
        rows = ",\n".join("  " + json.dumps(case) for case in made["cases"])
        arguments.file.write_text(f'{{"modules": {json.dumps(made["modules"])},\n"cases": [\n{rows}\n]}}\n')
        return
    old = json.loads(arguments.file.read_text())
    for before, after in zip(old["cases"], made["cases"], strict=True):
        if before["chosen"] != after["chosen"]:
            sys.exit(f"{arguments.file}: PEFT of now chooses {after['chosen']} for {before['config']}")
    print(f"{arguments.file}: {len(made['cases'])} settings mean what they meant")


if __name__ == "__main__":
    main()
