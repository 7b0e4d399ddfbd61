#!/usr/bin/env bash
# Makes the golden files anew with the Python packages of now and compares;
# gives PEFT adapters that we wrote; runs the tests that read the golden files.
#
#   tests/golden/check.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
"$python" tests/golden/make_fit_golden.py --check tests/golden/fit
"$python" tests/golden/make_lora_golden.py --check tests/golden/lora
"$python" tests/golden/make_dpo_golden.py --check tests/golden/dpo
"$python" tests/golden/make_lora_targets_golden.py --check tests/golden/lora_targets.json
"$python" tests/golden/make_config_golden.py --check tests/golden/config.json
"$python" tests/golden/make_template_golden.py --check tests/golden/text
"$python" tests/golden/make_bos_golden.py tests/golden/text --check
"$python" tests/golden/make_fields_golden.py tests/golden/text/fields.json --check
"$python" tests/golden/make_family_golden.py tests/golden/family.json --check
"$python" tests/golden/make_sampling_golden.py tests/golden/sampling.json --check
if [ -e ../shared/benchmarks/mt_bench ]; then
    "$python" tests/golden/make_mt_bench_golden.py ../shared/benchmarks/mt_bench --check
fi
if "$python" -c "import lm_eval" 2> /dev/null; then
    "$python" tests/parity/filters.py --check
fi
# Event files of the trainings that this checkout has made, as TensorBoard reads them.
if compgen -G "data/metrics/*/*/v1" > /dev/null && "$python" -c "import tensorboard, pyarrow" 2> /dev/null; then
    "$python" tests/golden/check_events.py data/metrics/*/*/v1
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for base in llama llama_linear mistral qwen2 qwen3 phi3 gemma2 smollm3; do
    for scaling in "" --rslora; do
        adapter tests/golden/fit/$base "$out/$base$scaling" $scaling
        "$python" tests/golden/check_adapter.py tests/golden/fit/$base "$out/$base$scaling"/{adapter,ids.json,logits.safetensors}
    done
done
cargo test --release --workspace --test golden --test templates --test transformers --test adapters
