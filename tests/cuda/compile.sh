#!/usr/bin/env bash
# Compiles every kernel with nvcc for sm_80 and sm_90, all warnings being errors, and writes what came of it to
# docs/bench/kernels.md: registers, shared memory, spills. Needs no GPU.
#
#   tests/cuda/compile.sh            (just kernels)
#
# nvcc is the one on PATH, or in $CUDA_HOME/bin.
set -euo pipefail
cd "$(dirname "$0")/../.."
kernels=crates/spin-cuda/kernels
tests=crates/spin-cuda/tests/host
table=docs/bench/kernels.md
nvcc=$(command -v nvcc || true)
if [ -z "$nvcc" ] && [ -x "${CUDA_HOME:-}/bin/nvcc" ]; then nvcc=$CUDA_HOME/bin/nvcc; fi
if [ -z "$nvcc" ]; then
    echo "tests/cuda/compile.sh: no nvcc on PATH or in \$CUDA_HOME/bin; install a CUDA toolkit (12.x or 13.x)" >&2
    exit 1
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# File, operation.
operations=(
    "norm|RMS norm of rows and heads, with offset, added to a residual; gradients"
    "rope|rotary positions, forward and back"
    "activation|gated SiLU and GELU, forward and backward"
    "rows|embedding, gathering, rows added to rows (their gradients)"
    "attention|attention over rows that share prompts, with log-sum-exp"
    "attention_mma|the same for bf16 on tensor cores"
    "attention_backward|the gradient of attention, without atomics"
    "attention_paged|attention over paged keys and values, ragged; filling the pages"
    "attention_tree|attention over a tree of prefixes, for scoring"
    "head|log-probabilities of targets and the logits' gradient"
    "score|scores of tokens, with the rounding of bf16 and f16"
    "draw|tokens drawn by counter-based noise; repetition penalty"
    "dropout|dropout by counter-based noise"
    "squared_norm|norm of all gradients, clipping"
    "optimizer|AdamW and RMSProp on f32 masters, bf16 weights"
    "elementwise|scale, add, bias, convert and copy"
    "reduce|sums of columns"
    "product|matrix product, for tests: cuBLASLt has the real ones"
)
for file in "$kernels"/*.cu; do
    name=$(basename "$file" .cu)
    [[ " ${operations[*]} " == *"$name|"* ]] || { echo "tests/cuda/compile.sh: say what $name.cu computes" >&2; exit 1; }
done

# A line for each kernel: file, architecture, kernel, registers, bytes of shared memory, bytes spilled.
resources() {
    awk -v file="$1" -v arch="$2" '
        /Compiling entry function/ { split($0, quoted, "\x27"); kernel = quoted[2] }
        /bytes spill stores/ { for (i = 2; i <= NF; i++) if ($i == "spill" && $(i + 1) ~ /^stores/) spilled = $(i - 2) }
        /Used [0-9]+ registers/ {
            shared = 0
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^registers/) registers = $(i - 1)
                if ($i ~ /^smem/) shared = $(i - 2)
            }
            print file, arch, kernel, registers, shared, spilled
        }'
}

for operation in "${operations[@]}"; do
    name=${operation%%|*}
    for arch in sm_80 sm_90; do
        "$nvcc" -std=c++17 -arch=$arch -cubin -o "$out/$name.$arch.cubin" -Werror all-warnings \
            --resource-usage "$kernels/$name.cu" > "$out/log" 2>&1 || { cat "$out/log" >&2; exit 1; }
        resources "$name" $arch < "$out/log" | tee -a "$out/all" | awk '{ printf "%-20s %s %-34s %4d registers %6d shared %4d spilled\n", $1, $2, $3, $4, $5, $6 }'
        # What tensor cores do, without them: to tell on a GPU which of the two is wrong.
        if grep -q SPIN_SCALAR "$kernels/$name.cu"; then
            "$nvcc" -std=c++17 -arch=$arch -cubin -o "$out/scalar.cubin" -Werror all-warnings -DSPIN_SCALAR "$kernels/$name.cu"
        fi
    done
done

range() { awk -v file="$1" -v arch="$2" -v column="$3" '
    $1 == file && $2 == arch { if (!seen++ || $column < low) low = $column; if ($column > high) high = $column }
    END { print (low == high) ? low : low "-" high }' "$out/all"; }

{
    echo "# Kernels"
    echo
    echo "Written by \`tests/cuda/compile.sh\` (\`just kernels\`) with $("$nvcc" --version | sed -n 's/^Cuda compilation tools, release.*\(V[0-9.]*\)$/nvcc \1/p'), all warnings being errors."
    echo "Tests on the host compile the same source as C++ and run it on the CPU, threads of a block in lockstep at"
    echo "barriers (\`crates/spin-cuda/kernels/host.hpp\`), against the CPU's operations. No kernel has been run on a GPU:"
    echo "what they take there was not measured, and what a simulation of lockstep cannot show (races between barriers,"
    echo "the device's own functions in their last bits) was not seen. \`attention_mma.cu\` is tested with the scalar twin of its"
    echo "one instruction, which nvcc compiles, too (\`-DSPIN_SCALAR\`). The same tests run on a GPU where there is one:"
    echo
    echo '```'
    echo "SPIN_TEST_DEVICE=gpu cargo test --release --workspace --features spin-cuda/cuda --test host -- --test-threads 1"
    echo '```'
    echo
    echo "| operation | file | lines | kernels | tests on the host | compiled for sm_80 | sm_90 | registers, sm_80 | sm_90 | shared bytes known to the compiler, sm_90 | bytes spilled, sm_80 | sm_90 | run on a GPU |"
    echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for operation in "${operations[@]}"; do
        name=${operation%%|*}
        count=$(grep -c "^$name sm_90 " "$out/all")
        echo "| ${operation#*|} | \`$name.cu\` | $(wc -l < "$kernels/$name.cu") | $count | $(grep -c '^#\[test\]' "$tests/$name.rs") | yes | yes | $(range "$name" sm_80 4) | $(range "$name" sm_90 4) | $(range "$name" sm_90 5) | $(range "$name" sm_80 6) | $(range "$name" sm_90 6) | no |"
    done
    echo
    echo "Beside them \`common.cuh\` ($(wc -l < $kernels/common.cuh) lines: types, reductions, noise), \`attend.cuh\` ($(wc -l < $kernels/attend.cuh): what three attentions share),"
    echo "\`spans.cuh\` ($(wc -l < $kernels/spans.cuh): rows that share prompts), \`host.hpp\` ($(wc -l < $kernels/host.hpp), for tests alone, itself tested by \`shim.rs\`). Attention gets shared memory"
    echo "from its launch, between 12 and 83 KiB by the width of heads (\`shared_bytes\` in \`src/plan.rs\`)."
    spilling=$(awk '$6 > 0 { printf "| `%s` | %s | %d |\n", $3, $2, $6 }' "$out/all")
    if [ -n "$spilling" ]; then
        printf '\nThat spill registers:\n\n| kernel | | bytes |\n|---|---|---|\n%s\n' "$spilling"
    fi
} > "$out/table"
mv "$out/table" "$table"
echo "wrote $table: $(grep -c . "$out/all") compiled kernels"
