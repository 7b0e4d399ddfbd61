"""What TRL's DPOTrainer makes of preference files, for tests/stages/preferences.rs.

    python make_dpo_golden.py OUT_DIR           # write OUT_DIR/<set>/ for the sets below
    python make_dpo_golden.py --check DIR       # make them again and compare with DIR

Each directory holds preferences.jsonl, as users have it, a tiny random model with the
demo's tokenizer, as transformers saves it, cases.json (settings, and the token ids that
TRL gives each row) and expected.safetensors:

    reference [rows, 2]                      log-probabilities before training
    losses, rewards.chosen, rewards.rejected, rewards.margins,
    logps.chosen, logps.rejected, grad_norm, learning_rate [20]

    chat   messages, batches of 8 in the order of spin-fit's shuffle, sigmoid, AdamW
    text   strings (prompt + answer + the end token), all rows at once, ipo, RMSprop

Every training is run twice, with log-probabilities of the reference computed ahead
(`precompute_ref_log_probs`) and beside the policy's: both must give the same losses.

Made with torch 2.15, transformers 5.24 and trl 1.16 on the CPU, in float32, one thread.

TRL's rules for token ids, which spin-pair shares: a prompt ends where the assistant
answers (`add_generation_prompt`); an answer is what the template, or the string, has
behind it; strings get the end token. Where a template writes something behind the end
token (ChatML's line break), TRL keeps it and spin-pair ends the answer at the token. A
sequence over `max_length` is cut at its end by TRL and left out by spin-pair.
"""

import json
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import make_fit_golden as fit
import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

DEMO = Path(__file__).resolve().parents[2] / "data/raw/demo/model"
SEED = 7
ROWS = 40
STEPS = 20
SETS = {
    "chat": {
        "objective": "sigmoid",
        "beta": 0.2,
        "batch_size": 8,
        "optimizer": "adamw",
        "lr": 1e-3,
        "scheduler": "linear",
        "weight_decay": 0.01,
    },
    "text": {
        "objective": "ipo",
        "beta": 0.25,
        "batch_size": ROWS,
        "optimizer": "rmsprop",
        "lr": 1e-4,
        "scheduler": "cosine",
        "weight_decay": 0.0,
    },
}
SERIES = {
    "losses": "loss",
    "rewards.chosen": "rewards/chosen",
    "rewards.rejected": "rewards/rejected",
    "rewards.margins": "rewards/margins",
    "logps.chosen": "logps/chosen",
    "logps.rejected": "logps/rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


def make_rows(kind: str) -> list[dict]:
    """Sums with a right and a wrong answer, of different lengths."""
    draw = random.Random(kind)
    rows = []
    for index in range(ROWS):
        a, b, c = (draw.randrange(2, 10) for _ in range(3))
        names = ["Ada", "Ned", "Kim", "Hana"]
        prompt = f"{draw.choice(names)} packs {a} trays of {b} pears and eats {c}. How many remain?"
        right = f"{a}*{b}={a * b}\n{a * b}-{c}={a * b - c}\n#### {a * b - c}"
        wrong = f"{a}+{b}={a + b}\n#### {a + b}" if index % 3 else f"#### {a * b + c}"
        if kind == "chat":
            row = {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": right}],
                "rejected": [{"role": "assistant", "content": wrong}],
            }
        else:
            row = {"prompt": f"{prompt}\n", "chosen": right, "rejected": wrong}
        rows.append({"id": f"row-{index:02}", **row})
    return rows


def mix(state: int) -> int:
    """SplitMix64, as crates/spin-fit/src/data.rs has it."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    mask = (1 << 64) - 1
    order = list(range(rows))
    state = (seed ^ ((epoch + 1) * 0xD1B54A32D192ED03)) & mask
    for i in range(rows - 1, 0, -1):
        j = (mix(state) * (i + 1)) >> 64
        state = (state + 0x9E3779B97F4A7C15) & mask
        order[i], order[j] = order[j], order[i]
    return order


def make_model(out: Path) -> None:
    config = LlamaConfig(
        vocab_size=460,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    fit.build(out.name, config).save_pretrained(out)
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]:
        shutil.copy(DEMO / name, out / name)


def train(model_dir: Path, rows: list[dict], setting: dict, precompute: bool, scratch: Path):
    warnings.simplefilter("ignore", FutureWarning)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    # One pass over all updates' rows in their order: TRL's own order is not asked for.
    epochs = STEPS * setting["batch_size"] // ROWS
    order = [row for epoch in range(epochs) for row in epoch_order(ROWS, SEED, epoch)]
    keys = ("prompt", "chosen", "rejected")
    data = Dataset.from_list([{key: rows[row][key] for key in keys} for row in order])
    arguments = DPOConfig(
        output_dir=str(scratch),
        max_steps=STEPS,
        per_device_train_batch_size=setting["batch_size"],
        train_sampling_strategy="sequential",
        precompute_ref_log_probs=precompute,
        loss_type=[setting["objective"]],
        beta=setting["beta"],
        learning_rate=setting["lr"],
        lr_scheduler_type=setting["scheduler"],
        warmup_steps=2,
        weight_decay=setting["weight_decay"],
        max_grad_norm=1.0,
        max_length=128,
        optim={"adamw": "adamw_torch", "rmsprop": "rmsprop"}[setting["optimizer"]],
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        fit.load(model_dir), args=arguments, train_dataset=data, processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    made = {row: trainer.train_dataset[place] for place, row in enumerate(order)}
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == STEPS
    series = {key: torch.tensor([entry[name] for entry in steps]) for key, name in SERIES.items()}
    return series, [made[row] for row in range(ROWS)]


def write(out: Path, setting: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    make_model(out)
    rows = make_rows(out.name)
    (out / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with tempfile.TemporaryDirectory() as scratch:
        ahead, made = train(out, rows, setting, True, Path(scratch))
        beside, _ = train(out, rows, setting, False, Path(scratch))
    for key in SERIES:
        difference = (ahead[key] - beside[key]).abs().max().item()
        assert difference < 1e-5 * max(1.0, ahead[key].abs().max().item()), (key, difference)
    fall = (ahead["losses"][0] - ahead["losses"][-1]).item()
    print(f"{out.name}: losses fall by {fall:.3f}")
    assert fall > 0.01, "nothing was learnt"
    reference = [[row["ref_chosen_logps"], row["ref_rejected_logps"]] for row in made]
    fit.save({"reference": torch.tensor(reference), **ahead}, out / "expected.safetensors")
    ids = [{key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in made]
    (out / "cases.json").write_text(fit.to_json({"seed": SEED, "setting": setting, "rows": ids}))


def make_all(out: Path) -> None:
    for name, setting in SETS.items():
        write(out / name, setting)


if __name__ == "__main__":
    fit.main(make_all, __doc__.split("\n")[0])
