#!/usr/bin/env bash
# The test command: builds the programs, runs all tests that this machine can run, and
# says at its end which it left out, and for want of what.
#
#   tests/run.sh [NAME]        all tests, or those whose names contain NAME
#
# Real models and benchmark files, which some tests need, are looked for in the directory
# $SPIN_TEST_DATA (../shared unless set), a browser for the report as `chromedriver`, MPI
# as `mpicc` and `mpirun` with libclang, which its bindings are made with. Where MPI is
# there everything is built with it: one set of features, one build.
set -euo pipefail
cd "$(dirname "$0")/.."
SPIN_TEST_DATA=$(realpath -m "${SPIN_TEST_DATA:-../shared}")
export SPIN_TEST_DATA
log=$(mktemp)
mapfile -t features < <(tests/features.sh)

report() {
    echo
    if [ ! -d "$SPIN_TEST_DATA" ]; then
        echo "left out for want of SPIN_TEST_DATA ($SPIN_TEST_DATA is no directory):"
        sed -n 's/^test \(.*\) \.\.\. ignored, needs SPIN_TEST_DATA$/    \1/p' "$log" | sed 's/ - should panic//' | sort -u
    fi
    if ! command -v chromedriver > /dev/null; then
        echo "left out for want of chromedriver:"
        sed -n 's/^fn \(.*\)() {$/    headless::\1/p' tests/stages/headless.rs
    fi
    if [ ${#features[@]} = 0 ]; then
        echo "left out for want of MPI (mpicc, mpirun and libclang):"
        grep -A1 'ignore = "needs MPI"' tests/stages/mpi.rs | sed -n 's/^fn \(.*\)() {$/    mpi::\1/p'
    fi
    others=$(grep '\.\.\. ignored' "$log" | grep -v -e 'needs SPIN_TEST_DATA' -e ' headless::' -e 'needs MPI' || true)
    if [ -n "$others" ]; then
        printf 'left out by themselves:\n%s\n' "$others"
    fi
    if [ -d "$SPIN_TEST_DATA" ] && command -v chromedriver > /dev/null && [ ${#features[@]} != 0 ] && [ -z "$others" ]; then
        echo "nothing was left out"
    fi
    rm -f "$log"
}
trap report EXIT

more=()
if [ -d "$SPIN_TEST_DATA" ]; then more+=(--include-ignored); fi
if ! command -v chromedriver > /dev/null; then more+=(--skip headless::); fi
if [ ${#features[@]} = 0 ]; then more+=(--skip mpi::); fi
cargo build --release --workspace "${features[@]}"
cargo test --release --workspace "${features[@]}" -- ${1:+"$1"} "${more[@]}" 2>&1 | tee "$log"
# Without the data, what else can be run by its name.
if [ ! -d "$SPIN_TEST_DATA" ] && [ $# = 0 ]; then
    if command -v chromedriver > /dev/null; then
        cargo test --release --workspace "${features[@]}" --test stages headless:: -- --ignored
    fi
    if [ ${#features[@]} != 0 ]; then
        cargo test --release --workspace "${features[@]}" --test stages mpi:: -- --ignored
    fi
fi
