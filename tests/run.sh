#!/usr/bin/env bash
# The test command: builds the programs, runs all tests that this machine can run, and
# says at its end which it left out, and for want of what.
#
#   tests/run.sh [NAME]        all tests, or those whose names contain NAME
#
# Real models and benchmark files, which some tests need, are looked for in the directory
# $SPIN_TEST_DATA (../shared unless set), a browser for the report as `chromedriver`, Slurm as its daemons,
# MPI as tests/features.sh says. Where MPI is there everything is built with it: one set of features, one build.
set -euo pipefail
cd "$(dirname "$0")/.."
SPIN_TEST_DATA=$(realpath -m "${SPIN_TEST_DATA:-../shared}")
export SPIN_TEST_DATA
log=$(mktemp)
mapfile -t features < <(tests/features.sh)

# Where Slurm's daemons are, which need nobody's rights.
export PATH=$PATH:/usr/sbin

# Tests of what a machine may lack: the file's name, and the commands they need.
declare -A needs=([headless]=chromedriver [mpi]="mpicc mpirun libclang" [slurm]="munged slurmctld slurmd sbatch make")
needs[mpi_slurm]="${needs[mpi]} ${needs[slurm]}"

has() {
    for program in ${needs[$1]}; do
        case $program in
            libclang) [ ${#features[@]} != 0 ] || return 1 ;;
            *) command -v "$program" > /dev/null || return 1 ;;
        esac
    done
}

report() {
    local left=
    echo
    if [ ! -d "$SPIN_TEST_DATA" ]; then
        left=yes
        echo "left out for want of SPIN_TEST_DATA ($SPIN_TEST_DATA is no directory):"
        sed -n 's/^test \(.*\) \.\.\. ignored, needs SPIN_TEST_DATA$/    \1/p' "$log" | sed 's/ - should panic//' | sort -u
    fi
    for module in "${!needs[@]}"; do
        if has "$module"; then continue; fi
        left=yes
        echo "left out for want of ${needs[$module]}: $(grep -c '^#\[ignore' "tests/stages/$module.rs") tests of $module"
    done
    if ! command -v "${CXX:-c++}" > /dev/null; then
        left=yes
        echo "left out for want of ${CXX:-c++}: $(grep -h '^#\[test\]' crates/spin-cuda/tests/host/*.rs | wc -l) tests of CUDA kernels on the CPU"
    fi
    others=$(grep '\.\.\. ignored' "$log" | grep -v 'needs SPIN_TEST_DATA' | grep -v -E " ($(IFS='|'; echo "${!needs[*]}"))::" || true)
    if [ -n "$others" ]; then
        printf 'left out by themselves:\n%s\n' "$others"
    elif [ -z "$left" ]; then
        echo "nothing was left out"
    fi
    rm -f "$log"
}
trap report EXIT

more=()
if [ -d "$SPIN_TEST_DATA" ]; then more+=(--include-ignored); fi
for module in "${!needs[@]}"; do has "$module" || more+=(--skip "$module::"); done
cargo build --release --workspace "${features[@]}"
cargo test --release --workspace "${features[@]}" -- ${1:+"$1"} "${more[@]}" 2>&1 | tee "$log"
if [ ! -d "$SPIN_TEST_DATA" ] && [ $# = 0 ]; then
    for module in "${!needs[@]}"; do
        if has "$module"; then cargo test --release --workspace "${features[@]}" --test stages "$module::" -- --ignored; fi
    done
fi
