#!/usr/bin/env bash
# Score the same models and documents with lm-evaluation-harness and with spin-bench and
# compare them request by request: tests/parity/run.sh PYTHON. PYTHON has lm_eval, torch,
# transformers and pyarrow. Results go to docs/bench/parity.*; what the harness computed
# stays in target/parity and is not computed again.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${1:-python3}"
tokens=64
shared=../shared
work=target/parity
bin="${CARGO_TARGET_DIR:-target}/release"
mkdir -p "$work/data/hellaswag"

# All data by links, and the rows that exercise HellaSwag's cleaning.
for dir in "$shared"/benchmarks/*; do
    ln -sfn "$(realpath "$dir")" "$work/data/$(basename "$dir")"
done
cp tests/parity/hellaswag.jsonl "$work/data/hellaswag/validation.jsonl"
cp tests/parity/hellaswag_train.jsonl "$work/data/hellaswag/train.jsonl"
[ -e "$work/models/qwen2/model.safetensors" ] || "$python" tests/parity/models.py "$work/models"
ln -sfn "$(realpath "$shared/models/stories260K")" "$work/models/stories260K"

choices=(arc_challenge hellaswag winogrande openbookqa truthfulqa_mc1 truthfulqa_mc2)
subjects=(abstract_algebra anatomy astronomy college_biology computer_security econometrics formal_logic
    high_school_physics human_sexuality jurisprudence moral_scenarios professional_law world_religions)
subjects=("${subjects[@]/#/mmlu_}")
generated=(gsm8k bbh_cot_fewshot_causal_judgement bbh_cot_fewshot_sports_understanding bbh_cot_fewshot_formal_fallacies)
list() { local IFS=,; echo "$*"; }

# One comparison: name, model, documents of a task, of a subject of MMLU, of a task with
# generated answers (0: none), then options of harness.py and of spin-bench.
runs=()
one() {
    local name=$1 model=$2 documents=$3 subject=$4 answers=$5 theirs=$6 ours=$7
    local out="$work/$name.json" store="$work/store-$name" tasks=("${choices[@]}" "${subjects[@]}")
    [ "$answers" = 0 ] || tasks+=("${generated[@]}")
    # shellcheck disable=SC2086
    [ -e "$out" ] || "$python" tests/parity/harness.py --model "$work/models/$model" --data "$shared/benchmarks" \
        --tasks "${tasks[@]}" --limit "$documents" --limit-subject "$subject" --limit-generation "$answers" \
        --gen-kwargs "max_gen_toks=$tokens" --batch-size 4 --out "$out" $theirs
    cat > "$work/$name.toml" <<RUN
run = "parity"
seed = 0
store = "store-$name"
[model]
path = "models/$model"
[eval]
data = "data"
max_gen_toks = $tokens
RUN
    rm -rf "$store"
    "$bin/spin-store" import "$work/$name.toml"
    local eval=("$bin/spin-bench" eval "$work/$name.toml" --iteration 0)
    # shellcheck disable=SC2086
    "${eval[@]}" --tasks "$(list "${choices[@]}")" --limit "$documents" $ours
    # shellcheck disable=SC2086
    "${eval[@]}" --tasks "$(list "${subjects[@]}")" --limit "$subject" $ours
    if [ "$answers" != 0 ]; then
        eval+=(--tasks "$(list "${generated[@]}")" --limit "$answers")
        # shellcheck disable=SC2086
        "${eval[@]}" --requests $ours
        "$bin/spin-sample" "$work/$name.toml" --iteration 0 --eval
        # shellcheck disable=SC2086
        "${eval[@]}" $ours
    fi
    runs+=("$name=$out=$store")
}
one stories260K stories260K 200 20 200 "" ""
one llama llama 200 20 200 "" ""
one qwen2 qwen2 200 20 200 "" ""
for model in llama qwen2; do
    one "$model-chat" "$model" 20 5 0 "--apply-chat-template --fewshot-as-multiturn" "--apply-chat-template"
    one "$model-chat-1turn" "$model" 20 5 0 "--apply-chat-template" "--apply-chat-template --fewshot-as-multiturn false"
done
"$python" tests/parity/compare.py --out docs/bench/parity "${runs[@]}"
