"""What transformers makes of configurations, and which keys transformers and PEFT know.

    python make_config_golden.py OUT.json           # write
    python make_config_golden.py --check FILE.json  # make it again and compare

fields      every field of the configuration class of each architecture, and of PEFT's
            LoraConfig, with its default: a release that adds one fails the check
reads       every attribute of the configuration that the modeling code reads
generation  keys of generation that old configurations hold
cases       configurations with what transformers computes from them: sizes, windows,
            theta, the rotary frequencies, names and shapes of the weights; `error` where
            transformers fails; `refused` where it takes one of two contradicting values,
            or ignores one, and spin-model refuses

Made with torch 2.15, transformers 5.24 and peft 0.21 on the CPU.
"""

import argparse
import dataclasses
import inspect
import json
import re
import sys
import warnings
from pathlib import Path

import torch
import transformers
from peft import LoraConfig
from transformers import GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "smollm3"]
# Few keys, so that the defaults of the class show.
SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}

# (name, families, changes, whether spin-model refuses what transformers takes)
VARIANTS = [
    ("defaults", FAMILIES, {}, False),
    ("theta at the top", FAMILIES, {"rope_theta": 5e5}, False),
    ("theta in rope_scaling", FAMILIES, {"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}}, False),
    ("theta in rope_parameters", FAMILIES, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, False),
    ("theta without a type", ["llama"], {"rope_parameters": {"rope_theta": 7e4}}, False),
    ("theta in two places", ["llama"], {"rope_theta": 1e4, "rope_scaling": {"rope_type": "default", "rope_theta": 5e5}}, True),
    ("theta in both tables", ["llama"], {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, True),
    ("old spelling of linear", ["llama", "qwen2"], {"rope_theta": 2e4, "rope_scaling": {"type": "linear", "factor": 2.0}}, False),
    ("both spellings of linear", ["llama"], {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}}, False),
    ("two kinds in one table", ["llama"], {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}}, True),
    ("a factor without a kind", ["llama"], {"rope_scaling": {"factor": 2.0}}, True),
    ("linear of 5", ["llama", "mistral", "gemma2", "smollm3", "qwen3"], {"rope_parameters": LINEAR | {"rope_theta": 3e4}}, False),
    ("linear without factor", ["llama"], {"rope_scaling": {"rope_type": "linear"}}, False),
    ("llama3", ["llama", "qwen3"], {"max_position_embeddings": 512, "rope_theta": 5e5, "rope_scaling": LLAMA3}, False),
    ("llama3 of 5", ["llama"], {"max_position_embeddings": 512, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}}, False),
    ("llama3 without original", ["llama"], {"max_position_embeddings": 128, "rope_theta": 5e5, "rope_scaling": {k: v for k, v in LLAMA3.items() if k[0] != "o"}}, False),
    ("llama3, original at the top", ["llama"], {"max_position_embeddings": 512, "original_max_position_embeddings": 128, "rope_scaling": {k: v for k, v in LLAMA3.items() if k[0] != "o"}}, False),
    ("llama3, two originals", ["llama"], {"max_position_embeddings": 512, "original_max_position_embeddings": 128, "rope_scaling": LLAMA3}, True),
    ("yarn", ["llama", "qwen2"], {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, True),
    ("dynamic", ["llama"], {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, True),
    ("linear in phi3", ["phi3"], {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, False),
    ("a part of the head", ["phi3"], {"partial_rotary_factor": 0.5}, False),
    ("a part of the head, of 5", ["phi3"], {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, False),
    ("a part of the head, unread", ["llama", "qwen2"], {"partial_rotary_factor": 0.5}, True),
    ("head_dim", FAMILIES, {"head_dim": 16}, False),
    ("one head of keys", ["llama", "qwen2", "smollm3"], {"num_key_value_heads": 1}, False),
    ("no number of heads of keys", ["llama", "phi3"], {"num_key_value_heads": None}, False),
    ("tied", FAMILIES, {"tie_word_embeddings": True}, False),
    ("not tied", FAMILIES, {"tie_word_embeddings": False}, False),
    ("eps", FAMILIES, {"rms_norm_eps": 3e-5}, False),
    ("biases", ["llama", "qwen3", "gemma2", "smollm3"], {"attention_bias": True}, False),
    ("biases, unread", ["mistral", "phi3"], {"attention_bias": True}, True),
    ("biases of the feed-forward layer", ["llama", "smollm3"], {"mlp_bias": True}, False),
    ("biases of the feed-forward layer, unread", ["mistral", "qwen2", "qwen3", "phi3", "gemma2"], {"mlp_bias": True}, True),
    ("gelu", ["llama", "qwen2"], {"hidden_act": "gelu_pytorch_tanh"}, False),
    ("silu in gemma2", ["gemma2"], {"hidden_activation": "silu"}, False),
    ("the key gemma2 does not read", ["gemma2"], {"hidden_act": "gelu_pytorch_tanh"}, False),
    ("the key gemma2 does not read, as published", ["gemma2"], {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, False),
    ("the key gemma2 does not read, contradicting", ["gemma2"], {"hidden_act": "silu"}, True),
    ("the key only gemma2 reads", ["llama"], {"hidden_activation": "gelu_pytorch_tanh"}, True),
    ("window", ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "smollm3"], {"sliding_window": 8}, False),
    ("window off", ["mistral", "phi3", "gemma2"], {"sliding_window": None}, False),
    ("window on", ["qwen2", "qwen3", "smollm3"], {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}, False),
    ("window without a size", ["qwen2", "qwen3", "smollm3"], {"use_sliding_window": True, "max_window_layers": 1}, False),
    ("window by layers", ["qwen2", "qwen3", "gemma2", "smollm3"], {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"] * 2}, False),
    ("layers, unread", ["mistral", "phi3"], {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"] * 2}, True),
    ("layers, unread but agreeing", ["mistral", "phi3"], {"sliding_window": 8, "layer_types": ["sliding_attention"] * 4}, False),
    ("switch of the window, unread", ["mistral", "phi3", "gemma2"], {"sliding_window": 8, "use_sliding_window": False}, True),
    ("too few layers", ["qwen2"], {"layer_types": ["full_attention"]}, False),
    ("unknown layers", ["qwen2"], {"layer_types": ["full_attention"] * 3 + ["linear_attention"]}, True),
    ("layers without positions", ["smollm3"], {"no_rope_layers": [1, 0, 1, 0]}, False),
    ("more flags of positions than layers", ["smollm3"], {"no_rope_layers": [0, 1, 1, 1, 0]}, False),
    ("interval without positions", ["smollm3"], {"no_rope_layer_interval": 2}, False),
    ("caps off", ["gemma2"], {"final_logit_softcapping": None, "attn_logit_softcapping": None}, False),
    ("caps", ["gemma2"], {"final_logit_softcapping": 9.0, "attn_logit_softcapping": 7.0, "query_pre_attn_scalar": 64}, False),
    ("caps, unread", ["llama"], {"final_logit_softcapping": 9.0}, True),
    ("both directions", ["gemma2"], {"use_bidirectional_attention": True}, True),
    ("layers of their own", ["llama"], {"per_layer_config": {"1": {"intermediate_size": 48}}}, True),
    ("positions", FAMILIES, {"max_position_embeddings": 77}, False),
]


def default(field):
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    value = value.to_dict() if hasattr(value, "to_dict") else value
    return value if isinstance(value, (type(None), bool, int, float, str, list, dict)) else str(type(value).__name__)


def fields(cls):
    return {field.name: default(field) for field in sorted(dataclasses.fields(cls), key=lambda f: f.name)}


def reads(family):
    module = inspect.getmodule(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family]])
    source = inspect.getsource(module)
    found = re.findall(r"\bconfig\.(\w+)", source) + re.findall(r'getattr\((?:self\.)?config, "(\w+)"', source)
    return sorted(set(found))


def resolved(family, config):
    config = CONFIG_MAPPING[family].from_dict(json.loads(json.dumps(config)))
    config._attn_implementation = "eager"
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    # What is not refused must also run.
    logits = model(torch.tensor([[1, 2, 3]]), use_cache=False).logits
    assert logits.shape[-1] == config.vocab_size
    layers = model.model.layers
    attention = [layer.self_attn for layer in layers]
    if family in ("mistral", "phi3"):
        windows = [config.sliding_window] * len(layers)
    else:
        windows = [getattr(a, "sliding_window", None) for a in attention]
    norm = model.model.norm
    # Layers are alike.
    shapes = {
        name: list(p.shape)
        for name, p in model.state_dict().items()
        if ".layers." not in name or ".layers.0." in name
    }
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    if tied:
        del shapes["lm_head.weight"]
    act = layers[0].mlp.act_fn if hasattr(layers[0].mlp, "act_fn") else layers[0].mlp.activation_fn
    rotary = model.model.rotary_emb
    assert rotary.attention_scaling == 1.0
    return {
        "theta": config.rope_parameters["rope_theta"],
        "frequencies": [float(x) for x in rotary.inv_freq],
        "head_dim": attention[0].head_dim,
        "key_value_heads": config.num_key_value_heads,
        "scale": attention[0].scaling,
        "windows": windows,
        "rope": [bool(getattr(a, "use_rope", True)) for a in attention],
        "eps": getattr(norm, "variance_epsilon", None) or norm.eps,
        "tied": tied,
        "positions": config.max_position_embeddings,
        "activation_of_1": float(act(torch.tensor(1.0, dtype=torch.float64))),
        "attention_cap": getattr(config, "attn_logit_softcapping", None) if family == "gemma2" else None,
        "final_cap": getattr(config, "final_logit_softcapping", None) if family == "gemma2" else None,
        "shapes": shapes,
    }


def case(name, family, changes, refused):
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family]].__name__
    config = {"architectures": [architecture], "model_type": family} | SMALL | changes
    out = {"name": f"{family}: {name}", "config": config}
    if refused:
        return out | {"refused": True}
    try:
        return out | {"resolved": resolved(family, config)}
    except Exception as error:
        return out | {"error": type(error).__name__}


def make():
    return {
        "fields": {family: fields(CONFIG_MAPPING[family]) for family in FAMILIES} | {"lora": fields(LoraConfig)},
        "reads": {family: reads(family) for family in FAMILIES},
        "generation": sorted(
            set(GenerationConfig._get_default_generation_params()) | set(GenerationConfig().to_dict()) - {"transformers_version"}
        ),
        "cases": [
            case(name, family, changes, refused)
            for name, families, changes, refused in VARIANTS
            for family in families
        ],
    }


def to_json(golden):
    # One case, one class to a line.
    rows = []
    for key in ["fields", "reads"]:
        inner = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in golden[key].items()]
        rows.append(f'"{key}": {{\n' + ",\n".join(inner) + "\n}")
    rows.append(f'"generation": {json.dumps(golden["generation"])}')
    rows.append('"cases": [\n' + ",\n".join("  " + json.dumps(case) for case in golden["cases"]) + "\n]")
    return "{" + ",\n".join(rows) + "}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = to_json(make())
    if not arguments.check:
        arguments.file.write_text(text)
        return
    old, new = json.loads(arguments.file.read_text()), json.loads(text)
    problems = []
    for key in ["fields", "reads"]:
        for name in old[key] | new[key]:
            if old[key].get(name) != new[key].get(name):
                before, after = old[key].get(name, {}), new[key].get(name, {})
                changed = sorted(k for k in set(before) | set(after) if k not in before or k not in after or (isinstance(before, dict) and before[k] != after[k]))
                problems.append(f"{key} of {name}: {changed}")
    if old["generation"] != new["generation"]:
        problems.append(f"generation: {sorted(set(old['generation']) ^ set(new['generation']))}")
    before = {case["name"]: case for case in old["cases"]}
    for case in new["cases"]:
        if before.pop(case["name"], None) != case:
            problems.append(f"case {case['name']}")
    problems += [f"case {name} is gone" for name in before]
    for problem in problems:
        print(f"{arguments.file}: {problem} differs from transformers and PEFT of now", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
