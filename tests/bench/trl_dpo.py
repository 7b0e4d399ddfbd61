"""TRL's side of the benchmark: a few steps of DPOTrainer on the CPU.

    python tests/bench/trl_dpo.py SPEC.json

prints one line of JSON. SPEC is an object with

    model                   directory written by prepare.py
    pairs                   pairs-LENGTH.jsonl written by prepare.py
    length                  tokens of prompt and answer
    threads                 of torch
    batch_size              pairs per step
    max_steps
    gradient_checkpointing  default false
    optimizer               "rmsprop" (default) or "adamw"
    learning_rate           default 5e-7
    beta                    default 0.1
    warmup_steps            default 0; the schedule is linear
    attention               default "sdpa"
    keep_memory             default false; see below
    answers_only            default false; see below
    compile                 torch.compile, default false
    dtype                   "f32" (default), or "bf16": f32 weights under torch's autocast

The rows of the file are taken in their order, batch_size * max_steps of them, again
from the start if there are too few. The reference's log-probabilities are computed
before the first step, by TRL, and are in no step's time. `tokens_per_step` counts
prompt and answer of both sequences of every pair.

DPOTrainer 1.16 takes text, not ids; prepare.py's text tokenises to its ids, which is
checked on the prepared dataset before training.

On the CPU, TRL multiplies every position with the head, the prompt's too, in tiles
([4096, 32768] at most), and makes each tile again in the backward pass; several
temporaries of half a gigabyte live beside a tile. On a device with Triton it leaves out
the positions that have no label. `answers_only` makes it do that here: it is one
function of TRL replaced, and it is not what its users get.

Those temporaries come from the system and go back to it each time, and the page faults
cost more than a third of a step. `keep_memory` starts Python again with GLIBC_TUNABLES
that make malloc keep what it has. That needs no change of TRL and is TRL at its best:
compare times with it and memory without it. torch.compile gained nothing with the
default malloc and costs half a minute once; padding-free batches are disabled in this
release; liger-kernel needs Triton. Attention is torch's scaled_dot_product_attention.

Made for trl 1.16, transformers 5.23 and torch 2.15.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

SPEC = json.loads(Path(sys.argv[1]).read_text())
KEEP_MEMORY = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592"
if SPEC.get("keep_memory", False) and os.environ.get("GLIBC_TUNABLES") != KEEP_MEMORY:
    # glibc reads them once, when a process starts.
    os.environ["GLIBC_TUNABLES"] = KEEP_MEMORY
    os.execv(sys.executable, [sys.executable, *sys.argv])
# Before torch starts its threads.
os.environ["OMP_NUM_THREADS"] = str(SPEC["threads"])
os.environ["TQDM_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# TRL 1.16 calls what transformers 5.23 deprecates.
warnings.simplefilter("ignore")

import accelerate
import peft
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

transformers.utils.logging.disable_progress_bar()


def memory(field: str) -> int:
    """VmRSS (resident now) or VmHWM (the most so far), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def forget_peak() -> bool:
    """Makes VmHWM start again from what is resident now, where the kernel lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def matmul_gflops(dtype: torch.dtype) -> float:
    """Of [1024, 512] x [512, 1376], the feed-forward layer of the benchmark's model."""
    a, b = torch.randn(1024, 512).to(dtype), torch.randn(512, 1376).to(dtype)
    out = torch.empty(1024, 1376, dtype=dtype)
    for _ in range(10):
        torch.mm(a, b, out=out)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(50):
            torch.mm(a, b, out=out)
        rates.append(50 * 2 * 1024 * 512 * 1376 / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


class Clock(TrainerCallback):
    """Time of every step, forward to optimizer, without loading and logging.

    The processor time of all threads tells a slow step from a busy machine.
    """

    def __init__(self):
        self.wall, self.processor = [], []

    def on_step_begin(self, *_, **__):
        self.start = (time.perf_counter(), time.process_time())

    def on_step_end(self, *_, **__):
        self.wall.append(time.perf_counter() - self.start[0])
        self.processor.append(time.process_time() - self.start[1])


torch.set_num_threads(SPEC["threads"])
bf16 = SPEC.get("dtype", "f32") == "bf16"
gflops = matmul_gflops(torch.bfloat16 if bf16 else torch.float32)

before_load = memory("VmRSS")
model = AutoModelForCausalLM.from_pretrained(
    SPEC["model"], dtype=torch.float32, attn_implementation=SPEC.get("attention", "sdpa")
)
tokenizer = AutoTokenizer.from_pretrained(SPEC["model"])
# Safetensors maps the file; read every page, so that the weights count as resident.
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
after_load = memory("VmRSS")

if SPEC.get("answers_only", False):
    trl.trainer.utils._use_triton = lambda device: True

with open(SPEC["pairs"]) as file:
    rows = [json.loads(line) for line in file]
needed = SPEC["batch_size"] * SPEC["max_steps"]
rows = [rows[index % len(rows)] for index in range(needed)]
texts = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]

clock = Clock()
with tempfile.TemporaryDirectory() as scratch:
    arguments = DPOConfig(
        output_dir=scratch,
        max_steps=SPEC["max_steps"],
        per_device_train_batch_size=SPEC["batch_size"],
        train_sampling_strategy="sequential",
        max_length=SPEC["length"],
        activation_checkpointing=SPEC.get("gradient_checkpointing", False),
        precompute_ref_log_probs=True,
        optim={"rmsprop": "rmsprop", "adamw": "adamw_torch_fused"}[SPEC.get("optimizer", "rmsprop")],
        learning_rate=SPEC.get("learning_rate", 5e-7),
        lr_scheduler_type="linear",
        warmup_steps=SPEC.get("warmup_steps", 0),
        beta=SPEC.get("beta", 0.1),
        weight_decay=0.0,
        bf16=bf16,
        torch_compile=SPEC.get("compile", False),
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    )
    start = time.perf_counter()
    trainer = DPOTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    prepare_seconds = time.perf_counter() - start
    trainer.remove_callback(PrinterCallback)

    assert len(trainer.train_dataset) == len(rows)
    for prepared, row in zip(trainer.train_dataset, rows, strict=True):
        assert prepared["prompt_ids"] == row["prompt_ids"], "TRL has another prompt"
        assert prepared["chosen_ids"] == row["real_ids"], "TRL has another real answer"
        assert prepared["rejected_ids"] == row["generated_ids"], "TRL has another generated answer"
        for side in ("real_ids", "generated_ids"):
            assert len(row["prompt_ids"]) + len(row[side]) == SPEC["length"]

    before_training, peak_preparing = memory("VmRSS"), memory("VmHWM")
    separate_peak = forget_peak()
    trainer.train()
    peak_training = memory("VmHWM")

log = [entry for entry in trainer.state.log_history if "loss" in entry]
tokens = 2 * SPEC["batch_size"] * SPEC["length"]
# Even a run of one step has a figure; the first step of others also allocates.
median = statistics.median(clock.wall[1:] or clock.wall)
result = {
    "spec": SPEC,
    "step_seconds": clock.wall,
    "step_processor_seconds": clock.processor,
    "median_step_seconds": median,
    "tokens_per_step": tokens,
    "tokens_per_second": tokens / median,
    "losses": [entry["loss"] for entry in log],
    "grad_norms": [entry["grad_norm"] for entry in log],
    "resident_before_load": before_load,
    "resident_after_load": after_load,
    "resident_before_training": before_training,
    "peak_resident": max(peak_preparing, peak_training),
    "peak_resident_training": peak_training if separate_peak else None,
    "prepare_seconds": prepare_seconds,
    "matmul_gflops": gflops,
    "mkl": torch.backends.mkl.is_available(),
    "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    "threads": torch.get_num_threads(),
    "parameters": model.num_parameters(),
    "versions": {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    },
}
print(json.dumps(result))
