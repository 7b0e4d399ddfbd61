# `just` lists the recipes. Each one calls the programs; what they do is in Rust.

set shell := ["bash", "-euo", "pipefail", "-c"]

bin := env("CARGO_TARGET_DIR", justfile_directory() / "target") / "release"
export PATH := bin + ":" + env("PATH")

# List the recipes
default:
    @just --list

# Build all programs
build:
    cargo build --release --workspace

# Train a small model from nothing, play two rounds of self-play, print the table (4 minutes on 2 cores)
demo *FLAGS: (run "pipelines/demo.toml" FLAGS)

# Run every stage of a run file that is not done yet, then print its table
run FILE *FLAGS: build
    bash -euo pipefail -c "$(spin-store plan {{ FILE }} {{ FLAGS }})"

# Print a run's table from its stored scores
table FILE *FLAGS: build
    spin-bench table {{ FILE }} {{ FLAGS }}

# Run all tests
test: build
    cargo test --release --workspace

# Check format and lints as CI does
lint:
    cargo fmt --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# Compare the golden files with the Python packages of now: torch, transformers, trl, peft
golden-check PYTHON="python3": build
    tests/golden/check.sh {{ PYTHON }}

# Score the same documents with lm-evaluation-harness and with spin-bench, request by request, into docs/bench/parity.md
parity WHAT="bench" PYTHON="python3": build
    tests/parity/run.sh {{ PYTHON }}

# Measure against the peer, into docs/bench: `just bench fit|score [PYTHON] [FLAGS]`; PYTHON has torch, transformers and trl or lm_eval
bench WHAT PYTHON="python3" *FLAGS: build
    tests/bench/run.sh {{ WHAT }} {{ PYTHON }} {{ FLAGS }}
