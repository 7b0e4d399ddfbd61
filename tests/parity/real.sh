#!/usr/bin/env bash
# A real pretrained chat model against its references: logits and greedy texts of transformers, scores of
# lm-evaluation-harness, request by request: tests/parity/real.sh PYTHON MODEL [DOCUMENTS]. MODEL is a Hugging Face
# directory in f32, e.g. SmolLM2-135M-Instruct. Results go to docs/bench/parity-real.*; what Python computed stays in
# target/parity and is not computed again.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?PYTHON} model=$(realpath -s "${2:?MODEL}") documents=${3:-200}
shared=../shared work=target/parity bin="${CARGO_TARGET_DIR:-target}/release"
tasks=(winogrande openbookqa mmlu_high_school_psychology)
mkdir -p "$work/data"
for dir in "$shared"/benchmarks/*; do
    ln -sfn "$(realpath "$dir")" "$work/data/$(basename "$dir")"
done
list() { local IFS=,; echo "$*"; }

# Prompts of 50 questions, the texts that follow greedily, and logits.
cat > "$work/real.toml" <<RUN
run = "real"
seed = 0
store = "store-real"
[model]
path = "$model"
[data]
train = { path = "$(realpath "$shared")/benchmarks/gsm8k/train.jsonl", limit = 1 }
test = { path = "$(realpath "$shared")/benchmarks/gsm8k/test.jsonl", limit = 50 }
[bench]
tasks = ["exact_match"]
max_new_tokens = 64
[eval]
data = "data"
RUN
rm -rf "$work/store-real"
"$bin/spin-store" import "$work/real.toml"
"$bin/spin-sample" "$work/real.toml" --iteration 0 --bench
[ -e "$work/real-texts.json" ] || "$python" tests/parity/real.py --model "$model" --rows "$shared/benchmarks/gsm8k/test.jsonl" \
    --tokens 64 --out "$work/real-texts.json"
"$python" tests/parity/real.py --model "$model" --compare "$work/real-texts.json" --store "$work/store-real" \
    --logits "$bin/logits" --out docs/bench/parity-real-model

# In float32 for the scores, in float64 to tell whose rounding a difference is.
for dtype in float32 float64; do
    out="$work/real-$dtype.json"
    [ -e "$out" ] || "$python" tests/parity/harness.py --model "$model" --data "$shared/benchmarks" --tasks "${tasks[@]}" \
        --limit "$documents" --limit-seed 1 --dtype "$dtype" --batch-size 4 --out "$out"
done
"$bin/spin-bench" eval "$work/real.toml" --iteration 0 --tasks "$(list "${tasks[@]}")" --limit "$documents" --limit-seed 1
"$python" tests/parity/compare.py --out docs/bench/parity-real "$(basename "$model")=$work/real-float32.json=$work/store-real=$work/real-float64.json"
