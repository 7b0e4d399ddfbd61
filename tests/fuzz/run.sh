#!/usr/bin/env bash
# Fuzzes one reader within bounds: `tests/fuzz/run.sh TARGET SECONDS [libfuzzer's flags]`.
#
# Needs a nightly toolchain and cargo-fuzz (`cargo install cargo-fuzz --locked`). What coverage found stays in
# tests/fuzz/corpus/TARGET, an input that broke something in tests/fuzz/artifacts/TARGET; neither is committed.
set -euo pipefail
cd "$(dirname "$0")"
target=$1 seconds=$2
shift 2

# No reader may take longer for one input, or more memory in one piece or in all.
bounds=(-timeout=20 -malloc_limit_mb=1024 -rss_limit_mb=2560)
case $target in
    reference | set) longest=1024 ;;
    bundle | parquet) longest=65536 ;;
    *) longest=16384 ;;
esac
case $target in
    manifest | journal | reference | bundle) words=store ;;
    run-file | set | task-file) words=toml ;;
    parquet) words=table ;;
    jsonl | csv) words=json ;;
    *) words=$target ;;
esac

# The sanitizer's own reckoning slows the collection of what is freed; leaks of a library are no finding.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:quarantine_size_mb=16}
# The readers' files: memory is faster than a disk.
if [ -d /dev/shm ]; then export TMPDIR=${TMPDIR:-/dev/shm}; fi
exec cargo +nightly fuzz run --fuzz-dir . --codegen-units 16 "$target" -- -max_total_time="$seconds" \
    "${bounds[@]}" -max_len="$longest" -dict="dictionaries/$words.dict" -print_funcs=0 -print_final_stats=1 "$@"
