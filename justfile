# `just` lists the recipes. Each one calls the programs; what they do is in Rust.

set shell := ["bash", "-euo", "pipefail", "-c"]

bin := env("CARGO_TARGET_DIR", justfile_directory() / "target") / "release"
cuda_target := env("CUDA_TARGET_DIR", env("CARGO_TARGET_DIR", justfile_directory() / "target") / "cuda")
export PATH := bin + ":" + env("PATH")

# List the recipes
default:
    @just --list

# Build all programs
build:
    cargo build --release --workspace

# Build all programs for NVIDIA GPUs into a target directory of its own; needs nvcc, and CUDA_COMPUTE_CAP (90 for an H100) where no GPU is
build-cuda *FLAGS:
    @command -v nvcc > /dev/null || { echo "just build-cuda: no nvcc on PATH; install a CUDA toolkit (12.x or 13.0 to 13.2)" >&2; exit 1; }
    cargo build --release --workspace --config .cargo/tight.toml --features spin-sample/cuda,spin-fit/cuda,spin-bench/cuda,spin-tests/cuda --target-dir "{{ cuda_target }}" {{ FLAGS }}
    @ls -lh "{{ cuda_target }}"/release/spin-{sample,pair,fit,bench,store,run}

# Learn to pronounce words from nothing, play three rounds of self-play, show what came of it (2 to 4 minutes on 2 cores)
demo *FLAGS: (run "pipelines/demo.toml" FLAGS)
    @echo
    @spin-bench answers pipelines/demo.toml {{ FLAGS }}
    @spin-bench report pipelines/demo.toml {{ FLAGS }} --out demo.html
    @echo
    @echo "Look at: iter-3 beside sft-more, as many updates. Self-play gains twice as many right samples for the same likelihood, and keeps greedy answers; iter-0 at a lower temperature has as much for nothing."

# Compile every CUDA kernel with nvcc for sm_80 and sm_90 and write docs/bench/kernels.md; needs a CUDA toolkit, no GPU
kernels:
    tests/cuda/compile.sh

# Run every stage of a run file that is not done yet, then print its table
run FILE *FLAGS: build
    spin-run run {{ FILE }} {{ FLAGS }}

# Say of every artifact of a run file whether it is done, stale or missing
status FILE *FLAGS: build
    spin-run status {{ FILE }} {{ FLAGS }}

# Submit what is missing of a run file to Slurm; --site FILE says what the site wants
submit FILE *FLAGS: build
    spin-run submit {{ FILE }} {{ FLAGS }}

# Print a run's table from its stored scores
table FILE *FLAGS: build
    spin-bench table {{ FILE }} {{ FLAGS }}

# Write a run's report: one page of tables, charts, answers and lineage
report FILE *FLAGS: build
    spin-bench report {{ FILE }} {{ FLAGS }}

# Play the experiments of pipelines/questions for these seeds, as far as they are not done, and sum them up; hours
questions *SEEDS="11 12 13": build && (questions-results SEEDS)
    cargo build --release --workspace --examples
    PATH="{{ bin }}/examples:$PATH" pipelines/questions/run.sh {{ SEEDS }}

# Play the experiments with few words, undisturbed and killed at random moments, into DIR: the tables must be equal (15 minutes)
questions-kills DIR KILLS="10": build
    cargo build --release --workspace --examples
    PATH="{{ bin }}/examples:$PATH" tests/questions/kills.sh {{ DIR }} {{ KILLS }}

# Write docs/questions/results.md from what the store has of the experiments
questions-results *SEEDS="11 12 13 14 15": build
    pipelines/questions/results.sh {{ SEEDS }}

# Run the tests that this machine can run, all of them or those whose names contain NAME
test *NAME:
    tests/run.sh {{ NAME }}

# Fuzz a reader of files for some seconds, guided by coverage; needs a nightly toolchain and cargo-fuzz (docs/bench/fuzz.md)
fuzz TARGET SECONDS="60" *FLAGS:
    tests/fuzz/run.sh {{ TARGET }} {{ SECONDS }} {{ FLAGS }}

# Format the code
fmt:
    cargo fmt

# Check format and lints, which CI does first
check:
    cargo fmt --check
    mapfile -t features < <(tests/features.sh); cargo clippy --release --workspace --all-targets "${features[@]}" -- -D warnings

# Write docs/settings.md and its JSON Schema anew from the structs that read run files
settings: build
    spin-run settings > docs/settings.md
    spin-run settings --format schema > docs/run.schema.json

# Compare the golden files with the Python packages of now: torch, transformers, trl, peft
golden-check PYTHON="python3": build
    tests/golden/check.sh {{ PYTHON }}

# Score the same documents with lm-evaluation-harness and with spin-bench, request by request, into docs/bench/parity.md
parity WHAT="bench" PYTHON="python3": build
    tests/parity/run.sh {{ PYTHON }}

# Read exports of a store with pandas, DuckDB, polars, datasets, TRL and mlcroissant, and compare
exports STORE PAIRS MODEL PYTHON="python3": build
    {{ PYTHON }} tests/parity/exports.py {{ STORE }} {{ PAIRS }} {{ MODEL }} --programs "{{ bin }}"

# Write docs/scale.md: what trainings of 1B to 70B take on 1, 8 and 64 GPUs, on paper
scale: build
    docs/scale.sh > docs/scale.md

# Check what a GPU computes against the CPU, and how fast, into docs/bench/gpu.json: 15 minutes; without a GPU, or without nvcc to build for it, the CPU's part, and exit code 3
gpu-check *FLAGS:
    if command -v nvcc > /dev/null; then just build-cuda; dir="{{ cuda_target }}/release"; else just build; dir="{{ bin }}"; fi; \
        "$dir/gpu-check" --out docs/bench/gpu.json {{ FLAGS }}

# Pack that check, built for NVIDIA GPUs, for a machine that has a driver and nothing else
gpu-pack OUT="target/spin-gpu.tar.xz": build-cuda
    tests/gpu-pack.sh "{{ cuda_target }}/release" {{ OUT }}

# Measure against the peer, into docs/bench: `just bench fit|score|sample|bf16|pair|store [PYTHON] [FLAGS]`; PYTHON has torch, transformers and, for the first two, trl or lm_eval; for pair pandas and datasets
bench WHAT PYTHON="python3" *FLAGS: build
    tests/bench/run.sh {{ WHAT }} {{ PYTHON }} {{ FLAGS }}
