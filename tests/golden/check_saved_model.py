"""Compare a model that spin-fit saved with transformers.

    python tests/golden/check_saved_model.py MODEL_DIR SAMPLES.parquet LOGITS.json

SAMPLES are greedy answers by mistral.rs (samples/<run>/bench/<model>/greedy);
transformers must give the same ids. LOGITS is what

    cargo run --release -p spin-tests --bin logits -- MODEL_DIR ID ID ... > LOGITS.json

prints; transformers' logits must lie within 1e-4 of them.
"""

import json
import sys

import pyarrow.parquet
import torch
import transformers

model_dir, samples, logits = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
model.eval()

ours = json.load(open(logits))
with torch.no_grad():
    theirs = model(torch.tensor([ours["ids"]])).logits[0]
difference = (theirs - torch.tensor(ours["logits"])).abs().max().item()
print(f"logits of {len(ours['ids'])} tokens: largest difference {difference:.2e}")

rows = pyarrow.parquet.read_table(samples).slice(0, 200).to_pylist()
same = 0
for row in rows:
    with torch.no_grad():
        out = model.generate(
            torch.tensor([row["prompt_ids"]]),
            do_sample=False,
            max_new_tokens=len(row["response_ids"]),
        )
    same += out[0, len(row["prompt_ids"]) :].tolist() == row["response_ids"]
print(f"greedy answers: {same} of {len(rows)} equal mistral.rs's")
sys.exit(0 if difference < 1e-4 and same == len(rows) else 1)
